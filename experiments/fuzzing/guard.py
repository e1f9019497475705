"""Cases of a reader in a guarded child process, which is replaced when it dies or does not answer.

The child makes each case itself from (seed, reader, number), so that a case is known by its number
alone, whatever happens to the child.
"""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import random
import resource
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from advface_jax import untrusted
from experiments.fuzzing import mutate, readers
from experiments.fuzzing.seeds import Files

MEMORY = 1 << 30
"""Bytes that a case may take, beyond what the child has after it imported its reader."""
SLOW = 5.0
"""Seconds of the processor that a case may take."""
SILENT = 60.0
"""Seconds without a case done after which the child counts as hanging."""
_QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # a folder in memory


@dataclass(frozen=True)
class Finding:
    """What a case did that no file may do.

    Attributes:
      kind: crash, hang, memory, slow, or an exception's name.
      detail: the message, or the signal.
      place: where it was raised.
    """

    reader: str
    case: int
    kind: str
    detail: str
    place: str = ""


@dataclass
class Counts:
    """What a reader did with its cases: all, those read, those refused; the slowest, in seconds of
    the processor; the bytes taken above the start, at the most; seconds by the clock; and of the
    cases that were timed, the number and the processor's seconds in the reader."""

    cases: int = 0
    read: int = 0
    refused: int = 0
    slowest: float = 0.0
    memory: int = 0
    seconds: float = 0.0
    timed: int = 0
    cpu: float = 0.0
    findings: list[Finding] = field(default_factory=list)


# what the child shares
_CASE, _DONE, _READ, _REFUSED, _SLOWEST, _MEMORY, _READY, _CPU = range(8)


def case(reader: readers.Reader, seed: int, number: int) -> Files:
    """The files of a case; the first cases are the valid files themselves."""
    seeds = _seeds(reader)
    if number < len(seeds):
        return seeds[number]
    rng = random.Random(f"{seed}/{reader.name}/{number}")
    return mutate.mutated(rng, seeds, reader.words)


_MADE: dict[str, list[Files]] = {}


def _seeds(reader: readers.Reader) -> list[Files]:
    if reader.name not in _MADE:
        _MADE[reader.name] = reader.seeds()
    return _MADE[reader.name]


def write(folder: Path, files: Files) -> None:
    """The files of a case into a folder."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def fuzz(reader: readers.Reader, seed: int, start: int, stop: int) -> Iterator[Counts]:
    """Run the cases from ``start`` to ``stop``; the counts so far, each second and at the end."""
    counts, at, began = Counts(), start, time.monotonic()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([readers.__name__, *readers.MODULES])  # imported once
    while at < stop:
        shared = context.RawArray("d", 8)
        shared[_CASE] = at
        ours, theirs = context.Pipe(duplex=False)
        with tempfile.TemporaryDirectory(prefix="fuzz-", dir=_QUICK) as folder:
            arguments = (reader.name, seed, at, stop, folder, shared, theirs)
            child = context.Process(target=_child, args=arguments)
            child.start()
            theirs.close()
            base, why = dataclasses.replace(counts), None
            last, since = (0.0, shared[_CASE]), time.monotonic()
            while True:
                try:
                    while ours.poll(1.0):
                        counts.findings.append(Finding(reader.name, *ours.recv()))
                except (EOFError, OSError):  # the child is gone
                    child.join()
                    if child.exitcode != 0:
                        why = ("crash", f"the process ended with {child.exitcode}")
                doing = (shared[_READY], shared[_CASE])
                if doing != last or not shared[_READY]:
                    last, since = doing, time.monotonic()
                elif time.monotonic() - since > SILENT:
                    why = ("hang", f"no answer in {SILENT:.0f} s")
                    child.kill()
                    child.join()
                counts.read = base.read + int(shared[_READ])
                counts.refused = base.refused + int(shared[_REFUSED])
                # A case that ends just now is counted there, and not yet as done.
                judged = counts.read + counts.refused - base.read - base.refused
                counts.cases = base.cases + max(int(shared[_DONE]), judged)
                counts.slowest = max(base.slowest, shared[_SLOWEST])
                counts.memory = max(base.memory, int(shared[_MEMORY]))
                counts.seconds = time.monotonic() - began
                counts.cpu, counts.timed = base.cpu + shared[_CPU], counts.cases
                yield counts
                if why or not child.is_alive():
                    break
            at = int(shared[_CASE]) + 1
            if why:
                counts.findings.append(Finding(reader.name, at - 1, *why))
                counts.cases = counts.timed = counts.cases + 1
    yield counts


def _child(
    name: str, seed: int, start: int, stop: int, folder: str, shared: Any, report: Connection
) -> None:
    reader = readers.named(name)
    warnings.simplefilter("ignore")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # libraries of images complain there
    for files in _seeds(reader):
        write(Path(folder), files)
        with contextlib.suppress(ValueError):  # its imports, once, outside of the count
            reader.read(Path(folder))
    shared[_READY] = 1
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    virtual = (
        int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
        * resource.getpagesize()
    )
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, resource.RLIM_INFINITY))
    for number in range(start, stop):
        shared[_CASE] = number
        write(Path(folder), case(reader, seed, number))
        _one(reader, Path(folder), number, shared, report)
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        shared[_MEMORY] = max(shared[_MEMORY], most - base)
        shared[_DONE] += 1


def _one(
    reader: readers.Reader, folder: Path, number: int, shared: Any, report: Connection
) -> None:
    began = time.process_time()
    try:
        reader.read(folder)
        shared[_READ] += 1
    except untrusted.BadFile as error:
        shared[_REFUSED] += 1
        if len(str(error)) > _LONGEST:
            report.send((number, "long", f"{len(str(error)):,} characters", _place(error)))
    except MemoryError as error:
        report.send((number, "memory", str(error), _place(error)))
    except Exception as error:  # what is to be found
        kind = type(error).__name__
        report.send((number, kind, str(error)[:300], _place(error)))
    took = time.process_time() - began
    shared[_SLOWEST] = max(shared[_SLOWEST], took)
    shared[_CPU] += took
    if took > SLOW:
        report.send((number, "slow", f"{took:.1f} s"))


_LONGEST = 4000  # characters of a message for a user


def _place(error: BaseException) -> str:
    """The last line of ours and the last line of all that raised ``error``."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "site-packages" not in f.filename and "fuzzing" not in f.filename]
    places = dict.fromkeys(
        f"{Path(f.filename).name}:{f.lineno}" for f in (*ours[-1:], *frames[-1:])
    )
    return " ".join(places)
