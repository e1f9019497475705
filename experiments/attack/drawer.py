"""A network that draws a face from Ψ's embedding, so that Ψ sees that person again."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from advface_jax.training import step

WIDTHS = (256, 128, 96, 64, 32, 16)  # from 5 × 5 places to 160 × 160
PASSES, BATCH, RATE = 10, 16, 1e-3  # passes over the faces
IDENTITY = 0.5  # the weight of 1 - cosine beside the mean absolute error of pixels


class Drawer(nnx.Module):
    """Embeddings (b,e) -> images (b,160,160,3) in [0,1]; before its training near the mean face."""

    def __init__(self, size: int, mean: np.ndarray, *, rngs: nnx.Rngs):
        self.first = nnx.Linear(size, 25 * WIDTHS[0], rngs=rngs)
        pairs = zip(WIDTHS, WIDTHS[1:], strict=False)
        self.layers = nnx.List([nnx.Conv(a, b, (3, 3), rngs=rngs) for a, b in pairs])
        small = nnx.initializers.variance_scaling(0.01, "fan_in", "normal")
        self.last = nnx.Conv(WIDTHS[-1], 3, (3, 3), kernel_init=small, rngs=rngs)
        mean = np.clip(mean, 0.02, 0.98)
        self.mean = nnx.Variable(jnp.asarray(np.log(mean / (1 - mean)), jnp.float32))

    def __call__(self, embedding: jax.Array) -> jax.Array:
        # Elements of an embedding of length 1 are small.
        x = self.first(embedding * embedding.shape[-1] ** 0.5)
        x = nnx.relu(x).reshape(-1, 5, 5, WIDTHS[0])
        for layer in self.layers:
            b, h, w, c = x.shape
            x = nnx.relu(layer(jax.image.resize(x, (b, 2 * h, 2 * w, c), "nearest")))
        return nnx.sigmoid(self.last(x) + self.mean[...][None])


def train(
    network: Any, images: np.ndarray, embeddings: np.ndarray, seed: int = 0, passes: int = PASSES
) -> Drawer:
    """A drawer from pairs of an image (n,160,160,3) uint8 and its embedding (n,e) by ``network``,
    which the picture is shown to as well."""
    batch = min(BATCH, len(images))
    steps = passes * (len(images) // batch)
    rng = np.random.default_rng(seed)
    drawer = Drawer(embeddings.shape[1], images.mean(0) / 255, rngs=nnx.Rngs(seed))
    trainer, state = step.begin(drawer, _adam(steps), None)
    for _ in range(steps):
        chosen = rng.choice(len(images), batch, replace=False)
        state = _step(state, images[chosen], embeddings[chosen], network, trainer)
    return step.finished(trainer, state)


@functools.cache
def _adam(steps: int) -> optax.GradientTransformation:
    return optax.adam(step.cosine(RATE, steps))


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def _step(state: Any, pixels: Any, embeddings: Any, network: Any, trainer: Any) -> Any:
    images = pixels.astype(jnp.float32) / 255

    def loss(drawer: Drawer) -> tuple[jax.Array, None]:
        drawn = drawer(embeddings)
        cosine = (network(drawn) * embeddings).sum(-1).mean()
        return jnp.abs(drawn - images).mean() + IDENTITY * (1 - cosine), None

    return step.descend(state, trainer, loss)[0]
