"""Detectors on the Hugging Face hub: ``detector.safetensors``, a model card, and the list of the few-shot images.

A detector there is named ``hf:owner/name``, or ``hf:owner/name@revision`` (a branch, a tag or a commit). Nothing is
pickled: its file holds tensors and JSON.
"""

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

from ..clip.pretrained import download_from_hub
from ..errors import InputError, printable
from ..utils.files import write_text
from ..utils.progress import print_once

PREFIX = "hf:"
DETECTOR_FILE = "detector.safetensors"
SHOTS_FILE = "shots.json"
CARD_FILE = "README.md"
COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubDetector:
    """Where a detector is on the hub.

    Attributes:
        repo: ``owner/name``.
        revision: branch, tag or commit; None: the main branch.

    Example:
        >>> HubDetector.parse("hf:me/birds@v1")
        HubDetector(repo='me/birds', revision='v1')
    """

    repo: str
    revision: str | None = None

    @classmethod
    def parse(cls, text: str) -> "HubDetector":
        """Parse ``hf:owner/name[@revision]``.

        Raises:
            InputError: it has another form.
        """
        repo, at, revision = text.removeprefix(PREFIX).partition("@")
        if not text.startswith(PREFIX) or repo.count("/") != 1 or not all(repo.split("/")) or (at and not revision):
            raise InputError(f"{text!r}: name a detector on the hub as hf:owner/name or hf:owner/name@revision")
        return cls(repo, revision or None)

    def __str__(self) -> str:
        return f"{PREFIX}{self.repo}{'' if self.revision is None else f'@{self.revision}'}"


def is_on_hub(path: str | Path) -> bool:
    """Whether a detector is named on the hub, not a file."""
    return str(path).startswith(PREFIX)


def fetch_detector(name: str) -> Path:
    """The file of a detector on the hub, downloaded into the hub's cache; without a network, the copy in the cache.

    A commit that is in the cache is used without asking the hub.

    Args:
        name: ``hf:owner/name[@revision]``.

    Raises:
        InputError: a wrong name, no such detector, or the hub cannot be reached and the cache has no copy.
    """
    place = HubDetector.parse(name)
    repo, revision = place.repo, place.revision
    cached = None
    try:
        known = try_to_load_from_cache(repo, DETECTOR_FILE, revision=revision)
        cached = Path(known) if isinstance(known, str) else None
        if cached is not None and COMMIT.fullmatch(revision or ""):
            return cached
        return download_from_hub(repo, [DETECTOR_FILE], revision)
    except HFValidationError as error:
        raise InputError(f"{name}: {first_line(error)}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{name}: the hub has no {repo}, or it is private: check the name, or log in with `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name}: {repo} has no revision {revision!r}: give a branch, a tag or a commit") from error
    except EntryNotFoundError as error:
        raise InputError(
            f"{name}: {repo} has no {DETECTOR_FILE}: it is not a detector of clipos (Detector.push_to_hub)"
        ) from error
    except Exception as error:  # the type depends on the hub's client and the network
        if cached is not None:
            print_once(f"note: the hub cannot be reached; {place} is the copy in its cache", sys.stderr)
            return cached
        raise InputError(
            f"{name}: the hub cannot be reached ({first_line(error)}), and its cache on this machine has no copy: copy "
            f"{DETECTOR_FILE} here, and give the file"
        ) from error


def push_folder(repo: str, folder: Path, card: str, private: bool, token: str | None, revision: str | None) -> str:
    """Upload a detector in one commit; a repository that does not exist is created, a card that exists stays.

    Args:
        repo: ``owner/name``.
        folder: with the detector's file, and what else is uploaded; the card is written there.
        card: Markdown.
        private: whether a new repository is private.
        token: of the hub; None: that of ``hf auth login``, or ``$HF_TOKEN``.
        revision: an existing branch; None: the main one.

    Returns:
        ``hf:owner/name@commit``.

    Raises:
        InputError: the hub cannot be reached, or refuses.
    """
    HubDetector.parse(PREFIX + repo)
    api = HfApi(token=token)
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if not api.file_exists(repo, CARD_FILE, revision=revision):
            write_text(folder / CARD_FILE, card)
        message = "Upload a detector of clipos-lightning"
        commit = api.upload_folder(repo_id=repo, folder_path=folder, revision=revision, commit_message=message)
    except Exception as error:  # the type depends on the hub's client and the network
        raise InputError(
            f"{PREFIX}{repo}: the hub did not take the detector ({first_line(error)}): check the name, the network "
            "and your token (`hf auth login`; it needs to be allowed to write)"
        ) from error
    return f"{PREFIX}{repo}@{commit.oid}"


def first_line(error: Exception) -> str:
    """The first words of an error's message in one line, or the name of its type."""
    lines = printable(str(error).strip()).split("\\n")
    return lines[0][:160].rstrip(".:") or type(error).__name__
