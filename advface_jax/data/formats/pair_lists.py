"""Lists of verification pairs as text: a table, or LFW's own pairs.txt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from advface_jax.data.records import NamedPair
from advface_jax.data.tables import cells, header, read_lines, read_table
from advface_jax.untrusted import BadFile

_SAME = {"0": False, "1": True, "false": False, "true": True}  # as spreadsheets write them, too


def read_list(path: Path) -> list[NamedPair]:
    """The pairs of a list, in its order.

    Args:
      path: A table (``tables.read_table``) with the columns fold, same (1 or 0), file1 and file2;
        or LFW's pairs.txt, whose ``Name i j`` and ``Name i Other j`` become the files
        ``Name/Name_000i.jpg`` (Huang et al., "Labeled Faces in the Wild", 2008).

    Raises:
      ValueError: with the line that does not fit.
    """
    lines = read_lines(path)
    try:
        columns = header(lines)[2]
    except ValueError as error:
        raise BadFile(f"{path} is no list of pairs ({error})") from None
    pairs = _read_table(path) if "file1" in columns else _read_official(path, lines)
    if not pairs:
        raise BadFile(f"{path} has no pairs: take the whole file")
    return pairs


def _read_table(path: Path) -> list[NamedPair]:
    pairs = []
    for number, row in read_table(path, ("fold", "same", "file1", "file2")):
        try:
            pair = NamedPair(
                row["file1"], row["file2"], _SAME[row["same"].lower()], int(row["fold"])
            )
            if not (pair.left and pair.right and abs(pair.fold) < 1 << 31):
                raise BadFile
        except (KeyError, ValueError):
            raise BadFile(
                f"{path}, line {number}: wanted fold, same (0 or 1), file1 and file2; "
                f"got {', '.join(row.values())!r:.200}"
            ) from None
        pairs.append(pair)
    return pairs


def _read_official(path: Path, lines: Sequence[str]) -> list[NamedPair]:
    body = [(n, words) for n, line in enumerate(lines, 1) if (words := _words(line))]
    head = body[0][1] if body else []
    if not (1 <= len(head) <= 2 and all(re.fullmatch("[0-9]{1,9}", word) for word in head)):
        raise BadFile(
            f"{path}: the first line is {' '.join(head)!r:.200}; wanted a table's header with "
            "fold, same, file1 and file2, or '10 300' (folds, pairs) as in LFW's pairs.txt"
        )
    folds, each = (1, int(head[0])) if len(head) == 1 else (int(head[0]), int(head[1]))
    del body[0]
    if len(body) != 2 * folds * each:
        raise BadFile(
            f"{path} promises {folds} folds of 2 x {each} pairs and has {len(body)} lines of "
            "pairs: take the whole file"
        )
    pairs = []
    for at, (number, words) in enumerate(body):
        same = at % (2 * each) < each  # a fold is `each` same pairs, then `each` different
        try:
            if same:
                person, i, j = words
                other = person
            else:
                person, i, other, j = words
            left, right = f"{person}/{person}_{int(i):04d}.jpg", f"{other}/{other}_{int(j):04d}.jpg"
        except ValueError:
            wanted = "'Name i j'" if same else "'Name i Other j'"
            got = " ".join(words)
            raise BadFile(f"{path}, line {number}: wanted {wanted}, got {got!r:.200}") from None
        pairs.append(NamedPair(left, right, same, at // (2 * each) + 1))
    return pairs


def _words(line: str) -> list[str]:
    """A line's cells, by tabs, semicolons or commas if there are any, else by spaces."""
    mark = next((mark for mark in "\t;," if mark in line), None)
    return [word for word in (cells(line, mark) if mark else line.split()) if word]
