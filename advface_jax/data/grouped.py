"""A training's faces in groups of one person each: batches of people × images."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from advface_jax.data.batches import Readable, epoch_order


@dataclass(frozen=True, eq=False)
class Chosen:
    """Some of the items with their identities; picklable if they are.

    Attributes:
      items: A ``Faces`` or a ``FeatureSet``.
      rows: int (n,), which of them, in which order.
    """

    items: Readable
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def identities(self) -> tuple[str, ...]:
        return tuple(self.items.identities[i] for i in self.rows)  # type: ignore[attr-defined]

    def crop(self, i: int) -> np.ndarray:
        return self.items.crop(int(self.rows[i]))


def group_order(labels: np.ndarray, images: int, seed: int, epoch: int) -> np.ndarray:
    """One epoch's groups of one person's images: int64 (g, images), rows into ``labels`` (n,).

    Every image comes once; where a person's do not fill the last group, some come again. It
    follows from its arguments, so that a resumed training need not replay the epochs before.
    """
    order = epoch_order(len(labels), seed, epoch)
    order = order[np.argsort(labels[order], kind="stable")]  # by person, in a new order each
    ends = np.flatnonzero(np.diff(labels[order])) + 1
    groups = [np.resize(own, (-(-len(own) // images), images)) for own in np.split(order, ends)]
    joined = np.concatenate(groups)
    return joined[epoch_order(len(joined), seed, epoch)]


@dataclass(frozen=True, eq=False)
class Grouped:
    """Labelled items in the order of a whole training, for ``data.batches`` to read in a pass.

    Only whole batches: the groups left over in an epoch are not read.

    Attributes:
      items: Whatever ``data.batches`` reads.
      labels: int (n,), equal for one person.
      people, images: A batch has ``people`` groups of ``images``; two of them may be one person's.
      epochs, seed: Of the training.

    Raises:
      ValueError: fewer groups than a batch needs.
    """

    items: Readable
    labels: np.ndarray
    people: int
    images: int
    epochs: int
    seed: int
    _orders: dict[int, np.ndarray] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not self.per_epoch:
            raise ValueError(
                f"got {len(self.labels)} faces of {len(np.unique(self.labels))} people, which make "
                f"{self._groups} groups of {self.images}; wanted at least the {self.people} of one "
                "batch: give more faces or a smaller batch"
            )

    @functools.cached_property
    def _groups(self) -> int:
        return int((-(-np.unique(self.labels, return_counts=True)[1] // self.images)).sum())

    @property
    def batch(self) -> int:
        return self.people * self.images

    @property
    def per_epoch(self) -> int:
        """Steps an epoch."""
        return self._groups // self.people

    def __len__(self) -> int:
        return self.per_epoch * self.epochs * self.batch

    def rows(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Which item stands at each position of the training: int64, as many."""
        epochs, at = np.divmod(np.asarray(positions, np.int64), self.per_epoch * self.batch)
        return np.array([self._order(int(e))[i] for e, i in zip(epochs, at, strict=True)])

    def crop(self, position: int) -> np.ndarray:
        return self.items.crop(int(self.rows([position])[0]))

    def _order(self, epoch: int) -> np.ndarray:
        # The loader's threads ask for an epoch or the next one; each may be made twice.
        if (found := self._orders.get(epoch)) is None:
            found = group_order(self.labels, self.images, self.seed, epoch).ravel()
            self._orders[epoch] = found
            self._orders.pop(epoch - 2, None)
        return found
