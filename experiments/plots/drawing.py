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
BESIDE = (-1, -0.5, 0, 0.5, 1)  # halves of its width that a label above or below may stand aside
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


def label(axes: Any, points: Sequence[Named], far: float = FAR) -> None:
    """Write each point's label where it covers no other label and as few marks and lines as can be;
    from ``far`` (points of type) on, with a line from the mark.

    The chart must be complete: its layout decides where the points lie.
    """
    from matplotlib import patheffects
    from matplotlib.path import Path as Line

    figure, halo = axes.figure, patheffects.withStroke(linewidth=2.5, foreground="white")
    figure.draw_without_rendering()
    scale, renderer = figure.dpi / 72, figure.canvas.get_renderer()
    marks = np.concatenate(
        [np.empty((0, 2))]
        + [line.get_transform().transform(line.get_xydata()) for line in axes.lines]
    )
    drawn = [line for line in axes.lines if line.get_linestyle() != "None"]
    curves = [line.get_transform().transform_path(line.get_path()) for line in drawn]
    for bars in axes.collections:
        curves += [bars.get_transform().transform_path(bar) for bar in bars.get_paths()]
    taken, leaders = [], []
    look = {"fontsize": 8, "ha": "center", "va": "center", "textcoords": "offset points"}
    written = {**look, "path_effects": [halo], "zorder": 5}
    for x, y, text, color in points:
        note = axes.annotate(text, (x, y), (0, 0), color=color, **written)
        note.set_in_layout(False)  # else labels would move what they were placed by
        centred, at = note.get_window_extent(renderer), axes.transData.transform((x, y))
        half = np.array([centred.width, centred.height]) / 2 / scale

        def nearest(move: np.ndarray, half: np.ndarray = half) -> np.ndarray:
            return np.clip(0, move - half, move + half)  # of the label, as seen from the mark

        def cost(move: np.ndarray, box: Any = centred, at: np.ndarray = at) -> float:
            room, away = box.translated(*(scale * move)).padded(2 * scale), nearest(move)
            outside = room.x0 < axes.bbox.x0 or room.x1 > axes.bbox.x1
            outside |= room.y0 < axes.bbox.y0 or room.y1 > axes.bbox.y1
            covered = sum(room.contains(*mark) for mark in marks)
            beside = room.padded(8 * scale)  # there it would seem to be another mark's
            covered += 0.5 * sum(beside.contains(*m) for m in marks if not np.allclose(m, at))
            crossed = sum(line.intersects_bbox(room, filled=False) for line in curves + leaders)
            if np.hypot(*away) > far:
                line, along = Line([at, at + scale * away]), scale * away
                reach = np.clip((marks - at) @ along / (along @ along), 0.1, 1)
                passed = np.hypot(*(at + reach[:, None] * along - marks).T) < 4 * scale
                covered += sum(passed & ~np.isclose(marks, at).all(1))
                crossed += sum(line.intersects_bbox(one, filled=False) for one in taken)
                crossed += sum(line.intersects_path(one, filled=False) for one in leaders)
            return 100 * (outside + room.count_overlaps(taken)) + 10 * covered + 5 * crossed

        moves = [
            way * (half + reach / np.hypot(*way)) for reach, way in product(REACHES, np.array(WAYS))
        ]
        moves += [
            np.array([side * half[0], way * (half[1] + reach)])
            for reach, side, way in product(REACHES, BESIDE, (1, -1))
        ]
        costs = [cost(move) + np.hypot(*move) / 10 + np.hypot(*nearest(move)) / 5 for move in moves]
        best = moves[int(np.argmin(costs))]
        taken.append(centred.translated(*(scale * best)).padded(2 * scale))
        note.set_position(best)
        if np.hypot(*(away := nearest(best))) > far:
            leaders.append(Line([at, at + scale * away]))
            axes.annotate("", (x, y), away, arrowprops=LEADER, **look)
