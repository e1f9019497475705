"""What a folder of tensorflow-datasets holds: its shards, its features, and a record.

The package itself is not asked: it imports the modules that ``features.json`` names, opens files
outside of the folder where ``dataset_info.json`` says so, and unpacks without a bound.
"""

from __future__ import annotations

import re
import struct
from bisect import bisect_right
from collections.abc import Collection, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advface_jax import protobuf
from advface_jax.data.feature_sets import chunks
from advface_jax.untrusted import ITEMS, BadFile, read_json

_IDENTITY = ("identity", "label", "person", "subject")
_TEMPLATE = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
_SHOWN = 200  # characters of what a file says, in a message
Value = bytes | int | float


class Shard(NamedTuple):
    """A file of a split; ``start`` is its first record's number in the split."""

    split: str
    file: Path
    start: int
    records: int


class Layout(NamedTuple):
    """Shards in order, the feature that is the image, and those that may be the identity."""

    shards: tuple[Shard, ...]
    image: str
    labels: tuple[str, ...]


def layout(folder: Path) -> Layout:
    """Read ``dataset_info.json`` and ``features.json``.

    Raises:
      BadFile: they are damaged, no feature is an image, or only TensorFlow reads the records.
    """
    info, told = (read_json(folder / f"{name}.json") for name in ("dataset_info", "features"))
    try:
        features = dict(_features(told))
        shards = tuple(_shards(folder, info))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from None
    images = [name for name, image in features.items() if image and "/" not in name]
    if not images:
        raise BadFile(
            f"{folder} has the features {', '.join(features)[:_SHOWN]}, and none is an image"
        )
    kind = info.get("fileFormat", "tfrecord")
    if kind != "array_record":
        raise BadFile(
            f"{folder} was prepared as {kind!s:.80}, which only TensorFlow reads: prepare it "
            "again with file_format='array_record'"
        )
    labels = tuple(name for name in features if name.partition("/")[0] in _IDENTITY)
    return Layout(shards, "image" if "image" in images else images[0], labels)


def _features(feature: dict[str, Any], name: str = "") -> Iterator[tuple[str, bool]]:
    """Every feature by its flat name, and whether it is an image.

    Sets of before 2022 say ``type`` and ``content``, which may be a protocol buffer in JSON.
    """
    kind = feature.get("pythonClassName", feature.get("type", ""))
    if kind.rpartition(".")[2] != "FeaturesDict":
        yield name, kind.rpartition(".")[2] == "Image" or "image" in feature
        return
    content = feature["featuresDict"] if "featuresDict" in feature else feature["content"]
    plain = "content" in feature and not feature.get("proto_cls")
    within = content if plain else content["features"]
    for key, one in within.items():
        yield from _features(one, f"{name}/{key}" if name else key)


def _shards(folder: Path, info: dict[str, Any]) -> Iterator[Shard]:
    for split in info.get("splits", ()):
        lengths, start = [_count(n) for n in split.get("shardLengths", ())], 0
        digits = max(5, len(str(len(lengths))))
        if len(lengths) > ITEMS:
            raise BadFile(f"more than {ITEMS:,} shards")
        for i, records in enumerate(lengths):
            index, of = f"{i:0{digits}}", f"{len(lengths):0{digits}}"
            words = {"DATASET": info["name"], "SPLIT": split["name"], "SHARD_INDEX": index}
            words |= {"FILEFORMAT": "array_record", "NUM_SHARDS": of}
            words |= {"SHARD_X_OF_Y": f"{index}-of-{of}"}
            name = re.sub(
                r"\{(\w+)\}", lambda m, w=words: w[m[1]], split.get("filepathTemplate") or _TEMPLATE
            )
            if Path(name).name != name or "\\" in name or "\0" in name:
                raise BadFile(f"the shard {name!r:.{_SHOWN}} is no file of this folder")
            yield Shard(split["name"], folder / name, start, records)
            start += records


def _count(n: Any) -> int:
    """A 64-bit number of a protocol buffer's JSON, which is a string."""
    if not re.fullmatch(r"[0-9]{1,12}", str(n)):
        raise BadFile(f"{n!r:.80} records in a shard")
    return int(n)


class Records:
    """The records of a set by number, from shards that are looked at and opened when needed."""

    def __init__(self, found: Layout):
        self.layout = found
        self.wanted = {found.image, "name", *found.labels}
        self.starts = [0, *accumulate(shard.records for shard in found.shards)]
        self.opened: dict[Path, Any] = {}

    def __len__(self) -> int:
        return self.starts[-1]

    def where(self, i: int) -> tuple[Shard, int]:
        """The shard of record ``i``, and the record's number in it."""
        k = bisect_right(self.starts, i) - 1
        return self.layout.shards[k], i - self.starts[k]

    def __getitem__(self, i: int) -> dict[str, Value]:
        """The image, the name and what may be the identity, of those that the record has."""
        shard, at = self.where(i)
        try:
            if shard.file not in self.opened:
                self.opened[shard.file] = chunks.open_records(shard.file)
            found = self.opened[shard.file]
            if len(found) != shard.records:
                raise BadFile(f"{len(found):,} records where {shard.records:,} should be")
            features = example(found[at], self.wanted)
            if not isinstance(features.get(self.layout.image), bytes):
                raise BadFile("it has no image")
        except Exception as error:  # array_record raises RuntimeError and IndexError
            raise _damaged(f"record {at} of {shard.file}", error) from None
        return features


def example(record: bytes, wanted: Collection[str]) -> dict[str, Value]:
    """The features ``wanted`` of a serialised ``tf.train.Example``; BadFile for several values."""
    found = {}
    features = protobuf.message(memoryview(record)).bytes(1, b"")
    for entry in protobuf.repeated(features, 1):
        pair = protobuf.message(entry)
        if (name := pair.text(1)) in wanted:
            found[name] = pair.bytes(2, b"")
    return {name: _value(name, protobuf.message(feature)) for name, feature in found.items()}


def _value(name: str, feature: protobuf.Message) -> Value:
    """The one value of a Feature, which holds a list of bytes, of floats or of integers."""
    kinds = {1: "bytes", 2: "floats", 3: "integers"}
    field = next((field for field in kinds if field in feature), 1)
    values = [value for number, value in protobuf.fields(feature.bytes(field, b"")) if number == 1]
    if len(values) == 1:
        (value,) = values
        if field == 1 and not isinstance(value, int):
            return bytes(value)
        if field == 2 and not isinstance(value, int) and len(value) == 4:
            return struct.unpack("<f", value)[0]
        if field == 3 and (isinstance(value, int) or len(value) <= 10):
            numbers = protobuf.packed(value, np.dtype(np.int64))
            if len(numbers) == 1:
                return int(numbers[0])
    raise BadFile(f"its feature {name} is not one value")


def _damaged(what: object, error: Exception) -> BadFile:
    reason = " ".join((str(error) or type(error).__name__).split())[:_SHOWN]
    return BadFile(f"{what} cannot be read ({reason}): prepare the set again")
