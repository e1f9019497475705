"""DuetFace's recogniser trained by distillation, and as a file.

The published one is trained from scratch on millions of faces, by labels. This one learns to give
a frozen FaceNet what FaceNet would have seen: first the feature z, which costs little, then the
embedding. So it starts from FaceNet's knowledge of faces and can come near it at best; what is
measured with it is what DuetFace's channels allow a recogniser, not what DuetFace's training gives.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from advface_jax import checks
from advface_jax.defenses import duetface_split
from advface_jax.models import files, state
from advface_jax.models.duetface import DuetFace, DuetFaceConfig, Recogniser
from advface_jax.models.facenet import InceptionResNetV1
from advface_jax.system import System
from advface_jax.training.train import TrainState


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How the recogniser is trained.

    Attributes:
      learning_rate: Adam's, the peak of a cosine (5% warm-up, down to 1%).
      batch: faces a step.
      feature_epochs: passes over the faces towards FaceNet's z alone, by L1.
      embedding_epochs: passes after them, towards its embedding too: L1 + (1 - cosine).
      flip: mirror each picture with probability 1/2.
      seed: of the first weights, the order of the faces and the flips.
    """

    learning_rate: float = 4e-3
    batch: int = 8
    feature_epochs: int = 2
    embedding_epochs: int = 1
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        checks.positive(batch=self.batch, feature_epochs=self.feature_epochs)
        if self.embedding_epochs < 0:
            raise ValueError(f"got embedding_epochs={self.embedding_epochs}; wanted 0 or more")
        if not 0 < self.learning_rate < float("inf"):
            raise ValueError(f"got learning_rate={self.learning_rate}; wanted a positive number")


class Distiller(NamedTuple):
    """The static part: the structure, the optimiser, the config."""

    graph: nnx.GraphDef[DuetFace]
    optimizer: optax.GradientTransformation
    config: DistillConfig


def start(size: DuetFaceConfig, config: DistillConfig, steps: int) -> tuple[Distiller, TrainState]:
    """A fresh DuetFace and the optimiser of so many ``steps`` in all."""
    rate = optax.warmup_cosine_decay_schedule(
        config.learning_rate / 20,
        config.learning_rate,
        max(steps // 20, 1),
        max(steps, 2),
        config.learning_rate / 100,
    )
    fresh = DuetFace(size, rngs=nnx.Rngs(config.seed))
    graph, params, statistics = nnx.split(fresh, nnx.Param, ...)
    optimizer = optax.adam(rate)
    now = TrainState(params, statistics, optimizer.init(params), jnp.zeros((), jnp.int32))
    return Distiller(graph, optimizer, config), now


@functools.partial(jax.jit, static_argnames=("distiller", "embeddings"), donate_argnames="now")
def distill_step(
    now: TrainState,
    pixels: jax.Array,
    body: InceptionResNetV1,
    distiller: Distiller,
    embeddings: bool,
) -> tuple[TrainState, jax.Array]:
    """One Adam step on pixels (b,160,160,3) uint8 towards what ``body`` makes of the same images.

    Returns the new state and (2,): the mean absolute error of z, and the mean cosine of the
    embeddings (0 where they are not asked for).
    """
    images = pixels.astype(jnp.float32) / 255
    if distiller.config.flip:
        key = jax.random.fold_in(jax.random.key(distiller.config.seed), now.step)
        mirrored = jax.random.bernoulli(key, shape=(images.shape[0], 1, 1, 1))
        images = jnp.where(mirrored, images[:, :, ::-1], images)
    kept, stored = duetface_split(images)
    z = body.extractor(images)
    wanted = body.server(z) if embeddings else None

    def loss(params: nnx.State):
        model = nnx.merge(distiller.graph, params, now.statistics, copy=True)
        ours = model.features(stored, model.mask(kept, "train"), body, "train")
        error, cosine = jnp.abs(ours - z).mean(), jnp.zeros(())
        if wanted is not None:
            cosine = (body.server(ours) * wanted).sum(-1).mean()
        total = error + (1 - cosine) if embeddings else error
        return total, (nnx.split(model, nnx.Param, ...)[2], jnp.stack([error, cosine]))

    grown = jax.value_and_grad(loss, has_aux=True)
    (_, (statistics, said)), gradient = grown(now.params)
    updates, optimizer = distiller.optimizer.update(gradient, now.optimizer, now.params)
    params = optax.apply_updates(now.params, updates)
    return TrainState(params, statistics, optimizer, now.step + 1), said  # type: ignore[arg-type]


def finished(distiller: Distiller, now: TrainState) -> DuetFace:
    """DuetFace as trained so far."""
    return nnx.merge(distiller.graph, now.params, now.statistics, copy=True)


def write_duetface(path: str | os.PathLike[str], model: DuetFace, card: Mapping[str, Any]) -> None:
    """Write the trained part as ``path`` (safetensors, half precision), its card beside it (.json).

    FaceNet is not in it; the card names it by ``weights`` and ``weights_sha256``.
    """
    files.write(path, model, {**card, "duetface": dataclasses.asdict(model.config)}, "float16")


def read_duetface(
    path: str | os.PathLike[str], system: System
) -> tuple[Recogniser, dict[str, Any]]:
    """DuetFace's recogniser in front of the system's FaceNet, and its card.

    Raises:
      ValueError: no such file, a damaged one, or one trained in front of other weights.
    """
    arrays, card, size = files.read(
        path,
        "recogniser of DuetFace",
        lambda card: DuetFaceConfig(**card["duetface"]),
        ", as `python -m experiments.train_duetface` writes them",
    )
    if card["weights_sha256"] != system.card["sha256"]:
        raise ValueError(
            f"{path} stands in front of {card['weights']}; these weights are "
            f"{system.card['source']}: train one with `python -m experiments.train_duetface "
            f"--weights {system.card['source']} …`"
        )
    model = state.fill(lambda: DuetFace(size, rngs=nnx.Rngs(0)), arrays)
    return Recogniser(model, system.network), card
