"""The most expensive kernels of a trace of jax.profiler."""

from collections import Counter
from pathlib import Path
from typing import Any

import jax

from experiments.measure import results_file

MOST = 10


def table(trace: Path) -> list[dict[str, Any]]:
    """The ten kernels that take most of the device's time: name, milliseconds, calls, share."""
    spent: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    for file in sorted(trace.rglob("*.xplane.pb")):
        for plane in jax.profiler.ProfileData.from_file(str(file)).planes:
            if "device:" not in plane.name.lower():
                continue
            for line in plane.lines:
                if not line.name.startswith("Stream"):  # others repeat the kernels by operation
                    continue
                for event in line.events:
                    spent[event.name] += event.duration_ns
                    calls[event.name] += 1
    whole = sum(spent.values())
    return [
        {"kernel": name, "ms": ns / 1e6, "calls": calls[name], "share": ns / whole}
        for name, ns in spent.most_common(MOST)
    ]


def markdown(rows: list[dict[str, Any]]) -> str:
    cells = [
        [r["kernel"][:100], f"{r['ms']:.2f}", str(r["calls"]), f"{100 * r['share']:.1f}"]
        for r in rows
    ]
    return results_file.markdown(["kernel", "ms", "calls", "share %"], cells)
