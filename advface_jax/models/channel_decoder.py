"""The decoder of frequency channels, as DuetFace, PartialFace and DCTDP store them, to images.

The AdvFace paper decodes DuetFace's share with a decoder that it does not describe. This one is a
U-Net: the stored channels hold little absolute brightness, which has to be summed up from slopes
and edges all over the image.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from advface_jax import checks
from advface_jax.models.facenet import IMAGE_SIZE
from advface_jax.models.layers import Conv, ConvBN, Mix, Statistics, max_pool


@dataclasses.dataclass(frozen=True)
class ChannelDecoderConfig:
    """Sizes: ``channels`` stored, ``depth`` halvings of 160; the levels below the first have 1.5
    times as many channels as ``width``."""

    channels: int
    width: int = 16
    depth: int = 5
    bn_decay: float = 0.99
    kind: str = "channelrec"

    def __post_init__(self):
        checks.positive(channels=self.channels, width=self.width)
        checks.choice(self.kind, "kind", ("channelrec",))
        checks.between(0, 5, depth=self.depth)


class UNet(nnx.Module):
    """A U-Net's levels of pooling, with a skip at each; what it brings up is repeated and added."""

    def levels(self, widths: Sequence[int], decay: float, rngs: nnx.Rngs) -> None:
        """Build the layers: ``widths`` are the channels from the first level down."""
        layer = functools.partial(ConvBN, rngs=rngs, padding="same", scale=True, decay=decay)
        pairs = list(zip(widths, widths[1:], strict=False))
        self.down = nnx.List([layer(wide, deep, 3) for wide, deep in pairs])
        self.up = nnx.List([layer(deep, wide, 1) for wide, deep in pairs])
        self.merge = nnx.List([layer(wide, wide, 3) for wide, _ in pairs])

    def through(self, y: jax.Array, *how: Any) -> jax.Array:
        """y (b,n,n,width) to the same shape; ``how``: statistics and mask."""
        skips = []
        for down in self.down:
            skips.append(y)
            y = down(max_pool(y, 2, 2), *how)
        for up, merge, skip in reversed(list(zip(self.up, self.merge, skips, strict=True))):
            y = up(y, *how, relu=False).repeat(2, 1).repeat(2, 2)
            short = skip.shape[1] - y.shape[1]  # an odd size lost its last row and column
            y = jnp.pad(y, ((0, 0), (0, short), (0, short), (0, 0)), mode="edge")
            y = merge(skip + y, *how)
        return y


class ChannelRec(UNet):
    """A U-Net over 160, 80, … 5, whose first layer mixes the channels of each pixel."""

    def __init__(self, config: ChannelDecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        widths = [config.width, *[config.width * 3 // 2] * config.depth]
        self.stem = Mix(config.channels, config.width, decay=config.bn_decay, rngs=rngs)
        self.levels(widths, config.bn_decay, rngs)
        self.out = Conv(config.width, 3, 3, rngs=rngs, padding="same", bias=True)

    def __call__(
        self, stored: jax.Array, statistics: Statistics = "running", mask: jax.Array | None = None
    ) -> jax.Array:
        """Decode stored (b,160,160,channels) to images (b,160,160,3) in [0,1].

        ``mask`` (b,) marks padding with 0: it does not count in batch statistics. Raises
        ValueError for another shape or dtype, NaN or inf.
        """
        stored = checks.features(stored, (IMAGE_SIZE, IMAGE_SIZE, self.config.channels))
        y = self.through(self.stem(stored, statistics, mask), statistics, mask)  # (b, 160, 160, w)
        return jax.nn.sigmoid(self.out(y))  # (b, 160, 160, 3)
