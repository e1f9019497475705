"""insightface's two formats: the RecordIO pack to train on, the `.bin` to verify on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from advface_jax.data import recordio
from advface_jax.data.pairs import NamedPair
from advface_jax.data.restricted_pickle import Blob, read_blob, read_pickle
from advface_jax.data.sources import Source

FOLDS = 10


@dataclass(frozen=True, eq=False)
class _Records:
    path: str
    keys: np.ndarray  # int64, rising
    offsets: np.ndarray

    def __call__(self, name: str) -> bytes:
        key = int(name.rpartition("/")[2].partition(".")[0])
        at = int(np.searchsorted(self.keys, key))
        if at == len(self.keys) or self.keys[at] != key:
            raise ValueError(f"{name} is not in {self.path}")
        return recordio.read_image(self.path, int(self.offsets[at]))


def open_rec(path: Path) -> Source:
    """A RecordIO pack `NAME.rec` with `NAME.idx` beside it.

    Images are named `label/key.jpg`, in the order of their keys; the label is the identity. A key
    that the pack's own header promises and the .idx lacks, that points past the end of the .rec or
    at no record, is skipped. Raises ValueError when there is no .idx or no image at all.
    """
    index = path.with_suffix(".idx")
    if not index.is_file():
        raise ValueError(
            f"{path} has no {index.name} beside it, which says where its records begin: put the "
            "pack's .idx there"
        )
    keys, offsets = recordio.read_index(index)
    keys, first = np.unique(keys, return_index=True)  # of a key that comes twice, the first line
    skipped = [("", "listed twice in the .idx")] * (len(offsets) - len(keys))
    offsets = offsets[first]
    if not len(keys):
        raise ValueError(f"{index} is empty: the pack has no images")
    with open(path, "rb") as file:
        labels = _labels(file, keys, offsets, skipped)
    kept = [(key, who) for key, who in labels.items() if who]
    if not kept:
        raise ValueError(
            f"{path} has no image that {index.name} points at ({len(skipped):,} skipped"
            + (f", the first: {skipped[0][0]}: {skipped[0][1]}" if skipped else "")
            + "): do the two belong together?"
        )
    here = np.array([key for key, _ in kept], np.int64)
    return Source(
        tuple(f"{who}/{key:07d}.jpg" for key, who in kept),
        tuple(who for _, who in kept),
        _Records(str(path), here, offsets[np.searchsorted(keys, here)]),
        skipped=tuple(skipped),
    )


def _labels(
    file: BinaryIO, keys: np.ndarray, offsets: np.ndarray, skipped: list[tuple[str, str]]
) -> dict[int, str]:
    """The identity of each image by key, rising; those without one go to `skipped`."""
    where = dict(zip(keys.tolist(), offsets.tolist(), strict=True))

    def label(key: int) -> str:
        try:
            if key not in where:
                raise ValueError("not in the .idx")
            (value, *_) = recordio.read_record(file, where[key]).labels
            if value != int(value):
                raise ValueError(f"its label is {value}")
            return str(int(value))
        except (ValueError, OverflowError) as error:
            skipped.append((f"record {key}", str(error)))
            return ""

    ranges = _ranges(file, where, skipped)
    if ranges is None:
        return {key: label(key) for key in where}
    found: dict[int, str] = {}
    for start, end in ranges:
        ends = {key for key in (start, end - 1) if key in where}
        one = {label(key) for key in ends}
        if len(ends) == 2 and len(one) == 1 and "" not in one:  # millions of records stay unread
            (who,) = one
            for key in range(start, end):
                found[key] = who if key in where else label(key)
        else:
            skipped[:] = [s for s in skipped if s[0] not in {f"record {key}" for key in ends}]
            found.update((key, label(key)) for key in range(start, end))
    return dict(sorted(found.items()))


def _ranges(
    file: BinaryIO, where: dict[int, int], skipped: list[tuple[str, str]]
) -> list[tuple[int, int]] | None:
    """The [start, end) of keys of each identity, where the pack's first record says them."""
    if 0 not in where:
        return None
    head = recordio.read_record(file, where[0])
    if len(head.labels) != 2 or head.length:
        return None
    first, last = map(int, head.labels)
    ranges = []
    reach = max(where) + 1
    for key in range(first, min(last, reach)):
        try:
            if key not in where:
                raise ValueError("not in the .idx")
            start, end = map(int, recordio.read_record(file, where[key]).labels)
            if not 0 < start <= end <= first:
                raise ValueError(f"it claims the images {start} to {end}")
            ranges.append((start, end))
        except (ValueError, OverflowError) as error:
            skipped.append((f"identity record {key}", str(error)))
    return ranges


@dataclass(frozen=True, eq=False)
class _Bin:
    path: str
    blobs: tuple[Blob, ...]

    def __call__(self, name: str) -> bytes:
        return read_blob(self.path, self.blobs[int(name.partition(".")[0])])


def open_bin(path: str | os.PathLike[str]) -> Source:
    """A verification set: a pickle of (2m encoded images, m booleans), which is parsed, not run.

    Image 2i and image 2i + 1 are pair i, named `00000.jpg` and so on. The pairs make ten folds in
    their order, of equal size (the first ones hold the odd pairs, as scikit-learn's KFold deals).
    The file knows no people: the two images of a same pair share an identity, and nothing more is
    known, so that one person has several identities.
    Raises ValueError when the file is cut short or holds anything else.
    """
    images, same = read_pickle(path)
    if len(images) != 2 * len(same) or not same:
        raise ValueError(
            f"{path} has {len(images)} images for {len(same)} pairs, wanted two for each: it is "
            "no insightface verification set, or it was cut short"
        )
    names = tuple(f"{i:05d}.jpg" for i in range(len(images)))
    folds = [f + 1 for f, part in enumerate(np.array_split(same, FOLDS)) for _ in part]
    pairs = tuple(
        NamedPair(names[2 * i], names[2 * i + 1], yes, folds[i]) for i, yes in enumerate(same)
    )
    identities = tuple(
        f"{i // 2:05d}" if same[i // 2] else f"{i // 2:05d}{'ab'[i % 2]}" for i in range(len(names))
    )
    return Source(names, identities, _Bin(str(path), tuple(images)), pairs)
