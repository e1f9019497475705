"""Training a recogniser by triplet loss and cross-entropy (paper, section 5.1).

Adam, its rate × 0.94 after every epoch: first a classifier over the frozen network, then all of it.
The classifier's input is the bottleneck's output before it is normalised, as in David Sandberg's
``facenet``; triplets are of the normalised embeddings. Each part has its own learning rate, and the
loss is the plain sum of the two losses: the paper specifies neither.

A batch holds several images of several people (``data.Grouped``), so that it holds triplets.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from advface_jax import checks
from advface_jax.data.batches import epoch_order
from advface_jax.models.compact import Compact
from advface_jax.models.facenet import Extractor, Server
from advface_jax.training import losses, step

Recogniser = Server | Compact


@dataclasses.dataclass(frozen=True)
class FinetuneConfig:
    """How a recogniser is trained.

    Attributes:
      classifier_epochs: Passes of the classifier alone, over the frozen network (paper: 50); 0 for
        none.
      epochs: Passes of the whole network (paper: 50).
      classifier_rate: Adam's learning rate for the classifier alone.
      learning_rate: Adam's for the whole. The paper names none.
      decay: Both rates are multiplied by it after every epoch.
      people: People in a batch.
      images: Images of each of them in a batch.
      margin: Of the triplet loss, in squared distance.
      mining: Which triplets: semi-hard (FaceNet's) or batch-hard.
      flip: Mirror each picture with probability 1/2; features cannot be mirrored.
      seed: Of the classifier, the order, the flips, and who is held out.
    """

    classifier_epochs: int = 50
    epochs: int = 50
    classifier_rate: float = 1e-3
    # Of 1e-6, 3e-6, 5e-6 and 1e-5 the one that kept the people held out of CelebA A furthest apart.
    # A network and a classifier that fit already give next to no gradient, of which Adam makes
    # steps of full length.
    learning_rate: float = 1e-6
    decay: float = dataclasses.field(default=0.94, init=False)  # the paper's
    people: int = 8
    images: int = 4
    margin: float = losses.MARGIN
    mining: losses.Mining = "semi-hard"
    flip: bool = True
    seed: int = 0

    def __post_init__(self):
        checks.positive(epochs=self.epochs, people=self.people, images=self.images)
        checks.choice(self.mining, "mining", ("semi-hard", "batch-hard"))
        checks.above_zero(classifier_rate=self.classifier_rate, learning_rate=self.learning_rate)
        checks.above_zero(margin=self.margin)
        if self.classifier_epochs < 0 or self.seed < 0:
            given = f"classifier_epochs={self.classifier_epochs}, seed={self.seed}"
            raise ValueError(f"got {given}; wanted 0 or more")
        if self.people < 2:
            raise ValueError("got people=1 in a batch; wanted 2 or more, else there is no triplet")

    @property
    def batch(self) -> int:
        """Faces a step."""
        return self.people * self.images


class Learner(nnx.Module):
    """What is trained: Ψ and the classifier, and E where it is to change."""

    def __init__(
        self,
        server: Recogniser,
        inputs: int,
        classes: int,
        seed: int,
        extractor: Extractor | None = None,
    ):
        """``inputs`` is the width of the bottleneck, ``seed`` of the classifier."""
        self.server = server
        self.logits = nnx.Linear(inputs, classes, rngs=nnx.Rngs(seed))
        self.extractor = extractor


Tuner = step.Trainer[Learner, FinetuneConfig]


def rate(start: float, decay: float, per_epoch: int) -> optax.Schedule:
    """``start`` in the first epoch, and ``decay`` times as much in each after it."""
    return optax.exponential_decay(start, per_epoch, decay, staircase=True)


@functools.lru_cache(maxsize=8)  # the same one for the same numbers: one compilation serves both
def _adam(start: float, decay: float, per_epoch: int) -> optax.GradientTransformation:
    return optax.adam(rate(start, decay, per_epoch))


def start(
    learner: Learner, config: FinetuneConfig, per_epoch: int
) -> tuple[Tuner, step.TrainState]:
    """The beginning of the whole network's training; the state has copies of the weights."""
    optimizer = _adam(config.learning_rate, config.decay, per_epoch)
    return step.begin(learner, optimizer, config)


class Losses(NamedTuple):
    """One step's two losses."""

    triplet: jax.Array
    cross_entropy: jax.Array


@functools.partial(jax.jit, static_argnames="tuner", donate_argnames="state")
def train_step(
    state: step.TrainState,
    batch: jax.Array,
    labels: jax.Array,
    mask: jax.Array,
    extractor: Extractor | None,
    tuner: Tuner,
) -> tuple[step.TrainState, Losses]:
    """One Adam step: the new state, and the losses before the step.

    Args:
      state: before the step.
      batch: pixels (b,160,160,3) uint8, or features (b,77,77,64) float32, on which Ψ alone trains.
      labels: int (b,).
      mask: (b,), 0 for padding, which counts neither in a loss nor in batch norm.
      extractor: the frozen E for pixels, if the learner has none of its own; else None.
      tuner: the static part.
    """
    config = tuner.config
    if batch.dtype == jnp.uint8:
        batch, _ = step.images_of(batch, config.flip, config.seed, state.step)
        if extractor is not None:
            batch = extractor(batch)

    def loss(learner: Learner) -> tuple[jax.Array, Losses]:
        z = batch if learner.extractor is None else learner.extractor(batch, "train", mask)
        stages = dict(learner.server.stages(z, "train", mask))
        parts = Losses(
            losses.triplet_loss(
                stages["embedding"], labels, margin=config.margin, mining=config.mining, mask=mask
            ),
            losses.cross_entropy(learner.logits(stages["bottleneck"]), labels, mask),
        )
        return sum(parts), parts  # type: ignore[return-value]

    return step.descend(state, tuner, loss)


@jax.jit
def bottleneck(batch: jax.Array, server: Recogniser, extractor: Extractor | None) -> jax.Array:
    """The classifier's input (b,e), by stored statistics, from pixels (b,160,160,3) uint8, which
    need E, or features (b,77,77,64) float32."""
    if batch.dtype == jnp.uint8 and extractor is not None:
        batch = extractor(batch.astype(jnp.float32) / 255)
    return dict(server.stages(checks.features(batch)))["bottleneck"]


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def _classifier_epoch(
    state: step.TrainState, bottlenecks: jax.Array, labels: jax.Array, order: jax.Array, trainer
) -> tuple[step.TrainState, jax.Array]:
    def one(state, rows):
        def loss(logits):
            value = losses.cross_entropy(logits(bottlenecks[rows]), labels[rows])
            return value, value

        return step.descend(state, trainer, loss)

    state, values = jax.lax.scan(one, state, order)
    return state, values.mean()


class ClassifierTraining:
    """The first part: a classifier over the bottlenecks of a frozen network, epoch by epoch.

    The network does not change, so its outputs are computed once and given here: (n,e) float32.
    """

    BATCH = 256  # faces a step: a single matrix product each, of which larger ones are cheaper

    def __init__(
        self, bottlenecks: ArrayLike, labels: np.ndarray, fresh: nnx.Linear, config: FinetuneConfig
    ):
        self.bottlenecks, self.labels = jnp.asarray(bottlenecks), jnp.asarray(labels)
        self.batch = min(self.BATCH, len(labels))
        optimizer = _adam(config.classifier_rate, config.decay, len(labels) // self.batch)
        self.trainer, self.state = step.begin(fresh, optimizer, config)
        self.epoch = 0

    def advance(self) -> float:
        """One epoch; its mean cross-entropy."""
        n = len(self.labels)
        order = epoch_order(n, self.trainer.config.seed, self.epoch)
        order = order[: n // self.batch * self.batch].reshape(-1, self.batch)
        self.state, value = _classifier_epoch(
            self.state, self.bottlenecks, self.labels, order, self.trainer
        )
        self.epoch += 1
        return float(value)
