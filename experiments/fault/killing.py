"""A command killed at random moments until it is done, and compared with an undisturbed one."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from advface_jax import stopping
from experiments.fault.cases import Case

LIMIT = 900  # seconds of one call


class Outcome(NamedTuple):
    """What became of a case.

    Attributes:
      name: of its command.
      kills, terms: SIGKILLs and SIGTERMs that met it at work.
      badly: SIGTERMs after its first output that ended it in another status than 143.
      records: of the undisturbed run.
      lost, changed, extra: records that are not there, differ, or should not be there.
    """

    name: str
    kills: int
    terms: int
    badly: int
    records: int
    lost: int
    changed: int
    extra: int


def disturbed(case: Case, place: Path, kills: int, rng: random.Random) -> Outcome:
    """Run it once in peace; then kill it so often, one in ten by SIGTERM, and let it end.

    A run that ends before its moment begins anew in an empty folder; what it left is compared, too.
    """
    place.mkdir(parents=True, exist_ok=True)
    peace = place / "peace"
    shutil.rmtree(peace, ignore_errors=True)
    begins, seconds = _peacefully(case, peace, place)
    want = case.records(peace)
    done = terms = badly = lost = changed = extra = 0
    out = place / "out"
    shutil.rmtree(out, ignore_errors=True)
    while True:
        last = done >= kills
        moment = LIMIT if last else rng.uniform(0.8 * begins, seconds)
        sent = signal.SIGTERM if rng.random() < 0.1 else signal.SIGKILL
        before = _written(out)
        status = _run(case, out, place, moment, sent)
        if status is None:
            done += 1
            continue
        if status in (stopping.STATUS, -signal.SIGTERM):
            terms += 1
            # Without its handler a command can be only while it starts, before its first output.
            badly += status != stopping.STATUS and _written(out) != before
            continue
        badly += status != 0
        got = case.records(out) if status == 0 else {}
        lost += len(want.keys() - got.keys())
        extra += len(got.keys() - want.keys())
        changed += sum(got[k] != want[k] for k in want.keys() & got.keys())
        if last or status:
            return Outcome(case.name, done, terms, badly, len(want), lost, changed, extra)
        shutil.rmtree(out)


def _start(case: Case, out: Path, place: Path) -> subprocess.Popen[bytes]:
    words = [word.replace("OUT", str(out)) for word in case.words]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(place.parent / "compiled")}
    cache |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    with (place / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", *words], env={**os.environ, **cache}, stdout=log, stderr=log
        )


def _peacefully(case: Case, out: Path, place: Path) -> tuple[float, float]:
    """Seconds until it writes something, and in all; the first call compiles and is not timed."""
    begins = seconds = 0.0
    for _ in range(2):
        shutil.rmtree(out, ignore_errors=True)
        began, begins = time.monotonic(), 0.0
        process = _start(case, out, place)
        while process.poll() is None:
            if not begins and out.exists() and any(out.iterdir()):
                begins = time.monotonic() - began
            time.sleep(0.02)
        seconds = time.monotonic() - began
        if process.returncode:
            said = (place / "log").read_text(encoding="utf-8", errors="replace")[-600:]
            raise ValueError(f"{case.name} fails undisturbed: {said}")
    return begins, seconds


def _written(out: Path) -> set[tuple[Path, int, int]]:
    """What lies there, with sizes and times: it changes with every output."""
    found = ((path, path.stat()) for path in out.rglob("*"))
    return {(path, at.st_size, at.st_mtime_ns) for path, at in found}


def _run(case: Case, out: Path, place: Path, moment: float, sent: signal.Signals) -> int | None:
    """Its exit status; None if it was killed."""
    process = _start(case, out, place)
    try:
        return process.wait(moment)
    except subprocess.TimeoutExpired:
        process.send_signal(sent)
    status = process.wait(LIMIT)
    return None if status == -sent and sent == signal.SIGKILL else status
