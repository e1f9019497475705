"""The pictures that experiments leave beside their tables."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.measure.results_file import Row


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


def noises(rows: Sequence[Row], path: Path, theirs: Mapping[str, Mapping[str, float]]) -> None:
    """SSIM of R's picture against its PSNR, a curve for each noise by growing strength, and the
    paper's own points."""
    plt = _pyplot()
    figure, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    bare = next(r for r in rows if r["method"] == "Unprotected")
    for kind in dict.fromkeys(r["noise"] for r in rows if "noise" in r):
        some = sorted((r for r in rows if r.get("noise") == kind), key=lambda r: r["strength"])
        points = [(r["psnr"], r["ssim"]) for r in (bare, *some)]
        axes.plot(*zip(*points, strict=True), "o-", label=kind.replace("_", "-"), markersize=4)
        for r, point in zip(some, points[1:], strict=True):
            axes.annotate(
                f"{r['strength']:g}", point, xytext=(3, -9), textcoords="offset points", fontsize=7
            )
    axes.plot(bare["psnr"], bare["ssim"], "s", color="tab:gray", label="unprotected")
    floor = next((r for r in rows if r["method"].startswith("Mean face")), None)
    if floor:
        axes.axhline(floor["ssim"], color="tab:gray", linestyle=":", label="mean face")
    for (name, numbers), color in zip(theirs.items(), ("tab:red", "tab:purple"), strict=False):
        axes.plot(
            numbers["psnr"],
            numbers["ssim"],
            "*",
            color=color,
            markersize=13,
            label=f"{name}, paper",
        )
    axes.set(
        xlabel="PSNR of the attacker's picture, dB",
        ylabel="SSIM of the attacker's picture",
        title=f"noise on z: {bare['n']:,} faces, {bare['pairs']:,} pairs",
    )
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="best")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def ablations(rows: Sequence[Row], path: Path) -> None:
    """A line a condition: SSIM of R's picture, ACC and SRRA with their 95% intervals, and dotted
    where the default and the mean face lie."""
    plt = _pyplot()
    figure, panels = plt.subplots(
        1, 3, figsize=(10, 1.2 + 0.24 * len(rows)), sharey=True, layout="constrained"
    )
    floor = next(r for r in rows if r["condition"].startswith("Mean face"))
    base = next(r for r in rows if r["method"] == "AdvFace" and r["epsilon"])
    parts = dict.fromkeys(r["ablation"] for r in rows)
    shades = {part: f"C{i % 10}" if i else "black" for i, part in enumerate(parts)}
    titles = {"ssim": "SSIM of R's picture", "acc": "ACC, %", "srra": "SRRA, %"}
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        scale = 1 if key == "ssim" else 100
        for place, r in enumerate(rows):
            if r.get(key) is None:
                continue
            low, high = (scale * x for x in r.get(f"{key}_ci") or (r[key], r[key]))
            axes.plot((low, high), (place, place), "-", color=shades[r["ablation"]], alpha=0.5)
            axes.plot(scale * r[key], place, "o", color=shades[r["ablation"]], markersize=4)
        axes.axvline(scale * base[key], color="tab:gray", linewidth=0.8, label="default")
        if floor.get(key) is not None:
            axes.axvline(scale * floor[key], color="tab:gray", linestyle=":", label="mean face")
        axes.set(title=title)
        axes.grid(alpha=0.3)
    for place in range(1, len(rows)):
        if rows[place]["ablation"] != rows[place - 1]["ablation"]:
            for axes in panels:
                axes.axhline(place - 0.5, color="black", linewidth=0.3)
    panels[0].set_yticks(range(len(rows)), [r["condition"] for r in rows], fontsize=8)
    panels[0].invert_yaxis()
    panels[0].legend(fontsize=7)
    figure.suptitle(
        f"one change at a time: {base['n']:,} faces, {base['pairs']:,} pairs", fontsize=10
    )
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
