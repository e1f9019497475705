"""Privacy against use: a point for each setting, and the front of those that no other one beats."""

import collections
import textwrap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.plots.drawing import Named, label

NEAR = 4.5
"""Points (of type) between two marks, up to which they share a label."""
FRONT = {"color": "tab:green", "alpha": 0.5, "markersize": 12, "fillstyle": "none"}


class Point(NamedTuple):
    """A mark of the chart.

    Attributes:
      x, y: Harm, to the left is private; and use in percent, up is useful.
      name: Its label; "" for none.
      color, mark, hollow: How it is drawn.
      front: Of which front it is a candidate, as the legend calls it; "" for none.
    """

    x: float
    y: float
    name: str
    color: Any
    mark: str = "o"
    hollow: bool = False
    front: str = ""


def pareto(axes: Any, points: Sequence[Point], x: str, y: str) -> None:
    """The marks, hollow ones on top; a line through each front; one label where marks coincide."""
    for point in points:
        look = {"color": point.color, "zorder": 4 if point.hollow else 3}
        face = {"markerfacecolor": "white"} if point.hollow else {}
        axes.plot([point.x], [point.y], point.mark, **look, **face)
    for name in dict.fromkeys(point.front for point in points if point.front):
        some = [(point.x, point.y) for point in points if point.front == name]
        best = sorted({some[i] for i in front(some)})
        axes.plot(*zip(*best, strict=True), "-o", label=name, **FRONT)
    axes.set(xlabel=x, ylabel=y)
    axes.set_title("better ↖", loc="right", fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(x=0.1, y=0.1)
    axes.set_ylim(top=min(100.5, axes.get_ylim()[1]))
    first = sorted(points, key=lambda point: not point.hollow)  # for which there must be room
    label(axes, _merged(axes, [point for point in first if point.name]), far=10)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points (harm, use) no other one beats in both: less harm, more use."""
    return [
        i
        for i, (harm, use) in enumerate(points)
        if not any(h <= harm and u >= use and (h, u) != (harm, use) for h, u in points)
    ]


def _merged(axes: Any, points: Sequence[Point]) -> list[Named]:
    """A label for each group of equal marks that lie on one another, at its first."""
    axes.figure.draw_without_rendering()  # the layout decides where they lie
    groups: list[list[Point]] = []

    def near(one: Point, other: Point) -> bool:
        apart = np.subtract(*axes.transData.transform([one[:2], other[:2]]))
        return one.mark == other.mark and np.hypot(*apart) * 72 / axes.figure.dpi <= NEAR

    for point in points:
        those = [group for group in groups if any(near(point, one) for one in group)]
        groups = [group for group in groups if group not in those]
        groups.append([*(one for group in those for one in group), point])
    return [
        Named(x=g[0].x, y=g[0].y, text=_text(g), color="black" if len(g) > 1 else g[0].color)
        for g in groups
    ]


def _text(group: Sequence[Point]) -> str:
    """AdvFace ×3 · Laplace, in lines that break between names."""
    kinds = collections.Counter(point.name.partition(" (")[0] for point in group)
    several = {kind: f"{kind} ×{n}" for kind, n in kinds.items() if n > 1}
    names = [several.get(point.name.partition(" (")[0], point.name) for point in group]
    whole = [name.replace(" ", "\N{NO-BREAK SPACE}") for name in dict.fromkeys(names)]
    if len(whole) == 1:
        return names[0]
    return textwrap.fill("\N{NO-BREAK SPACE}· ".join(whole), 34, break_on_hyphens=False)
