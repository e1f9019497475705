"""The front of a sweep of decoys: what the strongest reader reads, against who can be enrolled."""

from collections.abc import Sequence
from pathlib import Path

from experiments.measure.results_file import Row
from experiments.plots.drawing import Named, front, label, pyplot, save

READERS = ("sibling", "sibling, 1×1", "sibling, 5×5", "far", "estimated")
WITH_PSI = ("Ψ", "Ψ_estimated", "foreign", "less")
"""Against a key, whoever has Ψ and no secret, too."""


def strongest(r: Row) -> float | None:
    """The largest TAR of a reader that a setting is meant to hold against."""
    readers = READERS + (WITH_PSI if r.get("key") else ())
    return max((v for k in readers if (v := r.get(f"tar_{k}")) is not None), default=None)


def draw(rows: Sequence[Row], labels: Sequence[str], path: Path) -> None:
    """A point for each setting: left is private, up is useful. A line joins the settings that
    none beats in both, one for those without a key and one for those with."""
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(8, 5.6), layout="constrained")
    named: list[Named] = []
    found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for i, (r, text) in enumerate(zip(rows, labels, strict=True)):
        read, refused = strongest(r), r.get("refused_share")
        if read is None or refused is None:
            continue
        x, y = 100 * read, 100 - 100 * refused
        key = bool(r.get("key"))
        found[key].append((x, y))
        axes.plot([x], [y], "D" if key else "o", color=f"C{i % 10}")
        named.append(Named(x, y, text, f"C{i % 10}"))
    for points in found.values():  # judged by other attackers each
        if best := sorted(points[i] for i in front(points)):
            axes.plot(*zip(*best, strict=True), "-", color="tab:green", alpha=0.5)
    axes.plot([], [], "o", color="black", label="without a key, attackers without Ψ")
    axes.plot([], [], "D", color="black", label="with a key, attackers with Ψ, too")
    axes.set_xlabel("people read by the strongest of the readers outside the objective, TAR %")
    axes.set_ylabel("faces that come to the threshold, %")
    axes.set_title("better ↖", loc="right", fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(x=0.3, y=0.3)
    axes.set_xlim(left=min(-1, axes.get_xlim()[0]))
    axes.set_ylim(top=min(101, axes.get_ylim()[1]))
    label(axes, named)
    axes.legend(fontsize=8, loc="lower right")
    save(figure, path)
