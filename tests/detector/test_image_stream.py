"""Lists of paths on stdin."""

import io
import sys
from types import SimpleNamespace

import pytest

from clipos_lightning.detector.image_stream import STDIN, stream_paths
from clipos_lightning.errors import InputError

pytestmark = pytest.mark.badinput


def listed(content: bytes, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    return list(stream_paths([STDIN]))


@pytest.mark.parametrize(
    ("content", "paths"),
    [
        (b"a.png\nb.png\n", ["a.png", "b.png"]),
        (b"\xef\xbb\xbfa.png\r\n\r\nb.png", ["a.png", "b.png"]),
        (b"\xef\xbb\xbf\n\xef\xbb\xbfa.png", ["\ufeffa.png"]),  # only the first line may begin with a mark
        (b"\xff.png\n", ["\udcff.png"]),
        (b"", []),
    ],
)
def test_paths_of_a_list(content: bytes, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert listed(content, monkeypatch) == paths


@pytest.mark.parametrize("content", [b"a.png\0b.png\0", b"a.png\nb\0.png\n", "a.png\n".encode("utf-16-le")])
def test_a_list_with_null_characters(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="null characters: write one path per line"):
        listed(content, monkeypatch)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_a_list_in_utf_16(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="UTF-16: write it as UTF-8"):
        listed("\ufeffa.png\r\n".encode(encoding), monkeypatch)
