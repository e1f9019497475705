"""Every table and figure that the available data allow, what they need first, and the report.

    python -m experiments.all                       # demo: synthetic faces, no data needed
    python -m experiments.all --preset paper        # with the data under ADVFACE_DATA
    python -m experiments.all --preset paper --dry-run

Writes each step's results into a folder of its own in --out, and RESULTS.md beside them.
"""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from rich.table import Table

from advface_jax import checks, cli
from experiments.measure import inputs
from experiments.reproduction import plan
from experiments.reproduction.plan import Step

Verdict = Literal["done, skipped", "to do", "made", "failed", "waits", "not available"]


class Outcome(NamedTuple):
    """The outcome of a step, and the reason where it needs one."""

    step: Step
    verdict: Verdict
    why: str = ""


def main(
    preset: inputs.Preset = "demo",
    out: cli.Out = Path("results"),
    limit: int | None = None,
    only: tuple[str, ...] = (),
    dry_run: bool = False,
) -> None:
    """Run every experiment whose data are available, in order, and continue after a failed one.

    A step is skipped if its result exists, was made by the same command, and is not older than the
    results it needs. After an interruption the same command continues: at the next step, and
    within a step that can resume. The exit status is not 0 if a step failed.

    Args:
      preset: demo: synthetic faces. paper: the evaluation sets, the training faces and all steps
        whose files are in the folder named by ADVFACE_DATA (docs/datasets.md).
      out: Folder for the results, one folder a step.
      limit: Measure at most so many pairs of each set; training still takes all faces.
      only: Run only these steps (names: --dry-run).
      dry_run: List the steps, and whether they are done, to do, or lack something.
    """
    if limit is not None:
        checks.positive(limit=limit)
    cli.folder(out)
    steps = plan.steps(preset, out, limit)
    names = [step.name for step in steps]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"got --only {', '.join(unknown)}; the steps are {', '.join(names)}")
    steps = [step for step in steps if not only or step.name in only]
    outcomes = follow(steps, dry_run)
    _show(outcomes, dry_run)
    failed = [o.step.name for o in outcomes if o.verdict == "failed"]
    if failed:
        raise ValueError(f"{len(failed)} of {len(steps)} steps failed: {', '.join(failed)}")


def follow(steps: Sequence[Step], dry_run: bool = False) -> list[Outcome]:
    """Run the steps in order, except those that are done or lack something."""
    by_name = {step.name: step for step in steps}
    outcomes: dict[str, Outcome] = {}
    for number, step in enumerate(steps, 1):
        outcome = _verdict(step, by_name, outcomes)
        if outcome.verdict == "to do" and not dry_run:
            cli.console.print(f"[bold]{number}/{len(steps)} {step.name}[/]: {step.command}")
            outcome = _run(step)
        if not dry_run and outcome.verdict in ("failed", "done, skipped"):
            cli.console.print(f"{step.name}: {outcome.verdict} {outcome.why}", markup=False)
        outcomes[step.name] = outcome
    return list(outcomes.values())


def _verdict(step: Step, by_name: dict[str, Step], outcomes: dict[str, Outcome]) -> Outcome:
    if lacking := plan.lacks(step):
        return Outcome(step, "not available", lacking)
    before = [outcomes[name] for name in step.needs if name in outcomes]
    for outcome in before:
        if outcome.verdict in ("failed", "waits", "not available"):
            return Outcome(step, "waits", f"for {outcome.step.name}")
    # In a dry run a needed step may still be to do, and then so is this one.
    anew = any(outcome.verdict in ("to do", "made") for outcome in before)
    after = tuple(by_name[name].result for name in step.needs if name in by_name)
    if not anew and plan.is_done(step, after):
        return Outcome(step, "done, skipped")
    return Outcome(step, "to do")


def _run(step: Step) -> Outcome:
    """The step in its own process, on this terminal."""
    done = subprocess.run([sys.executable, "-m", *step.module.split(), *step.words], check=False)
    if done.returncode == 130:
        raise KeyboardInterrupt  # only the step received the signal
    if done.returncode:
        return Outcome(step, "failed", f"exit status {done.returncode}")
    if not step.result.is_file():
        return Outcome(step, "failed", f"left no {step.result}")
    return Outcome(step, "made")


def _show(outcomes: Sequence[Outcome], dry_run: bool) -> None:
    shown = Table("step", "", "why", "result", title="The plan" if dry_run else "Outcomes")
    for step, verdict, why in outcomes:
        shown.add_row(step.name, verdict, why, str(step.result))
    cli.answer.print(shown)
    for step, verdict, _ in outcomes if dry_run else ():
        if verdict in ("to do", "waits"):
            cli.answer.print(step.command, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    cli.start(main, "experiments.all")
