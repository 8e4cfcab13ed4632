"""Lets ``clipos`` download stand-ins: addresses, checksums and sizes in its table of sources are replaced.

Python imports a module of this name when it starts, if its folder is in PYTHONPATH. Nothing else differs from what a
user runs; the hub's address is replaced by the hub's own variable, HF_ENDPOINT. The variable CLIPOS_STAND_INS holds the
record that `stand_in_downloads.py` wrote, CLIPOS_STAND_INS_URL the address of the server.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def redirect(table: dict[str, Any], record: Mapping[str, Mapping[str, Any]], address: str) -> None:
    """Replace URL, MD5 and size of every file in the record.

    Args:
        table: ``clipos_lightning.data.sources.SOURCES``, changed in place.
        record: data set to file name to ``md5`` and ``size``.
        address: of the server, whose paths begin with the name of the original host.
    """
    for name, made in record.items():
        files = []
        for file in table[name].files:
            parts = urlsplit(file.url)
            files.append(replace(file, url=f"{address}/{parts.netloc}{parts.path}", **made[file.name]))
        table[name] = replace(table[name], files=tuple(files))


if "CLIPOS_STAND_INS" in os.environ:
    from clipos_lightning.data.sources import SOURCES

    text = Path(os.environ["CLIPOS_STAND_INS"]).read_text(encoding="utf-8")
    redirect(SOURCES, json.loads(text), os.environ["CLIPOS_STAND_INS_URL"])
