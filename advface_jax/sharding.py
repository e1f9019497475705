"""A batch across all devices, of one host or several: each device holds a part of the faces and
all of the networks.

Under ``jax.jit`` a program over such a batch is the one-device program, split by the compiler:
means over the batch, as those of S's batch norm, are over all devices. Nothing else has to change.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
Tree = TypeVar("Tree")


def join(hosts: str) -> None:
    """Make this process one of several that compute together; before anything else of JAX.

    hosts: "auto" where JAX finds the others by itself (Cloud TPU pods, Slurm, Open MPI,
    Kubernetes), else ADDRESS:PORT,COUNT,INDEX: where process 0 listens, how many processes there
    are, and which of them this is.

    Raises:
      ValueError: neither of those; nothing to be found; another use of JAX came before.
    """
    wanted = f"got hosts {hosts!r}; wanted 'auto', or ADDRESS:PORT,COUNT,INDEX as 10.0.0.1:8476,2,0"
    given: dict[str, Any] = {}
    if hosts != "auto":
        address, *numbers = hosts.split(",")
        if ":" not in address or len(numbers) != 2 or not all(n.isdecimal() for n in numbers):
            raise ValueError(wanted)
        count, index = map(int, numbers)
        if index >= count:
            raise ValueError(f"{wanted}: the last INDEX of {count} is {count - 1}")
        given = {"coordinator_address": address, "num_processes": count, "process_id": index}
    try:
        jax.distributed.initialize(**given)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{wanted}, before any other use of JAX ({error})") from error


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores_as_devices() -> None:
    """Let JAX take each processor core for a device, before anything else of JAX.

    XLA:CPU (jax 0.10) computes most convolutions on one core, however many there are; of a batch
    across all of them each computes its part. Where JAX was told a number (JAX_NUM_CPU_DEVICES,
    XLA_FLAGS), or has looked for its devices already, that stands; of accelerators nothing changes.
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not told and jax.config.jax_num_cpu_devices < 0:  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError):  # JAX's word for "too late"
            jax.config.update("jax_num_cpu_devices", cores())


def leads() -> bool:
    """Whether this process is the one that speaks and writes for all (process 0)."""
    return jax.process_index() == 0


def across(batch: int, devices: Sequence[Any] | None = None) -> Mesh | None:
    """All devices in a row, or those given, for batches of ``batch`` items; None where there is
    but one. Of a CPU's cores it takes as many as can share the batch equally.

    A batch that accelerators cannot share equally is refused, rather than left on one of them: a
    run would take as many times longer without a word, and another size of batch changes what is
    computed (S's statistics), so that nobody but the user may choose it.

    Raises:
      ValueError: ``batch`` is no multiple of the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if devices[0].platform == "cpu" and jax.process_count() == 1:
        devices = devices[: most(batch, len(devices))]
    n = len(devices)
    if n == 1:
        return None
    if batch % n:
        few = f"{batch - batch % n} or " if batch > n else ""
        raise ValueError(
            f"got batches of {batch} for {n} devices; wanted a multiple of {n}: {few}"
            f"{batch + n - batch % n}; or let JAX see fewer devices (CUDA_VISIBLE_DEVICES)"
        )
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def most(batch: int, devices: int) -> int:
    """How many of so many devices can share ``batch`` items equally."""
    return max(n for n in range(1, devices + 1) if batch % n == 0)


def rows(mesh: Mesh | None) -> NamedSharding | None:
    """How the arrays of a batch lie across ``mesh``, as ``data.to_device`` wants it."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(AXIS))


def split(batch: Tree, mesh: Mesh | None) -> Tree:
    """The arrays of a batch, each with its first axis across ``mesh`` (None: as they are)."""
    return _put(batch, mesh, PartitionSpec(AXIS))


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """A pytree's arrays (networks, ε), whole on every device of ``mesh`` (None: as they are)."""
    return _put(tree, mesh, PartitionSpec())


def whole(array: jax.Array) -> np.ndarray:
    """All of an array, on every host, wherever its parts lie."""
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils  # for several hosts only

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def _put(tree: Any, mesh: Mesh | None, spec: PartitionSpec) -> Any:
    if mesh is None:
        return tree
    place = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, place)

    def parts(array: Any) -> jax.Array:
        # Every host has the whole batch and gives its own devices their part: nothing is sent.
        full = array if isinstance(array, np.ndarray) else np.asarray(array)
        return jax.make_array_from_callback(full.shape, place, lambda index: full[index])

    return jax.tree.map(parts, tree)
