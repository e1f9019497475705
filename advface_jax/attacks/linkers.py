"""Readers of identity that are trained on stored items: with stolen names, or made by the attacker.

An attacker with E and the code of the defence can protect public, named faces himself, as many as
he likes; then ``knows`` says so in the place of "names".
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from advface_jax import checks
from advface_jax.attacks import reading
from advface_jax.attacks.attack import Attack
from advface_jax.attacks.stitching import Sibling
from advface_jax.data.grouped import Grouped
from advface_jax.models.compact import Compact
from advface_jax.training import finetune, step

BATCH = 32
POOL = 7
"""Learnt on 50 and on 150 people of CelebA B, for 60 people of CelebA A: rank 1 rises from 2 to 7,
and is the same within its error for 7, 11, 15 and 25."""
TUNING = finetune.FinetuneConfig(classifier_epochs=20, epochs=8, learning_rate=2e-5, flip=False)
FROM_NOTHING = finetune.FinetuneConfig(
    classifier_epochs=0, epochs=30, learning_rate=1e-3, people=16, flip=False
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linear:
    """Features (b,h,w,c), averaged over ``pool`` × ``pool`` places, by a linear map to (b,e).

    Attributes:
      mean: (d,) of the training items, pooled.
      weights: (d,e).
    """

    mean: jax.Array
    weights: jax.Array
    pool: int = dataclasses.field(metadata={"static": True})

    def __call__(self, z: jax.Array) -> jax.Array:
        with jax.default_matmul_precision("highest"):
            return (_pooled(z, self.pool) - self.mean[None]) @ self.weights


def fisher(
    name: str,
    stored: ArrayLike,
    names: Sequence[str],
    knows: Sequence[str] = ("names",),
    *,
    pool: int = POOL,
    shrink: float = 0.1,
    size: int = 128,
) -> Attack:
    """A linear linker in closed form: Fisher's discriminant directions of named items.

    Directions in which people differ most, against how much one person's items do (Belhumeur et
    al. 1997). It has no parameters to train, and reads people who are not among ``names``.

    Args:
      name, knows: of the ``Attack``.
      stored: (n,h,w,c).
      names: n of them, equal for one person.
      pool: places are averaged over pool × pool of them first.
      shrink: share of a multiple of the identity in the covariance within people, above 0, to 1.
      size: most directions; there are no more than people, less one.

    Raises:
      ValueError: fewer than two people, no person with two items, or settings out of range.

    Example:
      >>> import numpy as np
      >>> from advface_jax import attacks
      >>> faces = np.random.default_rng(0).random((3, 7, 7, 2), "float32")
      >>> stolen = np.concatenate([faces, 0.9 * faces])  # two items of each person
      >>> attack = attacks.linkers.fisher("Fisher", stolen, ["a", "b", "c"] * 2, pool=1)
      >>> attack(stolen).shape  # no more directions than people, less one
      (6, 2)
    """
    labels = _labels(stored, names)
    if not 0 < shrink <= 1:
        raise ValueError(f"got shrink={shrink}; wanted above 0, to 1")
    checks.positive(size=size)
    began = time.monotonic()
    mean, axes, t = _principal(stored, pool)  # (d,), (d, r), (n, r)
    counts = np.bincount(labels)
    means = np.stack([np.bincount(labels, column) for column in t.T], 1) / counts[:, None]
    inside = t - means[labels]
    within = inside.T @ inside / max(len(t) - len(counts), 1)
    within = (1 - shrink) * within + shrink * np.trace(within) / len(within) * np.eye(len(within))
    between = (means * counts[:, None]).T @ means / len(t)
    half = np.linalg.inv(np.linalg.cholesky(within))
    ratio, directions = np.linalg.eigh(half @ between @ half.T)
    # What people differ in, less what the noise of their means alone would show; a direction
    # counts as far as it is of people.
    ratio = np.maximum(ratio - len(counts) / len(t), 0)
    chosen = (directions * np.sqrt(ratio / (ratio + 1)))[:, ::-1][:, : min(size, len(counts) - 1)]
    weights = axes @ (half.T @ chosen)
    return _costed(_linear(name, knows, mean, weights, pool), labels, began)


def enough(names: Sequence[str], config: finetune.FinetuneConfig = TUNING) -> bool:
    """Whether ``tuned`` and ``convolutional`` can learn from items with these names: a batch takes
    several of one person, of several people.

    Example:
      >>> from advface_jax import attacks
      >>> attacks.linkers.enough(["a", "a", "b"])
      False
    """
    groups = sum(n // config.images for n in collections.Counter(names).values())
    return groups >= config.people


def regressed(
    name: str,
    stored: ArrayLike,
    embeddings: ArrayLike,
    knows: Sequence[str],
    *,
    pool: int = POOL,
    ridge: float = 0.1,
) -> Attack:
    """A linear map from stored items to their faces' embeddings, by ridge regression.

    The attacker protects public faces himself, so that he has both.

    Args:
      name, knows: of the ``Attack``.
      stored: (n,h,w,c).
      embeddings: (n,e), any recogniser's of the same faces. Their mean is left out: it is nobody's.
      pool: as in ``fisher``.
      ridge: the penalty, as a share of the items' mean squared length.

    Raises:
      ValueError: sizes that do not fit, NaN or inf, or settings out of range.

    Example:
      >>> import numpy as np
      >>> from advface_jax import attacks
      >>> stored = np.random.default_rng(0).random((6, 7, 7, 2), "float32")
      >>> theirs = np.random.default_rng(1).random((6, 3))  # a recogniser's, of the same faces
      >>> attack = attacks.linkers.regressed("ridge", stored, theirs, ("extractor", "defense"))
      >>> attack(stored).shape
      (6, 3)
    """
    began, y = time.monotonic(), np.asarray(embeddings, np.float64)
    n = np.shape(stored)[0]  # type: ignore[arg-type]
    if y.ndim != 2 or len(y) != n or not np.isfinite(y).all():
        raise ValueError(f"got embeddings of shape {y.shape}; wanted ({n}, e), all finite")
    checks.above_zero(ridge=ridge)
    mean, axes, t = _principal(stored, pool)
    square = np.square(t).sum(0)
    weights = axes @ (t.T @ (y - y.mean(0)) / (square + ridge * square.sum() / n)[:, None])
    cost = {"items": n, "seconds": round(time.monotonic() - began, 1)}
    return dataclasses.replace(_linear(name, knows, mean, weights, pool), cost=cost)


def tuned(
    name: str,
    network: Any,
    stored: ArrayLike,
    names: Sequence[str],
    knows: Sequence[str],
    *,
    before: Any = None,
    config: finetune.FinetuneConfig = TUNING,
) -> Attack:
    """A recogniser of features, trained further on named items by triplets and cross-entropy.

    Args:
      name, knows: of the ``Attack``.
      network: a ``Server`` (as ``load("facenet-128").server``) or a ``Compact``; it is not changed.
      stored: (n,77,77,64).
      names: n of them, equal for one person.
      before: stored -> the network's features, as a stitch, which is not trained.
      config: how; ``TUNING`` is for a pretrained network.

    Raises:
      ValueError: fewer than two people, or items than one batch of ``config`` has.

    Example:
      >>> import numpy as np
      >>> import advface_jax
      >>> from advface_jax import attacks
      >>> from advface_jax.training.finetune import FinetuneConfig
      >>> server = advface_jax.load("facenet-512-q8").server
      >>> stolen = np.random.default_rng(0).random((4, 77, 77, 64), "float32")
      >>> config = FinetuneConfig(classifier_epochs=1, epochs=1, people=2, images=2, flip=False)
      >>> names = ["a", "a", "b", "b"]
      >>> attack = attacks.linkers.tuned("tuned", server, stolen, names, ("names",), config=config)
      >>> attack(stolen).shape
      (4, 512)
    """
    labels, clean = _labels(stored, names), reading.cleaner(before)
    rows = Grouped([], labels, config.people, config.images, config.epochs, config.seed)  # type: ignore[arg-type]
    began, n = time.monotonic(), len(labels)

    def part(chosen: np.ndarray) -> jax.Array:
        return reading.cleaned(clean, checks.features(stored[chosen]))  # type: ignore[index]

    parts = [np.arange(i, min(i + BATCH, n)) for i in range(0, n, BATCH)]
    outputs = [np.asarray(finetune.bottleneck(part(at), network, None)) for at in parts]
    bottlenecks = np.concatenate(outputs)
    classes = int(labels.max()) + 1
    learner = finetune.Learner(network, bottlenecks.shape[1], classes, config.seed)
    if config.classifier_epochs:
        first = finetune.ClassifierTraining(bottlenecks, labels, learner.logits, config)
        for _ in range(config.classifier_epochs):
            first.advance()
        learner.logits = step.finished(first.trainer, first.state)
    tuner, state = finetune.start(learner, config, rows.per_epoch)
    real = jnp.ones(config.batch)
    for at in range(0, len(rows), config.batch):
        chosen = rows.rows(np.arange(at, at + config.batch))
        given = part(chosen), jnp.asarray(labels[chosen]), real
        state, _ = finetune.train_step(state, *given, None, tuner)
    server = step.finished(tuner, state).server
    reader = server if clean is None else Sibling(clean, server)
    return _costed(reading.read(name, reader, knows), labels, began, epochs=config.epochs)


def convolutional(
    name: str,
    stored: ArrayLike,
    names: Sequence[str],
    knows: Sequence[str] = ("names",),
    *,
    config: finetune.FinetuneConfig = FROM_NOTHING,
) -> Attack:
    """A small convolutional linker (``Compact``), trained from nothing on named items.

    Arguments as of ``tuned``.

    Example:
      >>> import dataclasses
      >>> import numpy as np
      >>> from advface_jax import attacks
      >>> stolen = np.random.default_rng(0).random((4, 77, 77, 64), "float32")
      >>> config = dataclasses.replace(attacks.linkers.FROM_NOTHING, epochs=1, people=2, images=2)
      >>> names = ["a", "a", "b", "b"]
      >>> attack = attacks.linkers.convolutional("small", stolen, names, config=config)
      >>> len(attack(stolen))
      4
    """
    network = Compact(rngs=nnx.Rngs(config.seed))
    return tuned(name, network, stored, names, knows, config=config)


def _labels(stored: ArrayLike, names: Sequence[str]) -> np.ndarray:
    people, labels = np.unique(np.asarray(names), return_inverse=True)
    n = np.shape(stored)[0]  # type: ignore[arg-type]
    if labels.shape != (n,):
        raise ValueError(f"got {labels.size} names for {n} stored items; wanted one each")
    if len(people) < 2 or len(people) == n:
        raise ValueError(
            f"got {n} items of {len(people)} people; wanted two people or more, and two items or "
            "more of some"
        )
    return labels


def _principal(stored: ArrayLike, pool: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pooled items: their mean (d,), orthonormal axes (d,r), coordinates on them (n,r)."""
    checks.positive(pool=pool)
    shape = np.shape(stored)  # type: ignore[arg-type]
    if len(shape) != 4 or min(shape[1:3]) < pool:
        raise ValueError(
            f"got stored items of shape {shape}; wanted (n, h, w, c), {pool} or more across"
        )
    n = shape[0]
    parts = [stored[i : i + BATCH] for i in range(0, n, BATCH)]  # type: ignore[index]
    x = np.concatenate([np.asarray(_pooled(checks.features(p, None), pool)) for p in parts])
    mean = x.mean(0, dtype=np.float64).astype(np.float32)
    x -= mean
    values, vectors = np.linalg.eigh((x @ x.T).astype(np.float64))
    kept = values > 1e-6 * max(values[-1], 1e-30)
    root = np.sqrt(values[kept])
    axes = x.T @ (vectors[:, kept] / root)
    return mean, axes, vectors[:, kept] * root


def _linear(
    name: str, knows: Sequence[str], mean: np.ndarray, weights: np.ndarray, pool: int
) -> Attack:
    net = Linear(jnp.asarray(mean), jnp.asarray(weights, jnp.float32), pool)
    return reading.read(name, net, knows)


def _costed(attack: Attack, labels: np.ndarray, began: float, **more: Any) -> Attack:
    facts = {"items": len(labels), "people": len(np.unique(labels))}
    return dataclasses.replace(
        attack, cost=facts | more | {"seconds": round(time.monotonic() - began, 1)}
    )


def _pooled(z: jax.Array, pool: int) -> jax.Array:
    b, h, w, c = z.shape
    rows, columns = h // pool, w // pool
    cut = z[:, : rows * pool, : columns * pool].astype(jnp.float32)
    return cut.reshape(b, rows, pool, columns, pool, c).mean((2, 4)).reshape(b, -1)
