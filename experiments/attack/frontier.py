"""Privacy against use: the worst case of each defence, the Pareto front, the floors."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.attack.floors import FLOORS
from experiments.attack.rows import GROUPS
from experiments.measure.evaluation_sets import TITLES
from experiments.measure.results_file import Row
from experiments.plots.drawing import pyplot, save
from experiments.plots.pareto import Point, pareto

PANELS = {"ssim": "SSIM of the best picture", "tar_far_1e-2": "people read, TAR at FAR 1e-2, %"}
ALIKE = 0.01
"""Up to here, who has more takes as much, and has no label beside who has less."""
MARKS = {"without": "o", "with": "^", "names": "s", "secret": "D"}


def worst_case(
    rows: Sequence[Row],
    found: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    path: Path,
) -> None:
    """A point for each defence, and for each attacker with more who takes more; left is private, up
    is useful. The line joins the defences that none beats in both against attackers without Ψ."""
    plt = pyplot()
    figure, panels = plt.subplots(1, 2, figsize=(12, 5.6), layout="constrained")
    shades = plt.get_cmap("tab20").colors
    shades = [*shades[::2], *shades[1::2]]
    colors = {one: shades[i % 20] for i, one in enumerate(d for d in found if d not in FLOORS)}
    handles = {}
    for axes, (key, title) in zip(panels, PANELS.items(), strict=True):
        scale, points, used = 1 if key == "ssim" else 100, [], set()
        for defence, groups in found.items():
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
                used.add(name)
                point = _point(x, use, defence, name, colors[defence])
                if (
                    name != "without"
                    and least
                    and abs(harms[key]["value"] - least["value"]) < ALIKE
                ):
                    point = point._replace(name="")
                points.append(point)
        pareto(axes, points, title, "verification accuracy, %")
        for name in [one for one in MARKS if one in used]:
            fill = "full" if name == "without" else "none"
            axes.plot([], [], MARKS[name], color="black", fillstyle=fill, label=GROUPS[name])
        shown, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, shown, strict=True))
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=5, fontsize=8)
    first = rows[0]
    where = TITLES.get(settings["set"], f"{settings['faces']} faces")
    sample = f"{first['n']:,} faces of {first['people']:,} people"
    figure.suptitle(f"The worst case of every defence on {where}: {sample}", fontsize=11)
    save(figure, path)


def _point(x: float, use: float, defence: str, attacker: str, color: Any) -> Point:
    kind, _, key = defence.partition(" (AES-GCM), ")
    name = f"{kind} ({key})" if key else kind
    if attacker == "without":
        return Point(x, use, name, color, front="Pareto front, without Ψ")
    return Point(x, use, f"{name}, {GROUPS[attacker]}", color, MARKS[attacker], hollow=True)
