"""Data sets prepared by tensorflow-datasets as array_record, read without TensorFlow.

Our own builders leave lists beside the records: ``faces.tsv`` (file, identity) in the records'
order, ``pairs.tsv`` (fold, same, file1, file2) and ``skipped.tsv`` (file, reason). Of other sets
the features are used: the first image, and the label or identity, if there is one.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from advface_jax.data.feature_sets import chunks
from advface_jax.data.formats import pair_lists, tfds_folder
from advface_jax.data.records import Source
from advface_jax.untrusted import TEXT_BYTES, BadFile, read_bytes

PREFIX = "tfds:"  # before a name, where a path could stand
FACES, PAIRS, SKIPPED = "faces.tsv", "pairs.tsv", "skipped.tsv"


def open_named(name: str) -> Source:
    """The set of that name in tensorflow-datasets' data folder; ValueError when there is none.

    The folder is the one that TFDS_DATA_DIR names, else ~/tensorflow_datasets. A name may go on
    with a configuration and a version, ``name/config:1.0.0``; the newest version by default.
    """
    place = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    name = name.replace("-", "_")
    wanted, _, version = name.partition(":")
    found: list[Path] = []
    for above in ("", "*/"):  # versions, or configurations with versions
        found = found or [
            file.parent
            for file in (place / wanted).glob(f"{above}*/features.json")
            if re.fullmatch(r"\d+\.\d+\.\d+", file.parent.name)
            and fnmatch.fnmatch(file.parent.name, version or "*")
        ]
    if not found:
        raise BadFile(
            f"{PREFIX}{name} is not in {place}: prepare it (see docs/datasets.md), or name its "
            "folder, or set TFDS_DATA_DIR to where it is"
        )
    if len({folder.parent for folder in found}) > 1:
        names = ", ".join(sorted({f"{PREFIX}{wanted}/{folder.parent.name}" for folder in found}))
        raise BadFile(f"{PREFIX}{name} has several configurations: name one of {names:.500}")
    return open_prepared(max(found, key=lambda folder: [int(n) for n in folder.name.split(".")]))


def open_prepared(folder: Path) -> Source:
    """The set in a folder with dataset_info.json; ValueError when it cannot be read."""
    chunks.array_record()
    records = tfds_folder.Records(tfds_folder.layout(folder))
    if (folder / FACES).is_file():
        rows = read_table(folder / FACES)
        names = tuple(name for name, _ in rows)
        identities = tuple(identity for _, identity in rows)
    else:
        names, identities = _scanned(records)
    if len(names) != len(records) or len(set(names)) != len(names):
        raise BadFile(
            f"{folder / FACES} has {len(names):,} names, {len(set(names)):,} of them different, "
            f"for {len(records):,} records: prepare the set again"
        )
    pairs = tuple(pair_lists.read_list(folder / PAIRS)) if (folder / PAIRS).is_file() else ()
    skipped = tuple(read_table(folder / SKIPPED)) if (folder / SKIPPED).is_file() else ()
    return Source(names, identities, _Images(folder, names), pairs, skipped)


def read_table(path: Path) -> list[tuple[str, str]]:
    """The first two columns of a tab-separated file, without its header."""
    try:
        lines = io.StringIO(read_bytes(path, TEXT_BYTES).decode("utf-8"), newline="")
        rows = list(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]
    except (csv.Error, UnicodeDecodeError) as error:
        raise BadFile(f"{path} is damaged ({error}): prepare the set again") from error
    if any(len(row) < 2 for row in rows):
        raise BadFile(f"{path} has a line without two columns: prepare the set again")
    return [(row[0], row[1]) for row in rows]


def write_table(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    """A tab-separated file; ValueError for a value that holds a tab or a line break."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        for row in (header, *rows):
            values = [str(value) for value in row]
            if any(set(value) & {"\t", "\n", "\r"} for value in values):
                raise BadFile(f"a tab or a line break in {values!r}: rename that file")
            file.write("\t".join(values) + "\n")


class _Images:
    """Reads encoded images by name, with readers that each process opens for itself."""

    def __init__(self, folder: Path, names: tuple[str, ...]):
        self.folder = folder
        self.names = names
        self.opened: dict[int, tuple[tfds_folder.Records, dict[str, int]]] = {}

    def __reduce__(self):
        return _Images, (self.folder, self.names)

    def __call__(self, name: str) -> bytes:
        me = os.getpid()  # a fork must not share the threads that array_record reads with
        if me not in self.opened:
            index = {name: i for i, name in enumerate(self.names)}
            self.opened = {me: (tfds_folder.Records(tfds_folder.layout(self.folder)), index)}
        records, index = self.opened[me]
        if name not in index:
            raise BadFile(f"{name} is not in {self.folder}")
        features = records[index[name]]
        own = _text(features["name"]) if "name" in features else name
        if own != name:
            raise BadFile(f"{FACES} is of another build: the record is {own!r:.200}")
        return features[records.layout.image]  # type: ignore[return-value] - bytes


def _scanned(records: tfds_folder.Records) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and identities from the records themselves: all of them are read once."""
    names, identities = [], []
    for i in range(len(records)):
        features, (shard, at) = records[i], records.where(i)
        number = f"{shard.split}-{shard.start + at:06d}"
        known = [_text(features[k]) for k in records.layout.labels if k in features]
        identity = known[0] if known else number
        own = f"{identity.replace('/', '_')}/{number}.jpg"
        names.append(_text(features["name"]) if "name" in features else own)
        identities.append(identity)
    return tuple(names), tuple(identities)


def _text(value: tfds_folder.Value) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
