"""Downloads from a server on this machine that misbehaves on request, and archives that must be refused."""

import errno
import hashlib
import io
import os
import re
import signal
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from file_server import Server, serve

from clipos_lightning.data import download as fetch
from clipos_lightning.data.download import download
from clipos_lightning.data.unpacking import extract
from clipos_lightning.errors import InputError
from clipos_lightning.utils import locks

DATA = bytes(range(256)) * 4096  # 1 MiB
MD5 = hashlib.md5(DATA).hexdigest()


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "RETRY_PAUSE", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve({"/a.bin": DATA}) as running:
        yield running


def names(folder: Path) -> list[str]:
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def test_a_file_is_fetched_checked_and_then_already_there(server: Server, tmp_path: Path) -> None:
    path = tmp_path / "new/a.bin"
    assert download(f"{server.url}/a.bin?dl=1", path, MD5)
    assert path.read_bytes() == DATA
    assert names(path.parent) == ["a.bin"]
    assert not download(f"{server.url}/a.bin", path, MD5)
    assert not download(f"{server.url}/a.bin", path, None)
    assert server.asked == [None]


def test_a_dropped_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.drops = 2
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert server.asked == [None, f"bytes={len(DATA) // 2}-", f"bytes={3 * len(DATA) // 4}-"]
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_a_partial_file_of_an_earlier_run_is_continued(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin.partial").write_bytes(DATA[:1000])
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert server.asked == ["bytes=1000-"]
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("length", [len(DATA), len(DATA) + 5])
def test_a_partial_file_that_is_whole_or_too_long(server: Server, tmp_path: Path, length: int) -> None:
    (tmp_path / "a.bin.partial").write_bytes((DATA + b"extra")[:length])
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert (tmp_path / "a.bin").read_bytes() == DATA
    assert len(server.asked) == (1 if length == len(DATA) else 2)


def test_a_server_without_ranges_is_asked_from_the_start(server: Server, tmp_path: Path) -> None:
    server.ranges, server.drops = False, 1
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert (tmp_path / "a.bin").read_bytes() == DATA


def test_it_gives_up_and_keeps_what_has_arrived(server: Server, tmp_path: Path) -> None:
    server.ranges, server.drops = False, 100
    with pytest.raises(InputError, match=r"524,288 bytes that arrived are kept.*by hand and put it at") as caught:
        download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert len(server.asked) == fetch.MAX_TRIES
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["a.bin.partial"]


def test_wrong_bytes_are_refused_and_removed(server: Server, tmp_path: Path) -> None:
    server.files["/a.bin"] = b"<html>an error page</html>"
    with pytest.raises(InputError, match="wrong checksum"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert names(tmp_path) == []


def test_a_wrong_file_of_the_users_stays(server: Server, tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"a\.bin has the wrong checksum"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", MD5)
    assert (tmp_path / "a.bin").read_bytes() == b"mine"
    assert server.asked == []


@pytest.mark.parametrize(("status", "tries"), [(404, 1), (403, 1), (503, fetch.MAX_TRIES)])
def test_a_server_that_refuses(server: Server, tmp_path: Path, status: int, tries: int) -> None:
    server.status = status
    url, path = f"{server.url}/a.bin", tmp_path / "a.bin"
    with pytest.raises(InputError, match=f"cannot fetch {re.escape(url)}.*{status}.*put it at {re.escape(str(path))}"):
        download(url, path, MD5)
    assert len(server.asked) == tries


def test_no_server(tmp_path: Path) -> None:
    with serve({}) as gone:
        url = f"{gone.url}/a.bin"
    with pytest.raises(InputError, match=f"cannot fetch {re.escape(url)}: not reachable.*by hand and put it at"):
        download(url, tmp_path / "a.bin", MD5)
    assert names(tmp_path) == []


def test_no_room(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot write"):
        download(f"{server.url}/a.bin", tmp_path / "file/a.bin", MD5)


def tar(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for info, body in members:
            info.size = len(body)
            file.addfile(info, io.BytesIO(body))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info, b"x" if kind == tarfile.REGTYPE else b""


def zipped(path: Path, members: dict[str, bytes], mode: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, body in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            file.writestr(info, body)
    return path


SYM, HARD = tarfile.SYMTYPE, tarfile.LNKTYPE
GOOD = member("set/a/1.png")
REFUSED = {
    "up": [member("../evil")],
    "up_inside": [member("set/../../evil")],
    "absolute": [member("/tmp/evil-of-clipos")],
    "drive": [member("C:\\evil")],
    "link_out": [member("set/link", SYM, "../..")],
    "link_absolute": [member("set/link", SYM, "/etc")],
    "link_down_and_up": [member("set/a/here", SYM, "."), member("set/a/out", SYM, "here/../../..")],
    "hard_link_out": [member("set/link", HARD, "../secret")],
    "through_a_link": [member("set/link", SYM, "a"), member("set/link/evil")],
    "over_a_link": [member("set/link", SYM, "a/1.png"), member("set/link")],
    "device": [member("set/null", tarfile.CHRTYPE)],
    "pipe": [member("set/pipe", tarfile.FIFOTYPE)],
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tar_that_would_leave_the_folder_is_refused(case: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("keep out")
    folder = tmp_path / "root"
    folder.mkdir()
    archive = tar(folder / "set.tar.gz", GOOD, *REFUSED[case])
    with pytest.raises(InputError, match="refused to unpack") as caught:
        extract(archive, folder, ["set"])
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == ["root", "secret", "root/set.tar.gz"]
    assert (tmp_path / "secret").read_text() == "keep out"


def test_links_inside_are_unpacked(tmp_path: Path) -> None:
    links = [member("set/b/up", SYM, "../a/1.png"), member("set/hard", HARD, "set/a/1.png"), member("./set/c/2.png")]
    assert extract(tar(tmp_path / "set.tar", GOOD, *links), tmp_path, ["set"])
    assert (tmp_path / "set/b/up").read_bytes() == (tmp_path / "set/hard").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("name", "mode"),
    [("../evil", 0), ("set/../../evil", 0), ("/evil", 0), ("..\\evil", 0), ("set/link", 0o120777), ("set/d", 0o020666)],
)
def test_a_zip_that_would_leave_the_folder_is_refused(name: str, mode: int, tmp_path: Path) -> None:
    folder = tmp_path / "root"
    folder.mkdir()
    archive = zipped(folder / "set.zip", {"set/1.png": b"x", name: b"../.."}, mode)
    with pytest.raises(InputError, match="refused to unpack"):
        extract(archive, folder, ["set"])
    assert names(tmp_path) == ["root", "root/set.zip"]


@pytest.mark.parametrize(
    "make", [lambda p: tar(p / "set.tar", GOOD), lambda p: zipped(p / "set.zip", {GOOD[0].name: b"x"})]
)
def test_an_archive_is_unpacked_whole_and_then_already_there(make: Callable[[Path], Path], tmp_path: Path) -> None:
    archive = make(tmp_path)
    assert extract(archive, tmp_path, ["set"])
    assert names(tmp_path) == ["set", archive.name, "set/a", "set/a/1.png"]
    (tmp_path / "set/a/1.png").write_text("mine")
    assert not extract(archive, tmp_path, ["set"])
    assert (tmp_path / "set/a/1.png").read_text() == "mine"


def test_only_the_missing_parts_are_put_in_place(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("mine")
    assert extract(
        tar(tmp_path / "x.tar", member("one.txt"), member("two.txt"), member("three")), tmp_path, ["one.txt", "two.txt"]
    )
    assert (tmp_path / "one.txt").read_text() == "mine"
    assert names(tmp_path) == ["one.txt", "two.txt", "x.tar"]


def test_an_interrupted_extraction_never_looks_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar(tmp_path / "set.tar.gz", GOOD, member("set/a/2.png"))
    real, seen = tarfile.TarFile.extract, []

    def stop(self: tarfile.TarFile, info: tarfile.TarInfo, *args: object, **kwargs: object) -> None:
        real(self, info, *args, **kwargs)
        seen.append((info.name, (tmp_path / "set").exists()))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(tarfile.TarFile, "extract", stop)
        with pytest.raises(KeyboardInterrupt):
            extract(archive, tmp_path, ["set"])
    assert seen == [("set/a/1.png", False)]
    assert names(tmp_path) == ["set.tar.gz"]
    killed = tmp_path / ".set.tar.gz.unpacking/set"  # what a killed process leaves
    killed.mkdir(parents=True)
    (killed / "half.png").write_text("x")
    assert extract(archive, tmp_path, ["set"])
    assert names(tmp_path / "set") == ["a", "a/1.png", "a/2.png"]


@pytest.mark.parametrize("name", ["set.tar.gz", "set.tar", "set.zip"])
def test_a_broken_or_another_archive(name: str, tmp_path: Path) -> None:
    archive = tmp_path / name
    noise = os.urandom(50_000)
    info, _ = member("set/1.bin")
    whole = zipped(archive, {"set/1.bin": noise}) if name.endswith("zip") else tar(archive, (info, noise))
    with pytest.raises(InputError, match=r"does not contain other: is it another archive\? Remove it"):
        extract(archive, tmp_path, ["other"])
    archive.write_bytes(whole.read_bytes()[:20_000])
    with pytest.raises(InputError, match=r"cannot unpack .*Remove it, and download it again"):
        extract(archive, tmp_path, ["set"])
    assert names(tmp_path) == [name]


# ---- several processes, and killed ones


def in_a_child(work: Callable[[], object]) -> int:
    """Start a process that works and ends with 0, or with 1 after an error; returns its id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child


def many_images(path: Path, count: int) -> bytes:
    images = (member(f"set/{i % 7}/{i}.png") for i in range(count))
    return tar(path, *images).read_bytes()


def fetch_set(server: Server, root: Path, md5: str) -> None:
    archive = root / "set.tar"
    with fetch.alone(archive):
        download(f"{server.url}/set.tar", archive, md5, progress=False)
        extract(archive, root, ["set"], progress=False)


def test_processes_that_fetch_the_same_set_wait_for_each_other(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "WAIT_SECONDS", 0.01)
    body = many_images(tmp_path / "made.tar", 400)
    server.files["/set.tar"] = body
    root, md5 = tmp_path / "root", hashlib.md5(body).hexdigest()
    children = [in_a_child(lambda: fetch_set(server, root, md5)) for _ in range(4)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(server.asked) == 1
    assert len(list((root / "set").rglob("*.png"))) == 400
    assert sorted(path.name for path in root.iterdir()) == ["set", "set.tar"]


@pytest.mark.parametrize(
    ("place", "name", "calls"),
    [
        *((tarfile.TarFile, "extract", calls) for calls in (1, 30, 400)),
        *((os, "rename", 1), (os, "sync", 1), (fetch, "replace_synced", 1), (fetch, "file_md5", 1)),
    ],
)
def test_a_set_is_whole_or_absent_after_a_kill(
    place: Any, name: str, calls: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = many_images(tmp_path / "made.tar", 400)
    server.files["/set.tar"] = body
    root, md5 = tmp_path / "root", hashlib.md5(body).hexdigest()
    function, number = getattr(place, name), iter(range(1, 10**6))

    def deadly(*args: Any, **kwargs: Any) -> Any:
        if next(number) == calls:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(place, name, deadly)
        child = in_a_child(lambda: fetch_set(server, root, md5))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert not (root / "set").exists()
    fetch_set(server, root, md5)
    assert len(list((root / "set").rglob("*.png"))) == 400
    assert sorted(path.name for path in root.iterdir()) == ["set", "set.tar"]


def test_who_is_waited_for_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "WAIT_SECONDS", 0.01)
    ready, release = os.pipe(), os.pipe()

    def hold() -> None:
        with fetch.alone(tmp_path / "set.tar"):
            os.write(ready[1], b"x")
            os.read(release[0], 1)

    child = in_a_child(hold)
    os.read(ready[0], 1)
    threading.Timer(0.1, os.write, (release[1], b"x")).start()
    with fetch.alone(tmp_path / "set.tar"):
        pass
    assert os.waitpid(child, 0)[1] == 0
    expected = rf"waiting for process {child} on \S+ since [^,]+, which downloads {re.escape(str(tmp_path))}/set\.tar\n"
    assert re.fullmatch(expected, capsys.readouterr().err)


def test_files_that_vanish_while_they_are_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tar(tmp_path / "set.tar", GOOD, member("set/a/2.png"))

    def lose(self: tarfile.TarFile, info: tarfile.TarInfo, folder: Path, **_: object) -> None:
        (folder / "set").mkdir(exist_ok=True)

    monkeypatch.setattr(tarfile.TarFile, "extract", lose)
    with pytest.raises(InputError, match=r"2 of 2 files of .* vanished"):
        extract(archive, tmp_path, ["set"])
    assert names(tmp_path) == ["set.tar"]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_root_that_cannot_be_written(
    number: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    path = tmp_path / "a.bin"
    for module, name in ((fetch, "replace_synced"), (locks, "try_lock")):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, fail)
            with (
                pytest.raises(InputError, match=rf"^cannot write \S+a\.bin: {os.strerror(number)}.*another --root$"),
                fetch.alone(path),
            ):
                download(f"{server.url}/a.bin", path, MD5)
    assert not path.exists()
