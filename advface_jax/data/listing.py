"""Which files of a source are read, and whose they are: from their names or from a list."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from advface_jax.data.naming import Names
from advface_jax.data.records import Skips, unsafe
from advface_jax.data.tables import read_table

Rows = Sequence[tuple[str, str]]  # (file, identity)


def read_listing(listing: str | os.PathLike[str], where: Mapping[str, str] | None) -> Rows:
    """(file, identity) of the rows that ``where`` keeps, in the order of a table.

    Raises:
      ValueError: the list is unreadable or lacks the columns file, identity or one of ``where``.
    """
    conditions = dict(where or {})
    rows = [row.cells for row in read_table(listing, ("file", "identity", *conditions))]
    kept = (row for row in rows if all(row[c] == v for c, v in conditions.items()))
    return [(row["file"], row["identity"]) for row in kept]


def parse_where(conditions: Sequence[str]) -> dict[str, str] | None:
    """{column: value} from words COLUMN=VALUE of a command line, None for none; else ValueError."""
    wrong = [word for word in conditions if "=" not in word]
    if wrong:
        raise ValueError(f"got --where {' '.join(wrong)}; wanted COLUMN=VALUE, as lfw_lookalike=-")
    return dict(word.split("=", 1) for word in conditions) or None


def sound_rows(rows: Rows, names: Names, known: Mapping[str, str]) -> tuple[Rows, Skips]:
    """The rows that can be read, once each, under the source's names; (name, reason) of the others.

    Args:
      rows: (file, identity) of each.
      names: Those of the source.
      known: Why other names are not among them, where that is known.
    """
    kept: dict[str, str] = {}
    refused = []
    for listed, identity in rows:
        name = names.one(listed)
        if unsafe(listed):
            refused.append((listed, "with an unsafe path"))
        elif name is None:
            refused.append((listed, known.get(listed) or names.why_not(listed)))
        elif name in kept:
            refused.append((listed, "listed twice"))
        elif not identity:
            refused.append((listed, "without an identity in the listing"))
        else:
            kept[name] = identity
    return list(kept.items()), tuple(refused)
