"""A system of small random networks in FaceNet's shapes: what a fault does, not what it hides."""

import jax
import jax.numpy as jnp
from flax import nnx

from advface_jax import System
from advface_jax.models.decoders import DecoderConfig, decoder

SHAPE = (8, 8, 16)  # of ``tiny``'s features


class Extractor(nnx.Module):
    """Every second pixel of a face's middle, its colours mixed to 64 channels."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(nnx.initializers.normal(1.0)(rngs.params(), (3, 64)))

    def __call__(self, images: jax.Array) -> jax.Array:
        return images[:, 3:157:2, 3:157:2] @ self.kernel.astype(images.dtype)  # (b, 77, 77, 64)


def pooled(z: jax.Array) -> jax.Array:
    """Ψ: the feature, averaged over 7×7 places."""
    return z.reshape(-1, 7, 11, 7, 11, 64).mean((2, 4)).reshape(z.shape[0], -1)


def system() -> System:
    """E, Ψ, S and R, the same ones in every process."""
    config = DecoderConfig("transrec", width=4, depth=0)
    shadow, attacker = (decoder(config, rngs=nnx.Rngs(seed)) for seed in (1, 2))
    extractor = Extractor(rngs=nnx.Rngs(0))
    parts = {"extractor": extractor, "server": pooled, "shadow": shadow, "attacker": attacker}
    return System.of(**parts, name="small random networks")


def _squeezed(images: jax.Array) -> jax.Array:
    middle = images.reshape(-1, 8, 20, 8, 20, 3).mean((2, 4))
    return jnp.tile(middle, 6)[..., : SHAPE[-1]]  # (b, 8, 8, 16)


def _stretched(z: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(jnp.repeat(jnp.repeat(z[..., :3], 20, 1), 20, 2))


def tiny() -> System:
    """Features of 4 kB and networks without weights: for long runs of everything around them."""
    parts = {"extractor": _squeezed, "server": lambda z: z.mean((1, 2)), "shadow": _stretched}
    return System.of(**parts, name="tiny")
