"""The results file of every command: rows, settings, and where they were measured."""

import datetime
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

import advface_jax
from advface_jax import sharding

Row = dict[str, Any]


def surroundings() -> dict[str, Any]:
    """Date, hardware and versions, for a results file or a card."""
    device = jax.devices()[0]
    on_a_cpu = device.platform == "cpu"
    name = _processor() if on_a_cpu else device.device_kind
    units = f", {sharding.cores()} cores" if on_a_cpu else f" × {jax.device_count()}"
    names = ("jax", "jaxlib", "flax", "numpy")
    return {
        "date": datetime.date.today().isoformat(),
        "hardware": name + units,
        "platform": device.platform,
        "versions": {
            "python": platform.python_version(),
            "advface_jax": advface_jax.__version__,
            **{name: importlib.metadata.version(name) for name in names},
        },
    }


def _processor() -> str:
    """The processor's name; Linux has it in /proc only, and not always."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names and names[0] else platform.processor() or platform.machine()


def write_results(
    out: Path,
    name: str,
    rows: Sequence[Row],
    *,
    command: str,
    config: Mapping[str, Any],
    seconds: float,
    notes: Mapping[str, Any] | None = None,
    text: str,
    **beside: Any,
) -> None:
    """Writes ``NAME.md`` and, last and whole, ``NAME.json`` (rows, config, notes, command,
    surroundings, time, and what is ``beside`` them)."""
    document = {
        "rows": list(rows),
        "config": dict(config),
        "notes": dict(notes or {}),
        "command": command,
        "seconds": round(seconds, 1),
        **surroundings(),
        **beside,
    }
    # The ends of an interval on one line: thousands of them are written.
    lines = re.sub(
        r"\[\s+(-?[\d.][^\[\]{}\"]*?)\s+\]",
        lambda found: f"[{' '.join(found[1].split())}]",
        json.dumps(document, indent=2, allow_nan=False),
    )
    write_whole(out / f"{name}.md", text + "\n")
    write_whole(out / f"{name}.json", lines + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file, and its folder, so that a stopped run leaves no half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    # A file name of other bytes than UTF-8 may stand in a command.
    part.write_text(text, encoding="utf-8", errors="backslashreplace")
    part.replace(path)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table whose first ``left`` columns are text and the others numbers."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))
