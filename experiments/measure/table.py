"""A table of results: measured under a bar, written as JSON and Markdown, shown in the terminal."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from rich.table import Table

from advface_jax import cli
from advface_jax.data import Faces
from advface_jax.system import Role
from experiments.measure import results_file
from experiments.measure.judging import Measured, Subject, judge
from experiments.measure.results_file import Row

SHOWN = ("ssim", "psnr", "mse", "acc", "srra", "srra_same_image")
HEADER = ("", "SSIM", "PSNR", "MSE", "ACC %", "SRRA %", "same image %")
MEASURES = (
    "SSIM, PSNR and MSE compare R's picture with the face. SRRA: R's picture of one image accepted "
    "as another image of the same person, at the threshold of the row's own pairs; same image: as "
    "the image itself."
)
FLOOR = (
    "The mean of these faces stands for what an attacker has without any feature (theirs, of other "
    "faces, is a little further off): an SSIM below its own is a wrecked picture, which is not yet "
    "privacy. The attacker here does not know of the protection."
)


@contextlib.contextmanager
def exactly(precision: str):
    """In float32 no matrix product is rounded on its way: accelerators would, by default."""
    exact = jax.default_matmul_precision("highest") if precision == "float32" else None
    with exact or contextlib.nullcontext():
        yield


def measure(faces: Faces, subject: Subject, **how: Any) -> Measured:
    """``evaluation.judge`` under a bar, ``how`` being its own keywords; but ``seconds`` are those
    that earlier sittings spent."""
    at = time.monotonic()
    with cli.bar("faces") as bar:
        task = bar.add_task("protect, attack, recognise", total=len(faces), note="compiling")

        def progress(n: int) -> None:
            bar.update(task, advance=n)
            rate = (bar.tasks[0].completed) / max(bar.tasks[0].elapsed or 0, 1e-9)
            bar.update(task, note=f"{rate:.2f} faces/s")

        measured = judge(faces, subject, progress=progress, **how)
    return measured._replace(seconds=measured.seconds - (time.monotonic() - at))


def distinct(identities: tuple[str, ...], most: int = 6) -> list[int]:
    """The first face of each of the first identities."""
    first = {identity: i for i, identity in reversed(list(enumerate(identities)))}
    return sorted(first.values())[:most]


def cells(label: str, ours: Row, theirs: Mapping[str, float]) -> list[list[str]]:
    """A row as text under ``HEADER``, and the paper's below it where it has one."""

    def line(label: str, numbers: Mapping[str, Any]) -> list[str]:
        cells = [label]
        for key in SHOWN:
            scale = 100 if key.startswith(("acc", "srra")) else 1
            digits = {"ssim": 3, "mse": 4}.get(key, 2)
            value = numbers.get(key)
            cells.append("–" if value is None else f"{scale * value:.{digits}f}")
        return cells

    return [line(label, ours), *([line("  in the paper", theirs)] if theirs else [])]


def write(
    out: Path,
    name: str,
    title: str,
    rows: Sequence[Row],
    labels: Sequence[str],
    theirs: Sequence[Mapping[str, float]],
    *,
    settings: Mapping[str, Any],
    notes: Mapping[str, Any],
    seconds: float,
    before: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> list[list[str]]:
    """``NAME.json`` and ``NAME.md``: each row under its label, the paper's numbers for it below.

    before, remarks: paragraphs before and after the table. Returns the table, for ``show``.
    """
    table = [
        line
        for label, ours, numbers in zip(labels, rows, theirs, strict=True)
        for line in cells(label, ours, numbers)
    ]
    command, where = cli.command(f"experiments.{name}"), results_file.surroundings()
    paragraphs = [
        f"# {title}",
        *before,
        results_file.markdown(HEADER, table),
        f"{MEASURES} {FLOOR}",
        *remarks,
        _setting(settings, rows[0]),
        f"`{command}`\n{where['hardware']}, jax {where['versions']['jax']}, "
        f"{seconds / 60:.1f} min, {where['date']}.",
    ]
    results_file.write_results(
        out,
        name,
        rows,
        command=command,
        config=settings,
        seconds=seconds,
        notes=notes,
        text="\n\n".join(paragraphs),
    )
    return table


def _setting(settings: Mapping[str, Any], first: Row) -> str:
    alpha = "ε/10" if settings["alpha"] is None else f"{settings['alpha']:g}"
    method = f"{settings['method']}, " if "method" in settings else ""
    start = " around z" if settings.get("start") == "z" else ""
    return (
        f"S {_named(settings, 'shadow')}, R {_named(settings, 'attacker')}, {settings['steps']} "
        f"steps, {method}α = {alpha}, bound {settings['bound']}{start}, batches of "
        f"{settings['batch']} ({settings['statistics']} statistics), {settings['precision']}, seed "
        f"{settings['seed']}; {first['n']:,} faces, {first['pairs']:,} pairs in "
        f"{settings['folds']} folds ({settings['faces']}); weights {settings['weights']}."
    )


def _named(settings: Mapping[str, Any], role: Role) -> str:
    """The one decoder of that role, or all of them."""
    return settings.get(role) or "; ".join(d["name"] for d in settings[f"{role}s"])


def show(table: list[list[str]], out: Path, files: tuple[str, ...]) -> None:
    """The table to the terminal, and which files were written."""
    shown = Table(title="R's pictures of protected features; recognition; replay")
    for i, name in enumerate(HEADER):
        shown.add_column(name, justify="right" if i else "left")
    for row in table:
        shown.add_row(*row, style="dim" if row[0].startswith(" ") else None)
    cli.answer.print(shown)
    cli.console.print("written: " + ", ".join(str(out / f) for f in files))
