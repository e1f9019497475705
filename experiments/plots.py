"""The pictures that experiments leave beside their tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.common import Row


def _pyplot():
    import matplotlib

    matplotlib.use("agg")  # no screen needed
    import matplotlib.pyplot as plt

    return plt


def tradeoff(rows: Sequence[Row], path: Path, theirs: Sequence[Mapping[str, float]]) -> None:
    """The paper's Fig. 4: PSNR of R's picture against accuracy, a point for each ε; the paper's own
    numbers for a row, where there are any, in ``theirs``."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    swept = [r for r in rows if r["method"] == "AdvFace"]
    psnr, acc = [r["psnr"] for r in swept], [100 * r["acc"] for r in swept]
    axes.plot(psnr, acc, "o-", color="tab:blue", label="AdvFace, ours")
    for r, x, y in zip(swept, psnr, acc, strict=True):
        axes.annotate(
            f"ε={r['epsilon']:g}", (x, y), xytext=(4, 6), textcoords="offset points", fontsize=8
        )
    bare = next(r for r in rows if r["method"] == "Unprotected")
    axes.plot(bare["psnr"], 100 * bare["acc"], "s", color="tab:gray", label="unprotected, ours")
    floor = next((r for r in rows if r["method"].startswith("Mean face")), None)
    if floor:
        axes.axvline(
            floor["psnr"], color="tab:gray", linestyle=":", label="mean face (no feature at all)"
        )
    for r, numbers in zip(rows, theirs, strict=True):
        if {"psnr", "acc"} <= numbers.keys():
            mark = "s" if r["epsilon"] is None else "*"
            label = "unprotected" if r["epsilon"] is None else f"AdvFace ε={r['epsilon']:g}"
            axes.plot(
                numbers["psnr"],
                100 * numbers["acc"],
                mark,
                color="tab:red",
                label=f"{label}, paper",
            )
    axes.set(
        xlabel="PSNR of the attacker's picture, dB (lower: less like the face)",
        ylabel="verification accuracy, %",
        title=f"{bare['n']:,} faces, {bare['pairs']:,} pairs",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def training(
    losses: Sequence[float], quality: Sequence[Mapping[str, float]], per_epoch: int, path: Path
) -> None:
    """Training loss by step, and the SSIM of held-out faces after each epoch."""
    plt = _pyplot()
    figure, left = plt.subplots(figsize=(7, 4), layout="constrained")
    left.plot(losses, linewidth=0.5, alpha=0.4, color="tab:blue")
    window = max(1, min(50, len(losses) // 4))
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    left.plot(np.arange(len(smooth)) + window - 1, smooth, color="tab:blue")
    left.set(xlabel="step", ylabel="L1 (training)", yscale="log")
    right = left.twinx()
    epochs = [q["epoch"] * per_epoch for q in quality]
    right.plot(epochs, [q["ssim"] for q in quality], "o-", color="tab:orange")
    right.set(ylabel="SSIM (held out)", ylim=(0, 1))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def reconstructions(
    originals: np.ndarray,
    pictures: np.ndarray,
    titles: Sequence[str],
    path: Path,
    down: bool = False,
) -> None:
    """The paper's Fig. 3: a row a face, the original and then R's picture in each condition; or,
    ``down``, its Fig. 6: a column a face.

    originals (k,160,160,3) uint8; pictures (c,k,160,160,3) uint8; c titles.
    """
    plt = _pyplot()
    shown = np.concatenate([originals[None], pictures])  # (1 + c, k, 160, 160, 3)
    names = ["original", *titles]
    k, n = len(originals), len(names)
    size = (1.25 * k + 1.6, 1.25 * n) if down else (1.25 * n, 1.25 * k + 0.3)
    figure, axes = plt.subplots(
        *((n, k) if down else (k, n)), figsize=size, squeeze=False, layout="constrained"
    )
    for name, some, line in zip(names, shown, axes if down else axes.T, strict=True):
        for axis, image in zip(line, some, strict=True):
            axis.imshow(image)
            axis.set(xticks=[], yticks=[], frame_on=False)
        if down:
            line[0].set_ylabel(name, fontsize=9, rotation=0, ha="right", va="center")
        else:
            line[0].set_title(name, fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)
