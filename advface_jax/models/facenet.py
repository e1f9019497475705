"""FaceNet's Inception-ResNet-v1, split into the client's E and the server's Ψ.

Szegedy et al. 2016 (arXiv:1602.07261), in the form of David Sandberg's ``facenet``: batch norm
without gamma, ReLU after every convolution of a branch, a linear bottleneck with batch norm, and
an L2-normalised embedding. ``InceptionResNetV1`` holds E and Ψ.
"""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from advface_jax import checks
from advface_jax.models import state
from advface_jax.models.layers import BatchNorm, Conv, ConvBN, Statistics, max_pool, rectify

IMAGE_SIZE = 160
FEATURE_SHAPE = (77, 77, 64)

RESIDUAL_SCALES = {"repeat_1": 0.17, "repeat_2": 0.10, "repeat_3": 0.20, "block8": 1.0}

Standardization = Literal["fixed", "whiten"]


@dataclasses.dataclass(frozen=True)
class FaceNetConfig:
    """What distinguishes one FaceNet checkpoint from another.

    ``standardization`` is the input convention of the weights, applied inside E to images in
    [0,1]: "fixed" is (255x - 127.5)/128, "whiten" subtracts each image's mean and divides by its
    deviation. ``folded`` networks have batch norm and residual scales inside their convolutions.
    """

    embedding_size: int = 512
    standardization: Standardization = "fixed"
    folded: bool = False
    classes: int | None = None
    bn_decay: float = 0.995


def standardize(images: jax.Array, how: Standardization) -> jax.Array:
    """Images in [0,1] to the scale that the weights were trained on, shape unchanged."""
    pixels = 255 * images
    if how == "fixed":
        return (pixels - 127.5) / 128
    axes = (1, 2, 3)
    mean, deviation = pixels.mean(axes, keepdims=True), pixels.std(axes, keepdims=True)
    return (pixels - mean) / jnp.maximum(deviation, pixels[0].size ** -0.5)


class Extractor(nnx.Module):
    """E, the client's part: the first three convolutions. Images (b,160,160,3) in [0,1] to
    features z (b,77,77,64), all ≥ 0. ValueError for other shapes, dtypes or values."""

    def __init__(self, config: FaceNetConfig = FaceNetConfig(), *, rngs: nnx.Rngs):
        layer = functools.partial(ConvBN, rngs=rngs, folded=config.folded, decay=config.bn_decay)
        self.standardization: Standardization = config.standardization
        self.conv2d_1a = layer(3, 32, 3, stride=2)
        self.conv2d_2a = layer(32, 32, 3)
        self.conv2d_2b = layer(32, 64, 3, padding="same")

    def stages(self, images: jax.Array, *how: Any) -> Iterator[tuple[str, jax.Array]]:
        """Every stage by name; ``how``: statistics and mask, as in ``ConvBN``."""
        x = standardize(images, self.standardization)
        yield "conv2d_1a", (x := self.conv2d_1a(x, *how))  # (b, 79, 79, 32)
        yield "conv2d_2a", (x := self.conv2d_2a(x, *how))  # (b, 77, 77, 32)
        yield "conv2d_2b", self.conv2d_2b(x, *how)  # (b, 77, 77, 64)

    def __call__(
        self, images: jax.Array, statistics: Statistics = "running", mask: jax.Array | None = None
    ) -> jax.Array:
        return _last(self.stages(checks.images(images), statistics, mask))


class Branches(nnx.Module):
    """Chains of layers side by side, whose outputs are concatenated."""

    def __init__(self, branches: Sequence[nnx.List]):
        for i, branch in enumerate(branches):
            setattr(self, f"branch_{i}", branch[0] if len(branch) == 1 else branch)
        self.branches = len(branches)

    def concatenated(self, x: jax.Array, *how: Any) -> jax.Array:
        outputs = []
        for i in range(self.branches):
            branch, y = getattr(self, f"branch_{i}"), x
            for layer in [branch] if isinstance(branch, ConvBN) else branch:
                y = layer(y, *how)
            outputs.append(y)
        return jnp.concatenate(outputs, -1)


class Block(Branches):
    """A residual inception block: branches side by side, a linear 1×1 ``up``, a scaled sum."""

    def __init__(
        self,
        branches: Sequence[nnx.List],
        channels: int,
        scale: float,
        config: FaceNetConfig,
        *,
        rngs: nnx.Rngs,
        relu: bool = True,
    ):
        super().__init__(branches)
        width = sum(branch[-1].conv.kernel.shape[-1] for branch in branches)
        self.up = Conv(width, channels, 1, rngs=rngs, bias=True)
        self.scale = 1.0 if config.folded else scale
        self.relu = relu

    def __call__(self, x: jax.Array, *how: Any) -> jax.Array:
        y = x + self.scale * self.up(self.concatenated(x, *how))
        return rectify(y) if self.relu else y


class Reduction(Branches):
    """Mixed_6a or 7a: strided branches beside a max pool, concatenated. Halves the size."""

    def __call__(self, x: jax.Array, *how: Any) -> jax.Array:
        return jnp.concatenate([self.concatenated(x, *how), max_pool(x, 3, 2)], -1)


class Bottleneck(nnx.Module):
    """The linear layer that gives the embedding, with batch norm (no ReLU): (b,1792) -> (b,e)."""

    def __init__(self, config: FaceNetConfig, *, rngs: nnx.Rngs):
        self.linear = nnx.Linear(1792, config.embedding_size, use_bias=config.folded, rngs=rngs)
        norm = functools.partial(BatchNorm, scale=False, decay=config.bn_decay)
        self.bn = None if config.folded else norm(config.embedding_size)

    def __call__(self, x: jax.Array, *how: Any) -> jax.Array:
        y = self.linear(x)
        return y if self.bn is None else self.bn(y, *how)


class Server(nnx.Module):
    """Ψ, the server's part: everything from maxpool_3a on. Features z (b,77,77,64) to
    L2-normalised embeddings (b,e). ValueError for other shapes or dtypes, NaN or inf."""

    def __init__(self, config: FaceNetConfig = FaceNetConfig(), *, rngs: nnx.Rngs):
        layer = functools.partial(ConvBN, rngs=rngs, folded=config.folded, decay=config.bn_decay)

        def chain(inputs, *layers):
            """Layers one after the other, each (outputs, size) or (outputs, size, stride)."""
            built = []
            for outputs, size, *stride in layers:
                how: dict[str, Any] = {"stride": stride[0]} if stride else {"padding": "same"}
                built.append(layer(inputs, outputs, size, **how))
                inputs = outputs
            return nnx.List(built)

        def reduction(channels, *chains):
            return Reduction([chain(channels, *layers) for layers in chains])

        def block(name, channels, *chains, relu=True):
            branches = [chain(channels, *layers) for layers in chains]
            scale = RESIDUAL_SCALES[name]
            return Block(branches, channels, scale, config, rngs=rngs, relu=relu)

        block35 = [(32, 1)], [(32, 1), (32, 3)], [(32, 1), (32, 3), (32, 3)]
        block17 = [(128, 1)], [(128, 1), (128, (1, 7)), (128, (7, 1))]
        block8 = [(192, 1)], [(192, 1), (192, (1, 3)), (192, (3, 1))]
        self.conv2d_3b = layer(64, 80, 1)
        self.conv2d_4a = layer(80, 192, 3)
        self.conv2d_4b = layer(192, 256, 3, stride=2)
        self.repeat_1 = nnx.List([block("repeat_1", 256, *block35) for _ in range(5)])
        self.mixed_6a = reduction(256, [(384, 3, 2)], [(192, 1), (192, 3), (256, 3, 2)])
        self.repeat_2 = nnx.List([block("repeat_2", 896, *block17) for _ in range(10)])
        first, last = (256, 1), (256, 3, 2)
        self.mixed_7a = reduction(896, [first, (384, 3, 2)], [first, last], [first, (256, 3), last])
        self.repeat_3 = nnx.List([block("repeat_3", 1792, *block8) for _ in range(5)])
        self.block8 = block("block8", 1792, *block8, relu=False)
        self.bottleneck = Bottleneck(config, rngs=rngs)

    def stages(self, z: jax.Array, *how: Any) -> Iterator[tuple[str, jax.Array]]:
        """Every stage by name; ``how``: statistics and mask, as in ``ConvBN``."""
        yield "maxpool_3a", (x := max_pool(z, 3, 2))  # (b, 38, 38, 64)
        yield "conv2d_3b", (x := self.conv2d_3b(x, *how))  # (b, 38, 38, 80)
        yield "conv2d_4a", (x := self.conv2d_4a(x, *how))  # (b, 36, 36, 192)
        yield "conv2d_4b", (x := self.conv2d_4b(x, *how))  # (b, 17, 17, 256)
        for block in self.repeat_1:
            x = block(x, *how)
        yield "repeat_1", x  # (b, 17, 17, 256)
        yield "mixed_6a", (x := self.mixed_6a(x, *how))  # (b, 8, 8, 896)
        for block in self.repeat_2:
            x = block(x, *how)
        yield "repeat_2", x  # (b, 8, 8, 896)
        yield "mixed_7a", (x := self.mixed_7a(x, *how))  # (b, 3, 3, 1792)
        for block in self.repeat_3:
            x = block(x, *how)
        yield "repeat_3", x  # (b, 3, 3, 1792)
        yield "block8", (x := self.block8(x, *how))  # (b, 3, 3, 1792)
        yield "pool", (x := x.mean((1, 2)))  # (b, 1792)
        yield "bottleneck", (x := self.bottleneck(x, *how))  # (b, e)
        yield "embedding", x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)

    def __call__(self, z: jax.Array, statistics: Statistics = "running") -> jax.Array:
        return _last(self.stages(checks.features(z), statistics))


def _last(stages: Iterator[tuple[str, jax.Array]]) -> jax.Array:
    *_, (_, value) = stages
    return value


class InceptionResNetV1(nnx.Module):
    """The whole recogniser, Ψ(E(x)): images (b,160,160,3) in [0,1] to embeddings (b,e)."""

    def __init__(self, config: FaceNetConfig = FaceNetConfig(), *, rngs: nnx.Rngs):
        self.config = config
        self.extractor = Extractor(config, rngs=rngs)
        self.server = Server(config, rngs=rngs)
        size, n = config.embedding_size, config.classes
        self.logits = nnx.Linear(size, n, rngs=rngs) if n else None

    def __call__(self, images: jax.Array, statistics: Statistics = "running") -> jax.Array:
        return self.server(self.extractor(images, statistics), statistics)


def fold_batch_norm(network: InceptionResNetV1) -> InceptionResNetV1:
    """The same recogniser with batch norm (running statistics) and residual scales folded into
    kernels and biases: fewer operations, equal embeddings up to rounding. For inference only."""
    if network.config.folded:
        return network
    weights = {name: np.asarray(value) for name, value in state.flatten(network).items()}
    folded = {name: value for name, value in weights.items() if ".bn." not in name}
    for mean in (name for name in weights if name.endswith(".bn.mean")):
        layer = mean.removesuffix(".bn.mean")
        kind = "linear" if layer == "server.bottleneck" else "conv"
        variance = weights[f"{layer}.bn.var"].astype(np.float64)
        gain = 1 / np.sqrt(variance + BatchNorm.EPSILON)
        folded[f"{layer}.{kind}.kernel"] = weights[f"{layer}.{kind}.kernel"] * gain
        folded[f"{layer}.{kind}.bias"] = weights[f"{layer}.bn.bias"] - weights[mean] * gain
    for name in (name for name in weights if ".up." in name):
        folded[name] = weights[name] * RESIDUAL_SCALES[name.split(".")[1]]
    config = dataclasses.replace(network.config, folded=True)
    return state.fill(lambda: InceptionResNetV1(config, rngs=nnx.Rngs(0)), folded)
