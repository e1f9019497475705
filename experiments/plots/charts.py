"""Charts of the rows of a table."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from experiments.measure.evaluation_sets import TITLES
from experiments.measure.results_file import Row
from experiments.plots.drawing import Named, label, pyplot, save

SHARES = ("acc", "srra")  # shares of pairs, drawn in percent
FLOOR = {"color": "tab:gray", "linestyle": ":", "label": "mean face (no feature at all)"}
LEGEND = {"loc": "outside lower center", "ncols": 3, "fontsize": 8}


def tradeoff(rows: Sequence[Row], path: Path, theirs: Sequence[Mapping[str, float]]) -> None:
    """The paper's Fig. 4: PSNR of R's picture against accuracy, a point for each ε; the paper's own
    numbers for a row, where there are any, in ``theirs``."""
    bare, floor = _bare_and_floor(rows)
    swept = [r for r in rows if r["method"] == "AdvFace"]
    figure, axes = _chart(f"AdvFace: what is recognised, what R sees\n{_sample(bare)}", "better ↖")
    _marks(axes, swept, "psnr", "acc", fmt="o-", color="tab:blue", label="AdvFace, ours")
    _marks(axes, [bare], "psnr", "acc", fmt="s", color="tab:gray", label="unprotected, ours")
    named = [  # at the bars' ends, by turns: between the marks there is no room
        Named(r["psnr"], 100 * _interval(r, "acc")[i % 2], f"ε = {r['epsilon']:g}", "tab:blue")
        for i, r in enumerate(swept)
    ]
    for r, numbers in zip(rows, theirs, strict=True):
        if not {"psnr", "acc"} <= numbers.keys():
            continue
        at = numbers["psnr"], 100 * numbers["acc"]
        mark, name = ("s", "unprotected") if r["epsilon"] is None else ("*", "AdvFace")
        axes.plot(*at, mark, color="tab:red", label=f"{name}, paper")
        if r["epsilon"] is not None:
            named.append(Named(*at, f"ε = {r['epsilon']:g}", "tab:red"))
    if floor:
        axes.axvline(floor["psnr"], **FLOOR)
    axes.set_xlabel("PSNR of R's picture, dB (lower: less like the face)")
    axes.set_ylabel("verification accuracy, % (bars: 95 %)")
    _finish(figure, axes, named, path)


def noises(rows: Sequence[Row], path: Path, theirs: Mapping[str, Mapping[str, float]]) -> None:
    """SSIM of R's picture against its PSNR, a curve for each noise by growing strength, and the
    paper's own points."""
    (bare, floor), named = _bare_and_floor(rows), []
    figure, axes = _chart(
        f"Noise on z: what R sees, by kind and strength\n{_sample(bare)}", "better for privacy ↙"
    )
    for i, kind in enumerate(dict.fromkeys(r["noise"] for r in rows if "noise" in r)):
        some = sorted((r for r in rows if r.get("noise") == kind), key=lambda r: r["strength"])
        look = {"color": f"C{i}", "label": kind.replace("_", "-"), "markersize": 4}
        _marks(axes, [bare, *some], "psnr", "ssim", fmt="o-", **look)
        named += [Named(r["psnr"], r["ssim"], f"{r['strength']:g}", f"C{i}") for r in some]
    _marks(axes, [bare], "psnr", "ssim", fmt="s", color="tab:gray", label="unprotected")
    for (name, numbers), color in zip(theirs.items(), ("black", "tab:purple"), strict=False):
        at = numbers["psnr"], numbers["ssim"]
        axes.plot(*at, "*", color=color, markersize=11, label=f"{name}, paper")
    if floor:
        axes.axhline(floor["ssim"], **FLOOR)
    axes.set_xlabel("PSNR of R's picture, dB (bars: 95 %)")
    axes.set_ylabel("SSIM of R's picture (bars: 95 %)")
    _finish(figure, axes, named, path)


def ablations(rows: Sequence[Row], path: Path) -> None:
    """A line a condition: SSIM of R's picture, ACC and SRRA with their 95% intervals, and where the
    default and the mean face lie."""
    floor = next(r for r in rows if r["condition"].startswith("Mean face"))
    base = next(r for r in rows if r["method"] == "AdvFace" and r["epsilon"])
    parts = [r["ablation"] for r in rows]
    shades = {part: f"C{i % 10}" if i else "black" for i, part in enumerate(dict.fromkeys(parts))}
    titles = {"ssim": "SSIM of R's picture\n← better", "acc": "ACC, %\nbetter →"}
    titles["srra"] = "SRRA, %\n← better"
    figure, panels = pyplot().subplots(
        1, 3, figsize=(10, 1.7 + 0.24 * len(rows)), sharey=True, layout="constrained"
    )
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for place, r in enumerate(rows):
            if r.get(key) is not None:
                look = {"markersize": 4, "elinewidth": 1.2, "color": shades[parts[place]]}
                axes.errorbar(_values([r], key), [place], xerr=_away([r], key), fmt="o", **look)
        for r, look in ((base, {"color": "tab:gray", "label": "default"}), (floor, FLOOR)):
            if r.get(key) is not None:
                axes.axvline(*_values([r], key), linewidth=0.8, zorder=0, **look)
        for place, (part, following) in enumerate(pairwise(parts)):
            if part != following:
                axes.axhline(place + 0.5, color="black", linewidth=0.3)
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(rows)), [_condition(r, base) for r in rows], fontsize=8)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), **LEGEND)
    title = f"AdvFace, ε = {base['epsilon']:g}: one change at a time (bars: 95 %)\n{_sample(base)}"
    figure.suptitle(title, fontsize=10)
    save(figure, path)


def training(
    losses: Sequence[float], quality: Sequence[Mapping[str, float]], per_epoch: int, path: Path
) -> None:
    """Training loss by step, and the SSIM of held-out faces after each epoch."""
    figure, left = pyplot().subplots(figsize=(7, 4), layout="constrained")
    left.plot(losses, linewidth=0.5, alpha=0.4, color="tab:blue")
    window = max(1, min(50, len(losses) // 4))
    smooth = np.convolve(losses, np.ones(window) / window, "valid")
    left.plot(np.arange(len(smooth)) + window - 1, smooth, color="tab:blue")
    left.set(xlabel="step", yscale="log", title="A decoder's training")
    left.set_ylabel("L1 in training (better ↓)", color="tab:blue")
    right = left.twinx()
    epochs = [q["epoch"] * per_epoch for q in quality]
    right.plot(epochs, [q["ssim"] for q in quality], "o-", color="tab:orange")
    right.set_ylabel("SSIM of held-out faces (better ↑)", color="tab:orange")
    right.set_ylim(0, 1)
    save(figure, path)


def redraw(results: Path | str, path: Path | str) -> None:
    """Draw the chart of a results file (JSON) of ``tradeoff``, ``random_row`` or ``ablations``
    again.

    Raises:
      ValueError: The file is another experiment's.
    """
    document = json.loads(Path(results).read_text(encoding="utf-8"))
    config, theirs = document["config"], document["notes"].get("paper", {})
    # Before there were several sets the paper preset meant LFW, and no row said so.
    name = config.get("set") or ("lfw" if config.get("preset") == "paper" else None)
    rows = [{"set": name, **r} for r in document["rows"]]
    experiment = document["command"].partition("experiments.")[2].split()[0]
    if experiment == "tradeoff":
        bounds = ["" if r["epsilon"] is None else f" ε = {r['epsilon']:.2f}" for r in rows]
        beside = [theirs.get(r["method"] + e, {}) for r, e in zip(rows, bounds, strict=True)]
        tradeoff(rows, Path(path), beside)
    elif experiment == "random_row":
        noises(rows, Path(path), theirs)
    elif experiment == "ablations":
        ablations(rows, Path(path))
    else:
        wanted = "wanted those of tradeoff, random_row or ablations"
        raise ValueError(f"got the results of {experiment} ({results}); {wanted}")


def _bare_and_floor(rows: Sequence[Row]) -> tuple[Row, Row | None]:
    floor = next((r for r in rows if r["method"].startswith("Mean face")), None)
    return next(r for r in rows if r["method"] == "Unprotected"), floor


def _sample(r: Row) -> str:
    where = [title + ": " for name, title in TITLES.items() if name == r.get("set")]
    return "".join(where) + f"{r['n']:,} faces, {r['pairs']:,} pairs"


def _condition(r: Row, base: Row) -> str:
    """A condition's name, with its ε where that is not the default's and the name lacks it."""
    named = "ε = " in r["condition"] or r["epsilon"] in (None, base["epsilon"])
    return r["condition"] + ("" if named else f", ε = {r['epsilon']:g}")


def _values(rows: Sequence[Row], key: str) -> np.ndarray:
    return np.array([r[key] for r in rows]) * (100 if key in SHARES else 1)


def _away(rows: Sequence[Row], key: str) -> np.ndarray:
    """How far the 95% interval reaches below and above each value, (2, n)."""
    ends = np.array([_interval(r, key) for r in rows]).T * (100 if key in SHARES else 1)
    return np.abs(ends - _values(rows, key))


def _interval(r: Row, key: str) -> Sequence[float]:
    """The row's own; where older files have none, Wilson's for a share of pairs, or no width."""
    p, n = r[key], r["pairs"]
    if r.get(f"{key}_ci") or key not in SHARES:
        return r.get(f"{key}_ci") or (p, p)
    middle, half = p + 1.92 / n, 1.96 * math.sqrt(p * (1 - p) / n + 0.96 / n**2)
    return (middle - half) / (1 + 3.84 / n), (middle + half) / (1 + 3.84 / n)


def _marks(axes: Any, rows: Sequence[Row], x: str, y: str, **look: Any) -> None:
    """Points with their 95% intervals."""
    bars = {"xerr": _away(rows, x), "yerr": _away(rows, y), "elinewidth": 0.8}
    axes.errorbar(_values(rows, x), _values(rows, y), **bars, **look)


def _chart(title: str, better: str) -> tuple[Any, Any]:
    figure, axes = pyplot().subplots(figsize=(7, 5.2), layout="constrained")
    axes.set_title(title, loc="left", fontsize=10)
    axes.set_title(better, loc="right", fontsize=10)
    axes.grid(alpha=0.3)
    axes.margins(x=0.1, y=0.1)  # room for labels
    return figure, axes


def _finish(figure: Any, axes: Any, named: Sequence[Named], path: Path) -> None:
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(
        range(len(labels)), key=lambda i: ("mean face" in labels[i], "paper" in labels[i])
    )
    figure.legend([handles[i] for i in order], [labels[i] for i in order], **LEGEND)
    label(axes, named)
    save(figure, path)
