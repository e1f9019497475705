"""The accuracy table as text: in the terminal and in accuracy.md."""

from pathlib import Path
from typing import Any

from rich.table import Table

from advface_jax import cli
from experiments.defenses import NOISE
from experiments.measure import results_file

OFFLINE = "AdvFace (offline)"
LABELS = {
    "Laplace": "Laplace noise (no DP guarantee)",  # wherever it is printed
    "AdvFace": "AdvFace online",
    OFFLINE: "AdvFace offline",
}
HEADER = ("", "ACC %", "95 %", "deviation of folds", "lost, points", "95 %", "paper", "lost")


def label(r: results_file.Row) -> str:
    """A row's name as it is printed."""
    name = LABELS.get(r["method"], str(r["method"]))
    return name + (", only the enrolled image protected" if r.get("enrolled_only") else "")


def cells(r: results_file.Row, theirs: dict[str, float], bare: dict[str, float]) -> list[str]:
    """A row under ``HEADER``; theirs, bare: the paper's numbers for it and for Unprotected."""

    def points(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.2f}"

    def interval(name: str) -> str:
        return " to ".join(points(x) for x in r.get(name) or ()) or "–"

    told = f": not measured: {r['not_measured']}" if "not_measured" in r else ""
    lost = bare["acc"] - theirs["acc"] if theirs and bare else None
    return [
        label(r) + told,
        points(r["acc"]),
        interval("acc_ci"),
        points(r.get("acc_std_of_folds")),
        points(r.get("drop")),
        interval("drop_ci"),
        points(theirs.get("acc")),
        points(lost),
    ]


def show(table: list[list[str]], out: Path) -> None:
    """The table to the terminal, and which files were written."""
    shown = Table(title="Recognition under each defence")
    for name in (*HEADER[:2], *HEADER[4:]):  # for which a terminal is wide enough
        shown.add_column(name, justify="right" if name else "left")
    for name, *cells in table:
        shown.add_row(name.partition(": ")[0], cells[0], *cells[3:])
    cli.answer.print(shown)
    for name in (cells[0] for cells in table if ": " in cells[0]):
        cli.console.print(name, markup=False, soft_wrap=True)
    cli.console.print(f"written: {out / 'accuracy.md'}, {out / 'accuracy.json'}", soft_wrap=True)


def text(
    table: list[list[str]], rows: list[results_file.Row], settings: dict[str, Any], seconds: float
) -> str:
    where = results_file.surroundings()
    alpha = "ε/10" if settings["alpha"] is None else f"{settings['alpha']:g}"
    return "\n\n".join(
        [
            f"# Recognition at ε = {settings['epsilon']:g}",
            results_file.markdown(HEADER, table),
            "ACC over folds, each judged by the threshold that the others choose. Lost: how far "
            "below the unprotected features. 95 %: bootstrap over the pairs, of the loss over the "
            "same pairs of both; neither seeds of S nor of a training are in it. Both images of a "
            "pair are protected where nothing else is said. Accuracy says nothing of privacy: "
            "experiments.defenses attacks.",
            NOISE,
            f"S {settings['shadow']}, {settings['steps']} steps, α = {alpha}, bound "
            f"{settings['bound']}, batches of {settings['batch']} ({settings['statistics']} "
            f"statistics), {settings['precision']}, seed {settings['seed']}; {rows[0]['n']:,} "
            f"faces, {rows[0]['pairs']:,} pairs in {settings['folds']} folds "
            f"({settings['faces']}); weights {settings['weights']}"
            + (f", offline {settings['offline']['source']}" if settings["offline"] else "")
            + (f"; DuetFace {network['training']}." if (network := settings["duetface"]) else "."),
            f"`{cli.command('experiments.accuracy')}`\n{where['hardware']}, jax "
            f"{where['versions']['jax']}, {seconds / 60:.1f} min, {where['date']}.",
        ]
    )
