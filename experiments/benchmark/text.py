"""The benchmark's rows as a table and as pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.benchmark.timing import OURS
from experiments.measure import results_file
from experiments.measure.results_file import Row, markdown
from experiments.plots.drawing import pyplot

HEADER = "decoder, impl|batch|faces/s|quartiles|core-ms / iteration / face|quartiles|clock, ms"
HEADER += "|GFLOP/s|share of roofline %|compile s|temporary MB / face"
LATENCY = "one face online (its own statistics)|p50, ms|p95, ms|runs"
TRAINING = (
    "a training step: decoder, impl|batch|faces/s|quartiles|core-ms / face|quartiles|compile s"
)


def text(rows: Sequence[Row], notes: Mapping[str, Any], call: str, seconds: float) -> str:
    """The whole of throughput.md."""
    where, ceilings = results_file.surroundings(), notes["ceilings"]
    keys, online = ("latency_ms_p50", "latency_ms_p95"), [r for r in rows if "latency_ms_p50" in r]
    alone = [[label(r), *(f"{r[key]:.1f}" for key in keys), str(r["n"])] for r in online]
    tables = [
        (HEADER, [_cells(r) for r in rows if "faces_per_s" in r]),
        (LATENCY, alone),
        (TRAINING, [_training(r) for r in rows if "trained_faces_per_s" in r]),
    ]
    products = ", ".join(
        f"{s[0] / 1e9:,.0f} GFLOP/s ({kind})" for kind, s in ceilings["matmul_flop_per_s"].items()
    )
    other = f", torch {notes['peer']['torch']}" if notes["peer"] else ""
    return "\n\n".join(
        [
            *(markdown(header.split("|"), cells) for header, cells in tables if cells),
            f"This machine's ceilings, in the same turns: matrix product {products}; copy "
            f"{ceilings['copy_bytes_per_s'][0] / 1e9:,.1f} GB/s. An iteration's time is the "
            "difference between runs of many and few steps, divided by the steps between them; "
            "its FLOPs are those of the convolutions, its bytes a lower bound. Medians and "
            "quartiles; core-ms are processor time of all threads.",
            f"`{call}`",
            f"{where['hardware']}; jax {where['versions']['jax']}{other}; {where['date']}; "
            f"{seconds:.0f} s.",
        ]
    )


def label(r: Row, devices: bool = True) -> str:
    """A row's name: its settings except the batch, where they differ from the usual."""
    parts = [r["decoder"], r["impl"], r["dtype"]]
    parts += [] if r["precision"] == "default" else [r["precision"]]
    parts += [f"{r['devices']} devices"] if devices and r["devices"] > 1 else []
    parts += [] if r.get("formulation", "auto") == "auto" else [r["formulation"]]
    parts += [] if r["n_epsilon"] == 1 else [f"{r['n_epsilon']} ε"]
    return ", ".join([*parts, f"{r['steps']} steps"])


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


def _interval(r: Row, key: str) -> list[str]:
    """The median and the quartiles."""
    quartiles = r["core_ms_quartiles" if key.startswith("core_ms") else f"{key}_quartiles"]
    return [number(r[key], 2), " to ".join(number(v, 2) for v in quartiles)]


def _cells(r: Row) -> list[str]:
    return [
        label(r),
        str(r["batch"]),
        *_interval(r, "faces_per_s"),
        *_interval(r, "core_ms_per_iteration_face"),
        number(r["wall_ms_per_iteration_face"], 3),
        number(r["flop_per_s"] and r["flop_per_s"] / 1e9, 1),
        number(r["roofline_share"] and 100 * r["roofline_share"], 0),
        number(r.get("compile_s"), 1),
        number(r.get("temp_mb_per_face"), 2),
    ]


def _training(r: Row) -> list[str]:
    devices = f", {r['devices']} devices" if r["devices"] > 1 else ""
    return [
        f"{r['decoder']}, {r['impl']}{', protected features' * r['stored']}{devices}",
        str(r["batch"]),
        *_interval(r, "trained_faces_per_s"),
        *_interval(r, "core_ms_per_face"),
        number(r["compile_s"], 1),
    ]


def plots(rows: Sequence[Row], notes: Mapping[str, Any], out: Path) -> None:
    """throughput.png, faces/s against the batch, and roofline.png, FLOP/s against FLOP/byte."""
    timed = [r for r in rows if "faces_per_s" in r]
    _faces(timed, out / "throughput.png")
    _roofline(timed, notes, out / "roofline.png")


def _faces(rows: Sequence[Row], path: Path) -> None:
    plt = pyplot()
    kinds = list(dict.fromkeys(r["decoder"] for r in rows))
    size = 4.8 * len(kinds), 4.2
    figure, panels = plt.subplots(1, len(kinds), figsize=size, squeeze=False, layout="constrained")
    for axes, kind in zip(panels[0], kinds, strict=True):
        some = sorted((r for r in rows if r["decoder"] == kind), key=lambda r: r["batch"])
        # One line for all numbers of devices, unless they compete at a batch.
        several = len({(label(r, False), r["batch"]) for r in some}) < len(some)
        for name in dict.fromkeys(label(r, several) for r in some):
            line = [r for r in some if label(r, several) == name]
            at, rate = [r["batch"] for r in line], np.array([r["faces_per_s"] for r in line])
            low, high = np.transpose([r["faces_per_s_quartiles"] for r in line])
            away, name = [rate - low, high - rate], name.removeprefix(f"{kind}, ")
            axes.errorbar(at, rate, away, fmt="o-", capsize=3, label=name)
        axes.set(title=kind, xlabel="batch", xscale="log", ylim=(0, None))
        sizes = sorted({r["batch"] for r in some})
        axes.set_xticks(sizes, [str(size) for size in sizes])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, loc="lower center")
    panels[0][0].set_ylabel("faces/s of protect (median, quartiles)")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _roofline(rows: Sequence[Row], notes: Mapping[str, Any], path: Path) -> None:
    plt = pyplot()
    figure, axes = plt.subplots(figsize=(6.5, 4.5), layout="constrained")
    copy, products = (notes["ceilings"][k] for k in ("copy_bytes_per_s", "matmul_flop_per_s"))
    copy, peaks = copy[0], {kind: peak[0] for kind, peak in products.items()}
    places: dict[str, list[tuple[float, float]]] = {}
    decoders = {}
    for r in (r for r in rows if r["flop_per_s"]):
        at = r["flop_per_s"] / r["bytes_per_s"], r["flop_per_s"]
        places.setdefault(label(r).removeprefix(f"{r['decoder']}, "), []).append(at)
        decoders[r["decoder"], r["dtype"]] = at[0], 1.6 * max(peaks.values())
    for (kind, _), at in decoders.items():
        axes.axvline(at[0], color="tab:gray", linewidth=0.5)
        axes.annotate(kind, at, rotation=90, fontsize=7, va="top")
    every = [at for line in places.values() for at in line]
    shown = [peak / copy for peak in peaks.values()] + [x for x, _ in every]
    ends = min(shown) / 4, max(shown) * 4
    for i, (kind, peak) in enumerate(peaks.items()):
        at = ends[0], peak / copy, ends[1]  # the middle one is the knee
        roof = [min(peak, copy * x) for x in at]
        axes.plot(at, roof, "-", color="black", alpha=1 / (1 + i), label=f"ceiling, {kind}")
    for name, line in places.items():
        axes.plot(*np.transpose(line), "o" if name.startswith(OURS) else "x", label=name)
    between = min([*peaks.values(), *(y for _, y in every)]) / 4, 2 * max(peaks.values())
    moved = "FLOP per byte that an iteration must move (a mark for each batch)"
    axes.set(xscale="log", yscale="log", xlabel=moved, ylabel="FLOP/s", ylim=between)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=6, loc="lower left")
    figure.savefig(path, dpi=130)
    plt.close(figure)
