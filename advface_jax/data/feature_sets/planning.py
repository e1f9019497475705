"""What a set of features will hold, where each record goes, and what of it is there already."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from advface_jax import lock
from advface_jax.data.feature_sets import chunks, reading
from advface_jax.data.feature_sets.reading import beside_shard
from advface_jax.untrusted import read_json

Labels = Literal["none", "pseudonyms", "original"]
_FOUND = ("format", "shape", "records", "people", "left_out", "shards", "names_sha256")
"""What ``finish`` adds to the settings in a card."""


class Items(Protocol):
    """What can be protected: ``Faces``, a ``FeatureSet``, or another readable with their fields."""

    @property
    def names(self) -> tuple[str, ...]: ...

    @property
    def identities(self) -> tuple[str, ...]: ...

    def __len__(self) -> int: ...

    def crop(self, i: int, /) -> np.ndarray: ...


@dataclass(frozen=True, eq=False)
class Writing:
    """A set that is being written; all of it follows from the plan in the folder and the items.

    Attributes:
      folder: Of the set.
      items: Where they come from.
      settings: What the card keeps: batch, dtype, labels, names, and how the features are made.
      shard_size: Items a shard, a multiple of the batch.
      shape: Of a feature.
      secret: What the order of the records, and a defence's keys, follow from.
    """

    folder: Path
    items: Items
    settings: Mapping[str, Any]
    shard_size: int
    shape: tuple[int, ...]
    secret: int

    @property
    def batch(self) -> int:
        return self.settings["batch"]

    @property
    def total(self) -> int:
        """How many shards the whole set has."""
        return -(-len(self.items) // self.shard_size)

    @functools.cached_property
    def order(self) -> np.ndarray:
        """The item of each place in the set."""
        n = len(self.items)
        if self.settings["names"]:
            return np.arange(n)
        return np.random.default_rng(self.secret).permutation(n)

    @functools.cached_property
    def _numbers(self) -> dict[str, str]:
        """A pseudonym for each person, by first appearance."""
        identities = self.items.identities
        seen = dict.fromkeys(identities[i] for i in self.order.tolist())
        return {who: str(i) for i, who in enumerate(seen)}

    def labels(self, places: Sequence[int]) -> list[str] | None:
        kind = self.settings["labels"]
        if kind == "none" or not self.items.identities:
            return None
        told = [self.items.identities[self.order[i]] for i in places]
        return told if kind == "original" else [self._numbers[who] for who in told]

    def names(self, places: Sequence[int]) -> list[str] | None:
        if not self.settings["names"] or not self.items.names:
            return None
        return [self.name(i) for i in places]

    def name(self, place: int) -> str:
        """What to call an item in a message."""
        i = int(self.order[place])
        return self.items.names[i] if self.items.names else f"item {i}"

    def keys(self, places: np.ndarray) -> np.ndarray:
        """64 bits (b, 2) for each record, of the secret and its place alone: keys of a defence."""
        digests = [hashlib.sha256(f"{self.secret}/{i}".encode()).digest() for i in places.tolist()]
        return np.array([np.frombuffer(one, ">u4", 2) for one in digests], np.uint32)

    def steps(self, shard: int) -> range:
        """The batches of a shard."""
        per, last = self.shard_size // self.batch, -(-len(self.items) // self.batch)
        return range(shard * per, min((shard + 1) * per, last))

    def places(self, step: int) -> np.ndarray:
        """The places of a batch's records."""
        return np.arange(step * self.batch, min((step + 1) * self.batch, len(self.items)))

    def size(self, shard: int) -> int:
        """How many items a shard is made of."""
        return min(self.shard_size, len(self.items) - shard * self.shard_size)

    def without(self, shards: Sequence[int]) -> int:
        """How many items all other shards are made of."""
        return len(self.items) - sum(map(self.size, shards))

    def left(self) -> list[int]:
        """The shards that are not there whole; half ones, as of a lost disk cache, count as none:
        they are written anew."""
        return [shard for shard in range(self.total) if not self.has(shard)]

    def has(self, shard: int) -> bool:
        """Whether a shard is there, and whole."""
        try:
            beside_shard(self.folder, shard)
        except ValueError:
            return False
        return True


def check(batch: int, shard_size: int, seed: int | None, workers: int) -> None:
    """ValueError unless shards are of whole batches, and seed and workers are no less than 0."""
    for name, number in (("seed", 0 if seed is None else seed), ("workers", workers)):
        if number < 0:
            raise ValueError(f"got {name}={number}; wanted 0 or more")
    if batch < 1 or shard_size < 1 or shard_size % batch:
        raise ValueError(
            f"got shard_size={shard_size}, batch={batch}; wanted shards of whole batches, as "
            f"{16 * max(batch, 1)} and {max(batch, 1)}"
        )
    chunks.array_record()


def check_folder(folder: Path) -> None:
    """ValueError for a folder that holds something else, before a lock is put into it."""
    if not folder.exists():
        return
    known = ("card.json", reading.UNFINISHED)
    if not folder.is_dir() or (
        not any((folder / name).is_file() for name in known)
        and any(path.name != lock.NAME and not _is_part(path) for path in folder.iterdir())
    ):
        raise ValueError(f"{folder} is there and holds something else: give another folder")


def tidy(folder: Path) -> None:
    """Remove what killed writers left half; for who holds the folder's lock."""
    for path in filter(_is_part, folder.iterdir()):
        path.unlink()


def _is_part(path: Path) -> bool:
    """Whether a killed writer left it."""
    return path.name.startswith(".") and path.name.endswith(".part")


def begin(
    folder: Path,
    items: Items,
    settings: Mapping[str, Any],
    shard_size: int,
    shape: tuple[int, ...] = reading.SHAPE,
) -> Writing | None:
    """The folder's unfinished set, or a new one; None for a finished one of the same items and
    settings, but for the seed, which a finished set does not tell."""
    listed = _listed(items)
    settings = json.loads(json.dumps(settings))
    kept = {**settings, "shard_size": shard_size}
    unfinished = folder / reading.UNFINISHED
    if (folder / "card.json").is_file():
        differing = _differing(reading.read_card(folder), kept, len(items), listed)
        if not differing:
            unfinished.unlink(missing_ok=True)  # a kill just before the end left it
            return None
        raise ValueError(
            f"{folder} holds another set of features (other {', '.join(differing)}): give another "
            "folder"
        )
    if unfinished.is_file():
        plan = read_json(unfinished, reading.AGAIN)
        if plan.get("settings") != kept or plan.get("faces") != listed:
            raise ValueError(
                f"{folder} holds an unfinished set of other faces or settings: finish that one "
                "with its own command, or give another folder"
            )
    else:
        secret = secrets.randbits(128) if settings["seed"] is None else settings["seed"]
        plan = {"settings": kept, "faces": listed, "order": secret}
        write_json(unfinished, plan, 0o600)
    return Writing(folder, items, settings, shard_size, shape, plan["order"])


def _listed(items: Items) -> str:
    """The sha256 of all names and identities."""
    return hashlib.sha256("\n".join((*items.names, *items.identities)).encode()).hexdigest()


def _differing(
    card: Mapping[str, Any], wanted: Mapping[str, Any], items: int, listed: str
) -> list[str]:
    """In what a finished set's card differs from these settings and items; [] for the same set."""
    settings = sorted((card.keys() | wanted.keys()) - {*_FOUND, "seed"})
    differing = [name for name in settings if card.get(name) != wanted.get(name)]
    held = card.get("records", 0) + card.get("left_out", 0)
    # An earlier version's card has no sum of the names.
    same = held == items and card.get("names_sha256", listed) == listed
    return differing if same else [*differing, "faces"]


def finish(writing: Writing) -> None:
    """The card, with which the set is whole; the secret order goes, and so does a seed that was
    given: order and draws follow from it."""
    shards = [beside_shard(writing.folder, shard) for shard in range(writing.total)]
    full = {
        "format": reading.FORMAT,
        **writing.settings,
        "seed": None,
        "shape": list(writing.shape),
        "records": sum(s["records"] for s in shards),
        "people": len({x for s in shards for x in s["labels"] or ()}) or None,
        "left_out": sum(s["left_out"] for s in shards),
        "shards": writing.total,
        "shard_size": writing.shard_size,
        "names_sha256": _listed(writing.items),
    }
    write_json(writing.folder / "card.json", full)
    (writing.folder / reading.UNFINISHED).unlink()


def write_json(path: Path, content: Mapping[str, Any], mode: int = 0o666) -> None:
    """All of it or nothing, whenever the machine stops; readable as ``mode`` and umask say."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.unlink(missing_ok=True)  # a killed writer's, of another mode
        how = functools.partial(os.open, mode=mode)
        with open(part, "w", encoding="utf-8", opener=how) as opened:
            opened.write(json.dumps(content, indent=1) + "\n")
            opened.flush()
            os.fsync(opened.fileno())
        part.rename(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        raise ValueError(cannot(path, error.strerror)) from error


def cannot(file: Path, why: object) -> str:
    return f"{file} cannot be written ({why}): make room; the same command resumes"
