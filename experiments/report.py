"""RESULTS.md: every number of the paper, ours beside it, and where ours comes from.

    python -m experiments.report                      # from docs/results, which is committed
    python -m experiments.report --results results --to results/RESULTS.md

Nothing is measured here: the results files of the experiments are read.
"""

from collections.abc import Sequence
from pathlib import Path

from advface_jax import cli
from experiments.measure import paper
from experiments.measure.evaluation_sets import TITLES
from experiments.reproduction import ledger, own_tables, paper_tables
from experiments.reproduction.ledger import Run
from experiments.reproduction.paper_tables import shown
from experiments.reproduction.readings import NUMBERED, READINGS, WARNING, notes

REMARKS = "remarks.md"  # in the folder of results: why ours differs, by whoever measured
HOW = {  # what measures a table that is not measured yet
    "1": "python -m experiments.defenses --preset paper",
    "2": "python -m experiments.accuracy --preset paper",
    "§5.4": "python -m experiments.accuracy --preset paper",
    "3": "python -m experiments.transfer --preset paper",
    "4": "python -m experiments.transfer --preset paper",
}


def main(
    results: Path = Path("docs/results"),
    to: Path = Path("RESULTS.md"),
) -> None:
    """Write RESULTS.md from results files: all numbers of the paper, ours beside them.

    Args:
      results: Folder with the results files (.json) of the experiments, searched to the bottom,
        and remarks.md, which is taken over.
      to: The file to write.
    """
    runs = ledger.read(results)
    text = render(results, runs)
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(text, encoding="utf-8")
    measured = sum(bool(ledger.answers(n, runs)) for n in paper.NUMBERS)
    cli.answer.print(
        f"{to}: {measured} of the paper's {len(paper.NUMBERS)} numbers measured, in {len(runs)} "
        "results files",
        markup=False,
        soft_wrap=True,
    )


def render(results: Path, runs: Sequence[Run]) -> str:
    """The whole text, the same for the same files."""
    remarks = results / REMARKS
    place = results.name if results.is_absolute() else results.as_posix()
    why = remarks.read_text(encoding="utf-8").strip() if remarks.is_file() else ""
    parts = [
        "# Every number of the paper, and ours",
        f"Made by `python -m experiments.report` from the results files in `{place}`; edit those, "
        "not this. The paper is *Privacy-preserving Adversarial Facial Features* (AdvFace, CVPR "
        "2023). – is not measured, *italics* are ours alone. The [ledger](#ledger) has each number "
        "with its interval, sample, run and the [readings](#readings) taken; the [runs](#runs) "
        "have command, seed, hardware and date.",
        WARNING,
        *_tables(runs),
        "## Figures",
        paper_tables.figures(),
        *(["## Where ours differs, and why", why] if why else []),
        *own_tables.others(runs),
        "## Ledger",
        "Every number that the paper prints. 95 %: bootstrap over the faces (SSIM, PSNR, MSE) or "
        "pairs (ACC, SRRA, drop) measured, thresholds held fixed; it knows nothing of other "
        "trainings of S and R. Seeds: the mean over so many S (or R) of other seeds, the other "
        "averaged, with Student's 95 % interval. Of several runs the one made for the table "
        "stands here, and of those the largest. An interval without width says that no pair of "
        "those measured changed sides; up to 3 in so many may still.",
        _ledger(runs),
        "## Readings",
        "Where the paper is silent or its data are not at hand:",
        "\n".join(f"{NUMBERED[name]}. {text}" for name, text in READINGS.items()),
        "## Runs",
        paper_tables.runs(runs) if runs else "None.",
    ]
    return "\n\n".join(parts) + "\n"


def _tables(runs: Sequence[Run]) -> list[str]:
    parts = []
    for title, table in (
        ("Table 1: pictures and replay by defence (S = R = ResRec)", paper_tables.table_1),
        ("Table 2: recognition by defence, ACC %", paper_tables.table_2),
        ("Table 3: recognition by shadow, ACC %", paper_tables.table_3),
        ("Table 4: pictures by shadow and attacker", paper_tables.table_4),
    ):
        parts.append(f"## {title}")
        empty = []
        for name in paper.SETS:
            text = table(name, runs)
            if text is None:
                empty.append(TITLES[name])
            else:
                parts += [f"**{TITLES[name]}**", text]
        if empty:
            reason = " (data not at hand)" if "LFW" not in empty else ""
            which = ", ".join(empty)
            parts.append(f"Not measured{reason}: {which}. The ledger has the paper's numbers.")
    return parts


def _ledger(runs: Sequence[Run]) -> str:
    at = {run.file: i for i, run in enumerate(runs, 1)}
    lines = []
    for n in paper.NUMBERS:
        for method in ledger.OURS[n.method]:
            found = ledger.answers(n, runs, method)[:1]
            ours, interval, over, run = _missing(n, runs), "–", "–", "–"
            for one in found:
                ours = shown(n.metric, one.value, ours=True)
                if one.interval:
                    interval = " to ".join(shown(n.metric, x, ours=True) for x in one.interval)
                over = f"{one.items(n.metric):,} {'pairs' if n.metric in ledger.PAIRS else 'faces'}"
                run = str(at[one.run.file])
            seeds = _seeds(n, runs) if found else "–"
            lines.append(
                [
                    n.table,
                    paper_tables.NAMES.get(method, n.method),
                    " → ".join(paper_tables.KINDS[k] for k in (n.shadow, n.attacker) if k),
                    TITLES[n.set],
                    paper_tables.METRICS[n.metric],
                    shown(n.metric, n.value),
                    ours,
                    interval,
                    seeds,
                    over,
                    run,
                    ", ".join(map(str, notes(n))),
                ]
            )
    header = ("table", "method", "S → R", "set", "metric", "paper", "ours", "95 %")
    header += ("seeds", "over", "run")
    return paper_tables.table((*header, "readings"), lines, left=5)


def _seeds(number: paper.Number, runs: Sequence[Run]) -> str:
    """The means over S and over R, each with its interval."""
    parts = []
    for name, spread, _ in ledger.over_seeds(number, runs):
        mean = shown(number.metric, spread["mean"], ours=True)
        if spread["ci"]:
            low, high = (shown(number.metric, x, ours=True) for x in spread["ci"])
            parts.append(f"{spread['n']} {name}: {mean} ({low} to {high})")
    return "; ".join(parts) or "–"


def _missing(number: paper.Number, runs: Sequence[Run]) -> str:
    """Why a number is not there, and what gives it."""
    if number.set != "lfw" and not any(
        ledger.set_of(row, run) == number.set for run in runs for row in run.rows
    ):
        return "not measured: data not at hand"
    for run in runs:
        for row in run.rows:
            at = ledger.set_of(row, run) == number.set
            if at and row["method"] == number.method and "not_measured" in row:
                return f"not measured: {row['not_measured']}"
    return f"not measured: `{HOW[number.table]}`"


if __name__ == "__main__":
    cli.start(main, "experiments.report")
