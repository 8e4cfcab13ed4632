"""Files of weights and models of open_clip: in a cache of this machine, or downloaded from the Hugging Face hub."""

import sys
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME

from ..errors import InputError, message_of
from ..options.text_files import read_json
from ..utils.progress import print_once

CLIP_CACHE = Path("~/.cache/clip")  # of OpenAI's package ``clip``, and of open_clip for files with a URL
ANNOUNCED_BYTES = 10_000_000  # of a file, from which on its download is announced
SECONDS = 3  # to wait for a connection to the hub, for each of its addresses


def find_weights(name: str, tag: str) -> Path:
    """Return the file of a pretrained tag: from the hub's cache, from ``~/.cache/clip``, or downloaded.

    A file in a cache is used without any network access.

    Args:
        name: a model of open_clip.
        tag: one of its tags.

    Raises:
        InputError: the file is in no cache and cannot be downloaded; the message says which file, where it was looked
            for, and how to get it.
    """
    config = open_clip.get_pretrained_cfg(name, tag)
    found = cached_file(config)
    if found is not None:
        return found
    repo, files = hub_files(config)
    try:
        return download_from_hub(repo, files) if files else Path(open_clip.download_pretrained_from_url(config["url"]))
    except Exception as error:  # the type depends on the hub's client and the network
        advice = f"{how_to_get(config)}, or give the file with --model.pretrained FILE"
        raise not_reachable(f"weights {tag!r} of {name} are", error, advice) from error


def find_hub_file(repo: str, files: list[str], what: str, advice: str) -> Path:
    """Return the first of these files that a repository of the hub has: from the hub's cache, or downloaded.

    Args:
        repo: ``owner/name``.
        files: names in the repository, at least one.
        what: the file in an error message, with its verb, such as ``weights of x are``.
        advice: the remedy in an error message.

    Raises:
        InputError: it is not in the cache and cannot be downloaded.
    """
    try:
        return cached_hub_file(repo, files) or download_from_hub(repo, files)
    except Exception as error:  # as in find_weights; also for a name that the hub does not allow
        raise not_reachable(what, error, advice) from error


def not_reachable(what: str, error: Exception, advice: str) -> InputError:
    """The error for a file that is in no cache and cannot be downloaded; arguments as for :func:`find_hub_file`."""
    reason = message_of(error).rstrip(".")
    return InputError(f"{what} not on this machine and cannot be downloaded ({reason}): {advice}")


def hub_files(config: dict[str, Any]) -> tuple[str, list[str]]:
    """The repository of a tag on the hub, and the names that its file of weights may have; none if it is not there."""
    repo, _, file = str(config.get("hf_hub") or "").rpartition("/")
    return repo, [] if not repo else [file] if file else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]


def url_file(config: dict[str, Any]) -> Path | None:
    """Where OpenAI's ``clip`` and open_clip keep the file behind a tag's URL; None: it has no URL."""
    url = config.get("url")
    return CLIP_CACHE.expanduser() / Path(url).name if url else None


def cached_file(config: dict[str, Any]) -> Path | None:
    """The file of a tag in one of the caches; None: in neither."""
    local = url_file(config)
    return cached_hub_file(*hub_files(config)) or (local if local is not None and local.is_file() else None)


def cached_hub_file(repo: str, files: list[str]) -> Path | None:
    """The first of these files of a repository that is in the hub's cache; None: none is."""
    found = (try_to_load_from_cache(repo, file) for file in files)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def how_to_get(config: dict[str, Any]) -> str:
    """The commands that fetch the file of a tag on another machine, and where to put it on this one."""
    repo, files = hub_files(config)
    local = url_file(config)
    ways = []
    if files:
        folder = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
        ways.append(f"`hf download {repo} {files[0]}` and copy its cache folder to {folder}")
    if local is not None:
        ways.append(f"`curl -LO {config['url']}` and copy {local.name} to {local.parent}")
    return f"on a machine with a network run {', or '.join(ways)}"


def download_from_hub(repo: str, files: list[str], revision: str | None = None) -> Path:
    """Download the first of these files that a repository of the hub has, into the hub's cache.

    The hub is asked for the file once, without retries, so that a machine without a network gets its error in seconds.
    The name, size and folder of a large file are printed before it is downloaded.

    Args:
        repo: ``owner/name``.
        files: names in the repository, at least one.
        revision: branch, tag or commit; None: the main branch.

    Raises:
        Exception: the hub is not reachable, or does not give the file.
    """
    first, *others = files
    try:
        found = get_hf_file_metadata(hf_hub_url(repo, first, revision=revision), timeout=SECONDS)
    except EntryNotFoundError:
        if not others:
            raise
        return download_from_hub(repo, others, revision)
    size = found.size or 0
    if size >= ANNOUNCED_BYTES:
        print_once(f"downloading {first} of {repo} once, {size / 1e6:,.0f} MB, to {constants.HF_HUB_CACHE}", sys.stderr)
    return Path(hf_hub_download(repo, first, revision=revision))  # as open_clip; the fingerprint is recorded  # nosec B615


def known_config(path: Path) -> dict[str, Any]:
    """What is known about the weights in a local file: ``quick_gelu``, and perhaps the preprocessing of images.

    It is the entry of a pretrained tag, if the file is in the hub's cache or is named as open_clip names it, else the
    ``open_clip_config.json`` beside the file; empty if there is neither. Files named as OpenAI's are left out: those
    are recognised by their content.
    """
    for name, tag in open_clip.list_pretrained():
        config = open_clip.get_pretrained_cfg(name, tag)
        repo, _ = hub_files(config)
        cached = bool(repo) and f"models--{repo.replace('/', '--')}" in path.absolute().parts
        if cached or (tag != "openai" and Path(config.get("url") or "").name == path.name):
            return {"quick_gelu": False, **config}
    try:
        config = read_json(path.with_name("open_clip_config.json"), "--model.pretrained")
        return {"quick_gelu": False, **config.get("preprocess_cfg", {}), **config["model_cfg"]}
    except (InputError, LookupError, TypeError, AttributeError):
        return {}
