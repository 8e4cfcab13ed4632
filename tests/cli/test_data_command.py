"""``clipos data`` on miniature sets in their original formats, from a local server."""

import dataclasses
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import Server, serve
from miniatures import FOLDERS, miniature, write
from running import save_noise

from clipos_lightning.cli import data as datasets_command
from clipos_lightning.data import download as fetch
from clipos_lightning.data import sources
from clipos_lightning.data.sources import SOURCES
from clipos_lightning.errors import InputError


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(fetch, "RETRY_PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "CLIPOS_DATA"):
        monkeypatch.delenv(name, raising=False)
    with serve({}) as running:
        yield running


@pytest.fixture
def minis(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """names -> only these sets exist, in miniature; returns an empty data root."""

    def make(*names: str) -> Path:
        table = {name: miniature(name, server, tmp_path / "made") for name in names}
        monkeypatch.setattr(sources, "SOURCES", table)
        return tmp_path / "root"

    return make


@pytest.fixture
def data(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``clipos data WORDS``, which must succeed; its output."""

    def call(*words: Any) -> str:
        assert datasets_command.main([str(word) for word in words]) == 0
        return capsys.readouterr().out

    return call


def refused(*words: Any) -> str:
    """``clipos data WORDS``, which must fail with one line."""
    with pytest.raises(InputError) as caught:
        datasets_command.main([str(word) for word in words])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", [name for name, source in SOURCES.items() if source.fetchable])
def test_every_set_is_fetched_and_verified(
    name: str, server: Server, minis: Callable[..., Path], data: Callable[..., str]
) -> None:
    root = minis(name)
    server.drops = 1
    assert f"{name}: done: {root}" in data("download", name, "--root", root)
    assert sources.SOURCES[name].state(root) == "yes"
    assert f"{name}: {sources.SOURCES[name].images:,} images, all readable" in data("verify", name, "--root", root)
    asked = len(server.asked)
    assert f"{name}: already present: {root}" in data("download", name, "--root", root)
    assert len(server.asked) == asked
    assert not [path for path in root.rglob("*") if path.name.endswith((".partial", ".unpacking"))]


def test_a_set_that_lacks_images_is_not_there(minis: Callable[..., Path], data: Callable[..., str]) -> None:
    root = minis("sun")
    data("download", "sun", "--root", root)
    next((root / "SUN").rglob("*.jpg")).unlink()
    message = refused("download", "sun", "--root", root)
    assert f"found 5 images instead of 6. Remove {root}/SUN and run clipos data download sun" in message


def test_a_set_that_cannot_be_fetched_says_which_file_goes_where(
    minis: Callable[..., Path], data: Callable[..., str], tmp_path: Path
) -> None:
    root = minis("imagenet")
    message = refused("download", "imagenet", "--root", root)
    assert "ILSVRC2012_img_train.tar" in message
    assert f"{root}/imagenet/train/n01440764/*.JPEG" in message
    assert "no (by hand)" in data("list", "--root", root)
    assert "already present" in data("download", "imagenet", "--root", tmp_path / "made")
    assert "2,200 images, all readable" in data("verify", "imagenet", "--root", tmp_path / "made", "--num_workers", 1)


def test_an_archive_put_there_by_hand_is_checked_and_unpacked(
    server: Server, minis: Callable[..., Path], data: Callable[..., str]
) -> None:
    root = minis("textures")
    write(root / "dtd/dtd-r1.0.1.tar.gz", server.files["/dtd-r1.0.1.tar.gz"])
    assert "partly" in data("list", "--root", root)
    assert "can be removed" in data("download", "textures", "--root", root)
    assert server.asked == []
    assert "6 images" in data("verify", "textures", "--root", root)


def test_one_dead_link_does_not_stop_the_others(
    server: Server, minis: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    root = minis("isun", "sun", "places")
    del server.files["/iSUN.tar.gz"], server.files["/SUN.tar.gz"]
    assert refused("download", "isun", "sun", "places", "--root", root).startswith(
        "2 of 3 sets could not be downloaded: isun"
    )
    out = capsys.readouterr().out
    assert f"isun: cannot fetch {server.url}/iSUN.tar.gz: the server answers 404" in out
    assert f"put it at {root}/SUN.tar.gz" in out
    assert f"places: done: {root}/Places" in out
    assert refused("download", "isun", "--root", root).startswith(f"isun: cannot fetch {server.url}/iSUN.tar.gz")


@pytest.mark.parametrize("workers", [1, 2])
def test_verify_names_the_broken_image(
    minis: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    workers: int,
) -> None:
    minis("textures")
    monkeypatch.setattr(datasets_command, "MIN_FOR_PROCESSES", 2)
    monkeypatch.setattr(sources, "SOURCES", {"textures": dataclasses.replace(sources.SOURCES["textures"], images=40)})
    folder = tmp_path / "made/dtd/dtd/images"
    for i in range(34):
        save_noise(folder / "woven" / f"{i}.jpg", i, (8, 8))
    assert datasets_command.main(["verify", "textures", "--root", str(tmp_path / "made")]) == 0
    whole = (folder / "banded/banded_0001.jpg").read_bytes()
    (folder / "banded/banded_0001.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "woven/7.jpg").write_text("not an image")
    message = refused("verify", "textures", "--root", tmp_path / "made", "--num_workers", workers)
    assert "banded_0001.jpg" in message
    assert "and 1 more. Remove" in message
    out = capsys.readouterr().out
    assert re.search(r"textures: cannot read .*banded_0001\.jpg: \w", out)
    assert re.search(r"textures: cannot read .*woven/7\.jpg: unknown image format$", out, re.MULTILINE)


def test_verify_counts(minis: Callable[..., Path], tmp_path: Path) -> None:
    minis("sun")
    (tmp_path / "made" / FOLDERS["sun"][0]).unlink()
    message = refused("verify", "sun", "--root", tmp_path / "made")
    assert message.startswith("sun: found 5 images instead of 6. Remove ")
    assert message.endswith("/made/SUN and run clipos data download sun")


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "medmnist"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda b: b"not such a file", lambda b: b""])
def test_verify_of_a_broken_file_of_arrays(
    name: str, damage: Callable[[bytes], bytes], minis: Callable[..., Path], tmp_path: Path
) -> None:
    minis(name)
    path = tmp_path / "made" / SOURCES[name].image_paths[-1]
    path.write_bytes(damage(path.read_bytes()))
    assert f"{name}: cannot read {path}: " in refused("verify", name, "--root", tmp_path / "made")


def test_verify_of_what_is_not_there(minis: Callable[..., Path]) -> None:
    root = minis("cifar100")
    message = refused("verify", "cifar100", "--root", root)
    assert f"{root}/cifar-100-python/train" in message
    assert "clipos data download cifar100" in message


def test_the_list_fits_a_hundred_columns(data: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = data("list", "--root", "/a/long" * 20).splitlines()
    assert max(map(len, lines)) <= 100
    rows = {line.split()[0]: line.split() for line in lines if line.strip()}
    assert set(SOURCES) < set(rows)
    assert rows["cifar10"] == ["cifar10", "CIFAR-10", "60,000", "170", "MB", "no"]
    assert rows["places"][-3:] == ["10,000", "?", "no"]


def test_the_list_is_as_it_was(data: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    lines = [line.rstrip() for line in data("list", "--root", "/nowhere/data").splitlines()]
    assert "\n".join(lines).strip() == LIST.strip()


def test_the_root_is_the_environments(data: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPOS_DATA", "/elsewhere")
    assert "file      cifar-10-python.tar.gz" not in data("info", "svhn")
    assert "/elsewhere/cifar-10-batches-py" in data("info", "cifar10")


@pytest.mark.parametrize("name", SOURCES)
def test_info_says_everything(name: str, data: Callable[..., str]) -> None:
    out, source = " ".join(data("info", name).split()), SOURCES[name]
    for file in source.files:
        assert file.name in out
        assert file.md5 in out
        assert (file.url or "manual download only") in out
    for text in (source.title, source.licence, source.paper, source.home, source.note, f"{source.images:,}"):
        assert text in out
    assert ("by hand" in out) == (not source.fetchable)


def test_the_table_is_in_order() -> None:
    for source in SOURCES.values():
        assert source.fetchable != bool(source.manual_steps)
        assert source.kind in ("folder", *datasets_command.VERIFIERS)
        for file in source.files:
            assert re.fullmatch(r"[0-9a-f]{32}", file.md5 or "0" * 32)
            assert file.url is None or re.search(rf"/{re.escape(file.name)}(\?|$)", file.url)
            assert "/" not in "".join(file.parts)
        made = source.created_paths
        assert all(any(path == m or path.startswith(f"{m}/") for m in made) for path in source.image_paths)
    paths = [file.path(Path()) for source in SOURCES.values() for file in source.files]
    assert len(set(paths)) == len(paths)


@pytest.mark.badinput
@pytest.mark.parametrize(
    ("words", "piece"),
    [
        ([], "data: the following arguments are required: COMMAND; see clipos data --help"),
        (["fetch"], "invalid choice: 'fetch'"),
        (["download"], "data download: the following arguments are required: NAME"),
        (["download", "cifar01"], "no data set 'cifar01'; did you mean 'cifar10'?"),
        (["info", "mnist"], "no data set 'mnist'"),
        (["verify", "sun", "--num_workers", "x"], "--num_workers"),
    ],
)
def test_wrong_words(words: list[str], piece: str) -> None:
    assert piece in refused(*words)


def test_it_does_not_import_torch() -> None:
    code = (
        "import sys; from clipos_lightning.cli.data import main; main(['list']); main(['info', 'sun']);"
        "sys.exit(str([m for m in ('torch', 'numpy', 'lightning') if m in sys.modules]).strip('[]'))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.stderr.strip() == ""


LIST = """
name            data set                           images   download   present
 ───────────────────────────────────────────────────────────────────────────────────
 cifar10         CIFAR-10                           60,000     170 MB   no
 cifar100        CIFAR-100                          60,000     169 MB   no
 textures        Textures (DTD)                      5,640     625 MB   no
 svhn            SVHN, test split                   26,032      64 MB   no
 places365       Places365, validation, 256 px      36,500          ?   no
 lsun_crop       LSUN-Crop                          10,000          ?   no
 lsun_resize     LSUN-Resize                        10,000          ?   no
 isun            iSUN                                8,925          ?   no
 inaturalist     iNaturalist (MOS)                  10,000          ?   no
 sun             SUN (MOS)                          10,000          ?   no
 places          Places (MOS)                       10,000          ?   no
 tiny_imagenet   Tiny-ImageNet                     120,000     248 MB   no
 imagenet        ImageNet-1k (ILSVRC 2012)       1,331,167   154.6 GB   no (by hand)
 eurosat         EuroSAT (RGB)                      27,000          ?   no
 medmnist        BloodMNIST (MedMNIST v2)           17,092          ?   no

Data root: /nowhere/data. Details: clipos data info NAME. Download: clipos data download NAME.
"""
