"""Build files in the true formats of a first run's downloads, with made-up content: archives and CLIP's weights.

Names, layouts, numbers and pixel sizes of the images are the true ones; the pixels are noise on blurred colours, a few
hundred different files of each set, and the weights are random. File lists that nothing here reads are left out.
`rehearse_first_run.py` serves the folder, which mirrors the web: `<host>/<path of the URL>`.

    python scripts/stand_in_downloads.py FOLDER
"""

import argparse
import gzip
import hashlib
import io
import itertools
import json
import pickle
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipos_lightning.data.sources import SOURCES

Members = Iterator[tuple[str, bytes]]  # names in an archive, and contents
REPOSITORY = "timm/vit_base_patch16_clip_224.openai"
BACKBONE = "ViT-B-16-quickgelu"
RECORD = "stand_ins.json"
MAX_DIFFERENT = 200  # image files of a set; they are repeated under the true names
DTD_KINDS, DTD_EACH = 47, 120
TINY_CLASSES = 200


# ---- images


def pixels(rng: np.random.Generator, width: int, height: int, noise: int) -> NDArray[np.uint8]:
    """Blurred colours with uniform noise in ±noise, (height, width, 3)."""
    colours = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(colours.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return (smooth + rng.integers(-noise, noise + 1, smooth.shape)).clip(0, 255).astype(np.uint8)


def jpegs(count: int, sides: tuple[int, int], noise: int) -> Iterator[bytes]:
    """JPEG files with width and height in this range (inclusive), from the same seed at each call."""
    rng, files = np.random.default_rng(0), []
    for _ in range(min(count, MAX_DIFFERENT)):
        width, height = rng.integers(sides[0], sides[1], 2, endpoint=True).tolist()
        file = io.BytesIO()
        Image.fromarray(pixels(rng, width, height, noise)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    return itertools.islice(itertools.cycle(files), count)


def small_images(count: int, seed: int, noise: int = 64) -> NDArray[np.uint8]:
    """Different images of 32 px, (count, 32, 32, 3)."""
    rng = np.random.default_rng(seed)
    bases = np.stack([pixels(rng, 32, 32, 1) for _ in range(100)]).astype(np.int16)
    images = np.empty((count, 32, 32, 3), dtype=np.uint8)
    for i in range(0, count, 1000):
        rows = images[i : i + 1000]
        rows[:] = (bases[np.arange(i, i + len(rows)) % 100] + rng.integers(-noise, noise, rows.shape)).clip(0, 255)
    return images


# ---- the content of each archive; `shrink` divides the numbers of images


class Python2Pickler(pickle._Pickler):  # type: ignore[name-defined]  # the C one cannot be told how to write strings
    """Pickle strings as Python 2 did, as in CIFAR's published batches."""

    def save_string(self, text: str | bytes) -> None:
        """Write a string or bytes as Python 2's ``str``."""
        raw = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)  # type: ignore[attr-defined]

    dispatch: ClassVar[dict[type, Any]] = {**pickle._Pickler.dispatch, str: save_string, bytes: save_string}  # type: ignore[attr-defined]


def cifar_batch(rows: NDArray[np.uint8], labels: NDArray[np.int64], key: str = "labels") -> bytes:
    """A batch as CIFAR's authors pickled them.

    Args:
        rows: red, green and blue pixels of each image, (N, 3072).
        labels: class indices (N).
        key: of the labels; ``fine_labels`` in CIFAR-100.
    """
    file = io.BytesIO()
    batch = {"batch_label": "made", key: labels.tolist(), "data": rows, "filenames": ["x.png"] * len(labels)}
    Python2Pickler(file, protocol=2).dump(batch)
    return file.getvalue().replace(b"numpy._core.multiarray\n", b"numpy.core.multiarray\n")


def cifar(name: str, classes: int, key: str, shrink: int) -> Members:
    """CIFAR's batches: 60,000 images, every class equally often in each batch."""
    paths = SOURCES[name].image_paths
    for seed, path in enumerate(paths):
        count = 10_000 if name == "cifar10" or path.endswith("test") else 50_000
        images = small_images(count // shrink, seed).transpose(0, 3, 1, 2).reshape(-1, 3072)
        yield path, cifar_batch(images, np.arange(len(images)) % classes, key)


def textures(shrink: int) -> Members:
    """DTD: 47 kinds of 120 images with 300 to 640 pixels per side, and its first partition into splits."""
    each = max(3, DTD_EACH // shrink)
    names = [f"kind{k:02d}/kind{k:02d}_{i:04d}.jpg" for k in range(DTD_KINDS) for i in range(1, each + 1)]
    sides = (300, 640) if shrink == 1 else (40, 60)
    for name, content in zip(names, jpegs(len(names), sides, noise=20), strict=True):
        yield f"dtd/images/{name}", content
    for s, split in enumerate(("train", "val", "test")):
        yield f"dtd/labels/{split}1.txt", "".join(f"{name}\n" for name in names[s::3]).encode()


def places(shrink: int) -> Members:
    """Places365's 36,500 validation images of 256 px."""
    count = 36_500 // shrink
    for i, content in enumerate(jpegs(count, (256, 256), noise=12), start=1):
        yield f"val_256/Places365_val_{i:08d}.jpg", content


def places_lists(shrink: int) -> Members:
    """Places365's lists of validation images and of categories."""
    names = (f"Places365_val_{i:08d}.jpg {i % 365}\n" for i in range(1, 36_500 // shrink + 1))
    yield "places365_val.txt", "".join(names).encode()
    yield "categories_places365.txt", "".join(f"/x/kind{k:03d} {k}\n" for k in range(365)).encode()


def odin(folder: str, suffix: str, count: int, side: int, shrink: int) -> Members:
    """An OOD set of ODIN: one folder of small images."""
    for i, content in enumerate(jpegs(count // shrink, (side, side), noise=20)):
        yield f"{folder}/{i}.{suffix}", content


def tiny_imagenet(shrink: int) -> Members:
    """Tiny-ImageNet: 500 training images of each of 200 classes, 10,000 for validation, 10,000 for testing; 64 px."""
    wnids = [f"n{k:08d}" for k in range(1, TINY_CLASSES + 1)]
    per_class = max(1, 500 // shrink)
    names = [f"train/{w}/images/{w}_{i}.JPEG" for w in wnids for i in range(per_class)]
    names += [f"{part}/images/{part}_{i}.JPEG" for part in ("val", "test") for i in range(10_000 // shrink)]
    for name, content in zip(names, jpegs(len(names), (64, 64), noise=16), strict=True):
        yield f"tiny-imagenet-200/{name}", content
    yield "tiny-imagenet-200/wnids.txt", "".join(f"{w}\n" for w in wnids).encode()


def svhn(shrink: int) -> bytes:
    """SVHN's MATLAB file: pixels first, images last; a zero is labelled 10."""
    from scipy.io import savemat

    images, file = small_images(26_032 // shrink, 0, noise=40), io.BytesIO()
    labels = (1 + np.arange(len(images), dtype=np.uint8) % 10)[:, None]
    savemat(file, {"X": images.transpose(1, 2, 3, 0), "y": labels}, do_compression=True)
    return file.getvalue()


CONTENTS: dict[str, Callable[[int], Members]] = {  # by the name of the file
    "cifar-10-python.tar.gz": lambda shrink: cifar("cifar10", 10, "labels", shrink),
    "cifar-100-python.tar.gz": lambda shrink: cifar("cifar100", 100, "fine_labels", shrink),
    "dtd-r1.0.1.tar.gz": textures,
    "val_256.tar": places,
    "filelist_places365-standard.tar": places_lists,
    "LSUN.tar.gz": lambda shrink: odin("LSUN/test", "jpg", 10_000, 36, shrink),
    "LSUN_resize.tar.gz": lambda shrink: odin("LSUN_resize/LSUN_resize", "jpg", 10_000, 32, shrink),
    "iSUN.tar.gz": lambda shrink: odin("iSUN/iSUN_patches", "jpeg", 8_925, 32, shrink),
    "tiny-imagenet-200.zip": tiny_imagenet,
}
SETS = ("cifar10", "cifar100", "textures", "svhn", "places365", "lsun_crop", "lsun_resize", "isun", "tiny_imagenet")


# ---- files


def write_tar(file: IO[bytes] | gzip.GzipFile, members: Members) -> None:
    """A tar archive, with the same bytes at each call."""
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def write_archive(path: Path, members: Members) -> None:
    """An archive in the format that its name ends with: .tar, .tar.gz or .zip."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, compresslevel=1)
        return
    with open(path, "wb") as file:
        if path.suffix != ".gz":
            return write_tar(file, members)
        with gzip.GzipFile("", "wb", compresslevel=1, fileobj=file, mtime=0) as packed:
            write_tar(packed, members)


def mirrored(folder: Path, url: str) -> Path:
    """Where the stand-in of a URL is; its folder is created."""
    parts = urlsplit(url)
    path = folder / parts.netloc / parts.path.lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def build_set(name: str, folder: Path, shrink: int = 1) -> dict[str, dict[str, Any]]:
    """Build the files of a data set; returns file name to ``md5`` and ``size``.

    Args:
        name: a key of ``SOURCES`` that is in ``SETS``.
        folder: where the web is mirrored.
        shrink: divide the numbers of images by it, and DTD's pixels, for tests.
    """
    record = {}
    for file in SOURCES[name].files:
        path = mirrored(folder, file.url or "")
        if file.name in CONTENTS:
            write_archive(path, CONTENTS[file.name](shrink))
        else:
            path.write_bytes(svhn(shrink))
        with open(path, "rb") as content:
            md5 = hashlib.file_digest(content, "md5").hexdigest()
        record[file.name] = {"md5": md5, "size": path.stat().st_size}
    return record


def build_weights(folder: Path, backbone: str = BACKBONE) -> Path:
    """OpenAI's ViT-B/16 with random weights (seed 0), as its files on the hub; returns the path of the weights."""
    import open_clip
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    state = open_clip.create_model(backbone, load_weights=False).state_dict()
    path = mirrored(folder, f"https://huggingface.co/{REPOSITORY}/resolve/main/open_clip_model.safetensors")
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, metadata={"format": "pt"})
    known = open_clip.get_pretrained_cfg(BACKBONE, "openai")
    prepared = {key: known[key] for key in ("mean", "std", "interpolation", "resize_mode")}
    config = {"model_cfg": open_clip.get_model_config(backbone), "preprocess_cfg": prepared}
    path.with_name("open_clip_config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return path


def main() -> None:
    """Build everything; prints each file with its size and the seconds it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    record = {}
    for name in SETS:
        start = time.monotonic()
        record[name] = build_set(name, folder)
        sizes = ", ".join(f"{file} {made['size'] / 1e6:,.0f} MB" for file, made in record[name].items())
        print(f"{name}: {sizes} ({time.monotonic() - start:.0f} s)", flush=True)
    (folder / RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
    weights = build_weights(folder)
    print(f"{REPOSITORY}: {weights.name} {weights.stat().st_size / 1e6:,.0f} MB")


if __name__ == "__main__":
    main()
