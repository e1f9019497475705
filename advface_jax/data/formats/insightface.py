"""insightface's two formats: the RecordIO pack to train on, the `.bin` to verify on."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from advface_jax.data.formats import recordio
from advface_jax.data.formats.restricted_pickle import Blob, read_blob, read_pickle
from advface_jax.data.records import NamedPair, Source
from advface_jax.untrusted import BadFile, open_file

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
            raise BadFile(f"{name} is not in {self.path}")
        return recordio.read_image(self.path, int(self.offsets[at]))


def open_rec(path: Path) -> Source:
    """A RecordIO pack ``NAME.rec`` with ``NAME.idx`` beside it.

    Images are named ``label/key.jpg``, in the order of their keys; the label is the identity. A
    key that the pack's header promises and the .idx lacks, or that points past the end of the .rec
    or at no record, is skipped.

    Raises:
      ValueError: there is no .idx, or no image at all.
    """
    index = path.with_suffix(".idx")
    if not index.is_file():
        raise BadFile(
            f"{path} has no {index.name} beside it with the places of its records: put the "
            "pack's .idx there"
        )
    listed, offsets = recordio.read_index(index)
    keys, first, counts = np.unique(listed, return_index=True, return_counts=True)
    offsets = offsets[first]  # of a key that comes twice, the first line counts
    skipped = [(f"record {key}", "listed twice in the .idx") for key in keys[counts > 1]]
    if not len(keys):
        raise BadFile(f"{index} is empty: the pack has no images")
    with open_file(path, recordio.REC_BYTES) as file:
        labels = _labels(file, dict(zip(keys.tolist(), offsets.tolist(), strict=True)), skipped)
    if not labels:
        first = f", the first: {': '.join(skipped[0])}" if skipped else ""
        raise BadFile(
            f"{path} has no image that {index.name} points at ({len(skipped):,} skipped{first}): "
            "do the two belong together?"
        )
    here = np.array(list(labels), np.int64)
    return Source(
        tuple(f"{who}/{key:07d}.jpg" for key, who in labels.items()),
        tuple(labels.values()),
        _Records(str(path), here, offsets[np.searchsorted(keys, here)]),
        skipped=tuple(skipped),
    )


def _labels(
    file: BinaryIO, where: dict[int, int], skipped: list[tuple[str, str]]
) -> dict[int, str]:
    """The identity of each image by key, rising; those without one go to ``skipped``."""
    head = _head(file, where)
    if head is None:
        images, known = list(where), {}
    else:
        images = [key for key in where if 1 <= key < head[0]]
        known = _known(file, where, images, range(*head))
        for before, after in zip((0, *images), (*images, head[0]), strict=True):
            if after - before > 1:
                more = f"s {before + 1} to {after - 1}" if after - before > 2 else f" {after - 1}"
                skipped.append((f"record{more}", "not in the .idx"))
    labels = {}
    size = os.fstat(file.fileno()).st_size
    for key in images:
        try:
            sure = known.get(key) if where[key] < size else None
            labels[key] = sure or _label(file, where[key])
        except ValueError as error:
            skipped.append((f"record {key}", str(error)))
    return labels


def _head(file: BinaryIO, where: dict[int, int]) -> tuple[int, int] | None:
    """The key of the first identity record and one past the last, if the first record has them."""
    if 0 not in where:
        return None
    head = recordio.read_record(file, where[0])
    if len(head.labels) != 2 or head.length:
        return None
    first, last = head.labels
    if not 1 <= first <= last < 1 << 31:
        raise BadFile(f"its first record claims identities in records {first} to {last}")
    return int(first), min(int(last), max(where) + 1)


def _known(
    file: BinaryIO, where: dict[int, int], images: Sequence[int], people: range
) -> dict[int, str]:
    """Labels of people whose first and last image agree, without a look at each image.

    An identity record holds the [start, end) of its images, so that millions of records stay
    unread. Where one is unreadable, its images are looked at one by one.
    """
    known: dict[int, str] = {}
    left = len(images)  # hostile ranges overlap, or claim more than there is
    for key in (key for key in where if key in people):
        try:
            start, end = map(int, recordio.read_record(file, where[key]).labels)
            label = _label(file, where[start])
            if end <= people.start and label == _label(file, where[end - 1]):
                own = images[bisect_left(images, start) : bisect_left(images, end)]
                left -= len(own)
                if left < 0:
                    break
                known.update(dict.fromkeys(own, label))
        except (KeyError, ValueError, OverflowError):
            continue
    return known


def _label(file: BinaryIO, offset: int) -> str:
    value = recordio.read_record(file, offset).labels[0]
    if not value.is_integer():
        raise BadFile(f"its label is {value}")
    return str(int(value))


@dataclass(frozen=True, eq=False)
class _Bin:
    path: str
    blobs: tuple[Blob, ...]

    def __call__(self, name: str) -> bytes:
        return read_blob(self.path, self.blobs[int(name.partition(".")[0])])


def open_bin(path: str | os.PathLike[str]) -> Source:
    """A verification set: a pickle of (2m encoded images, m booleans), which is parsed, not run.

    Images 2i and 2i + 1 are pair i, named ``00000.jpg`` and so on. The pairs make ten folds in
    their order, of equal size (the first ones hold the odd pairs, as in scikit-learn's KFold). The
    file has no identities: the two images of a same pair share one, so that a person of several
    pairs has several.

    Raises:
      ValueError: the file is cut short or holds anything else.
    """
    images, same = read_pickle(path)
    if len(images) != 2 * len(same) or not same:
        raise BadFile(
            f"{path} has {len(images)} images for {len(same)} pairs, wanted two for each: it is "
            "no insightface verification set, or it was cut short"
        )
    names = tuple(f"{i:05d}.jpg" for i in range(len(images)))
    folds = [f + 1 for f, part in enumerate(np.array_split(same, FOLDS)) for _ in part]
    pairs = tuple(map(NamedPair, names[::2], names[1::2], same, folds))
    identities = tuple(f"{i:05d}{'' if yes else end}" for i, yes in enumerate(same) for end in "ab")
    return Source(names, identities, _Bin(str(path), tuple(images)), pairs)
