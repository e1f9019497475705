"""The losses of a recogniser, against hand-made cases and loops written out."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advface_jax.training import losses
from advface_jax.training.losses import cross_entropy

triplet_loss = jax.jit(losses.triplet_loss, static_argnames=("margin", "mining"))
value_and_gradient = jax.jit(
    jax.value_and_grad(losses.triplet_loss), static_argnames=("margin", "mining")
)


def unit(degrees):
    angles = np.deg2rad(np.asarray(degrees, np.float64))
    return np.stack([np.cos(angles), np.sin(angles)], -1).astype(np.float32)


def by_loops(embeddings, labels, margin, mining, mask=None):
    """FaceNet, section 3.2, and Hermans et al., Eq. 5, one triplet after the other."""
    u, n = np.asarray(embeddings, np.float64), len(labels)
    rows = [i for i in range(n) if mask is None or mask[i]]
    losses = []
    for a in rows:
        positives = [i for i in rows if i != a and labels[i] == labels[a]]
        negatives = [i for i in rows if labels[i] != labels[a]]
        if not positives or not negatives:
            continue
        far = {i: ((u[a] - u[i]) ** 2).sum() for i in rows}
        if mining == "batch-hard":
            hardest = max(far[p] for p in positives) - min(far[i] for i in negatives)
            losses.append(max(hardest + margin, 0))
            continue
        for p in positives:
            beyond = [far[i] for i in negatives if far[i] > far[p]]
            against = min(beyond) if beyond else max(far[i] for i in negatives)
            losses.append(max(far[p] - against + margin, 0))
    return float(np.mean(losses)) if losses else 0.0


def drawn(seed, n=14, people=4, close=0.7):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, people, n)
    u = rng.normal(size=(people, 6))[labels] * close + rng.normal(size=(n, 6))
    return (u / np.linalg.norm(u, axis=1, keepdims=True)).astype(np.float32), labels


@pytest.mark.parametrize("mining", ["semi-hard", "batch-hard"])
@pytest.mark.parametrize("seed", range(6))
def test_triplets_are_those_of_the_loops(seed, mining):
    embeddings, labels = drawn(seed)
    mask = np.random.default_rng(seed).random(len(labels)) < 0.8
    for some in (np.ones(len(labels)), mask):
        ours = triplet_loss(embeddings, labels, margin=0.3, mining=mining, mask=some)
        theirs = by_loops(embeddings, labels, 0.3, mining, some)
        assert float(ours) == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(
    ("angles", "mining", "against"),
    [
        # From the second nothing is farther than the positive: the farthest there is.
        ([0, 60, 90], "semi-hard", (90, 30)),
        ([0, 60, 90], "batch-hard", (90, 30)),
        # Not the one at 30°, which is nearer than the positive.
        ([0, 60, 30, -65, 180], "semi-hard", (65, 120)),
    ],
)
def test_by_hand(angles, mining, against):
    """Two images of one person 60° apart, and which negatives they are held against."""
    loss = triplet_loss(unit(angles), np.array([1, 1, 2, 3, 4])[: len(angles)], mining=mining)
    far = 2 - 2 * np.cos(np.deg2rad([60, *against]))
    expected = np.maximum(far[0] - far[1:] + 0.2, 0).mean()
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("mining", ["semi-hard", "batch-hard"])
@pytest.mark.parametrize("labels", [[1, 1, 1, 1], [0, 1, 2, 3]])
def test_without_a_triplet_loss_and_gradient_are_zero(labels, mining):
    value, gradient = value_and_gradient(unit([0, 10, 20, 30]), np.array(labels), mining=mining)
    assert value == 0 and np.array_equal(gradient, np.zeros((4, 2)))


@pytest.mark.parametrize("mining", ["semi-hard", "batch-hard"])
def test_a_step_along_the_gradient_parts_people(mining):
    u, labels = drawn(1, close=0.2)
    value, gradient = value_and_gradient(u, labels, mining=mining)
    assert value > 0.05 and np.isfinite(gradient).all()
    assert value_and_gradient(u - 0.01 * gradient, labels, mining=mining)[0] < value
    # equal images of one person: a distance of 0, and no NaN
    _, gradient = value_and_gradient(unit([0, 0, 50, 99]), np.array([1, 1, 2, 2]), mining=mining)
    assert np.isfinite(gradient).all()


def test_cross_entropy_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    logits, labels = 3 * rng.normal(size=(5, 4)).astype(np.float32), np.array([0, 3, 1, 1, 2])
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    each = -np.log(p[np.arange(5), labels])
    for mask in (None, np.array([1, 0, 1, 0, 1])):
        ours = float(cross_entropy(jnp.asarray(logits), labels, mask))
        expected = each.mean() if mask is None else each[mask > 0].mean()
        assert ours == pytest.approx(expected, rel=1e-5)


def test_what_does_not_fit_is_refused():
    def refused(match, labels=(1, 2), loss: Any = triplet_loss, **options):
        with pytest.raises(ValueError, match=match):
            loss(jnp.asarray(unit([0, 10])), np.array(labels), **options)

    refused(r"wanted \(b, n\) and \(b,\)", (1, 2, 3))
    refused("wanted whole numbers", (0.0, 1.0), cross_entropy)
    refused("got margin=0; wanted", margin=0)
    refused("wanted 'semi-hard' or 'batch-hard'", mining="hard")
    refused(r"a mask of shape \(3,\); wanted \(2,\)", mask=np.ones(3))
