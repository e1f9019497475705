"""What a bulk protection will take, before it: operations, bytes, memory and time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from advface_jax import memory
from advface_jax.bulk.job import Job
from advface_jax.data.batches import Batch
from advface_jax.data.feature_sets import encoding


class Estimate(NamedTuple):
    """Of a whole set, on this process's devices.

    Attributes:
      items: to protect.
      flops: of one item: two for each multiplication in convolutions and products of matrices, of
        what the program does in all of its steps; a loop without a fixed end counts once.
      read, written: bytes of one item to the device, and of its record before compression.
      memory: bytes on each device, by the compiler's estimate; None where it gives none.
      free: bytes on each device; None if unknown.
      seconds: for all items, from the time of one batch.
      compiled: seconds that compilation took.
      devices: that compute, each a batch.
    """

    items: int
    flops: float
    read: int
    written: int
    memory: int | None
    free: int | None
    seconds: float
    compiled: float
    devices: int


def estimate(job: Job) -> Estimate:
    """Compile the job's program and run one batch of the first item; nothing is written."""
    began = time.perf_counter()
    job.compile()
    compiled = time.perf_counter() - began
    n, b = len(job.devices), job.settings.batch
    item = job.item
    values = np.zeros((b, *item.shape), item.dtype)
    for i in range(min(16, len(job.items))):
        try:
            values[:] = job.items.crop(i)
            break
        except ValueError:
            continue
    one, keys = Batch(0, np.arange(b), values, np.ones(b, bool), ()), np.zeros((b, 2), np.uint32)
    spent = []
    with ThreadPoolExecutor(n) as pool:
        for _ in range(2):  # the first call warms up
            began = time.perf_counter()
            list(pool.map(lambda device: job.compute(one, keys, device), range(n)))
            spent.append(time.perf_counter() - began)
    groups = math.ceil(math.ceil(len(job.items) / b) / n)
    return Estimate(
        items=len(job.items),
        flops=operations(job.traced().jaxpr) / b,
        read=math.prod(item.shape) * item.dtype.itemsize,
        written=encoding.size(job.settings.dtype, job.shape),
        memory=memory.needed(job.programs[0]),
        free=memory.available(job.devices[0]),
        seconds=groups * min(spent),
        compiled=compiled,
        devices=n,
    )


def operations(jaxpr: Any) -> float:
    """FLOPs of the convolutions and products of a program, loops of a fixed length multiplied."""
    total = 0.0
    for eqn in jaxpr.eqns:
        name, params = eqn.primitive.name, eqn.params
        if name == "conv_general_dilated":
            kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.size
            outputs = kernel[params["dimension_numbers"].rhs_spec[0]]
            # Of a dilated input most products are by the zeros between its elements.
            total += 2 * out * math.prod(kernel) / outputs / math.prod(params["lhs_dilation"])
        elif name == "dot_general":
            (summed, _), _ = params["dimension_numbers"]
            of = eqn.invars[0].aval.shape
            total += 2 * eqn.outvars[0].aval.size * math.prod(of[i] for i in summed)
        else:
            inner = [operations(one) for one in _inner(params)]
            many = max if name == "cond" else sum
            total += params.get("length", 1) * many(inner) if inner else 0
    return total


def _inner(params: dict[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for one in value if isinstance(value, (tuple, list)) else (value,):
            one = getattr(one, "jaxpr", one)
            if hasattr(one, "eqns"):
                yield one
