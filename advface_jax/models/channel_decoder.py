"""The decoder of frequency channels: what DuetFace, PartialFace or DCTDP store, to images.

The AdvFace paper decodes DuetFace's share with a decoder of its own and does not describe it. This
one is a U-Net, for the channels stored hardly show how bright a place is: that has to be summed up
from slopes and edges all over the image, and no decoder that looks at a neighbourhood alone can.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from advface_jax import checks
from advface_jax.models.layers import BatchNorm, Conv, ConvBN, Statistics, max_pool, rectify

IMAGE_SIZE = 160


@dataclasses.dataclass(frozen=True)
class ChannelDecoderConfig:
    """Its size: ``channels`` is how many are stored, ``depth`` counts the halvings of 160, and the
    levels below the first have half as many channels again as ``width``."""

    channels: int
    width: int = 16
    depth: int = 5
    bn_decay: float = 0.99
    kind: str = "channelrec"

    def __post_init__(self):
        checks.positive(channels=self.channels, width=self.width)
        checks.choice(self.kind, "kind", ("channelrec",))
        if not 0 <= self.depth <= 5:
            raise ValueError(f"got depth={self.depth} for channelrec; wanted 0 to 5")


class ChannelRec(nnx.Module):
    """A U-Net over 160, 80, … 5, whose first layer looks at one block's channels at a time."""

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


class Mix(nnx.Module):
    """Each pixel's frequency channels to a few features: a 1×1 convolution, batch norm, ReLU.

    The channels differ in size by a factor of a thousand; so the kernel works on channels divided
    by their root mean square, which is kept as batch norm keeps its statistics. A matrix product
    is five times as fast on a CPU as XLA's 1×1 convolution of so many channels.
    """

    EVERY = 4  # pixels in each direction: a root mean square needs no more of them

    def __init__(self, channels: int, width: int, *, decay: float, rngs: nnx.Rngs):
        initial = nnx.initializers.he_normal()
        self.kernel = nnx.Param(initial(rngs.params(), (channels, width)))
        # Not its square, which half precision could not hold: decoders are kept in it.
        self.size = nnx.BatchStat(jnp.ones(channels))
        self.bn = BatchNorm(width, scale=True, decay=decay)
        self.decay = decay

    def __call__(
        self, x: jax.Array, statistics: Statistics = "running", mask: jax.Array | None = None
    ) -> jax.Array:
        """x (b,n,n,channels) to (b,n,n,width), ≥ 0; "example" takes the running scale."""
        size = self.size[...]
        if statistics in ("batch", "train"):
            some = x[:, :: self.EVERY, :: self.EVERY]  # (b, n/4, n/4, channels)
            weight = jnp.ones(x.shape[0]) if mask is None else mask
            of_each = jnp.square(some.astype(jnp.float32)).mean((1, 2))  # (b, channels)
            size = jnp.sqrt((of_each * weight[:, None]).sum(0) / weight.sum())
        if statistics == "train":
            self.size[...] = self.decay * self.size[...] + (1 - self.decay) * size
        kernel = self.kernel[...] / (size + 1e-3)[:, None]  # (channels, width)
        y = jnp.dot(x, kernel.astype(x.dtype))
        return rectify(self.bn(y, statistics, mask))
