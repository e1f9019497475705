"""A network that draws from embeddings: a recogniser sees the person again in its pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from advface_jax import data
from experiments.attack import drawer


def colours(images):
    """As a recogniser: the mean colour, seen from grey."""
    mean = images.mean((1, 2)) - 0.5
    return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


@pytest.mark.slow
@pytest.mark.long
def test_its_pictures_are_recognised():
    images = data.synthetic_faces(4, 1).images
    pixels = jnp.asarray(images, jnp.float32) / 255
    wanted = np.asarray(colours(pixels))
    with jax.numpy_dtype_promotion("standard"):  # Adam's
        trained = drawer.train(jax.tree_util.Partial(colours), images, wanted, passes=20)
        drawn = trained(jnp.asarray(wanted))
    assert drawn.shape == images.shape and drawn.min() >= 0 and drawn.max() <= 1
    alike, mean = ((colours(x) * wanted).sum(-1).mean() for x in (drawn, pixels.mean(0)[None]))
    assert alike > mean + (1 - mean) / 4


def test_it_starts_near_the_mean_face():
    mean = np.full((160, 160, 3), 0.25, np.float32)
    fresh = drawer.Drawer(8, mean, rngs=nnx.Rngs(0))
    embedding = jnp.full((1, 8), 8**-0.5)
    assert np.abs(np.asarray(fresh(embedding))[0] - mean).mean() < 0.1
