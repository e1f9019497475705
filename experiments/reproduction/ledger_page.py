"""RESULTS-ledger.md: every number that the paper prints, and ours."""

from collections.abc import Sequence

from experiments.measure import paper
from experiments.measure.evaluation_sets import TITLES
from experiments.measure.paper import Number, Set
from experiments.measure.results_file import markdown
from experiments.reproduction import ledger
from experiments.reproduction.ledger import Run
from experiments.reproduction.paper_tables import KINDS, METRICS, NAMES, mean_of, shown
from experiments.reproduction.readings import notes

HEADER = ("table", "method", "S → R", "set", "metric", "paper", "ours", "95 %", "seeds", "over")
NONE = "–"


def render(runs: Sequence[Run], report: str) -> str:
    """The text, with links to the ``report`` beside it."""
    missing = ledger.unmeasured(runs)
    given = [n for n in paper.NUMBERS if n.set not in missing]
    lines = [_line(n, method, runs) for n in given for method in ledger.OURS[n.method]]
    parts = [
        "# The ledger",
        f"Every number that the paper prints, beside ours; the tables are in [{report}]({report}). "
        "95 %: bootstrap over the faces (SSIM, PSNR, MSE) or pairs (ACC, SRRA, drop) measured, "
        "with thresholds held fixed; it does not cover other trainings of S and R. Seeds: the mean "
        "over so many S (or R) of other seeds, averaged over the other, with Student's 95 % "
        "interval. Of several runs the one made for the table is given, and of those the largest. "
        "An interval of no width means that no measured pair changed sides; up to 3 in as many "
        f"still may. Run: a number of [these]({report}#runs); readings: of "
        f"[these]({report}#readings).",
        *([markdown((*HEADER, "run", "readings"), lines, left=5)] if lines else []),
    ]
    if missing:
        parts += [
            "## Not measured",
            f"The paper's numbers for {', '.join(TITLES[name] for name in missing)}, where we have "
            "measured none: `python -m experiments.all --preset paper` measures every set for "
            "which `ADVFACE_DATA` has the data (docs/datasets.md).",
            *(f"**{TITLES[name]}**\n\n{_papers_alone(name)}" for name in missing),
        ]
    return "\n\n".join(parts) + "\n"


def _names(number: Number, method: str) -> list[str]:
    """Table, method, S → R."""
    kinds = " → ".join(KINDS[k] for k in (number.shadow, number.attacker) if k)
    return [number.table, NAMES.get(method, number.method), kinds]


def _line(number: Number, method: str, runs: Sequence[Run]) -> list[str]:
    metric, readings = number.metric, ", ".join(map(str, notes(number)))
    names = [*_names(number, method), TITLES[number.set], METRICS[metric]]
    cells = [*names, shown(metric, number.value)]
    for one in ledger.answers(number, runs, method)[:1]:
        ends = " to ".join(shown(metric, x, ours=True) for x in one.interval or ())
        over = f"{one.items(metric):,} {'pairs' if metric in ledger.PAIRS else 'faces'}"
        ours = [shown(metric, one.value, ours=True), ends or NONE, _seeds(number, runs)]
        return [*cells, *ours, over, str(runs.index(one.run) + 1), readings]
    return [*cells, _reason(number, runs), *[NONE] * 4, readings]


def _seeds(number: Number, runs: Sequence[Run]) -> str:
    """The means over S and over R, each with its interval."""
    found = [(name, of) for name, of in ledger.over_seeds(number, runs) if of["ci"]]
    return (
        "; ".join(f"{of['n']} {name}: {mean_of(number.metric, of)}" for name, of in found) or NONE
    )


def _reason(number: Number, runs: Sequence[Run]) -> str:
    """Not measured, and why where a results file has the reason."""
    for run in runs:
        for row in run.rows:
            here = ledger.set_of(row, run) == number.set and row.get("method") == number.method
            if here and "not_measured" in row:
                return f"not measured: {row['not_measured']}"
    return "not measured"


def _papers_alone(name: Set) -> str:
    """All of the paper's numbers for a set, a line for each method and pair of networks."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for n in paper.NUMBERS:
        if n.set == name:
            line = lines.setdefault(tuple(_names(n, n.method)), dict.fromkeys(METRICS, NONE))
            line[n.metric] = shown(n.metric, n.value)
    cells = [[*names, *numbers.values()] for names, numbers in lines.items()]
    return markdown((*HEADER[:3], *METRICS.values()), cells, left=3)
