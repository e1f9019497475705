"""A module's weights as a flat dictionary of dotted names, and back: the one way in and out."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

M = TypeVar("M", bound=nnx.Module)


def flatten(module: nnx.Module) -> dict[str, jax.Array]:
    """Every array of ``module`` under its dotted path, as ``repeat_1.0.up.kernel``."""
    return {
        ".".join(map(str, path)): variable[...]
        for path, variable in nnx.to_flat_state(nnx.state(module))
    }


def shapes(build: Callable[[], nnx.Module]) -> dict[str, tuple[int, ...]]:
    """The dotted names and shapes that ``fill(build, …)`` needs; nothing is allocated."""
    state = nnx.state(nnx.eval_shape(build))
    return {".".join(map(str, p)): v.get_value().shape for p, v in nnx.to_flat_state(state)}


def fill(build: Callable[[], M], weights: Mapping[str, np.ndarray | jax.Array]) -> M:
    """The module that ``build`` describes, holding ``weights`` (float32); nothing is initialised.

    Raises:
      ValueError: naming every missing, unknown and wrongly shaped array together.
    """
    wanted = shapes(build)
    complaints = [f"missing {name} {wanted[name]}" for name in wanted.keys() - weights.keys()]
    complaints += [f"unknown {name}" for name in weights.keys() - wanted.keys()]
    complaints += [
        f"{name}: got shape {tuple(weights[name].shape)}, wanted {wanted[name]}"
        for name in wanted.keys() & weights.keys()
        if tuple(weights[name].shape) != wanted[name]
    ]
    if complaints:
        raise ValueError("the weights do not fit the model: " + "; ".join(sorted(complaints)))

    module = nnx.eval_shape(build)
    state = nnx.state(module)
    for path, variable in nnx.to_flat_state(state):
        variable.set_value(jnp.asarray(weights[".".join(map(str, path))], jnp.float32))
    nnx.update(module, state)
    return module
