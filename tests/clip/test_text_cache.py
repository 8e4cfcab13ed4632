"""Features of many prompts: equal to CLIP's own, and the same from the cache, without one, and after it broke."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from clipos_lightning.clip import text_cache
from clipos_lightning.clip.text_cache import cache_folder, encode_groups
from clipos_lightning.data.word_lists import wordnet_words

GROUPS = [[t.replace("{}", word) for t in ("the nice {}", "a {}.")] for word in wordnet_words().nouns[:: 56129 // 60]]
GROUPS += [[f"This is a {word} photo"] for word in ("white", "old", "plum-shaped")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own that also keeps short lists; it does not exist yet."""
    monkeypatch.setenv("CLIPOS_CACHE", str(tmp_path / "new" / "cache"))
    monkeypatch.setattr(text_cache, "MIN_GROUPS", 1)
    return tmp_path / "new" / "cache"


def count_encodings(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of groups of each call that encodes, from now on."""
    calls: list[int] = []
    encode = text_cache.encode_in_half
    monkeypatch.setattr(text_cache, "encode_in_half", lambda *words: calls.append(len(words[1])) or encode(*words))
    return calls


def test_groups_are_averaged_and_rounded(tiny_clip, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = tiny_clip()
    by_hand = [backbone.encode_text(group).double().mean(0) for group in GROUPS]
    expected = F.normalize(torch.stack(by_hand), dim=1)
    rows = encode_groups(backbone, GROUPS)
    assert rows.dtype == torch.float32 and float((rows.double() - expected).abs().max()) < 5e-4  # fp16: 2^-11
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(len(GROUPS)))
    monkeypatch.setattr(text_cache, "TEXT_BATCH", 7)
    monkeypatch.setattr(text_cache, "MIN_GROUPS", 10**6)
    torch.testing.assert_close(encode_groups(backbone, GROUPS), rows, atol=1e-3, rtol=0)


def test_hit_and_miss_are_equal_bit_by_bit(tiny_clip, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_encodings(monkeypatch)
    miss = encode_groups(tiny_clip(), GROUPS)
    (file,) = folder.iterdir()
    assert file.stat().st_size < 2 * miss.numel() + 200
    hit = encode_groups(tiny_clip(), GROUPS)
    assert torch.equal(hit, miss) and calls == [len(GROUPS)]
    monkeypatch.setattr(text_cache, "MIN_GROUPS", 10**6)  # as if nothing were kept
    assert torch.equal(encode_groups(tiny_clip(), GROUPS), miss) and len(calls) == 2


def test_other_prompts_and_other_weights_have_their_own_file(tiny_clip, folder: Path) -> None:
    rows = encode_groups(tiny_clip(), GROUPS)
    assert torch.equal(encode_groups(tiny_clip(), GROUPS[:-1]), rows[:-1])
    other = encode_groups(tiny_clip("layer_scale"), GROUPS)
    assert len(list(folder.iterdir())) == 3 and not torch.allclose(other, rows, atol=1e-2)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-5]),
        lambda path: save_file({"rows": load_file(path)["rows"][:-1]}, path),
        lambda path: save_file({"rows": load_file(path)["rows"].float()}, path),
        lambda path: save_file({"rows": load_file(path)["rows"] * torch.nan}, path),
        lambda path: save_file({"others": load_file(path)["rows"]}, path),
    ],
)
def test_a_broken_file_is_computed_again(damage, tiny_clip, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = encode_groups(tiny_clip(), GROUPS)
    (file,) = folder.iterdir()
    damage(file)
    calls = count_encodings(monkeypatch)
    assert torch.equal(encode_groups(tiny_clip(), GROUPS), rows) and len(calls) == 1
    assert torch.equal(encode_groups(tiny_clip(), GROUPS), rows) and len(calls) == 1  # it is whole again


def test_without_a_writable_folder_nothing_is_kept(tiny_clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_cache, "MIN_GROUPS", 1)
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CLIPOS_CACHE", str(tmp_path / "file"))
    calls = count_encodings(monkeypatch)
    assert torch.equal(encode_groups(tiny_clip(), GROUPS), encode_groups(tiny_clip(), GROUPS)) and len(calls) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLIPOS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert cache_folder() == Path("/home/someone/.cache/clipos-lightning")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert cache_folder() == Path("/cache/clipos-lightning")
    monkeypatch.setenv("CLIPOS_CACHE", "~/mine")
    assert cache_folder() == Path("/home/someone/mine")
