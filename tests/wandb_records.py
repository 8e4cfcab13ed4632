"""Read a run that W&B recorded offline: its ``.wandb`` file is a LevelDB log of protocol buffers."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

HEADER, BLOCK, PART = 7, 32768, 7  # bytes of the file's header, of a block, of the header of a part
FULL, LAST = 1, 4  # kinds of parts that end a record


@dataclass
class OfflineRun:
    """What a run recorded: its fields, configuration, summary, keys of its history, artifacts and tables."""

    folder: Path
    fields: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    aliases: set[str] = field(default_factory=set)
    history: set[str] = field(default_factory=set)
    table_files: dict[str, list[str]] = field(default_factory=dict)

    @property
    def tags(self) -> list[str]:
        return list(self.fields.tags)

    def tables(self, column: str) -> list[list[dict[str, Any]]]:
        """The rows of each table that has this column."""
        files = sorted((self.folder / "files/media/table").rglob("*.table.json"))
        contents = [json.loads(file.read_text()) for file in files]
        rows = ([dict(zip(c["columns"], row, strict=True)) for row in c["data"]] for c in contents)
        return [each for c, each in zip(contents, rows, strict=True) if column in c["columns"]]


def records(path: Path) -> Iterator[Any]:
    """The records of a ``.wandb`` file."""
    data, position, parts = path.read_bytes(), HEADER, b""
    while position + PART <= len(data):
        left = BLOCK - position % BLOCK
        if left < PART:
            position += left
            continue
        _, size, kind = struct.unpack("<IHB", data[position : position + PART])
        parts += data[position + PART : position + PART + size]
        position += PART + size
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_run(place: Path) -> OfflineRun:
    """The only offline run in a folder; W&B's service writes its file until ``wandb.teardown``."""
    (folder,) = place.glob("wandb/offline-run-*")
    (path,) = folder.glob("*.wandb")
    run = OfflineRun(folder)
    for record in records(path):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run.fields = record.run
            update(run.config, record.run.config.update)
        elif kind == "config":
            update(run.config, record.config.update)
        elif kind == "summary":
            update(run.summary, record.summary.update)
        elif kind == "artifact":
            files = sorted(e.path for e in record.artifact.manifest.contents)
            if record.artifact.type == "run_table":  # a table with its pictures
                run.table_files[record.artifact.name.rpartition("-")[2]] = files
            else:
                run.artifacts[record.artifact.name] = files
                run.aliases |= set(record.artifact.aliases)
        elif kind == "history":
            run.history |= {"/".join(item.nested_key) or item.key for item in record.history.item}
    return run


def update(values: dict[str, Any], items: Any) -> None:
    """Set values by their keys."""
    for item in items:
        keys = [item.key] if item.key else list(item.nested_key)
        inner = values
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = json.loads(item.value_json)
