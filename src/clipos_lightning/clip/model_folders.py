"""Models with a prefix in open_clip: ``hf-hub:owner/name`` of the Hugging Face hub, ``local-dir:FOLDER``.

Both are folders with a configuration and a file of weights: a model of the hub is one in the hub's cache, into which it
is downloaded first.
"""

import re
from pathlib import Path
from typing import Any

from huggingface_hub import constants
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from ..errors import InputError
from ..options.schema import Count, Fields, find_problem
from ..options.text_files import read_json
from ..utils.progress import notify_if_slow
from ..utils.quiet import quiet
from .pretrained import find_hub_file

HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
CONFIG_FILE = "open_clip_config.json"
USUAL_NAMES = (HF_SAFE_WEIGHTS_NAME, "open_clip_pytorch_model.safetensors", HF_WEIGHTS_NAME)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
MODEL_FILE = Fields(
    {
        "model_cfg": Fields(
            {
                "embed_dim": Count,
                "vision_cfg": Fields({}, optional={"patch_size": Count, "timm_model_name": str | None}),
                "text_cfg": Fields({}, optional={"hf_model_name": str, "hf_tokenizer_name": str | None}),
            }
        )
    },
    optional={"preprocess_cfg": dict[str, Any]},
)


def has_prefix(name: str) -> bool:
    """Whether a model is of the hub or in a folder."""
    return name.startswith((HUB_PREFIX, FOLDER_PREFIX))


def name_in_open_clip(name: str) -> str:
    """The name by which open_clip builds a model without network access: one of the hub is a folder in its cache.

    Raises:
        InputError: not ``hf-hub:owner/name`` or ``local-dir:FOLDER``, or there is no such model.
    """
    return f"{FOLDER_PREFIX}{model_folder(name)}" if has_prefix(name) else name


def model_folder(name: str) -> Path:
    """The folder of a model of the hub, downloaded if it is in no cache, or of ``local-dir:FOLDER``.

    Raises:
        InputError: as for :func:`name_in_open_clip`.
    """
    if name.startswith(HUB_PREFIX):
        return hub_file(name, CONFIG_FILE).parent
    folder = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    if not (folder / CONFIG_FILE).is_file():
        raise InputError(
            f"--model.backbone {name}: no file {folder / CONFIG_FILE}: give a folder with that file and the weights, "
            "as open_clip writes it for the Hugging Face hub"
        )
    return folder


def hub_file(name: str, *files: str) -> Path:
    """The first of these files that a model of the hub has, from the hub's cache or downloaded.

    Raises:
        InputError: the name is of another form, or the file is neither cached nor reachable.
    """
    repo = name.removeprefix(HUB_PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise InputError(f"--model.backbone {name!r}: give {HUB_PREFIX}owner/name, a model of open_clip on the hub")
    cache = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
    advice = (
        f"on a machine with a network run `hf download {repo} {CONFIG_FILE} {HF_SAFE_WEIGHTS_NAME}` and copy its cache "
        f"folder to {cache}, or give a folder with both files: --model.backbone {FOLDER_PREFIX}FOLDER"
    )
    with quiet(), notify_if_slow(f"still loading {files[0]} of {name}: a download, or a slow network or disk ..."):
        return find_hub_file(repo, list(files), f"{files[0]} of {name} is", advice)


def folder_weights(name: str) -> Path:
    """The file of weights of a model of the hub, downloaded if it is in no cache, or in ``local-dir:FOLDER``.

    Raises:
        InputError: there is none, or there are several of unusual names.
    """
    if name.startswith(HUB_PREFIX):
        return hub_file(name, HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME)
    folder = model_folder(name)
    usual = [folder / file for file in USUAL_NAMES if (folder / file).is_file()]
    found = usual[:1] or sorted(path for path in folder.iterdir() if path.suffix in WEIGHT_SUFFIXES and path.is_file())
    if len(found) != 1:
        several = f"several files of weights ({', '.join(path.name for path in found[:3])})"
        raise InputError(
            f"--model.backbone {name}: {several if found else f'no file of weights such as {HF_SAFE_WEIGHTS_NAME}'} in "
            f"{folder}: give one with --model.pretrained FILE"
        )
    return found[0]


def folder_config(name: str) -> dict[str, Any]:
    """The configuration of a model of the hub or in a folder, as open_clip's ``get_model_config``.

    Raises:
        InputError: it is neither cached nor reachable, or is not a configuration of open_clip.
    """
    path = model_folder(name) / CONFIG_FILE
    config = read_json(path, "--model.backbone")
    problem = find_problem(config, MODEL_FILE)
    if problem:
        raise InputError(f"--model.backbone {name}: {path} is not a configuration of open_clip: {problem}")
    return config["model_cfg"]
