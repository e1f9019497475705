"""A batch across all devices: each holds a part of the faces and all of the networks.

Under ``jax.jit`` a program over such a batch is the one-device program, split by the compiler:
means over the batch, as those of S's batch norm, are over all devices. Nothing else has to change.
"""

from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "batch"
Tree = TypeVar("Tree")


def across(batch: int) -> Mesh | None:
    """All devices in a row, for batches of ``batch`` items; None where there is but one.

    A batch that the devices cannot share equally is refused, rather than left on one of them: a
    run would take as many times longer without a word, and another size of batch changes what is
    computed (S's statistics), so that nobody but the user may choose it.

    Raises:
      ValueError: ``batch`` is no multiple of the number of devices.
    """
    devices = jax.devices()
    n = len(devices)
    if n == 1:
        return None
    if batch % n:
        few = f"{batch - batch % n} or " if batch > n else ""
        raise ValueError(
            f"got batches of {batch} for {n} devices; wanted a multiple of {n}: {few}"
            f"{batch + n - batch % n}; or let JAX see fewer devices (CUDA_VISIBLE_DEVICES, "
            "JAX_NUM_CPU_DEVICES)"
        )
    return Mesh(np.asarray(devices), (AXIS,), axis_types=(AxisType.Auto,))


def split(batch: Tree, mesh: Mesh | None) -> Tree:
    """The arrays of a batch, each with its first axis across ``mesh`` (None: as they are)."""
    return _put(batch, mesh, PartitionSpec(AXIS))


def replicate(tree: Tree, mesh: Mesh | None) -> Tree:
    """A pytree's arrays (networks, ε), whole on every device of ``mesh`` (None: as they are)."""
    return _put(tree, mesh, PartitionSpec())


def _put(tree: Any, mesh: Mesh | None, spec: PartitionSpec) -> Any:
    return tree if mesh is None else jax.device_put(tree, NamedSharding(mesh, spec))
