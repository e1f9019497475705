"""Defences that store an image's frequency channels: DuetFace, PartialFace, DCTDP.

Each is the transform alone: what leaves the client. Ψ cannot recognise it; that takes a recogniser
trained on it. The enlargement by 8 writes each pixel down 64 times, so DuetFace's 162 channels
determine the image up to one number a colour (``attacks.solve_channels``).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from advface_jax import checks
from advface_jax.defenses import frequency
from advface_jax.defenses.defense import IMAGES, Defense, Shape

DUETFACE_CLIENT = (0, 1, 2, 3, 4, 5, 8, 9, 16, 24)
"""Raster numbers 8 u + v that DuetFace's client keeps of each colour, of 64."""
PARTIALFACE_PRUNED = (0, 1, 2, 3, 8, 9, 10, 16, 17, 24)
"""Raster numbers that PartialFace removes from each colour; 54 remain, six subsets of nine."""


def _of_each_colour(raster: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(64 * colour + r for colour in range(3) for r in raster)


def _others(raster: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(r for r in range(64) if r not in raster)


CLIENT_CHANNELS = _of_each_colour(DUETFACE_CLIENT)  # 30
SERVER_CHANNELS = _of_each_colour(_others(DUETFACE_CLIENT))  # 162
DCTDP_CHANNELS = _of_each_colour(tuple(range(1, 64)))  # 189: all but each colour's mean


def _size(channels: int) -> Shape:
    return (*IMAGES[:2], channels)


def duetface() -> Defense:
    """DuetFace's server share: 162 of the 192 frequency channels, as they are.

    Images (b,160,160,3) in [0,1] to (b,160,160,162), channels ``SERVER_CHANNELS`` of
    ``block_dct``. The other 30 stay with the client (``keeps``; ``duetface_split`` gives both), and
    the recogniser takes features from both sides. No noise, no key, no ε.

    Source: Mi et al., DuetFace, ACM MM 2022; a baseline of the AdvFace paper (section 5.1.3).

    Example:
      >>> import numpy as np
      >>> from advface_jax import defenses
      >>> defenses.duetface()(np.full((1, 160, 160, 3), 0.5, "float32")).shape
      (1, 160, 160, 162)
    """
    sizes: dict[str, Any] = {"takes": IMAGES, "stores": _size(162), "keeps": _size(30)}
    return Defense("DuetFace", _select, SERVER_CHANNELS, **sizes)


def duetface_split(images: ArrayLike) -> tuple[jax.Array, jax.Array]:
    """DuetFace's two shares of images (b,160,160,3) in [0,1]: the client's (b,160,160,30) and the
    server's (b,160,160,162). Errors as for ``block_dct``.

    Example:
      >>> import numpy as np
      >>> from advface_jax import defenses
      >>> kept, sent = defenses.duetface_split(np.full((1, 160, 160, 3), 0.5, "float32"))
      >>> kept.shape, sent.shape
      ((1, 160, 160, 30), (1, 160, 160, 162))
    """
    x = checks.images(images)
    return _selected(x, CLIENT_CHANNELS), _selected(x, SERVER_CHANNELS)


def partialface(seed: int = 0) -> Defense:
    """PartialFace: of each image nine random high frequencies of each colour, in a random order.

    Images (b,160,160,3) in [0,1] to (b,160,160,27), channel 9 c + m of colour c. The ten lowest
    frequencies are removed and the other 54 split into six subsets of nine, drawn from ``seed``
    once for a model, with three orders. An item's key picks its subset and its order, uniformly. No
    ε. In the published training an identity uses only three of the six subsets, by its label; that
    belongs to the training and is left out here.

    Source: Mi et al., ICCV 2023; the numbers are those of its released code.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from advface_jax import defenses
      >>> image = np.full((1, 160, 160, 3), 0.5, "float32")
      >>> defenses.partialface()(image, key=jax.random.key(0)).shape
      (1, 160, 160, 27)
    """
    if not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"got seed={seed}; wanted a whole number, 0 or more")
    random = np.random.default_rng(seed)
    subsets = random.permutation(_others(PARTIALFACE_PRUNED)).reshape(6, 9)
    orders = np.stack([np.arange(9), *(random.permutation(9) for _ in range(2))])
    choices = subsets[:, orders].reshape(18, 9).tolist()  # each subset in each order
    how: dict[str, Any] = {"takes": IMAGES, "stores": _size(27), "takes_key": True}
    return Defense("PartialFace", _partialface, tuple(map(tuple, choices)), **how)


def dctdp(budget: float = 4.0, sensitivity: float = 1.0) -> Defense:
    """DCTDP's channels under an even budget: all but the three means, with Laplace noise.

    Images (b,160,160,3) in [0,1] to (b,160,160,189), channels ``DCTDP_CHANNELS`` of ``block_dct``
    plus noise of scale sensitivity / budget in their units (up to about ±1000). The published
    method learns the shares of the budget and the centres of the noise, starting from the even
    shares and zero centres used here, and measures each element's sensitivity on its training set.
    Its code's default is 1, where the noise is next to nothing. No ε, and **no guarantee of
    differential privacy**.

    Source: Ji et al., ECCV 2022; the defaults are those of its released code.

    Example:
      >>> import jax
      >>> import numpy as np
      >>> from advface_jax import defenses
      >>> image = np.full((1, 160, 160, 3), 0.5, "float32")
      >>> defenses.dctdp()(image, key=jax.random.key(0)).shape
      (1, 160, 160, 189)
    """
    checks.above_zero(budget=budget, sensitivity=sensitivity)
    scale = float(sensitivity) / float(budget)
    return Defense("DCTDP", _dctdp, scale, takes=IMAGES, stores=_size(189), takes_key=True)


@functools.partial(jax.jit, static_argnums=1)
def _selected(images: jax.Array, channels: tuple[int, ...]) -> jax.Array:
    return frequency.block_dct(images)[..., np.array(channels)]


def _select(images, keys, epsilon, mask, settings: tuple[int, ...], networks) -> jax.Array:
    return _selected(images, settings)


@functools.partial(jax.jit, static_argnames="settings")
def _partialface(images, keys, epsilon, mask, settings: tuple, networks) -> jax.Array:
    choices = jnp.asarray(settings)  # (18, 9)
    f = frequency.block_dct(images)
    f = f.reshape(*f.shape[:3], 3, 64)

    def one(key: jax.Array, f: jax.Array) -> jax.Array:  # f (n, n, 3, 64)
        chosen = choices[jax.random.randint(key, (), 0, len(choices))]
        return f[..., chosen].reshape(*f.shape[:2], 27)

    return jax.vmap(one)(keys, f)


@functools.partial(jax.jit, static_argnames="settings")
def _dctdp(images, keys, epsilon, mask, settings: float, networks) -> jax.Array:
    f = frequency.block_dct(images.astype(jnp.float32))[..., np.array(DCTDP_CHANNELS)]
    noise = jax.vmap(lambda key: jax.random.laplace(key, f.shape[1:]))(keys)
    return (f + settings * noise).astype(images.dtype)
