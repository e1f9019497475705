"""Kill commands at random moments, start them again, and count what was lost.

    python -m experiments.faults -o FOLDER
    python -m experiments.faults -o FOLDER --only protect crop --kills 10

Writes faults.json and faults.md into --out. It takes minutes and needs no data: drawn faces, small
networks.
"""

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from advface_jax import checks, cli
from experiments.fault import cases, killing
from experiments.measure import table
from experiments.measure.results_file import markdown, write_results

TABLE = True  # --json and --html
NAMES = ("protect", "features", "crop", "prepare", "train_decoder", "tradeoff")


def main(
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("results/faults"),
    kills: int = 9,
    only: tuple[str, ...] = NAMES,
    seed: int = 0,
) -> None:
    """SIGKILL each command at random moments, run it again each time, and compare its results with
    those of an undisturbed run: every record once, sums equal.

    One signal in ten is a SIGTERM on top, after which a command must have ended by itself, with
    status 143. The moments are drawn between the command's first output and its end.

    Args:
      out: Folder of faces, results and logs, kept for a look.
      kills: SIGKILLs for each command.
      only: Some of protect, features, crop, prepare, train_decoder, tradeoff (a table).
      seed: Of the moments.
    """
    checks.positive(kills=kills)
    for name in only:
        checks.choice(name, "only", NAMES)
    cli.folder(out)
    rng, began = random.Random(seed), time.monotonic()
    found: list[killing.Outcome] = []
    told = ""
    for case in cases.cases(out.absolute()):
        if case.name not in only:
            continue
        one = killing.disturbed(case, out.absolute() / case.name, kills, rng)
        found.append(one)
        cli.console.print(
            f"{one.name:13} {one.kills:3} SIGKILL {one.terms:2} SIGTERM ({one.badly} badly), "
            f"{one.records:4} records: {one.lost} lost, {one.changed} changed, {one.extra} extra",
            highlight=False,
            soft_wrap=True,
        )
        told = _write(out, found, time.monotonic() - began, kills=kills, seed=seed)
    about = {"config": {"kills": kills, "seed": seed}}
    command = cli.command("experiments.faults")
    table.write_page(out, "faults", "Commands killed at random", told, command, about)
    table.answer(out, "faults", told)
    total = sum(one.kills for one in found)
    lost = sum(one.lost + one.changed + one.extra for one in found)
    cli.console.print(f"{total} kills, {lost} records lost, changed or twice", highlight=False)
    if lost or any(one.badly for one in found):
        raise ValueError(f"something was lost: see {out / 'faults.json'} and the logs beside it")


def _write(out: Path, found: Sequence[killing.Outcome], seconds: float, **config: int) -> str:
    rows = [{"method": one.name, **one._asdict()} for one in found]
    titles = ("command", "SIGKILL", "SIGTERM", "of these wrongly ended")
    titles += ("records", "lost", "changed", "extra")
    text = markdown(titles, [[str(value) for value in one] for one in found])
    command = cli.command("experiments.faults")
    write_results(out, "faults", rows, command=command, config=config, seconds=seconds, text=text)
    return text


if __name__ == "__main__":
    cli.start(main, "experiments.faults")
