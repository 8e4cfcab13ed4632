"""Image files of kinds that Pillow does not write: TIFF of any type of number, PNG of any depth."""

import struct
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3, "c": 6}


def tiff(
    values: NDArray[np.generic], order: str = "<", photometric: int = 1, bits: int = 0, extra: int | None = None
) -> bytes:
    """An uncompressed TIFF of one strip.

    Args:
        values: (H, W), or (H, W, colours) with the type of the samples.
        order: of the bytes, ``<`` or ``>``.
        photometric: 0: zero is white; 1: zero is black; 2: RGB.
        bits: 1, 2, 4 or 12 per sample, packed; 0: those of the type.
        extra: ExtraSamples, the kind of an alpha channel: 1 premultiplied, 2 not.
    """
    height, width, colours = (*values.shape, 1)[:3]
    data = pack(values, bits) if bits else values.astype(values.dtype.newbyteorder(order)).tobytes()
    depth, kind = bits or 8 * values.dtype.itemsize, SAMPLE_FORMATS[values.dtype.kind]
    tags: list[tuple[int, str, Sequence[int]]] = [
        *((256, "I", [width]), (257, "I", [height]), (258, "H", [depth] * colours), (259, "H", [1])),
        *((262, "H", [photometric]), (273, "I", [0]), (277, "H", [colours]), (278, "I", [height])),
        *((279, "I", [len(data)]), (284, "H", [1]), (339, "H", [kind] * colours)),
    ]
    tags = sorted([*tags, *([(338, "H", [extra])] if extra is not None else [])])
    place = 8 + 2 + 12 * len(tags) + 4
    more, entries = b"", b""
    for tag, form, numbers in tags:
        content = struct.pack(f"{order}{len(numbers)}{form}", *numbers)
        if len(content) > 4:
            content, more = struct.pack(f"{order}I", place + len(more)), more + content
        entries += struct.pack(f"{order}HHI", tag, 3 if form == "H" else 4, len(numbers)) + content.ljust(4, b"\0")
    strip = struct.pack(f"{order}HHI", 273, 4, 1)
    entries = entries.replace(strip + bytes(4), strip + struct.pack(f"{order}I", place + len(more)))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return start + entries + bytes(4) + more + data


def pack(values: NDArray[np.generic], bits: int) -> bytes:
    """Samples of 1, 2, 4 or 12 bits, row by row, each row from a new byte on."""
    planes = [(values.astype(np.uint16) >> shift) & 1 for shift in reversed(range(bits))]
    rows = np.stack(planes, -1).reshape(len(values), -1).astype(np.uint8)
    return np.packbits(rows, axis=1).tobytes()


def png(values: NDArray[np.generic], bits: int, colour: int, **chunks: bytes) -> bytes:
    """A PNG.

    Args:
        values: (H, W), or (H, W, colours).
        bits: per sample: 1, 2, 4, 8 or 16.
        colour: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA.
        chunks: name to content, such as ``PLTE`` and ``tRNS``, before the pixels.
    """
    height, width = values.shape[:2]
    rows = [row.astype(">u2").tobytes() if bits == 16 else pack(row.reshape(1, -1), bits) for row in values]
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    parts = {"IHDR": header, **chunks, "IDAT": zlib.compress(b"".join(b"\0" + row for row in rows)), "IEND": b""}
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name.encode(), content) for name, content in parts.items())


def chunk(name: bytes, content: bytes) -> bytes:
    """A chunk of a PNG: length, name, content, checksum."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
