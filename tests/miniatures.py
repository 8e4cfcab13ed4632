"""Miniatures of all data sets in their original formats: unpacked, and as the files to download."""

import dataclasses
import functools
import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from file_server import Server
from PIL import Image
from running import write_cifar_batch
from scipy.io import savemat

from clipos_lightning.data.classnames import EUROSAT, imagenet100_classes, imagenet_classes
from clipos_lightning.data.sources import SOURCES, File, Source

PLACES = [f"Places365_val_{i:08d}.jpg" for i in range(1, 9)]  # the list that tests put in place of the packaged one
FOLDERS = {  # image files in the folders and with the endings that the true archives have
    "textures": [f"dtd/dtd/images/{k}/{k}_{i:04d}.jpg" for k in ("banded", "dotted") for i in (1, 2, 3)],
    "places365": [f"places365/val_256/{name}" for name in PLACES],
    "lsun_crop": [f"LSUN/test/{i}.jpg" for i in range(6)],
    "lsun_resize": [f"LSUN_resize/LSUN_resize/{i}.jpg" for i in range(6)],
    "isun": [f"iSUN/iSUN_patches/{i}.jpeg" for i in range(6)],
    "inaturalist": [f"iNaturalist/images/{'0af' * i}9.jpg" for i in range(1, 7)],
    "sun": [f"SUN/images/sun_{'abc' * i}.jpg" for i in range(1, 7)],
    "places": [f"Places/images/b_beach_{i:08d}.jpg" for i in range(6)],
    "tiny_imagenet": [
        *(f"tiny-imagenet-200/train/{w}/images/{w}_{i}.JPEG" for w in ("n01443537", "n01629819") for i in range(2)),
        *(f"tiny-imagenet-200/{part}/images/{part}_{i}.JPEG" for part in ("val", "test") for i in range(5)),
    ],
    "imagenet": [
        *(f"imagenet/train/{w}/{w}_{i}.JPEG" for w in imagenet_classes() for i in range(1)),
        *(f"imagenet/train/{w}/{w}_1{i}.JPEG" for w in imagenet100_classes() for i in range(2)),
        *(f"imagenet/val/{w}/ILSVRC2012_val_{i:08d}.JPEG" for i, w in enumerate(imagenet_classes())),
    ],
    "eurosat": [f"eurosat/2750/{name}/{name}_{i}.jpg" for name in EUROSAT for i in range(1, 6)],
}
TEXTS = {
    "dtd/dtd/labels/train1.txt": "banded/banded_0001.jpg\ndotted/dotted_0001.jpg\n",
    "dtd/dtd/labels/val1.txt": "banded/banded_0002.jpg\ndotted/dotted_0002.jpg\n",
    "dtd/dtd/labels/test1.txt": "banded/banded_0003.jpg\ndotted/dotted_0003.jpg\n",
    "places365/places365_val.txt": "".join(f"{name} {i}\n" for i, name in enumerate(PLACES)),
    "places365/categories_places365.txt": "/a/airfield 0\n/b/beach 48\n",
    "tiny-imagenet-200/wnids.txt": "n01443537\nn01629819\n",
    "tiny-imagenet-200/val/val_annotations.txt": "val_0.JPEG\tn01443537\t0\t32\t44\t62\n",
    "cifar-10-batches-py/readme.html": "<meta>",
}


def make_set(name: str, root: Path) -> int:
    """Write the unpacked miniature of a set below a folder; returns its number of images."""
    for seed, key in enumerate(FOLDERS.get(name, ())):
        write(root / key, picture(seed % 8, key.endswith(".png")))
    for key, text in TEXTS.items():
        if any(key.startswith(f"{path.split('/')[0]}/") for path in SOURCES[name].image_paths):
            write(root / key, text.encode())
    maker = {"cifar10": make_cifar, "cifar100": make_cifar, "svhn": make_svhn, "medmnist": make_medmnist}.get(name)
    return maker(name, root) if maker else len(FOLDERS[name])


@functools.cache
def picture(seed: int, png: bool = False) -> bytes:
    """An image file of random pixels."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG" if png else "JPEG")
    return file.getvalue()


def make_cifar(name: str, root: Path) -> int:
    """CIFAR-10's or CIFAR-100's batches: each class twice in training, once in testing."""
    rng, holds = np.random.default_rng(0), SOURCES[name].image_paths
    labels = np.arange(10) if name == "cifar10" else np.arange(200) % 100
    for path in holds:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        write_cifar_batch(root / path, rng, labels, "labels" if name == "cifar10" else "fine_labels")
    return len(labels) * len(holds)


def make_svhn(name: str, root: Path) -> int:
    """SVHN's MATLAB file: pixels first, images last; a zero is labelled 10."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 6), dtype=np.uint8)
    write(root / SOURCES[name].image_paths[0], b"")
    labels = np.array([[10], [1], [2], [3], [4], [5]], dtype=np.uint8)
    savemat(root / SOURCES[name].image_paths[0], {"X": pixels, "y": labels})
    return 6


def make_medmnist(name: str, root: Path) -> int:
    """BloodMNIST's npz: three splits, labels (N, 1)."""
    rng, arrays = np.random.default_rng(0), {}
    for split, each in (("train", 2), ("val", 1), ("test", 1)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (8 * each, 28, 28, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = (np.arange(8 * each, dtype=np.uint8) % 8)[:, None]
    write(root / SOURCES[name].image_paths[0], b"")
    np.savez_compressed(root / SOURCES[name].image_paths[0], **arrays)
    return 32


def write(path: Path, body: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)


def packed(file: File, root: Path) -> bytes:
    """The bytes of one of a set's files."""
    folder, body = root / file.folder, io.BytesIO()
    if not file.parts:
        return (folder / file.name).read_bytes()
    if file.name.endswith(".zip"):
        with zipfile.ZipFile(body, "w") as archive:
            for path in sorted(p for part in file.parts for p in (folder / part).rglob("*")):
                archive.write(path, path.relative_to(folder).as_posix())
    else:
        with tarfile.open(fileobj=body, mode="w:gz" if file.name.endswith("gz") else "w") as archive:
            for part in file.parts:
                archive.add(folder / part, part)
    return body.getvalue()


def miniature(name: str, server: Server, root: Path) -> Source:
    """The table's entry with the miniature's addresses, checksums and count; its files are on the server."""
    count = make_set(name, root)
    files = []
    for file in SOURCES[name].files:
        body = packed(file, root) if file.url else b""
        server.files[f"/{file.name}"] = body
        url = file.url and f"{server.url}/{file.name}"
        files.append(dataclasses.replace(file, url=url, md5=hashlib.md5(body).hexdigest(), size=len(body)))
    return dataclasses.replace(SOURCES[name], files=tuple(files), images=count)
