"""What the attacker's decoder R makes of what is stored, beside the faces."""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments.plots.drawing import pyplot, save

LESS_ALIKE = "better for privacy: less like the original (lower SSIM and PSNR)"


def reconstructions(
    originals: np.ndarray,
    pictures: np.ndarray,
    titles: Sequence[str],
    path: Path,
    *,
    ssim: Any = None,
    psnr: Any = None,
    title: str = "",
    footer: str = LESS_ALIKE,
) -> None:
    """The paper's Fig. 3: a row a face, the original and then R's picture in each condition.

    Args:
      originals: (k,160,160,3) uint8.
      pictures: (c,k,160,160,3) uint8, under c ``titles``.
      ssim, psnr: (c,k), written under the pictures; None or NaN where there are no numbers.
      title: What the figure shows.
      footer: What its numbers say.
    """
    k, n = len(originals), 1 + len(titles)
    size = (1.25 * n, 1.36 * k + 0.7)
    figure, axes = pyplot().subplots(k, n, figsize=size, squeeze=False, layout="constrained")
    for axis, name in zip(axes[0], ("original", *titles), strict=True):
        axis.set_title(name, fontsize=9)
    for j, original in enumerate(originals):
        _show(axes[j, 0], [original], [" "])
        for i in range(n - 1):
            _show(axes[j, 1 + i], [pictures[i, j]], [_likeness(ssim, psnr, i, j)])
    _finish(figure, title or "R's picture of what is stored", footer, path)


def transfer(
    originals: np.ndarray,
    pictures: np.ndarray,
    shadows: Sequence[str],
    attackers: Sequence[str],
    path: Path,
    *,
    ssim: Any = None,
    psnr: Any = None,
    title: str = "",
) -> None:
    """The paper's Fig. 6 as a grid: shadows down, attackers across, one or two faces in each cell;
    above them the originals and R's pictures of unprotected features.

    Args:
      originals: (k,160,160,3) uint8; the first two are shown.
      pictures: (1+s,a,k,160,160,3) uint8: unprotected, then a row for each of s ``shadows``; a
        column for each of a ``attackers``.
      ssim, psnr: (1+s,a,k), written under the pictures; None or NaN where there are no numbers.
      title: What the figure shows, with its ε.
    """
    k, rows, columns = min(2, len(originals)), 1 + len(shadows), 1 + len(attackers)
    size = (1.3 * k * columns + 0.3, 1.46 * rows + 0.7)
    figure, axes = pyplot().subplots(rows, columns, figsize=size, layout="constrained")
    _show(axes[0, 0], originals[:k], [" "] * k)
    names = ("original", *(f"R = {name}" for name in attackers))
    for axis, name in zip(axes[0], names, strict=True):
        axis.set_title(name, fontsize=9)
    axes[0, 1].set_ylabel("unprotected", fontsize=9)
    for axis, name in zip(axes[1:, 0], shadows, strict=True):
        axis.axis("off")
        text = f"S = {name}".replace(", ", "\n")
        axis.text(1, 0.5, text, fontsize=9, ha="right", va="center", transform=axis.transAxes)
    for i, a in product(range(rows), range(columns - 1)):
        says = [_likeness(ssim, psnr, i, a, j) for j in range(k)]
        _show(axes[i, 1 + a], pictures[i, a, :k], says)
    title = title or "AdvFace by one decoder (S), attacked with another (R)"
    _finish(figure, title, LESS_ALIKE, path)


def _show(axis: Any, pictures: Any, says: Sequence[str]) -> None:
    """Pictures side by side, each over its line of small type."""
    height, width = pictures[0].shape[:2]
    gap = np.full((height, 8, 3), 255, np.uint8)
    axis.imshow(np.concatenate([part for one in pictures for part in (gap, one)][1:], 1))
    axis.set_xticks([width / 2 + i * (width + 8) for i in range(len(says))], says, fontsize=6)
    axis.tick_params(length=0, pad=2)
    axis.set(yticks=[], frame_on=False)


def _likeness(ssim: Any, psnr: Any, *at: int) -> str:
    """As far as there are numbers: SSIM .33 · 9.5 dB."""
    likeness, ratio = _number(ssim, at), _number(psnr, at)
    says = [] if np.isnan(likeness) else [f"SSIM {likeness:.2f}".replace("0.", ".")]
    return " · ".join(says + ([] if np.isnan(ratio) else [f"{ratio:.1f} dB"])) or " "


def _number(values: Any, at: Sequence[int]) -> float:
    """One of nested values, NaN where there are none."""
    for i in at:
        values = None if values is None else values[i]
    return float("nan" if values is None else values)


def _finish(figure: Any, title: str, footer: str, path: Path) -> None:
    figure.suptitle(title, fontsize=11)
    figure.supxlabel(footer, fontsize=8)
    save(figure, path)
