"""Verification pairs: LFW's own lists, and lists made from the identities of any faces."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

if TYPE_CHECKING:  # a source of faces may carry pairs, so that faces come to import this module
    from advface_jax.data.faces import Faces
    from advface_jax.data.feature_sets.reading import FeatureSet


class NamedPair(NamedTuple):
    """Two files, whether they show one person, and the fold, from 1, in which they are tested."""

    left: str
    right: str
    same: bool
    fold: int


@dataclass(frozen=True, eq=False)
class Pairs:
    """m pairs of faces by index.

    left, right: int (m,), indices into a Faces.  same: bool (m,).  fold: int (m,), from 1.
    """

    left: np.ndarray
    right: np.ndarray
    same: np.ndarray
    fold: np.ndarray

    def __len__(self) -> int:
        return len(self.left)


def read_pairs(path: str | os.PathLike[str]) -> list[NamedPair]:
    """Read a list of verification pairs, in the order of the file.

    path: a tab-separated file with a header that has the columns fold, same (1 or 0), file1 and
        file2; LFW's original pairs.txt, whose `Name i j` and `Name i Other j` become the files
        `Name/Name_000i.jpg`; CFP's folder (its FP folds); AgeDB-30's .mat file; or a set of faces
        that carries its pairs (insightface's .bin, a prepared data set).

    Raises ValueError with the line that does not fit.
    Source: Huang et al., "Labeled Faces in the Wild", 2008, pairs.txt; for the others see
    `protocols`.
    """
    from advface_jax.data import sources  # they need NamedPair from here
    from advface_jax.data.formats import protocols

    place = Path(path)
    if (place / "Protocol").is_dir() or (place / "Pair_list_F.txt").is_file():
        return protocols.read_cfp(place)
    if place.suffix == ".mat":
        return protocols.read_agedb(place)
    if str(path).startswith(sources.TFDS) or place.is_dir() or place.suffix == ".bin":
        carried = sources.open_source(path).pairs
        if not carried:
            raise ValueError(
                f"{path} carries no pairs: give LFW's pairs.txt, a tab-separated list, CFP's "
                "folder, AgeDB-30's .mat, an insightface .bin or a prepared data set with pairs"
            )
        return list(carried)
    try:
        lines = place.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: give the list of pairs") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no list of pairs ({error})") from None
    if lines and "file1" in lines[0].split("\t"):
        try:
            return _read_table(path, lines)
        except csv.Error as error:
            raise ValueError(f"{path} is no list of pairs ({error})") from error
    return _read_official(path, lines)


def _read_table(path: str | os.PathLike[str], lines: Sequence[str]) -> list[NamedPair]:
    pairs = []
    table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    for number, row in enumerate(table, 2):
        try:
            same = {"0": False, "1": True}[row["same"]]
            pair = NamedPair(row["file1"], row["file2"], same, int(row["fold"]))
            if not (pair.left and pair.right):
                raise ValueError
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}, line {number}: wanted fold, same (0 or 1), file1 and file2, "
                f"tab-separated, got {lines[number - 1]!r}"
            ) from None
        pairs.append(pair)
    return pairs


def _read_official(path: str | os.PathLike[str], lines: Sequence[str]) -> list[NamedPair]:
    head = lines[0].split() if lines else []
    if not (1 <= len(head) <= 2 and all(word.isdigit() for word in head)):
        raise ValueError(
            f"{path}: the first line is {lines[0] if lines else ''!r}; wanted a tab-separated "
            "header with file1 and file2, or '10 300' (folds, pairs) as in LFW's pairs.txt"
        )
    folds, each = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
    body = [line.split() for line in lines[1:] if line.strip()]
    if len(body) != 2 * folds * each:
        raise ValueError(
            f"{path} promises {folds} folds of 2 x {each} pairs and has {len(body)} lines of "
            "pairs: take the whole file"
        )
    pairs = []
    for number, words in enumerate(body):
        same = number % (2 * each) < each  # a fold is `each` same pairs, then `each` different
        try:
            if same:
                person, i, j = words
                other = person
            else:
                person, i, other, j = words
            left, right = f"{person}/{person}_{int(i):04d}.jpg", f"{other}/{other}_{int(j):04d}.jpg"
        except ValueError:
            wanted = "'Name i j'" if same else "'Name i Other j'"
            raise ValueError(f"{path}: wanted {wanted}, got {' '.join(words)!r}") from None
        pairs.append(NamedPair(left, right, same, number // (2 * each) + 1))
    return pairs


def pair_names(named: Iterable[NamedPair]) -> tuple[str, ...]:
    """The files that the pairs need, each once, in order of first use."""
    return tuple(dict.fromkeys(name for pair in named for name in (pair.left, pair.right)))


def index_pairs(named: Sequence[NamedPair], faces: Faces | FeatureSet) -> Pairs:
    """The pairs as indices into `faces`; ValueError when a face they need is not there."""
    index = {name: i for i, name in enumerate(faces.names)}
    needed = pair_names(named)
    missing = [name for name in needed if name not in index]
    if missing and not faces.names:
        raise ValueError("these features were written without names: pairs by name need them")
    if missing:
        raise ValueError(
            f"{len(missing):,} of the {len(needed):,} faces that the pairs need are not among the "
            f"{len(faces):,} faces read, the first: {missing[0]!r} (faces are named like "
            f"{faces.names[0]!r}): read all of pair_names(pairs), or take another list of pairs"
        )
    return Pairs(
        np.array([index[pair.left] for pair in named], np.int64),
        np.array([index[pair.right] for pair in named], np.int64),
        np.array([pair.same for pair in named], bool),
        np.array([pair.fold for pair in named], np.int64),
    )


@overload
def subset(pairs: Pairs, n: int | None) -> Pairs: ...
@overload
def subset(pairs: Sequence[NamedPair], n: int | None) -> Sequence[NamedPair]: ...
def subset(pairs: Pairs | Sequence[NamedPair], n: int | None) -> Pairs | Sequence[NamedPair]:
    """The largest honest subset of at most n pairs: as many same as different in every fold.

    Of each fold the first n / (2 folds) same pairs and as many different ones are taken, in the
    order of the list, so that nobody chooses; n is rounded down. None takes all of them.
    Raises ValueError when n is less than two pairs a fold.
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
        return Pairs(pairs.left[rows], pairs.right[rows], pairs.same[rows], pairs.fold[rows])
    return [pairs[i] for i in rows]


def make_pairs(
    faces: Faces | FeatureSet, folds: int = 10, seed: int = 0, per_identity: int = 10
) -> Pairs:
    """Make balanced verification pairs from the identities of any faces, the same for one seed.

    As in LFW no person is in two folds, and a fold has as many same as different pairs. Every
    pair of one person's images is taken, at most `per_identity` of them, unless the fold has fewer
    different pairs to set against them.
    Raises ValueError when the people do not suffice: each fold needs two, one with two images.
    """
    if folds < 1 or per_identity < 1 or seed < 0:
        raise ValueError(
            f"folds={folds}, per_identity={per_identity}, seed={seed}: "
            "ask for at least one fold, one pair of a person, and a seed >= 0"
        )
    rng = np.random.default_rng(seed)
    people: dict[str, list[int]] = {}
    for i, identity in enumerate(faces.identities):
        people.setdefault(identity, []).append(i)
    groups = [list(people.values())[i] for i in rng.permutation(len(people))]
    groups.sort(key=lambda images: len(images) < 2)  # stable: deal those with pairs first
    rows: list[tuple[int, int, bool, int]] = []
    for f in range(folds):
        dealt = groups[f::folds]
        same = [
            pair for images in dealt for pair in _some(combinations(images, 2), per_identity, rng)
        ]
        # 30 people of 4 images make 7,000 pairs: enough to draw from, and quick to enumerate
        apart = [
            (a, b) for one, other in combinations(dealt[:30], 2) for a in one[:4] for b in other[:4]
        ]
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


def _some(
    pairs: Iterable[tuple[int, int]], n: int, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """n of the pairs, drawn without replacement and in their own order; all if there are fewer."""
    pairs = list(pairs)
    if len(pairs) <= n:
        return pairs
    return [pairs[i] for i in np.sort(rng.choice(len(pairs), n, replace=False))]
