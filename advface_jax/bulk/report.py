"""What a bulk protection shows: progress with rate and time left, and what came of it."""

from __future__ import annotations

import contextlib
import datetime
import time
from collections.abc import Callable, Iterator

from advface_jax import cli, data, sharding
from advface_jax.bulk import engine
from advface_jax.bulk.estimate import estimate
from advface_jax.bulk.job import Job, Settings
from advface_jax.data.feature_sets.running import Ended

SHOWN = 10  # items left out that are shown by name


def write(settings: Settings) -> None:
    """Protect in this process, with its progress; then say what was written."""
    cli.loading(settings.weights, "faces")
    job = Job(settings)
    with _progress(len(job.items)) as progress:
        ended = engine.protect(job, progress)
    tell(settings, ended)


def write_by_ray(settings: Settings, address: str | None) -> None:
    """The same by a Ray cluster."""
    from advface_jax.bulk import ray_engine

    cli.loading(settings.weights, "faces")
    job = Job(settings)
    with _progress(len(job.items)) as progress:
        ended = ray_engine.protect(job, address, progress)
    tell(settings, ended)


def tell(settings: Settings, ended: Ended) -> None:
    """What was left out, the size of the set, and whether the device waited."""
    for name, reason in ended.refused[:SHOWN]:
        cli.console.print(f"left out: {name}: {reason}", markup=False)
    if len(ended.refused) > SHOWN:
        cli.console.print(f"left out: {len(ended.refused) - SHOWN:,} more")
    if not sharding.leads():
        return
    if ended.seconds:
        rate = ended.items / ended.seconds
        said = f"{ended.items:,} items in {ended.seconds:,.0f} s after compilation "
        said += f"({rate:,.1f}/s); the device waited {ended.share:.1%} of it"
        cli.console.print(said, markup=False, soft_wrap=True)
    out = settings.out
    written = data.open_features(out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    said = f"{len(written):,} protected features in {out} ({size:,.0f} MB), "
    said += f"{written.card['left_out']:,} faces left out"
    cli.answer.print(said, markup=False, soft_wrap=True)


def tell_estimate(settings: Settings) -> None:
    """What it will take, by the compiler and one batch; nothing is written."""
    found = estimate(Job(settings))
    device = "device" if found.devices == 1 else "devices"
    lines = [
        f"{found.items:,} items, {settings.batch} together on each of {found.devices} {device}",
        f"operations: {found.flops / 1e9:,.1f} GFLOP an item, "
        f"{found.flops * found.items / 1e12:,.1f} TFLOP in all (convolutions and products)",
        f"bytes: {found.read / 1e6:,.2f} MB an item to the device, {found.written / 1e6:,.2f} MB a "
        f"record, {found.written * found.items / 1e9:,.2f} GB in all before compression",
        f"memory: {_mb(found.memory)} on each device, {_mb(found.free)} free",
        f"time: {_time(found.seconds)} by one batch ({found.items / found.seconds:,.1f} items/s), "
        f"compilation {found.compiled:,.1f} s",
    ]
    for line in lines:
        cli.answer.print(line, markup=False, soft_wrap=True, highlight=False)


def _mb(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 1e6:,.0f} MB"


def _time(seconds: float) -> str:
    return str(datetime.timedelta(seconds=round(seconds))) if seconds >= 10 else f"{seconds:.1f} s"


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    with cli.bar("faces") as bar:
        task = bar.add_task("protect", total=total, note="compiling")
        began: tuple[float, int] | None = None

        def progress(done: int) -> None:
            nonlocal began
            began = began or (time.monotonic(), done)  # the first call counts an earlier run's
            rate = (done - began[1]) / max(time.monotonic() - began[0], 1e-9)
            bar.update(task, completed=done, note=f"{rate:.2f} faces/s" if rate else "compiling")

        yield progress
