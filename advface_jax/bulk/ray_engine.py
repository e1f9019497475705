"""A Ray cluster as the engine: an actor a device, which holds the networks and the program.

Ray Data streams the numbers of the shards to the actors, and starts anew what was on a machine that
died. An actor writes its shard into the set's folder, which all machines see; a shard that is there
is not written again.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advface_jax import lock, system, weights
from advface_jax.bulk import engine
from advface_jax.bulk.job import Job, Settings
from advface_jax.data.feature_sets import planning
from advface_jax.data.feature_sets.running import Ended
from advface_jax.models import decoders

DEVICES = ("GPU", "TPU", "CPU")  # the first that the cluster has is what an actor takes one of


def protect(
    job: Job, address: str | None = None, progress: Callable[[int], None] = lambda n: None
) -> Ended:
    """Write the job's set, or what is left of it, by the actors of a Ray cluster.

    Args:
      job: The set; its source, weights and folder have the same absolute paths on all machines.
      address: Of the cluster: "auto", HOST:PORT, "ray://HOST:10001"; None starts one on this
        machine.
      progress: Called with how many items of the set are done.

    Raises:
      ValueError: Ray is not installed or there is no cluster; the folder holds something else,
        another process writes it, or it cannot be written.
    """
    try:
        import ray  # type: ignore
        import ray.data  # type: ignore
        import ray.exceptions  # type: ignore
    except ImportError:
        raise ValueError("--engine ray needs: pip install 'ray[data]'") from None
    out = job.settings.out
    planning.check_folder(out)
    with lock.only_writer(out):
        planning.tidy(out)
        writing = job.begin()
        if writing is None:
            progress(len(job.items))
            return Ended()
        wanted = writing.left()
        done = writing.without(wanted)
        progress(done)
        own = not ray.is_initialized()
        if own:
            try:
                ray.init(address, log_to_driver=False, logging_level=logging.WARNING)
            except (ConnectionError, RuntimeError) as error:
                raise ValueError(f"got --address {address}: {error}") from error
        try:
            rows: list[dict[str, Any]] = []
            for row in _streamed(ray, job.settings, wanted) if wanted else ():
                rows.append(row)
                done += writing.size(row["shard"])
                progress(done)
        except ray.exceptions.RayTaskError as error:
            raise ValueError(str(error.cause or error).splitlines()[-1]) from error
        finally:
            if own:
                ray.shutdown()
        planning.finish(writing)
    return _ended(rows)


def _streamed(ray: Any, settings: Settings, wanted: list[int]) -> Any:
    """The rows of the actors, one a shard, as they come."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    found = ray.cluster_resources()
    kind = next(name for name in DEVICES if found.get(name, 0) >= 1 or name == "CPU")
    many = max(1, min(int(found.get(kind, 1)), len(wanted)))
    takes: dict[str, Any] = {"GPU": {"num_gpus": 1}, "CPU": {"num_cpus": 1}}.get(
        kind, {"resources": {kind: 1}}
    )
    absolute = _absolute(settings)
    numbers = [{"shard": shard} for shard in wanted]
    return (
        ray.data.from_items(numbers, override_num_blocks=len(numbers))
        .map_batches(
            Actor,
            fn_constructor_args=(settings, absolute),
            batch_size=1,
            # One waits at each actor, so that none is idle; of a large cluster, the nodes may come
            # and go.
            compute=ray.data.ActorPoolStrategy(
                min_size=1, max_size=many, initial_size=many, max_tasks_in_flight_per_actor=2
            ),
            **takes,
        )
        .iter_rows()
    )


def _absolute(settings: Settings) -> dict[str, Any]:
    """The settings that are paths here, absolute: actors have another working folder."""
    made: dict[str, Any] = {"out": Path(settings.out).absolute()}
    if settings.listing is not None:
        made["listing"] = Path(settings.listing).absolute()
    texts = {"source": settings.source}
    # A known name is no path, also where a folder is called like it.
    if settings.shadow not in decoders.KINDS:
        texts["shadow"] = settings.shadow
    if not weights.name_of(settings.weights, system.KNOWN):
        texts["weights"] = settings.weights
    return made | {
        name: os.path.abspath(text) for name, text in texts.items() if Path(text).exists()
    }


class Actor:
    """The networks and the compiled program on one device; each call writes one shard."""

    def __init__(self, settings: Settings, changes: dict[str, Any]):
        self.job = Job(dataclasses.replace(settings, **changes))
        self.job.begin()

    def __call__(self, numbers: dict[str, Any]) -> dict[str, list[Any]]:
        (shard,) = (int(n) for n in numbers["shard"])
        wanted = [] if self.job.writing.has(shard) else [shard]
        ended = engine.shards(self.job, wanted)
        row = {"shard": shard, "items": ended.items, "seconds": ended.seconds}
        row["actor"] = f"{platform.node()}/{os.getpid()}"
        row |= {"waiting": ended.waiting, "refused": json.dumps(ended.refused)}
        return {name: [value] for name, value in row.items()}


def _ended(rows: list[dict[str, Any]]) -> Ended:
    """Of all actors, as if each had worked for the mean of their times."""
    refused = [tuple(one) for row in rows for one in json.loads(row["refused"])]
    many = max(1, len({row["actor"] for row in rows}))
    items, seconds, waiting = (
        sum(row[name] for row in rows) for name in ("items", "seconds", "waiting")
    )
    return Ended(items, seconds / many, waiting / many, tuple(refused))
