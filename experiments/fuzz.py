"""Damaged and hostile files for every reader, by a seeded mutator in a guarded process.

    python -m experiments.fuzz                       # every reader, all cases: hours
    python -m experiments.fuzz --only h5 pt          # two of them
    python -m experiments.fuzz --cases 2000          # a look
    python -m experiments.fuzz --only h5 --case 41   # one case again, unguarded

Writes fuzz.json and fuzz.md into --out, and the files of each finding into --out/findings. A later
run with the same seed goes on where the earlier one stopped. Needs the extra dev.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advface_jax import checks, cli
from experiments.fuzzing import guard, readers
from experiments.measure.results_file import write_whole
from experiments.measure.table import Column, Spent, Table, printed, publish

COLUMNS = (
    Column("cases", "cases", 1, 0),
    Column("read", "read", 1, 0),
    Column("refused", "refused", 1, 0),
    Column("findings", "findings", 1, 0),
    Column("ms in the reader", "cpu_ms", 1, 2),
    Column("slowest s", "slowest_s", 1, 2),
    Column("most MB", "mb", 1, 0),
)
QUICK, COSTLY = 100_000, 10_000  # cases: where one takes less than a millisecond, and elsewhere
_TIMED = 1_000  # cases after which it is known which
_MOST_SHOWN = 20  # findings of a reader that are printed, and whose files are kept


def main(
    only: tuple[str, ...] = (),
    cases: int | None = None,
    seed: int = 0,
    case: int | None = None,
    out: cli.Out = Path("results"),
) -> None:
    """Fuzz the readers of files from somebody else: each file must be read, or refused with
    ``BadFile``.

    A crash, another exception, 5 seconds of the processor, a minute without an answer, or 1 GiB of
    memory is a finding, and the command then ends with 1.

    Args:
      only: Some of the readers; all by default.
      cases: Cases of each; by default 100,000 where a case takes the reader under a millisecond of
        the processor, as its first ones show, and 10,000 elsewhere.
      seed: Of the damage.
      case: Run this one case alone, in this process; its error comes with a traceback.
      out: Folder for the results and the findings.
    """
    chosen = [readers.named(name) for name in only] or readers.all_readers()
    if case is not None:
        for reader in chosen:
            again(reader, seed, case)
        return
    if cases is not None:
        checks.positive(cases=cases)
    cli.folder(out)
    done = table(chosen, cases, seed, out)
    publish(done, out)
    if any(row["findings"] for row in done.rows):
        sys.exit(1)


def again(reader: readers.Reader, seed: int, number: int) -> None:
    """One case, in this process and without a guard."""
    with tempfile.TemporaryDirectory() as folder:
        guard.write(Path(folder), guard.case(reader, seed, number))
        try:
            cli.answer.print(f"{reader.name} {number}: read {reader.read(Path(folder))!r:.200}")
        except guard.untrusted.BadFile as error:
            cli.answer.print(f"{reader.name} {number}: refused: {error!s:.500}", markup=False)


def table(chosen: Sequence[readers.Reader], cases: int | None, seed: int, out: Path) -> Table:
    """A row for each reader; arguments as for ``main``."""
    rows = [_row(reader, seed, cases, out) for reader in chosen]
    header, lines = printed([row["method"] for row in rows], rows, [{}] * len(rows), COLUMNS)
    seconds = sum(row["seconds"] for row in rows)
    return Table(
        "fuzz",
        "Damaged files",
        rows,
        header,
        lines,
        {"experiment": "fuzz", "seed": seed, "slow_s": guard.SLOW, "memory": guard.MEMORY},
        notes={},
        spent=Spent(0.0, seconds),
        remarks=(
            f"{sum(row['cases'] for row in rows):,} cases, seed {seed}. Each is read or refused "
            "with BadFile; all else is a finding.",
        ),
        caption="Damaged files: read, refused or a finding",
    )


def wanted(done: guard.Counts) -> int:
    """How many cases a reader is to have that has done these."""
    if done.timed < _TIMED and done.cases < QUICK:
        return done.cases - done.timed + _TIMED
    return QUICK if done.cpu < done.timed / 1000 else max(COSTLY, done.cases)


def _row(reader: readers.Reader, seed: int, cases: int | None, out: Path) -> dict[str, Any]:
    """What a reader did with its cases, those of earlier runs counted."""
    state = out / "fuzz" / f"{reader.name}-{seed}.json"
    before = json.loads(state.read_text(encoding="utf-8")) if state.is_file() else {}
    both = guard.Counts(**before)
    both.findings = [guard.Finding(**one) for one in before.get("findings", ())]
    while both.cases < (stop := cases or wanted(both)):
        old, shown = both, 0
        for new in guard.fuzz(reader, seed, old.cases, stop):
            for finding in new.findings[shown:]:
                if len(old.findings) + shown < _MOST_SHOWN:
                    _show(reader, seed, finding, out / "findings")
                shown += 1
            both = _together(old, new)
            write_whole(state, json.dumps(dataclasses.asdict(both), indent=1))
    cli.console.print(f"{reader.name}: {both.cases:,} cases, {len(both.findings)} findings")
    return {
        "method": reader.name,
        "cases": both.cases,
        "read": both.read,
        "refused": both.refused,
        "findings": len(both.findings),
        "ms": 1000 * both.seconds / max(both.cases, 1),
        "cpu_ms": 1000 * both.cpu / both.timed if both.timed else None,
        "slowest_s": both.slowest,
        "mb": both.memory / 1e6,
        "seconds": both.seconds,
    }


def _together(a: guard.Counts, b: guard.Counts) -> guard.Counts:
    return guard.Counts(
        cases=a.cases + b.cases,
        read=a.read + b.read,
        refused=a.refused + b.refused,
        slowest=max(a.slowest, b.slowest),
        memory=max(a.memory, b.memory),
        seconds=a.seconds + b.seconds,
        timed=a.timed + b.timed,
        cpu=a.cpu + b.cpu,
        findings=[*a.findings, *b.findings],
    )


def _show(reader: readers.Reader, seed: int, finding: guard.Finding, into: Path) -> None:
    folder = into / f"{reader.name}-{seed}-{finding.case}"
    guard.write(folder, guard.case(reader, seed, finding.case))
    what = f"{finding.kind}: {finding.detail} ({finding.place}); kept in {folder}"
    cli.console.print(f"{reader.name} {finding.case}: {what}", markup=False, soft_wrap=True)


if __name__ == "__main__":
    cli.start(main, "experiments.fuzz")
