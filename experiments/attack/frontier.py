"""Privacy against use: the worst case of each defence, the Pareto front, the floors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.attack.floors import FLOORS
from experiments.attack.rows import GROUPS
from experiments.measure.results_file import Row
from experiments.plots.drawing import Named, front, label, pyplot, save

PANELS = {"ssim": "SSIM of the best picture", "tar_far_1e-2": "people read, TAR at FAR 1e-2, %"}
MARKS = {"without": "o", "with": "^", "names": "s", "secret": "D"}


def worst_case(rows: Sequence[Row], found: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """A point for each defence, and for each attacker with more who takes more; left is private, up
    is useful. The line joins the defences that none beats in both against attackers without Ψ."""
    figure, panels = pyplot().subplots(1, 2, figsize=(12, 5.6), layout="constrained")
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        scale = 1 if key == "ssim" else 100
        named, swept = [], []
        for i, (defence, groups) in enumerate(found.items()):
            use = 100 * next(r["acc"] for r in rows if r["defence"] == defence)
            least = (groups.get("without") or {}).get(key)
            for name, harms in groups.items():
                more = least is None or name == "without" or harms[key] != least
                if harms[key] is None or not more:
                    continue
                x = scale * harms[key]["value"]
                if defence in FLOORS:
                    floor = defence.partition(" (")[0].lower()
                    line = ":" if "ignorance" in floor else "--"
                    axes.axvline(x, color="tab:gray", linestyle=line, label=f"floor: {floor}")
                    continue
                look = {"color": f"C{i % 10}", "fillstyle": "full" if name == "without" else "none"}
                axes.plot([x], [use], MARKS[name], **look)
                if name == "without":
                    swept.append((x, use))
                    named.append(Named(x, use, defence.replace(" (AES-GCM)", ""), f"C{i % 10}"))
        best = sorted(swept[i] for i in front(swept))
        look = {"color": "tab:green", "alpha": 0.5, "markersize": 12, "fillstyle": "none"}
        axes.plot(*zip(*best, strict=True), "-o", **look, label="Pareto front, without Ψ")
        for name, mark in MARKS.items():
            if any(name in groups for groups in found.values()):
                fill = "full" if name == "without" else "none"
                axes.plot([], [], mark, color="black", fillstyle=fill, label=GROUPS[name])
        axes.set_xlabel(title)
        axes.set_ylabel("verification accuracy, %")
        axes.set_title("better ↖", loc="right", fontsize=10)
        axes.grid(alpha=0.3)
        axes.margins(x=0.15, y=0.35)  # room for names: the best lie close together
        label(axes, named)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8)
    first = rows[0]
    sample = f"{first['n']:,} faces of {first['people']:,} people"
    figure.suptitle(f"The worst case of every defence: {sample}", fontsize=11)
    save(figure, path)
