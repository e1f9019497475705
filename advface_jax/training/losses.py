"""The losses of a recogniser: triplets of embeddings, and the cross-entropy of a classifier.

The paper fine-tunes FaceNet on "triplet loss and cross-entropy" (section 5.1) and says no more; the
triplets are those of FaceNet (Schroff et al. 2015, arXiv:1503.03832).
"""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from advface_jax import checks

Mining = Literal["semi-hard", "batch-hard"]
Rows = ArrayLike | Sequence[int]
MARGIN = 0.2  # FaceNet's α


def triplet_loss(
    embeddings: jax.Array,
    labels: Rows,
    *,
    margin: float = MARGIN,
    mining: Mining = "semi-hard",
    mask: Rows | None = None,
) -> jax.Array:
    """Mean of max(0, |a - p|² - |a - n|² + margin) over triplets found within the batch.

    "semi-hard", the default and FaceNet's (section 3.2): every pair of one person, with the
    nearest negative that is farther than the positive; where there is none, with the farthest
    negative. It is the default because the hardest negatives of all are, in a set with wrong
    labels, the wrong labels, and collapse an untrained network to one embedding.
    "batch-hard" (Hermans et al. 2017, arXiv:1703.07737): every image with its farthest positive
    and its nearest negative.

    Args:
      embeddings: (b,e) float, L2-normalised.
      labels: (b,) whole numbers, equal for one person.
      margin: in units of squared distance, > 0.
      mining: which triplets.
      mask: (b,), 0 where the row is padding or unreadable.

    Returns:
      A scalar; 0 where the batch holds no triplet.
    """
    labels = _labels(embeddings, labels, "embeddings")
    checks.above_zero(margin=margin)
    checks.choice(mining, "mining", ("semi-hard", "batch-hard"))
    real = _mask(mask, len(labels)).astype(bool)
    lengths = jnp.square(embeddings).sum(-1)
    products = jnp.matmul(embeddings, embeddings.T, precision="highest")
    distances = jnp.maximum(lengths[:, None] + lengths[None] - 2 * products, 0)  # (b, b)
    both = real[:, None] & real[None]
    same = labels[:, None] == labels[None]
    positive = same & both & ~jnp.eye(len(labels), dtype=bool)
    negative = ~same & both
    if mining == "semi-hard":
        farther = negative[:, None] & (distances[:, None] > distances[..., None])  # (a, p, n)
        nearest = jnp.min(jnp.where(farther, distances[:, None], jnp.inf), -1)  # (a, p)
        farthest = jnp.max(jnp.where(negative, distances, -jnp.inf), -1)[:, None]
        against = jnp.where(farther.any(-1), nearest, farthest)
        counted = positive & negative.any(-1)[:, None]
        to = distances
    else:
        to = jnp.max(jnp.where(positive, distances, -jnp.inf), -1)  # (a,)
        against = jnp.min(jnp.where(negative, distances, jnp.inf), -1)
        counted = positive.any(-1) & negative.any(-1)
    # Where nothing counts there may be an infinity, whose gradient would be NaN.
    excess = jnp.where(counted, to, 0) - jnp.where(counted, against, 0) + margin
    losses = jnp.where(counted, jnp.maximum(excess, 0), 0)
    return losses.sum() / jnp.maximum(counted.sum(), 1).astype(losses.dtype)


def cross_entropy(logits: jax.Array, labels: Rows, mask: Rows | None = None) -> jax.Array:
    """Mean cross-entropy of logits (b,c) with labels (b,) in 0..c-1; a scalar, in nats.

    ``mask`` (b,) is 0 for rows that do not count.
    """
    labels = _labels(logits, labels, "logits")
    weights = _mask(mask, len(labels)).astype(logits.dtype)
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return (losses * weights).sum() / jnp.maximum(weights.sum(), 1)


def _labels(rows: jax.Array, labels: Rows, name: str) -> jax.Array:
    labels = jnp.asarray(labels)
    if rows.ndim != 2 or labels.shape != rows.shape[:1] or not len(labels):
        raise ValueError(
            f"got {name} of shape {rows.shape} and labels of shape {labels.shape}; wanted (b, n) "
            "and (b,), b at least 1: one label a row"
        )
    if not jnp.issubdtype(labels.dtype, jnp.integer):
        raise ValueError(f"got labels of dtype {labels.dtype}; wanted whole numbers")
    return labels


def _mask(mask: Rows | None, batch: int) -> jax.Array:
    given = checks.mask(mask, batch)  # type: ignore[arg-type]
    return jnp.ones(batch) if given is None else given
