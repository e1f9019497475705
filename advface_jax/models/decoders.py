"""The decoders that turn features back into faces: TransRec, ResRec and URec (paper, section 4.1).

The paper gives their kinds, not their widths. All map z (b,77,77,64) to images (b,160,160,3)
through a sigmoid, use batch norm, and end in the mirror of E's first two convolutions. The default
sizes reach the paper's quality of unprotected pictures (docs/decoders.md).
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
from flax import nnx

from advface_jax import checks
from advface_jax.models import files
from advface_jax.models.channel_decoder import ChannelDecoderConfig, ChannelRec
from advface_jax.models.facenet import FEATURE_SHAPE, IMAGE_SIZE
from advface_jax.models.layers import Conv, ConvBN, Statistics, max_pool, rectify
from advface_jax.untrusted import BadFile

Kind = Literal["transrec", "resrec", "urec"]
KINDS: tuple[Kind, ...] = ("transrec", "resrec", "urec")


def check_sources(*sources: str) -> None:
    """ValueError unless each is one of ``KINDS``, or a decoder's file with its card beside it."""
    for source in set(sources) - set(KINDS):
        path = Path(source)
        both = (path, path.with_suffix(".json")) if path.name else (path,)
        if lacking := [file for file in both if not file.is_file()]:
            raise ValueError(
                f"no decoder at {lacking[0]}: wanted {', '.join(KINDS)}, or NAME.safetensors "
                "beside NAME.json, as `python -m experiments.train_decoder` writes them"
            )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder's kind and size: ``depth`` counts ResRec's blocks or URec's levels of pooling."""

    kind: Kind = "resrec"
    width: int = 16
    depth: int = 1
    bn_decay: float = 0.99

    def __post_init__(self):
        checks.positive(width=self.width)
        checks.between(0, 6 if self.kind == "urec" else 100, depth=self.depth)  # 77 halves 6 times

    @classmethod
    def of(cls, kind: Kind) -> "DecoderConfig":
        """The default size of each kind."""
        width, depth = {"transrec": (32, 0), "resrec": (16, 1), "urec": (16, 2)}[kind]
        return cls(kind, width, depth)


AnyConfig = DecoderConfig | ChannelDecoderConfig


def read_config(card: Any) -> AnyConfig:
    """The config in a decoder's card; BadFile for unknown fields or values."""
    kind = card.get("kind", KINDS[0]) if isinstance(card, Mapping) else KINDS[0]
    if kind not in (*KINDS, "channelrec"):
        raise BadFile(f"its config has kind={kind!r:.80}")
    return files.config(card, ChannelDecoderConfig if kind == "channelrec" else DecoderConfig)


@overload
def decoder(config: DecoderConfig, *, rngs: nnx.Rngs) -> "Decoder": ...
@overload
def decoder(config: AnyConfig, *, rngs: nnx.Rngs) -> "AnyDecoder": ...
def decoder(config: AnyConfig, *, rngs: nnx.Rngs) -> "AnyDecoder":
    """Build a decoder with fresh weights. Raises ValueError for an unknown kind."""
    if isinstance(config, ChannelDecoderConfig):
        return ChannelRec(config, rngs=rngs)
    config = checks.config(config, DecoderConfig)
    kinds = {"transrec": TransRec, "resrec": ResRec, "urec": URec}
    if config.kind not in kinds:
        raise ValueError(f"unknown decoder {config.kind!r}: choose one of {', '.join(kinds)}")
    return kinds[config.kind](config, rngs=rngs)


class Decoder(nnx.Module):
    """What all decoders share: batch norm with gamma, and the tail up to the image."""

    takes = FEATURE_SHAPE
    """The shape of one z, which ``protect`` checks first and ``memory`` counts with."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.conv_2a = self._layer(config.width, config.width, rngs, transpose=True)
        self.conv_1a = Conv(config.width, 3, 3, rngs=rngs, stride=2, transpose=True, bias=True)

    def _layer(self, inputs: int, outputs: int, rngs: nnx.Rngs, **how: Any) -> ConvBN:
        how |= {"padding": "same", "scale": True, "decay": self.config.bn_decay}
        return ConvBN(inputs, outputs, 3, rngs=rngs, **how)

    def body(self, z: jax.Array, *how: Any) -> jax.Array:
        """Features (b,77,77,64) to (b,77,77,width); ``how``: statistics and mask."""
        raise NotImplementedError

    def __call__(
        self, z: jax.Array, statistics: Statistics = "running", mask: jax.Array | None = None
    ) -> jax.Array:
        """Decode z (b,77,77,64) to images (b,160,160,3) in [0,1].

        ``mask`` (b,) marks padding with 0: it does not count in batch statistics. Raises
        ValueError for a z of another shape or dtype, NaN or inf.
        """
        y = self.body(checks.features(z), statistics, mask)  # (b, 77, 77, w)
        y = self.conv_2a(y, statistics, mask)  # (b, 79, 79, w)
        # E does not read the image's last row and column, so its mirror does not produce them:
        # they are decoded from a repetition of the last feature row and column.
        # (jnp.pad's edge mode would touch the batch axis too, which may lie across devices.)
        y = jnp.concatenate([y, y[:, -1:]], 1)
        y = jnp.concatenate([y, y[:, :, -1:]], 2)  # (b, 80, 80, w)
        y = self.conv_1a(y)[:, :IMAGE_SIZE, :IMAGE_SIZE]  # (b, 161, 161, 3) -> 160
        return jax.nn.sigmoid(y)


class TransRec(Decoder):
    """The layer-by-layer mirror of E: three transposed convolutions."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        self.conv_2b = self._layer(FEATURE_SHAPE[-1], config.width, rngs)

    def body(self, z, *how):
        return self.conv_2b(z, *how)


class ResRec(Decoder):
    """A ResNet at the feature's resolution, then the tail."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        w = config.width
        self.stem = self._layer(FEATURE_SHAPE[-1], w, rngs)
        pairs = [[self._layer(w, w, rngs) for _ in range(2)] for _ in range(config.depth)]
        self.blocks = nnx.List(map(nnx.List, pairs))

    def body(self, z, *how):
        y = self.stem(z, *how)
        for first, second in self.blocks:
            y = rectify(y + second(first(y, *how), *how, relu=False))
        return y


class URec(Decoder):
    """A U-Net over 77, 38, 19, … with a skip at each level, then the tail."""

    def __init__(self, config: DecoderConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        widths = [config.width * 2**level for level in range(config.depth + 1)]
        pairs = list(zip(widths, widths[1:], strict=False))
        self.stem = self._layer(FEATURE_SHAPE[-1], widths[0], rngs)
        self.down = nnx.List([self._layer(wide, deep, rngs) for wide, deep in pairs])
        twice = {"stride": 2, "transpose": True}
        self.up = nnx.List([self._layer(deep, wide, rngs, **twice) for wide, deep in pairs])
        self.merge = nnx.List([self._layer(2 * wide, wide, rngs) for wide, _ in pairs])

    def body(self, z, *how):
        y = self.stem(z, *how)
        skips = []
        for down in self.down:
            skips.append(y)
            y = down(max_pool(y, 2, 2), *how)
        for up, merge, skip in reversed(list(zip(self.up, self.merge, skips, strict=True))):
            y = up(y, *how, crop=skip.shape[1:3])
            y = merge(jnp.concatenate([skip, y], -1), *how)
        return y


AnyDecoder = Decoder | ChannelRec
