"""Data sets prepared by tensorflow-datasets as array_record, read without TensorFlow.

Our own builders leave lists beside the records: ``faces.tsv`` (file, identity) in the records'
order, ``pairs.tsv`` (fold, same, file1, file2) and ``skipped.tsv`` (file, reason). Of other sets
the features are used: the first image, and the label or identity, if there is one.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from advface_jax.data.formats import pair_lists
from advface_jax.data.records import Source
from advface_jax.untrusted import TEXT_BYTES, BadFile, read_bytes

PREFIX = "tfds:"  # before a name, where a path could stand
FACES, PAIRS, SKIPPED = "faces.tsv", "pairs.tsv", "skipped.tsv"
_IDENTITY = ("identity", "label", "person", "subject")


def tensorflow_datasets() -> Any:
    """The package, which needs no TensorFlow for what is used of it here."""
    try:
        import array_record  # noqa: F401
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise BadFile(
            f"prepared data sets need more packages ({error}): pip install tensorflow-datasets "
            "array_record importlib_resources"
        ) from error
    return tfds


def open_named(name: str) -> Source:
    """The set of that name in tensorflow-datasets' data folder; ValueError when there is none.

    The folder is the one that TFDS_DATA_DIR names, else ~/tensorflow_datasets.
    """
    tfds = tensorflow_datasets()
    name = name.replace("-", "_")
    try:
        found = tfds.core.read_only_builder.builder_from_files(name)
    except tfds.core.registered.DatasetNotFoundError as error:
        places = ", ".join(map(str, tfds.core.utils.file_utils.list_data_dirs()))
        raise BadFile(
            f"{PREFIX}{name} is not in {places}: prepare it (see docs/datasets.md), or "
            "name its folder, or set TFDS_DATA_DIR to where it is"
        ) from error
    return open_prepared(Path(found.data_dir))


def open_prepared(folder: Path) -> Source:
    """The set in a folder with dataset_info.json; ValueError when it cannot be read."""
    splits, image = _splits(str(folder))
    n = sum(map(len, splits.values()))
    if (folder / FACES).is_file():
        rows = read_table(folder / FACES)
        names = tuple(name for name, _ in rows)
        identities = tuple(identity for _, identity in rows)
    else:
        names, identities = _scanned(splits, image)
    if len(names) != n or len(set(names)) != n:
        raise BadFile(
            f"{folder / FACES} has {len(names):,} names, {len(set(names)):,} of them different, "
            f"for {n:,} records: prepare the set again"
        )
    pairs = tuple(pair_lists.read_list(folder / PAIRS)) if (folder / PAIRS).is_file() else ()
    skipped = tuple(read_table(folder / SKIPPED)) if (folder / SKIPPED).is_file() else ()
    return Source(names, identities, _Records(str(folder), names), pairs, skipped)


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


class _Records:
    """Reads encoded images by name, with readers that each process opens for itself."""

    def __init__(self, folder: str, names: tuple[str, ...]):
        self.folder = folder
        self.names = names
        self.opened: dict[int, tuple[list[Any], str, dict[str, int]]] = {}

    def __reduce__(self):
        return _Records, (self.folder, self.names)

    def __call__(self, name: str) -> bytes:
        me = os.getpid()  # a fork must not share the threads that array_record reads with
        if me not in self.opened:
            splits, image = _splits(self.folder)
            index = {name: i for i, name in enumerate(self.names)}
            self.opened = {me: (list(splits.values()), image, index)}
        splits, image, index = self.opened[me]
        if name not in index:
            raise BadFile(f"{name} is not in {self.folder}")
        at = index[name]
        for split in splits:
            if at < len(split):
                break
            at -= len(split)
        try:
            encoded, example = _record(split, at, image)
        except Exception as error:
            raise BadFile(f"the record cannot be read: {error}") from error
        if "name" in example and example["name"] != name:
            raise BadFile(f"{FACES} is of another build: the record is {example['name']!r}")
        return encoded


def _splits(folder: str) -> tuple[dict[str, Any], str]:
    """A data source for each split, whose images stay encoded, and the image's feature."""
    tfds = tensorflow_datasets()
    try:
        builder = tfds.builder_from_directory(folder)
        features = builder.info.features
    except Exception as error:  # tfds, protobuf and json raise many kinds
        raise BadFile(f"{folder} cannot be read: {error}") from error
    images = [k for k, v in features.items() if isinstance(v, tfds.features.Image)]
    if not images:
        raise BadFile(f"{folder} has the features {', '.join(features)}, and none is an image")
    image = "image" if "image" in images else images[0]
    skip = {image: tfds.decode.SkipDecoding()}
    try:
        return {s: builder.as_data_source(s, decoders=skip) for s in builder.info.splits}, image
    except NotImplementedError:
        raise BadFile(
            f"{folder} was prepared as {builder.info.file_format.value}, which only "
            "TensorFlow reads: prepare it again with file_format='array_record'"
        ) from None
    except Exception as error:
        raise BadFile(f"{folder} cannot be read: {error}") from error


def _record(split: Any, i: int, image: str) -> tuple[bytes, dict[str, Any]]:
    """A record's encoded image and its other features, flat."""
    example = dict(split[i])
    return example.pop(image), dict(_flat(example))


def _flat(example: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in example.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}/")
        else:
            text = isinstance(value, bytes)
            yield above + key, value.decode("utf-8", "replace") if text else value


def _scanned(splits: Mapping[str, Any], image: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names and identities from the records themselves: all of them are read once."""
    names, identities = [], []
    for split, records in splits.items():
        for i in range(len(records)):
            features = _record(records, i, image)[1]
            known = [v for k, v in features.items() if k.partition("/")[0] in _IDENTITY]
            identity = str(known[0]) if known else f"{split}-{i:06d}"
            names.append(features.get("name", f"{identity.replace('/', '_')}/{split}-{i:06d}.jpg"))
            identities.append(identity)
    return tuple(names), tuple(identities)
