"""A batch across all devices, of one host or several: each device holds a part of the faces and
all of the networks.

Under ``jax.jit`` the compiler splits the one-device program: means over the batch, as in S's batch
norm, are over all devices.
"""

import contextlib
import contextvars
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, auto_axes

AXIS = "batch"
Tree = TypeVar("Tree")


def join(hosts: str) -> None:
    """Make this process one of several that compute together; call it before anything else of JAX.

    Args:
      hosts: "auto" where JAX finds the others by itself (Cloud TPU pods, Slurm, Open MPI,
        Kubernetes), else ADDRESS:PORT,COUNT,INDEX: where process 0 listens, the number of
        processes, and the number of this one.

    Raises:
      ValueError: for another form, hosts that are not found, or an earlier use of JAX.

    Example:
      >>> from advface_jax import sharding
      >>> sharding.join("10.0.0.1:8476,2,0")  # doctest: +SKIP
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
    """Processor cores that this process may use.

    Example:
      >>> from advface_jax import sharding
      >>> sharding.cores() >= 1
      True
    """
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def leads() -> bool:
    """Whether this is process 0, which prints and writes for all.

    Example:
      >>> from advface_jax import sharding
      >>> sharding.leads()  # alone
      True
    """
    return jax.process_index() == 0


def across(batch: int, devices: Sequence[Any] | None = None) -> Mesh | None:
    """A mesh of all devices (or those given) for batches of ``batch`` items; None for one device.

    On a CPU it takes as many cores as can share the batch equally. Accelerators must share it
    equally: on one of them alone a run would be slow without a warning, and the batch size, which
    changes the result (S's statistics), is the user's choice.

    Raises:
      ValueError: ``batch`` is no multiple of the number of accelerators.

    Example:
      >>> import jax
      >>> from advface_jax import sharding
      >>> sharding.across(8, jax.devices()[:1]) is None  # one device needs no mesh
      True
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
    """The most of ``devices`` devices that can share ``batch`` items equally."""
    return max(n for n in range(1, devices + 1) if batch % n == 0)


_alone = contextvars.ContextVar("alone", default=False)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """In here programs are traced for one device with batches of its own, however many there are:
    they are then the same on a machine with other cores."""
    token = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(token)


def sharing(batch: int) -> int:
    """The number of devices that are taken to share ``batch`` items while a program is traced."""
    devices = 1 if _alone.get() else jax.device_count()
    return devices if batch % devices == 0 else 1


def rows(mesh: Mesh | None) -> NamedSharding | None:
    """The sharding of a batch's arrays across ``mesh``, for ``data.to_device``."""
    return None if mesh is None else NamedSharding(mesh, PartitionSpec(AXIS))


def split(batch: Tree, mesh: Mesh | None) -> Tree:
    """The arrays of a batch, each with its first axis across ``mesh`` (None: as they are).

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from advface_jax import sharding
      >>> mesh = sharding.across(8)  # all devices
      >>> sharding.split(np.ones((8, 4)), mesh).shape
      (8, 4)
    """
    return _put(batch, mesh, PartitionSpec(AXIS))


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """A pytree's arrays (networks, ε), whole on every device of ``mesh`` (None: as they are).

    Example:
      >>> import numpy as np
      >>> from advface_jax import sharding
      >>> mesh = sharding.across(8)
      >>> sharding.replicate({"weights": np.ones(3)}, mesh)["weights"].shape
      (3,)
    """
    return _put(tree, mesh, PartitionSpec())


def whole(array: jax.Array) -> np.ndarray:
    """A whole array on every host, wherever its parts are.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import sharding
      >>> sharding.whole(jnp.ones(3)).tolist()
      [1.0, 1.0, 1.0]
    """
    if array.is_fully_addressable:
        return np.asarray(array)
    from jax.experimental import multihost_utils  # for several hosts only

    return np.asarray(multihost_utils.process_allgather(array, tiled=True))


def automatic(f: Callable[..., Any], *specs: Callable[[PartitionSpec], PartitionSpec]) -> Any:
    """``f`` with the shardings inside left to the compiler, for a first argument that is explicitly
    sharded (over a mesh that ``jax.make_mesh`` makes by default since jax 0.9); else ``f`` itself.

    Args:
      f: (x, …) -> an array, or a tuple of them.
      specs: for each result, its spec from that of x.
    """

    def call(x: jax.Array, *rest: Any) -> Any:
        place = jax.typeof(x).sharding
        if AxisType.Explicit not in place.mesh.axis_types:
            return f(x, *rest)
        out = tuple(NamedSharding(place.mesh, spec(place.spec)) for spec in specs)
        out = out if len(specs) > 1 else out[0]
        return auto_axes(f, axes=place.mesh.axis_names, out_sharding=out)(x, *rest)

    return call


def _put(tree: Any, mesh: Mesh | None, spec: PartitionSpec) -> Any:
    if mesh is None:
        return tree
    place = NamedSharding(mesh, spec)
    if jax.process_count() == 1:
        return jax.device_put(tree, place)

    def parts(array: Any) -> jax.Array:
        # Every host has the whole batch and copies the parts of its own devices: nothing is sent.
        full = array if isinstance(array, np.ndarray) else np.asarray(array)
        return jax.make_array_from_callback(full.shape, place, lambda index: full[index])

    return jax.tree.map(parts, tree)
