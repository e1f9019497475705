"""This process as the engine: all of its devices, and its share of the shards among several."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable

import jax

from advface_jax import lock, stopping
from advface_jax.bulk.job import Job
from advface_jax.data.feature_sets import planning
from advface_jax.data.feature_sets.running import Ended, run

LANES = 8  # shards in writing side by side where an accelerator makes more than one thread writes


def protect(job: Job, progress: Callable[[int], None] = lambda n: None) -> Ended:
    """Write the job's set, or what is left of it.

    Under ``jax.distributed`` each process writes every n-th shard with its own devices; the first
    one holds the folder's lock and writes the card. All of them see one folder.

    Raises:
      ValueError: the folder holds something else, another process writes it, or it cannot be
        written.
    """
    planning.check_folder(job.settings.out)
    if jax.process_count() > 1:
        return _one_of_several(job, progress)
    with lock.only_writer(job.settings.out):
        planning.tidy(job.settings.out)
        writing = job.begin()
        if writing is None:
            progress(len(job.items))
            return Ended()
        wanted = writing.left()
        ended = shards(job, wanted, progress, writing.without(wanted))
        planning.finish(writing)
    return ended


def shards(
    job: Job, wanted: list[int], progress: Callable[[int], None] = lambda n: None, there: int = 0
) -> Ended:
    """Write these shards of the job's set, which has begun and has ``there`` items already."""
    lanes = min(LANES, os.cpu_count() or 1) if job.on_accelerator else 1
    if wanted:
        job.compile()
    return run(
        job.writing,
        job.step,
        wanted,
        devices=len(job.devices),
        workers=job.settings.workers,
        lanes=lanes,
        ahead=2 if job.on_accelerator else 1,
        there=there,
        progress=progress,
    )


def _one_of_several(job: Job, progress: Callable[[int], None]) -> Ended:
    from jax.experimental import multihost_utils  # for several hosts only

    out, leads = job.settings.out, jax.process_index() == 0
    with lock.only_writer(out) if leads else contextlib.nullcontext():
        if leads:
            planning.tidy(out)
            job.begin()
        multihost_utils.sync_global_devices("planned")
        writing = job.begin()
        if writing is None:
            progress(len(job.items))
            return Ended()
        ended = _share(job, writing, progress)
        # By looking at the folder: hours may lie between the first that is done and the last.
        if leads:
            _wait(lambda: not writing.left())
            planning.finish(writing)
        else:
            _wait(lambda: (out / "card.json").is_file())
    return ended


def _wait(there: Callable[[], bool]) -> None:
    with stopping.at_good_moments():
        while not there():
            stopping.check()
            time.sleep(1)


def _share(job: Job, writing: planning.Writing, progress: Callable[[int], None]) -> Ended:
    """Write this process's part of the shards."""
    count = jax.process_count()
    mine = range(jax.process_index(), writing.total, count)
    left = [shard for shard in mine if not writing.has(shard)]
    there = sum(map(writing.size, mine)) - sum(map(writing.size, left))
    # The bar is of the whole set: the others are about as far.
    return shards(job, left, lambda n: progress(min(count * n, len(job.items))), there)
