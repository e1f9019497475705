"""DuetFace's recogniser trained by distillation, and as a file.

The published recogniser is trained from scratch on millions of labelled faces. This one learns to
reproduce a frozen FaceNet: first its feature z, which costs little, then its embedding. It can at
best equal FaceNet, so it measures what DuetFace's channels allow a recogniser, not what DuetFace's
own training reaches.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from advface_jax import checks
from advface_jax.defenses import duetface_split
from advface_jax.models import files
from advface_jax.models.duetface import DuetFace, DuetFaceConfig, Recogniser
from advface_jax.models.facenet import InceptionResNetV1
from advface_jax.system import System
from advface_jax.training import step
from advface_jax.untrusted import BadFile


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """How the recogniser is trained.

    Attributes:
      learning_rate: Adam's at the peak of a cosine (5% warm-up, down to 1%).
      batch: Faces a step.
      feature_epochs: Passes over the faces towards FaceNet's z alone (L1); half the price of the
        others.
      embedding_epochs: Passes after them, towards its embedding too: L1 + (1 - cosine).
      flip: Mirror each picture with probability 1/2.
      seed: Of the weights, the order, the flips, and the pairs held out.
    """

    learning_rate: float = 4e-3
    batch: int = 8
    feature_epochs: int = 2
    embedding_epochs: int = 1
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        checks.positive(batch=self.batch, feature_epochs=self.feature_epochs)
        checks.above_zero(learning_rate=self.learning_rate)
        if self.embedding_epochs < 0:
            raise ValueError(f"got embedding_epochs={self.embedding_epochs}; wanted 0 or more")


Distiller = step.Trainer[DuetFace, DistillConfig]


def start(
    size: DuetFaceConfig, config: DistillConfig, steps: int
) -> tuple[Distiller, step.TrainState]:
    """A fresh DuetFace and the optimiser of so many ``steps`` in all."""
    optimizer = optax.adam(step.cosine(config.learning_rate, steps))
    return step.begin(DuetFace(size, rngs=nnx.Rngs(config.seed)), optimizer, config)


@functools.partial(jax.jit, static_argnames=("distiller", "embeddings"), donate_argnames="now")
def distill_step(
    now: step.TrainState,
    pixels: jax.Array,
    body: InceptionResNetV1,
    distiller: Distiller,
    embeddings: bool,
) -> tuple[step.TrainState, jax.Array]:
    """One Adam step on pixels (b,160,160,3) uint8 towards what ``body`` makes of the same images.

    Returns:
      The new state and (2,): the mean absolute error of z, and the mean cosine of the embeddings
      (0 without ``embeddings``).
    """
    config = distiller.config
    images, _ = step.images_of(pixels, config.flip, config.seed, now.step)
    kept, stored = duetface_split(images)
    z = body.extractor(images)
    wanted = body.server(z) if embeddings else None

    def loss(model: DuetFace) -> tuple[jax.Array, jax.Array]:
        ours = model.features(stored, model.mask(kept, "train"), body, "train")
        error, cosine = jnp.abs(ours - z).mean(), jnp.zeros(())
        if wanted is not None:
            cosine = (body.server(ours) * wanted).sum(-1).mean()
        return error + (1 - cosine) if embeddings else error, jnp.stack([error, cosine])

    return step.descend(now, distiller, loss)


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
      BadFile: no such file, a damaged one, or one trained in front of other weights.
    """
    arrays, card, size = files.read(
        path,
        "recogniser of DuetFace",
        lambda card: files.config(card["duetface"], DuetFaceConfig),
        ", as `python -m experiments.train_duetface` writes them",
    )
    if card["weights_sha256"] != system.card["sha256"]:
        raise BadFile(
            f"{path} stands in front of {card.get('weights')}; these weights are "
            f"{system.card['source']}: train one with `python -m experiments.train_duetface "
            f"--weights {system.card['source']} …`"
        )
    model = files.fill(path, lambda: DuetFace(size, rngs=nnx.Rngs(0)), arrays)
    return Recogniser(model, system.network), card
