"""DuetFace's client/server recogniser, in front of a FaceNet that stays as it is.

Mi et al. (ACM MM 2022) train two networks from scratch on millions of faces: the server's on its
162 frequency channels, the client's on its 30. The client's attention, scaled to [0,1] and cropped
to the face's outline, weights the server's features (their interactive block: x + w·mask·σ(x)).
This is the same division of work at a size that a CPU can train: the server's ``Stem`` replaces
FaceNet's first convolution, the client's ``Attention`` makes the mask, and the other layers are
FaceNet's own, frozen. There is no outline of landmarks, and one mask instead of four.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from advface_jax import checks
from advface_jax.models.channel_decoder import UNet
from advface_jax.models.facenet import IMAGE_SIZE, InceptionResNetV1
from advface_jax.models.layers import Conv, ConvBN, Mix, Statistics, rectify

STEM = 32  # channels of FaceNet's conv2d_1a


@dataclasses.dataclass(frozen=True)
class DuetFaceConfig:
    """Sizes: ``mixed`` features from a pixel's 162 channels, then the stem's ``width`` and
    ``depth`` (halvings of 79); ``client`` features from a pixel's 30 channels."""

    server_channels: int = 162
    client_channels: int = 30
    mixed: int = 16
    width: int = 32
    depth: int = 4
    client: int = 8
    bn_decay: float = 0.99

    def __post_init__(self):
        checks.positive(mixed=self.mixed, width=self.width, client=self.client)
        checks.positive(server_channels=self.server_channels, client_channels=self.client_channels)
        checks.between(0, 5, depth=self.depth)


class Stem(UNet):
    """The server's first layers: stored (b,160,160,162) to conv2d_1a's output, (b,79,79,32).

    A U-Net from 79 down, since brightness has to be summed up from slopes all over the image.
    """

    def __init__(self, config: DuetFaceConfig, *, rngs: nnx.Rngs):
        w, decay = config.width, config.bn_decay
        self.mix = Mix(config.server_channels, config.mixed, decay=decay, rngs=rngs)
        self.halve = ConvBN(config.mixed, w, 3, rngs=rngs, stride=2, scale=True, decay=decay)
        self.levels([w] * (config.depth + 1), decay, rngs)
        self.out = Conv(w, STEM, 3, rngs=rngs, padding="same", bias=True)

    def __call__(self, stored: jax.Array, statistics: Statistics = "running") -> jax.Array:
        y = self.halve(self.mix(stored, statistics), statistics)  # (b, 79, 79, w)
        return rectify(self.out(self.through(y, statistics)))  # (b, 79, 79, 32)


class Attention(nnx.Module):
    """The client's network: its channels (b,160,160,30) to a mask (b,77,77,1), scaled to [0,1] in
    each image. Of the client's channels the server gets this mask only."""

    def __init__(self, config: DuetFaceConfig, *, rngs: nnx.Rngs):
        w, decay = config.client, config.bn_decay
        self.mix = Mix(config.client_channels, w, decay=decay, rngs=rngs)
        self.halve = ConvBN(w, w, 3, rngs=rngs, stride=2, scale=True, decay=decay)
        self.look = ConvBN(w, w, 3, rngs=rngs, scale=True, decay=decay)

    def __call__(self, kept: jax.Array, statistics: Statistics = "running") -> jax.Array:
        y = self.halve(self.mix(kept, statistics), statistics)  # (b, 79, 79, w)
        y = self.look(y, statistics, relu=False).mean(-1, keepdims=True)  # (b, 77, 77, 1)
        low, high = y.min((1, 2), keepdims=True), y.max((1, 2), keepdims=True)
        return (y - low) / (high - low + 1e-6)


class DuetFace(nnx.Module):
    """The trained part: the stem, the attention, and the weight of its mask, which starts at 0."""

    def __init__(self, config: DuetFaceConfig = DuetFaceConfig(), *, rngs: nnx.Rngs):
        self.config = config
        self.stem = Stem(config, rngs=rngs)
        self.attention = Attention(config, rngs=rngs)
        self.weight = nnx.Param(jnp.zeros(()))

    def mask(self, kept: jax.Array, statistics: Statistics = "running") -> jax.Array:
        """The mask (b,77,77,1) that the client sends for its share (b,160,160,30)."""
        shape = (IMAGE_SIZE, IMAGE_SIZE, self.config.client_channels)
        return self.attention(checks.features(kept, shape), statistics)

    def features(
        self,
        stored: jax.Array,
        mask: jax.Array,
        body: InceptionResNetV1,
        statistics: Statistics = "running",
    ) -> jax.Array:
        """The server's features (b,77,77,64), which replace E's z.

        Args:
          stored: (b,160,160,162), the server's share.
          mask: (b,77,77,1), the client's.
          body: FaceNet, whose second and third convolution follow the stem.
          statistics: of the stem's batch norms; the body's are frozen.

        Raises:
          ValueError: another shape or dtype, NaN or inf, or shares of different batches.
        """
        shape = (IMAGE_SIZE, IMAGE_SIZE, self.config.server_channels)
        stored, mask = checks.features(stored, shape), checks.features(mask, (77, 77, 1))
        if len(stored) != len(mask):
            raise ValueError(
                f"got {len(stored)} stored items and {len(mask)} masks; wanted as many: the client "
                "sends a mask for each"
            )
        y = self.stem(stored, statistics)
        z = body.extractor.conv2d_2b(body.extractor.conv2d_2a(y))  # (b, 77, 77, 64)
        return z * (1 + self.weight[...] * mask)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Recogniser:
    """Client and server together, a pytree: ``duetface`` and the FaceNet ``body`` behind it."""

    duetface: DuetFace
    body: InceptionResNetV1

    def __call__(self, stored: jax.Array, kept: jax.Array) -> jax.Array:
        """stored (b,160,160,162) and kept (b,160,160,30) to L2-normalised embeddings (b,e)."""
        mask = self.duetface.mask(kept)
        return self.body.server(self.duetface.features(stored, mask, self.body))
