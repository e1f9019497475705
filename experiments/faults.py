"""Kill commands at random moments, start them again, and count what was lost.

    python -m experiments.faults -o FOLDER
    python -m experiments.faults -o FOLDER --only protect crop --kills 10

Writes faults.json into --out. It takes minutes and needs no data: drawn faces, small networks.
"""

import json
import random
from pathlib import Path
from typing import Annotated

import tyro

from advface_jax import checks, cli
from experiments.fault import cases, killing
from experiments.measure import table
from experiments.measure.results_file import markdown, surroundings

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
    rng = random.Random(seed)
    found: list[killing.Outcome] = []
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
        rows = [row._asdict() for row in found]
        settings = {"kills": kills, "seed": seed, "command": cli.command("experiments.faults")}
        content = {"rows": rows, "settings": settings, **surroundings()}
        (out / "faults.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    head = ["", *(name for name in killing.Outcome._fields if name != "name")]
    lines = [[one.name, *(str(n) for n in one[1:])] for one in found]
    about = {"config": {"kills": kills, "seed": seed}}
    told = markdown(head, lines)
    command = cli.command("experiments.faults")
    table.write_page(out, "faults", "Commands killed at random", told, command, about)
    table.answer(out, "faults", told)
    total = sum(one.kills for one in found)
    lost = sum(one.lost + one.changed + one.extra for one in found)
    cli.console.print(f"{total} kills, {lost} records lost, changed or twice", highlight=False)
    if lost or any(one.badly for one in found):
        raise ValueError(f"something was lost: see {out / 'faults.json'} and the logs beside it")


if __name__ == "__main__":
    cli.start(main, "experiments.faults")
