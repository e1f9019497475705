"""What all figures share: matplotlib without a screen, and labels that do not collide."""

import os
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

REACHES = (7, 12, 18, 26, 36, 50, 70)  # points from a mark to its label, nearest first
WAYS = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))
FAR = 26  # from here on a thin line leads to the label
LEADER = {"arrowstyle": "-", "linewidth": 0.5, "color": "tab:gray"}


class Named(NamedTuple):
    """A point of a chart and its label."""

    x: float
    y: float
    text: str
    color: str


def pyplot() -> Any:
    """``matplotlib.pyplot``, imported late and without a screen."""
    # A notebook exports the backend of its own environment, which matplotlib may not find in ours.
    theirs = os.environ.pop("MPLBACKEND", None)
    try:
        import matplotlib
    finally:
        if theirs is not None:
            os.environ["MPLBACKEND"] = theirs
    if "matplotlib.pyplot" not in sys.modules:  # else it is the user's, with a backend of theirs
        matplotlib.use("agg")
    import matplotlib.pyplot as plt

    return plt


def save(figure: Any, path: Path) -> None:
    """Write the figure and forget it."""
    figure.savefig(path, dpi=130)
    pyplot().close(figure)


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Which points (harm, use) no other one beats in both: less harm, more use."""
    return [
        i
        for i, (harm, use) in enumerate(points)
        if not any(h <= harm and u >= use and (h, u) != (harm, use) for h, u in points)
    ]


def label(axes: Any, points: Sequence[Named]) -> None:
    """Write each point's label where it covers no other label and as few marks and lines as can be.

    The chart must be complete: its layout decides where the points lie.
    """
    from matplotlib import patheffects

    figure, halo = axes.figure, patheffects.withStroke(linewidth=2.5, foreground="white")
    figure.draw_without_rendering()
    scale, renderer = figure.dpi / 72, figure.canvas.get_renderer()
    marks = np.concatenate(
        [line.get_transform().transform(line.get_xydata()) for line in axes.lines]
    )
    drawn = [line for line in axes.lines if line.get_linestyle() != "None"]
    curves = [line.get_transform().transform_path(line.get_path()) for line in drawn]
    for bars in axes.collections:
        curves += [bars.get_transform().transform_path(bar) for bar in bars.get_paths()]
    taken = []
    look = {"fontsize": 8, "ha": "center", "va": "center", "textcoords": "offset points"}
    written = {**look, "path_effects": [halo], "zorder": 5}
    for x, y, text, color in points:
        note = axes.annotate(text, (x, y), (0, 0), color=color, **written)
        note.set_in_layout(False)  # else labels would move what they were placed by
        centred = note.get_window_extent(renderer)

        def cost(move: np.ndarray, box: Any = centred) -> float:
            room = box.translated(*(scale * move)).padded(2 * scale)
            outside = room.x0 < axes.bbox.x0 or room.x1 > axes.bbox.x1
            outside |= room.y0 < axes.bbox.y0 or room.y1 > axes.bbox.y1
            covered = sum(room.contains(*mark) for mark in marks)
            crossed = sum(curve.intersects_bbox(room, filled=False) for curve in curves)
            return 100 * (outside + room.count_overlaps(taken)) + 10 * covered + 5 * crossed

        half = np.array([centred.width, centred.height]) / 2 / scale
        moves = [
            way * (half + reach / np.hypot(*way)) for reach, way in product(REACHES, np.array(WAYS))
        ]
        costs = [cost(move) + np.hypot(*move) / 10 for move in moves]
        best = moves[int(np.argmin(costs))]
        taken.append(centred.translated(*(scale * best)).padded(2 * scale))
        note.set_position(best)
        if np.hypot(*(np.abs(best) - half)) > FAR:
            axes.annotate("", (x, y), best, arrowprops=LEADER, **look)
