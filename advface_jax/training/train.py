"""Training a decoder on (stored item, image) pairs with the L1 loss of the paper's Eq. 1 and 3."""

import dataclasses
import functools
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax.typing import ArrayLike

from advface_jax import checks
from advface_jax.defenses import Defense
from advface_jax.models import decoders, facenet
from advface_jax.training import step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Given:
    """What is decoded, known beforehand: for images that are not mirrored."""

    stored: ArrayLike

    def __call__(self, images: jax.Array) -> jax.Array:
        return jnp.asarray(self.stored, images.dtype)


Front = facenet.Extractor | Defense | Given
"""What turns images into the decoder's input: E, or a defence on images. A pytree."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """How a decoder is trained.

    Attributes:
      learning_rate: Adam's; with the cosine schedule 2e-3 needs few epochs (paper: 1e-4).
      schedule: constant, or cosine (5% warm-up, down to 1%).
      batch: Faces a step.
      epochs: Passes over the faces.
      flip: Mirror each picture with probability 1/2.
      seed: Of the weights, the order, the flips, and a defence's noise.
    """

    learning_rate: float = 1e-4
    schedule: Literal["constant", "cosine"] = "constant"
    batch: int = 16
    epochs: int = 20
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        checks.positive(batch=self.batch, epochs=self.epochs)
        checks.above_zero(learning_rate=self.learning_rate)


Trainer = step.Trainer[decoders.AnyDecoder, TrainConfig]


def start(
    decoder_config: decoders.AnyConfig,
    config: TrainConfig,
    faces: int,
    decoder: decoders.AnyDecoder | None = None,
) -> tuple[Trainer, step.TrainState]:
    """A fresh decoder, or a copy of ``decoder`` to train further, and the optimiser for a training
    set of so many ``faces``.

    Example:
      >>> from advface_jax.models.decoders import DecoderConfig
      >>> from advface_jax.training import train
      >>> config = train.TrainConfig(batch=2, epochs=1)
      >>> trainer, state = train.start(DecoderConfig.of("resrec"), config, faces=2)
    """
    total = config.epochs * step.steps_per_epoch(faces, config.batch)
    if decoder is None:
        decoder = decoders.decoder(decoder_config, rngs=nnx.Rngs(config.seed))
    return step.begin(decoder, _adam(config.learning_rate, config.schedule, total), config)


@functools.cache  # a static argument of the step: one program serves trainings that are alike
def _adam(rate: float, schedule: str, total: int) -> optax.GradientTransformation:
    return optax.adam(step.cosine(rate, total) if schedule == "cosine" else rate)


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def train_step(
    state: step.TrainState, pixels: jax.Array, front: Front, trainer: Trainer
) -> tuple[step.TrainState, jax.Array]:
    """One Adam step on pixels (b,160,160,3) uint8: the new state, and the mean absolute error.

    Example:
      >>> import numpy as np
      >>> from advface_jax.models.decoders import DecoderConfig
      >>> from advface_jax.training import step, train
      >>> config = train.TrainConfig(batch=2, epochs=1)
      >>> trainer, state = train.start(DecoderConfig.of("resrec"), config, faces=2)
      >>> faces = np.zeros((2, 160, 160, 3), "uint8")
      >>> z = np.zeros((2, 77, 77, 64), "float32")  # what is stored of these faces
      >>> state, error = train.train_step(state, faces, train.Given(z), trainer)
      >>> decoder = step.finished(trainer, state)
    """
    config = trainer.config
    images, key = step.images_of(pixels, config.flip, config.seed, state.step)
    stored = see(front, images, jax.random.fold_in(key, 1))

    def loss(decoder: decoders.AnyDecoder) -> tuple[jax.Array, jax.Array]:
        error = jnp.abs(decoder(stored, "train") - images).mean()
        return error, error

    return step.descend(state, trainer, loss)


def see(front: Front, images: jax.Array, key: jax.Array) -> jax.Array:
    """The decoder's input from images (b,160,160,3) in [0,1]; ``key`` is for a defence's noise."""
    return front(images, key=key) if isinstance(front, Defense) else front(images)


@jax.jit
def reconstruct(
    pixels: jax.Array, front: Front, decoder: decoders.AnyDecoder, seed: int = 0
) -> jax.Array:
    """R(E(x)) in [0,1] for pixels x (b,160,160,3) uint8, with the decoder's own statistics.

    ``seed`` is of the noise, if ``front`` is a defence with noise.
    """
    return decoder(see(front, pixels.astype(jnp.float32) / 255, jax.random.key(seed)))
