"""The front of a sweep of decoys: what the strongest reader reads, against who can be enrolled."""

from collections.abc import Sequence
from pathlib import Path

from experiments.measure.results_file import Row
from experiments.plots.drawing import pyplot, save
from experiments.plots.pareto import Point, pareto

READERS = ("sibling", "sibling, 1×1", "sibling, 5×5", "far", "estimated")
WITH_PSI = ("Ψ", "Ψ_estimated", "foreign", "less")
"""Against a key, whoever has Ψ and no secret, too."""
FRONTS = {
    False: ("o", "without a key, attackers without Ψ"),
    True: ("D", "with a key, attackers with Ψ, too"),
}
"""With a key or without: the mark, and who judges the setting."""


def strongest(r: Row) -> float | None:
    """The largest TAR of a reader that a setting is meant to hold against."""
    readers = READERS + (WITH_PSI if r.get("key") else ())
    return max((v for k in readers if (v := r.get(f"tar_{k}")) is not None), default=None)


def draw(rows: Sequence[Row], labels: Sequence[str], path: Path) -> None:
    """A point for each setting: left is private, up is useful. A line joins the settings that
    none beats in both, one for those without a key and one for those with."""
    figure, axes = pyplot().subplots(figsize=(8, 5.6), layout="constrained")
    points = []
    for i, (r, text) in enumerate(zip(rows, labels, strict=True)):
        read, refused = strongest(r), r.get("refused_share")
        if read is None or refused is None:
            continue
        use, mark, who = 100 - 100 * refused, *FRONTS[bool(r.get("key"))]
        points.append(Point(100 * read, use, text, f"C{i % 10}", mark, front=f"front {who}"))
    x = "people read by the strongest of the readers outside the objective, TAR %"
    for mark, who in FRONTS.values():
        axes.plot([], [], mark, color="black", label=who)
    pareto(axes, points, x, "faces that come to the threshold, %")
    axes.legend(fontsize=8, loc="lower right")
    save(figure, path)
