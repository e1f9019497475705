"""The rows of one case in a file: what is measured stays measured, in whichever run."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from experiments.measure.results_file import Row, surroundings, write_whole

Level = Literal["light", "full"]


class Kept(NamedTuple):
    """A case as it was measured, in how many seconds and where."""

    rows: list[Row]
    seconds: float
    hardware: str


def file(out: Path, name: str) -> Path:
    """Where the rows of a case lie."""
    return out / "cases" / f"{slug(name)}.json"


def slug(name: str) -> str:
    """A name as a file name."""
    return re.sub(r"\W+", "-", name.lower()).strip("-")


def read(path: Path, settings: Mapping[str, Any], level: Level) -> Kept | None:
    """The rows, if they were measured with these settings and with these attackers or more; on
    another machine, maybe."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        same = found["settings"] == json.loads(json.dumps(settings))
        enough = level in ("light", found["attackers"])
        kept = Kept(found["rows"], float(found["seconds"]), found["hardware"])
        return kept if same and enough else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write(
    path: Path, settings: Mapping[str, Any], level: Level, rows: Sequence[Row], seconds: float
) -> Kept:
    """Writes them at once."""
    where = surroundings()
    document = {"settings": settings, "attackers": level, "seconds": seconds, **where}
    document["rows"] = list(rows)
    write_whole(path, json.dumps(document, indent=1))
    return Kept(list(rows), seconds, where["hardware"])
