"""A module's weights as a flat dictionary of dotted names, and back: the one way in and out."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

M = TypeVar("M", bound=nnx.Module)


def _variables(state: nnx.State) -> dict[str, nnx.Variable]:
    return {".".join(map(str, path)): variable for path, variable in nnx.to_flat_state(state)}


def flatten(module: nnx.Module) -> dict[str, jax.Array]:
    """Every array of ``module`` under its dotted path, as ``repeat_1.0.up.kernel``."""
    return {name: variable[...] for name, variable in _variables(nnx.state(module)).items()}


def shapes(build: Callable[[], nnx.Module]) -> dict[str, tuple[int, ...]]:
    """The dotted names and shapes that ``fill(build, …)`` needs; nothing is allocated."""
    variables = _variables(nnx.state(nnx.eval_shape(build)))
    return {name: variable.get_value().shape for name, variable in variables.items()}


def fill(build: Callable[[], M], weights: Mapping[str, np.ndarray | jax.Array]) -> M:
    """The module that ``build`` describes, holding ``weights`` (float32); nothing is initialised.

    Raises:
      ValueError: naming every missing, unknown and wrongly shaped array together.
    """
    module = nnx.eval_shape(build)
    state = nnx.state(module)
    variables = _variables(state)
    wanted = {name: variable.get_value().shape for name, variable in variables.items()}
    complaints = [f"missing {name} {wanted[name]}" for name in wanted.keys() - weights.keys()]
    complaints += [f"unknown {name}" for name in weights.keys() - wanted.keys()]
    complaints += [
        f"{name}: got shape {tuple(weights[name].shape)}, wanted {wanted[name]}"
        for name in wanted.keys() & weights.keys()
        if tuple(weights[name].shape) != wanted[name]
    ]
    if complaints:
        raise ValueError("the weights do not fit the model: " + "; ".join(sorted(complaints)))
    for name, variable in variables.items():
        variable.set_value(jnp.asarray(weights[name], jnp.float32))
    nnx.update(module, state)
    return module
