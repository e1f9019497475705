"""What all of ``data`` builds on: encoded images by name, pairs of them, reasons for skips."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import NamedTuple, Protocol

Skips = tuple[tuple[str, str], ...]
"""(name, reason) of each image that was left out."""


class NamedPair(NamedTuple):
    """Two files, whether they show one person, and the fold, from 1, in which they are tested."""

    left: str
    right: str
    same: bool
    fold: int


class Labelled(Protocol):
    """Items with names and identities: ``Faces`` or a ``FeatureSet``."""

    @property
    def names(self) -> tuple[str, ...]: ...
    @property
    def identities(self) -> tuple[str, ...]: ...
    def __len__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Source:
    """Encoded images of any size by name; picklable, for worker processes.

    Attributes:
      names: n unique names with forward slashes, none absolute, none with "..".
      identities: n labels; equal labels are one person.
      read: The encoded bytes (JPEG, PNG, ...) of a name, safe to call from several threads and
        processes. Raises OSError or ValueError with the reason when they are unreadable.
      pairs: The verification pairs that the source carries, if any.
      skipped: (name, reason) of files that are there and are not usable images.
    """

    names: tuple[str, ...]
    identities: tuple[str, ...]
    read: Callable[[str], bytes]
    pairs: tuple[NamedPair, ...] = ()
    skipped: Skips = ()

    def __len__(self) -> int:
        return len(self.names)

    def first(self, limit: int | None) -> Source:
        """The first so many images of it; all of them for None."""
        names, identities = self.names[:limit], self.identities[:limit]
        return dataclasses.replace(self, names=names, identities=identities)


def counted(reasons: Iterable[str]) -> str:
    """The kinds of reasons with their numbers: "3 unreadable, 1 not there"."""
    kinds = Counter(reason.split(":")[0] for reason in reasons)
    return ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())


def unsafe(name: str) -> bool:
    """Whether a name would lead out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts
