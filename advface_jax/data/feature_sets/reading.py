"""Protected features that were written to be shared (paper, section 4.4), at random access.

A set is a folder: ``features-00000.array_record`` and so on, a record being the raw bytes of one
feature, of FaceNet's (77,77,64), row-major, little-endian float32 or bfloat16, or 8 bits
(``encoding``); beside each shard a ``.json`` with its sum and, on demand, a label and a name for
each record; and ``card.json``, which is there when the set is whole.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax.data.feature_sets import chunks, encoding
from advface_jax.untrusted import BadFile, read_json

SHAPE = (77, 77, 64)
FORMAT = "advface_jax features, 1"
AGAIN = "copy the set again"
OPEN = 64  # shards, at most: each holds a file open
UNFINISHED = ".unfinished.json"  # a writer's plan, with the secret order; gone when all is written


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Random access over n protected features; picklable, and ``batches`` can load it.

    Attributes:
      folder: Where the set lies.
      card: How it was made: epsilon, steps, the sums of the models, and so on.
      identities: n labels, or () where the set keeps none.
      names: n names of files, or ().
      counts: Records of each shard.
    """

    folder: Path
    card: Mapping[str, Any]
    identities: tuple[str, ...]
    names: tuple[str, ...]
    counts: tuple[int, ...]

    def __len__(self) -> int:
        return sum(self.counts)

    def features(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The features at ``indices``, float32 (b, *shape), of FaceNet's (b, 77, 77, 64).

        Raises:
          ValueError: for indices out of range, and with the shard's name for a damaged record.
        """
        rows = np.asarray(indices, np.int64).ravel()
        if rows.size and not 0 <= rows.min() <= rows.max() < len(self):
            raise ValueError(
                f"got indices {rows.min()} to {rows.max()}; wanted 0 to {len(self) - 1}"
            )
        dtype, shape = self.card["dtype"], self.shape
        out = None
        for k, i in enumerate(rows):
            raw = self._record(int(i))
            if len(raw) != encoding.size(dtype, shape):
                raise BadFile(f"record {i} of {self.folder} has {len(raw):,} bytes: damaged")
            if out is None:  # not before: a damaged card can claim any shape
                out = np.empty((len(rows), *shape), np.float32)
            out[k] = encoding.decode(raw, dtype, shape)
        return np.empty((0, *shape), np.float32) if out is None else out

    def crop(self, i: int) -> np.ndarray:
        """One item as ``batches`` loads it, float32 (*shape); ValueError as in ``features``."""
        return self.features([i])[0]

    def check(self) -> None:
        """Read every shard and compare its sum with the one written with it; ValueError if not."""
        for shard in range(len(self.counts)):
            file = shard_file(self.folder, shard)
            if file_sum(file) != beside_shard(self.folder, shard)["sha256"]:
                raise BadFile(f"{file} is damaged: copy it again")

    def _record(self, i: int) -> bytes:
        starts = [0, *accumulate(self.counts)]
        shard = int(np.searchsorted(starts, i, side="right")) - 1
        file = shard_file(self.folder, shard)
        try:
            if (reader := self._readers.get(shard)) is None:
                for old in list(self._readers)[: 1 - OPEN]:
                    self._readers.pop(old, None)
                reader = self._readers[shard] = chunks.open_records(file)
            return reader[i - starts[shard]]
        except Exception as error:  # array_record raises RuntimeError and IndexError
            raise BadFile(
                f"record {i - starts[shard]} of {file} cannot be read ({error}): the shard is "
                "damaged; copy it again"
            ) from None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one feature."""
        return tuple(self.card["shape"])

    @functools.cached_property
    def _readers(self) -> dict[int, Any]:
        return {}


def read_card(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The card of a set of features; ValueError where there is no whole set."""
    folder = Path(folder)
    if not (folder / "card.json").is_file():
        if (folder / UNFINISHED).is_file():
            raise BadFile(f"{folder} is unfinished: the command that began it resumes it")
        raise BadFile(
            f"{folder} holds no set of features (no card.json): make one with `python -m "
            "advface_jax features`"
        )
    card = read_json(folder / "card.json", AGAIN)
    if card.get("format") != FORMAT or not _is_shape(card.get("shape")):
        raise BadFile(f"{folder / 'card.json'} is the card of something else")
    return card


def _is_shape(value: Any) -> bool:
    """Whether it is a list of one to eight positive numbers, of an item of 2 GB at most."""
    if not isinstance(value, list) or not 1 <= len(value) <= 8:
        return False
    whole = all(type(n) is int and 0 < n < 2**31 for n in value)
    return whole and 4 * math.prod(value) < 2**31


def open_features(folder: str | os.PathLike[str]) -> FeatureSet:
    """Open a set that ``write_features`` wrote, without reading any feature.

    Raises:
      ValueError: no whole set, a shard that is missing or cut short, or numbers that do not fit
        together; ``FeatureSet.check`` also finds a changed bit.

    Example:
      >>> import pathlib, tempfile
      >>> from advface_jax import data
      >>> from advface_jax.commands import features
      >>> folder = pathlib.Path(tempfile.mkdtemp(), "features")
      >>> small = {"limit": 2, "batch": 2, "shard_size": 2, "steps": 1}
      >>> features.main("synthetic", folder, **small)  # doctest: +ELLIPSIS
      2 protected features in ...
      >>> found = data.open_features(folder)
      >>> found.features([0, 1]).shape
      (2, 77, 77, 64)
    """
    folder = Path(folder)
    card = read_card(folder)
    chunks.array_record()
    try:
        shards = [beside_shard(folder, shard) for shard in range(card["shards"])]
        counts = tuple(s["records"] for s in shards)
        if any(type(n) is not int or not 0 <= n < 1 << 40 for n in counts):
            raise TypeError("a number of records")
        if any(not isinstance(s[k], list | None) for s in shards for k in ("labels", "names")):
            raise TypeError("a list of labels")
        identities = tuple(str(x) for s in shards for x in s["labels"] or ())
        names = tuple(str(x) for s in shards for x in s["names"] or ())
        fits = sum(counts) == card["records"] and card["dtype"] in encoding.DTYPES
    except (KeyError, TypeError):  # somebody edited them
        counts, identities, names, fits = (), (), (), False
    if not fits or len(identities) not in (0, sum(counts)) or len(names) not in (0, sum(counts)):
        raise BadFile(f"{folder}: card and shards do not fit together; copy the set again")
    return FeatureSet(folder, card, identities, names, counts)


def shard_file(folder: Path, shard: int) -> Path:
    return folder / f"features-{shard:05d}.array_record"


def beside_shard(folder: Path, shard: int) -> dict[str, Any]:
    """The .json of a shard; ValueError where it is missing, or the shard is cut short."""
    file = shard_file(folder, shard)
    beside = read_json(file.with_suffix(".json"), AGAIN)
    size = file.stat().st_size if file.is_file() else 0
    if beside.get("bytes") != size:
        raise BadFile(
            f"{file} has {size:,} bytes and should have {beside.get('bytes', 0)!s:.80}: the shard "
            "is damaged; copy it again, or remove it and write the set anew"
        )
    return beside


def file_sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
