"""Lists of verification pairs as text: a tab-separated table, or LFW's own pairs.txt."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from advface_jax.data.records import NamedPair


def read_list(path: Path) -> list[NamedPair]:
    """The pairs of a list, in its order.

    Args:
      path: A tab-separated file with a header that has the columns fold, same (1 or 0), file1 and
        file2; or LFW's pairs.txt, whose ``Name i j`` and ``Name i Other j`` become the files
        ``Name/Name_000i.jpg`` (Huang et al., "Labeled Faces in the Wild", 2008).

    Raises:
      ValueError: with the line that does not fit.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist: give the list of pairs") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no list of pairs ({error})") from None
    if not (lines and "file1" in lines[0].split("\t")):
        return _read_official(path, lines)
    try:
        return _read_table(path, lines)
    except csv.Error as error:
        raise ValueError(f"{path} is no list of pairs ({error})") from error


def _read_table(path: Path, lines: Sequence[str]) -> list[NamedPair]:
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


def _read_official(path: Path, lines: Sequence[str]) -> list[NamedPair]:
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
