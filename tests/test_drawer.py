"""A network that draws from embeddings: it learns faces, and shows them to the recogniser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advface_jax import data
from experiments.train import drawer


def _colours(images):
    mean = images.mean((1, 2)) - 0.5
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


@pytest.mark.slow
def test_it_draws_nearer_than_the_mean_face():
    images = data.synthetic_faces(6, 1).images
    embeddings = np.asarray(_colours(jnp.asarray(images) / 255))
    with jax.numpy_dtype_promotion("standard"):  # Adam's
        trained = drawer.train(jax.tree_util.Partial(_colours), images, embeddings, steps=30)
        drawn = np.asarray(trained(jnp.asarray(embeddings)))
    truth = images.astype(np.float32) / 255
    assert drawn.shape == truth.shape and 0 <= drawn.min() and drawn.max() <= 1
    assert np.abs(drawn - truth).mean() < 0.95 * np.abs(truth.mean(0) - truth).mean()


def test_it_starts_as_the_mean_face():
    mean = np.full((160, 160, 3), 0.25, np.float32)
    fresh = drawer.Drawer(8, mean, rngs=drawer.nnx.Rngs(0))
    np.testing.assert_allclose(np.asarray(fresh(jnp.ones((1, 8))))[0], mean, atol=1e-5)
