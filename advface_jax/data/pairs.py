"""Pairs of faces: read from any file, by index, honest subsets, or made from the identities."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from advface_jax import checks
from advface_jax.data.formats import pair_lists, prepared, protocols
from advface_jax.data.naming import Names
from advface_jax.data.records import Labelled, NamedPair
from advface_jax.data.sources import open_source


@dataclass(frozen=True, eq=False)
class Pairs:
    """m pairs of faces by index.

    Attributes:
      left, right: int (m,), indices into a ``Faces``.
      same: bool (m,).
      fold: int (m,), from 1.
      dropped: How many pairs of the list are not among them, since a face of theirs is missing.
    """

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.left)


Rows = tuple[int, int]
P = TypeVar("P", Pairs, Sequence[NamedPair])


def read_pairs(path: str | os.PathLike[str]) -> list[NamedPair]:
    r"""Read verification pairs, in the order of their file.

    Args:
      path: A list as ``formats.pair_lists`` reads it (a table, or LFW's pairs.txt); CFP's folder
        (its FP folds); AgeDB-30's .mat file or a folder with it; or a set of faces that carries
        its pairs (insightface's .bin, a prepared data set).

    Raises:
      ValueError: with the line that does not fit, or where there are no pairs.

    Example:
      >>> import pathlib, tempfile
      >>> from advface_jax import data
      >>> file = pathlib.Path(tempfile.mkdtemp(), "pairs.tsv")
      >>> _ = file.write_text("fold,same,file1,file2\n1,1,ann/1.jpg,ann/2.jpg\n")
      >>> data.read_pairs(file)[0].same
      True
    """
    place = Path(path)
    if (place / "Protocol").is_dir() or (place / "Pair_list_F.txt").is_file():
        return protocols.read_cfp(place)
    if place.suffix == ".mat" or (place.is_dir() and protocols.agedb_files(place)):
        return protocols.read_agedb(place)
    if not (str(path).startswith(prepared.PREFIX) or place.is_dir() or place.suffix == ".bin"):
        return pair_lists.read_list(place)
    carried = open_source(path).pairs
    if not carried:
        raise ValueError(
            f"{path} carries no pairs: give LFW's pairs.txt, a table of pairs, CFP's "
            "folder, AgeDB-30's .mat, an insightface .bin or a prepared data set with pairs"
        )
    return list(carried)


def pair_names(named: Iterable[NamedPair]) -> tuple[str, ...]:
    """The files that the pairs need, each once, in order of first use.

    Example:
      >>> from advface_jax import data
      >>> data.pair_names([data.NamedPair("a/1.jpg", "a/2.jpg", True, 1)])
      ('a/1.jpg', 'a/2.jpg')
    """
    return tuple(dict.fromkeys(name for pair in named for name in (pair.left, pair.right)))


def index_pairs(
    named: Sequence[NamedPair], faces: Labelled, missing: Literal["refuse", "drop"] = "refuse"
) -> Pairs:
    """The pairs as indices into ``faces``, by names that may differ as ``naming.Names`` allows.

    Args:
      named: The pairs, by name.
      faces: The faces, or the features of them.
      missing: What to do with a pair whose face is not there: refuse all of them, or drop that
        pair. A warning counts those dropped, and ``Pairs.dropped`` has the number.

    Raises:
      ValueError: a face that the pairs need is not there and ``missing`` is "refuse", or no pair
        has both its faces.

    Example:
      >>> from advface_jax import data
      >>> faces = data.synthetic_faces(1, 2)
      >>> pair = data.NamedPair("synthetic_0000/0001.png", "synthetic_0000/0000.png", True, 1)
      >>> pairs = data.index_pairs([pair], faces)
      >>> pairs.left.tolist(), pairs.right.tolist()
      ([1], [0])
    """
    checks.choice(missing, "missing", ("refuse", "drop"))
    index = {name: i for i, name in enumerate(faces.names)}
    names = Names(faces.names)
    needed = {name: names.one(name) for name in pair_names(named)}
    lacking = [name for name, found in needed.items() if found is None]
    if lacking and not faces.names:
        raise ValueError("these features were written without names: pairs by name need them")
    kept = [pair for pair in named if needed[pair.left] and needed[pair.right]]
    if lacking and (missing == "refuse" or not kept):
        raise ValueError(
            f"{len(lacking):,} of the {len(needed):,} faces that the pairs need are not among the "
            f"{len(faces):,} faces read, the first: {lacking[0]!r}, {names.why_not(lacking[0])} "
            f"(faces are named like {faces.names[0]!r}; their endings may differ): read all of "
            "pair_names(pairs), or take another list of pairs"
        )
    if dropped := len(named) - len(kept):
        warnings.warn(
            f"{dropped:,} of {len(named):,} pairs are left out: {len(lacking):,} of the "
            f"{len(needed):,} faces that they need are missing, the first: {lacking[0]!r}",
            stacklevel=2,
        )
    return Pairs(
        np.array([index[needed[pair.left] or ""] for pair in kept], np.int64),
        np.array([index[needed[pair.right] or ""] for pair in kept], np.int64),
        np.array([pair.same for pair in kept], bool),
        np.array([pair.fold for pair in kept], np.int64),
        dropped,
    )


def subset(pairs: P, n: int | None) -> P:
    """The largest honest subset of at most n pairs: as many same as different in every fold.

    Of each fold the first n / (2 folds) same pairs and as many different ones are taken, in the
    order of the list; n is rounded down. None takes all of them.

    Raises:
      ValueError: n is less than two pairs a fold.

    Example:
      >>> from advface_jax import data
      >>> pairs = data.make_pairs(data.synthetic_faces(4, 2), folds=2)
      >>> len(pairs), len(data.subset(pairs, 4))  # a same and a different pair of each fold
      (8, 4)
    """
    if n is None:
        return pairs
    if isinstance(pairs, Pairs):
        fold, same = pairs.fold, pairs.same
    else:
        fold = np.array([pair.fold for pair in pairs], np.int64)
        same = np.array([pair.same for pair in pairs], bool)
    groups = [np.flatnonzero((fold == f) & (same == s)) for f in np.unique(fold) for s in (1, 0)]
    poorest = min((len(group) for group in groups), default=0)
    each = min(n // max(len(groups), 1), poorest)
    if each < 1:
        raise ValueError(
            f"n={n} of {len(fold)} pairs in {len(groups) // 2} folds leaves a fold without a same "
            f"or a different pair: ask for n >= {len(groups)} of a list that has both in each fold"
        )
    rows = np.sort(np.concatenate([group[:each] for group in groups]))
    if isinstance(pairs, Pairs):
        left, right, same, fold = (x[rows] for x in (pairs.left, pairs.right, same, fold))
        return Pairs(left, right, same, fold, pairs.dropped)
    return [pairs[i] for i in rows]


def make_pairs(faces: Labelled, folds: int = 10, seed: int = 0, per_identity: int = 10) -> Pairs:
    """Make balanced verification pairs from the identities of any faces, the same for one seed.

    As in LFW no person is in two folds, and a fold has as many same as different pairs. Every
    pair of one person's images is taken, at most ``per_identity`` of them, unless the fold has
    fewer different pairs.

    Raises:
      ValueError: too few people: each fold needs two, one of them with two images.

    Example:
      >>> from advface_jax import data
      >>> pairs = data.make_pairs(data.synthetic_faces(4, 2), folds=2)
      >>> len(pairs), int(pairs.same.sum())
      (8, 4)
    """
    checks.positive(folds=folds, per_identity=per_identity)
    if seed < 0:
        raise ValueError(f"got seed={seed}; wanted 0 or larger")
    rng = np.random.default_rng(seed)
    people: dict[str, list[int]] = {}
    for i, identity in enumerate(faces.identities):
        people.setdefault(identity, []).append(i)
    groups = [list(people.values())[i] for i in rng.permutation(len(people))]
    groups.sort(key=lambda images: len(images) < 2)  # stable: deal those with pairs first
    rows: list[tuple[int, int, bool, int]] = []
    for f in range(folds):
        dealt = groups[f::folds]
        own = (_some(combinations(images, 2), per_identity, rng) for images in dealt)
        same = [pair for pairs in own for pair in pairs]
        # 30 people of 4 images make 7,000 pairs: enough to draw from, and quick to enumerate
        others = combinations(dealt[:30], 2)
        apart = [pair for one, other in others for pair in product(one[:4], other[:4])]
        each = min(len(same), len(apart))
        if not each:
            raise ValueError(
                f"{len(people)} people, {sum(len(g) > 1 for g in groups)} of them with two images "
                f"or more, do not fill {folds} folds: each needs two people, one with two images. "
                "Ask for fewer folds or give more faces"
            )
        rows += [(*pair, True, f + 1) for pair in _some(same, each, rng)]
        rows += [(*pair, False, f + 1) for pair in _some(apart, each, rng)]
    left, right, together, fold = zip(*rows, strict=True)
    return Pairs(np.array(left), np.array(right), np.array(together), np.array(fold))


def _some(pairs: Iterable[Rows], n: int, rng: np.random.Generator) -> list[Rows]:
    """n of the pairs, drawn without replacement and in their own order; all if there are fewer."""
    pairs = list(pairs)
    if len(pairs) <= n:
        return pairs
    return [pairs[i] for i in np.sort(rng.choice(len(pairs), n, replace=False))]
