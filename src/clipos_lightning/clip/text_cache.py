"""Text features of many prompts, kept on this machine: a long list of words is encoded once per backbone.

The folder is ``$CLIPOS_CACHE``, else ``$XDG_CACHE_HOME/clipos-lightning``, else ``~/.cache/clipos-lightning``. It can
be deleted at any time. If it is not writable, nothing is kept and the prompts are encoded each time; the features are
the same either way, since they are rounded to fp16 in both cases.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..types import Texts
from ..utils.files import atomic_write, make_folder
from ..utils.progress import open_bar, process_rank
from .backbone import TEXT_BATCH, FrozenClip

CACHE_VARIABLE = "CLIPOS_CACHE"
TEXT_CACHE_VERSION = 1  # part of the key: change it with the file format or the key
MIN_GROUPS = 1000  # shorter lists are encoded fast enough
NORM_TOLERANCE = 0.01  # of rows in a file; rounding to fp16 changes the norm by less than 0.001

PromptGroups = Sequence[Sequence[str]]
HalfTexts = Float[Tensor, "prompts dim"]  # fp16


def cache_folder() -> Path:
    """The folder of the cache; it need not exist."""
    given = os.environ.get(CACHE_VARIABLE)
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "clipos-lightning"


def encode_groups(backbone: FrozenClip, groups: PromptGroups, what: str = "prompts") -> Texts:
    """The normalised mean text feature of each group of prompts, from the cache or encoded, (K, D) in fp32.

    Args:
        backbone: the frozen CLIP.
        groups: K groups of prompts; fast if the first prompts of all groups begin alike, and so on.
        what: name of the groups on the progress bar.

    Example:
        >>> from clipos_lightning import load_backbone
        >>> encode_groups(load_backbone(), [["a cat.", "one cat."], ["a dog."]]).shape
        torch.Size([2, 128])
    """
    found = cached_groups(backbone, groups)
    if found is not None:
        return found
    rows = encode_in_half(backbone, groups, what)
    if len(groups) >= MIN_GROUPS:
        save_rows(cache_file(backbone, groups), rows)
    return as_unit(rows)


def cached_groups(backbone: FrozenClip, groups: PromptGroups) -> Texts | None:
    """The features of :func:`encode_groups` if they are in the cache, else None."""
    if len(groups) < MIN_GROUPS:
        return None
    rows = load_rows(cache_file(backbone, groups), len(groups))
    return None if rows is None else as_unit(rows.to(backbone.device))


def as_unit(rows: HalfTexts) -> Texts:
    """Rounded features in fp32, of length 1 again."""
    return F.normalize(rows.float(), dim=-1)


# ---- encoding


@torch.no_grad()
def encode_in_half(backbone: FrozenClip, groups: PromptGroups, what: str) -> HalfTexts:
    """The normalised mean feature of each group, rounded to fp16, (K, D); with a progress bar on rank 0."""
    parts = [groups[i : i + TEXT_BATCH] for i in range(0, len(groups), TEXT_BATCH)]
    shown, rows = len(parts) > 1 and process_rank() == 0, []
    with (
        torch.autocast(backbone.device.type, enabled=False),
        open_bar(f"encode {what}", len(groups), what, shown=shown) as bar,
    ):
        for part in parts:
            rows.append(mean_features(backbone, part).half())
            bar.update(len(part))
    return torch.cat(rows)


def mean_features(backbone: FrozenClip, groups: PromptGroups) -> Texts:
    """The normalised mean feature of each group, (K, D); prompts of the same position are encoded together."""
    total = torch.zeros(len(groups), backbone.clip.visual.output_dim, device=backbone.device)
    for position in range(max(map(len, groups))):
        owners = [i for i, group in enumerate(groups) if len(group) > position]
        rows = backbone.encode_text([groups[i][position] for i in owners])
        total.index_add_(0, torch.tensor(owners, device=rows.device), rows)
    return F.normalize(total, dim=-1)


# ---- files


def cache_file(backbone: FrozenClip, groups: PromptGroups) -> Path:
    """The file of these groups' features."""
    plain = json.dumps(
        [TEXT_CACHE_VERSION, backbone.fingerprint, backbone.activation, [list(group) for group in groups]]
    )
    return cache_folder() / f"text-{hashlib.sha256(plain.encode()).hexdigest()}.safetensors"


def load_rows(path: Path, count: int) -> HalfTexts | None:
    """Read the rows of a file; None if there is none, or it is broken."""
    with suppress(Exception):  # the type depends on how the file is broken
        rows = load_file(path)["rows"]
        norms = rows.float().norm(dim=-1)
        if rows.dtype == torch.half and norms.shape == (count,) and bool(((norms - 1).abs() < NORM_TOLERANCE).all()):
            return rows
    return None


def save_rows(path: Path, rows: HalfTexts) -> None:
    """Write rows to a file, if its folder is writable."""
    with suppress(OSError):
        make_folder(path.parent)
        with atomic_write(path) as partial:
            save_file({"rows": rows.cpu().contiguous()}, partial)
