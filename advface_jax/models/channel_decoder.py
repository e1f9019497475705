"""The decoder of frequency channels, as DuetFace, PartialFace and DCTDP store them, to images.

The AdvFace paper decodes DuetFace's share with a decoder that it does not describe. This one is a
U-Net: the stored channels hold little absolute brightness, which has to be summed up from slopes
and edges all over the image.
"""

import dataclasses

import jax
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


class ChannelRec(nnx.Module):
    """A U-Net over 160, 80, … 5, whose first layer mixes the channels of each pixel."""

    def __init__(self, config: ChannelDecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        deep = config.width * 3 // 2
        widths = [config.width, *[deep] * config.depth]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.stem = Mix(config.channels, config.width, decay=config.bn_decay, rngs=rngs)
        self.down = nnx.List([self._layer(wide, deep, 3, rngs) for wide, deep in pairs])
        self.up = nnx.List([self._layer(deep, wide, 1, rngs) for wide, deep in pairs])
        self.merge = nnx.List([self._layer(wide, wide, 3, rngs) for wide, _ in pairs])
        self.out = Conv(config.width, 3, 3, rngs=rngs, padding="same", bias=True)

    def _layer(self, inputs: int, outputs: int, size: int, rngs: nnx.Rngs) -> ConvBN:
        decay = self.config.bn_decay
        return ConvBN(inputs, outputs, size, rngs=rngs, padding="same", scale=True, decay=decay)

    def __call__(
        self, stored: jax.Array, statistics: Statistics = "running", mask: jax.Array | None = None
    ) -> jax.Array:
        """Decode stored (b,160,160,channels) to images (b,160,160,3) in [0,1].

        ``mask`` (b,) marks padding with 0: it does not count in batch statistics. Raises
        ValueError for another shape or dtype, NaN or inf.
        """
        stored = checks.features(stored, (IMAGE_SIZE, IMAGE_SIZE, self.config.channels))
        y = self.stem(stored, statistics, mask)  # (b, 160, 160, w)
        skips = []
        for down in self.down:
            skips.append(y)
            y = down(max_pool(y, 2, 2), statistics, mask)
        for up, merge, skip in reversed(list(zip(self.up, self.merge, skips, strict=True))):
            y = up(y, statistics, mask, relu=False)
            y = merge(skip + y.repeat(2, 1).repeat(2, 2), statistics, mask)
        return jax.nn.sigmoid(self.out(y))  # (b, 160, 160, 3)
