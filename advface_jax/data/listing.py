"""Which files of a source are read, and whose they are: from their names or from a list."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence

from advface_jax.data.records import Skips, unsafe

Rows = Sequence[tuple[str, str]]  # (file, identity)


def read_listing(listing: str | os.PathLike[str], where: Mapping[str, str] | None) -> Rows:
    """(file, identity) of the rows that ``where`` keeps, in the order of a tab-separated list.

    Raises:
      ValueError: the list is unreadable or lacks the columns file, identity or one of ``where``.
    """
    try:
        with open(listing, newline="", encoding="utf-8-sig") as lines:
            table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
            columns = table.fieldnames or []
            lacking = [c for c in ("file", "identity", *(where or {})) if c not in columns]
            if lacking:
                raise ValueError(
                    f"{listing} has the columns {', '.join(columns) or '(none)'} and lacks "
                    f"{', '.join(lacking)}: it must be tab-separated with a header line"
                )
            kept = (row for row in table if all(row[c] == v for c, v in (where or {}).items()))
            return [(row["file"] or "", row["identity"] or "") for row in kept]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"the listing {listing} cannot be read: {error}") from error


def parse_where(conditions: Sequence[str]) -> dict[str, str] | None:
    """{column: value} from words COLUMN=VALUE of a command line, None for none; else ValueError."""
    wrong = [word for word in conditions if "=" not in word]
    if wrong:
        raise ValueError(f"got --where {' '.join(wrong)}; wanted COLUMN=VALUE, as lfw_lookalike=-")
    return dict(word.split("=", 1) for word in conditions) or None


def sound_rows(rows: Rows, present: set[str], known: Mapping[str, str]) -> tuple[Rows, Skips]:
    """The rows that can be read, once each, and (name, reason) of the others.

    Args:
      rows: (file, identity) of each.
      present: The names of the source.
      known: Why other names are not among them, where that is known.
    """
    kept: dict[str, str] = {}
    refused = []
    for name, identity in rows:
        if name in kept:
            refused.append((name, "listed twice"))
        elif unsafe(name):
            refused.append((name, "with an unsafe path"))
        elif name not in present:
            refused.append((name, known.get(name, "not there")))
        elif not identity:
            refused.append((name, "without an identity in the listing"))
        else:
            kept[name] = identity
    return list(kept.items()), tuple(refused)
