"""What every training shares: its state, and one optimiser step on images mirrored at random."""

from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

Model = TypeVar("Model", bound=nnx.Module)
Config = TypeVar("Config")


class TrainState(NamedTuple):
    """Everything that a step reads and writes; a tree of arrays, so that Orbax can keep it."""

    params: nnx.State
    statistics: nnx.State
    optimizer: Any
    step: jax.Array


class Trainer(NamedTuple, Generic[Model, Config]):
    """The static part: the model's structure, the optimiser, the config."""

    graph: nnx.GraphDef[Model]
    optimizer: optax.GradientTransformation
    config: Config


def begin(
    model: Model, optimizer: optax.GradientTransformation, config: Config
) -> tuple[Trainer[Model, Config], TrainState]:
    """The start of a training of ``model``, of which the state has copies."""
    graph, params, statistics = nnx.split(model, nnx.Param, ...)
    # Copies: a step gives its state's memory back, and the model may be part of a system.
    params, statistics = jax.tree.map(jnp.copy, (params, statistics))
    state = TrainState(params, statistics, optimizer.init(params), jnp.zeros((), jnp.int32))
    return Trainer(graph, optimizer, config), state


def finished(trainer: Trainer[Model, Any], state: TrainState) -> Model:
    """The model as trained so far: a copy, which a further step does not take away."""
    params, statistics = jax.tree.map(jnp.copy, (state.params, state.statistics))
    return nnx.merge(trainer.graph, params, statistics, copy=True)


def cosine(peak: float, steps: int) -> optax.Schedule:
    """5% linear warm-up to ``peak``, then a cosine down to 1% of it."""
    return optax.warmup_cosine_decay_schedule(
        peak / 20, peak, max(steps // 20, 1), max(steps, 2), peak / 100
    )


def steps_per_epoch(faces: int, batch: int) -> int:
    """Whole batches in an epoch; the order is new in each, so other faces are left over."""
    if faces < batch:
        raise ValueError(
            f"got {faces} faces for batches of {batch}; wanted at least one batch: give more faces "
            "or a smaller batch"
        )
    return faces // batch


def images_of(
    pixels: jax.Array, flip: bool, seed: int, step: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Pixels (b,160,160,3) uint8 as images in [0,1], with ``flip`` each mirrored with probability
    1/2, and the key of this step."""
    images = pixels.astype(jnp.float32) / 255
    key = jax.random.fold_in(jax.random.key(seed), step)
    if flip:
        mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    return images, key


def descend(
    state: TrainState, trainer: Trainer[Model, Any], loss: Callable[[Model], tuple[jax.Array, Any]]
) -> tuple[TrainState, Any]:
    """One step of the optimiser: the new state, and what ``loss`` reported before the step.

    ``loss`` gives, of the model, the scalar to lower and anything to report.
    """

    def of(params: nnx.State):
        model = nnx.merge(trainer.graph, params, state.statistics, copy=True)
        value, report = loss(model)
        return value, (nnx.split(model, nnx.Param, ...)[2], report)

    (_, (statistics, report)), gradient = jax.value_and_grad(of, has_aux=True)(state.params)
    updates, memory = trainer.optimizer.update(gradient, state.optimizer, state.params)  # type: ignore[arg-type]
    params: Any = optax.apply_updates(state.params, updates)  # type: ignore[arg-type]
    return TrainState(params, statistics, memory, state.step + 1), report
