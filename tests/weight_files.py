"""Files of CLIP weights for tests: a small CLIP under two names in open_clip, archives as OpenAI's, a hub's cache."""

import json
import os
import zipfile

import open_clip
import torch
from conftest import TEXT, VISION
from torch import nn

from clipos_lightning.clip.weights import OPENAI_BUFFERS

GELU, QUICK = "tiny-weights", "tiny-weights-quickgelu"
REPO, URL = "someone/tiny-clip", "https://example.org/clip/models/0123/tiny.pt"


def register_tiny(folder):
    """Give open_clip the tests' small CLIP under two names, with GELU and with QuickGELU."""
    for name, quick in ((GELU, False), (QUICK, True)):
        config = {"embed_dim": 20, "vision_cfg": VISION, "text_cfg": TEXT, "quick_gelu": quick}
        (folder / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder / f"{name}.json")


def in_hub_cache(root, file):
    """The path of a file of REPO in a hub's cache, as the hub's client lays it out."""
    folder = root / "hub" / f"models--{REPO.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text("c0ffee")
    (folder / "snapshots/c0ffee").mkdir(parents=True)
    return folder / "snapshots/c0ffee" / file


class Node(nn.Module):
    """A module of an archive: parts and parameters, and a forward that does nothing."""

    def forward(self, x):
        return x


def save_archive(clip, path):
    """Write a TorchScript archive laid out as OpenAI's: fp16, and three sizes as buffers."""
    root = Node()
    for name, tensor in clip.state_dict().items():
        *parts, last = name.split(".")
        node = root
        for part in parts:
            if part not in node._modules:
                node.add_module(part, Node())
            node = node._modules[part]
        node.register_parameter(last, nn.Parameter(tensor.half(), requires_grad=False))
    for name, size in zip(OPENAI_BUFFERS, (16, 16, 49408), strict=True):
        root.register_buffer(name, torch.tensor(size))
    torch.jit.save(torch.jit.trace(root, torch.zeros(1)), path)


def with_pickle(source, target, data):
    """Copy an archive, with other bytes in place of its data.pkl."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for entry in old.infolist():
            new.writestr(entry, data if entry.filename.endswith("data.pkl") else old.read(entry))


def same(state, expected):
    return state.keys() == expected.keys() and all(torch.equal(state[k], expected[k]) for k in expected)


class Code:
    """Runs a command when it is unpickled."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)
