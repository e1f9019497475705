"""The generator of faces of nobody: an identity code and a nuisance code to a picture.

A small decoder: a dense layer to 5×5, convolutions between doublings, each layer's channels scaled
by the codes, and four pixels for each place at the end. Trained by `experiments.train_generator`,
judged by `experiments.nobody`; the faces that the package ships are drawn (advface_jax.data).
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx
from jax import lax

from advface_jax import checks
from advface_jax.models import state
from advface_jax.models.facenet import IMAGE_SIZE
from advface_jax.models.layers import Conv

SAMPLING = {"nuisance": 0.7, "kept": 0.4, "sharpen": 0.0, "grain": 0.02}
_BATCH = 16
_CODES = ("mean", "root", "centre", "axes")
START = 5  # places along a side before the five doublings up to 160


@dataclasses.dataclass(frozen=True)
class GeneratorConfig:
    """The sizes of the codes, and the channels at 5, 10, 20, 40 and 80 places along a side."""

    identity: int = 48
    nuisance: int = 32
    widths: tuple[int, ...] = (192, 192, 96, 48, 32)

    def __post_init__(self):
        checks.positive(identity=self.identity, nuisance=self.nuisance)
        if len(self.widths) != 5 or min(self.widths) < 1:
            raise ValueError(f"got widths={self.widths}; wanted five positive numbers")


class Layer(nnx.Module):
    """A convolution, channels scaled by the codes, a leaky ReLU, and unit length over channels."""

    def __init__(self, inputs: int, outputs: int, codes: int, *, rngs: nnx.Rngs):
        self.conv = Conv(inputs, outputs, 3, rngs=rngs, padding="same", bias=True)
        self.gain = nnx.Linear(
            codes, outputs, kernel_init=nnx.initializers.normal(0.02), use_bias=False, rngs=rngs
        )

    def __call__(self, x: jax.Array, codes: jax.Array) -> jax.Array:
        y = self.conv(x) * (1 + self.gain(codes))[:, None, None]
        y = jnp.maximum(y, 0.2 * y)
        return y * lax.rsqrt((y * y).mean(-1, keepdims=True) + 1e-4)


class Generator(nnx.Module):
    """Codes to pictures."""

    def __init__(self, config: GeneratorConfig = GeneratorConfig(), *, rngs: nnx.Rngs):
        self.config = config
        codes, w = config.identity + config.nuisance, config.widths
        self.dense = nnx.Linear(codes, START * START * w[0], rngs=rngs)
        self.first = Layer(w[0], w[1], codes, rngs=rngs)
        self.second = Layer(w[1], w[1], codes, rngs=rngs)
        self.layers = nnx.List(
            [Layer(w[i], w[i + 1], codes, rngs=rngs) for i in range(1, len(w) - 1)]
        )
        self.image = Conv(w[-1], 12, 3, rngs=rngs, padding="same", bias=True)

    def __call__(self, identity: jax.Array, nuisance: jax.Array) -> jax.Array:
        """Codes (b,identity) and (b,nuisance), float32: pictures (b,160,160,3) in [0,1]."""
        codes = jnp.concatenate([identity, nuisance], -1)
        y = self.dense(codes).reshape(-1, START, START, self.config.widths[0])
        y = self.second(self.first(double(y), codes), codes)  # (b, 10, 10, 192)
        for layer in self.layers:  # (b, 20, 20, 96), (b, 40, 40, 48), (b, 80, 80, 32)
            y = layer(double(y), codes)
        return jax.nn.sigmoid(spread(self.image(y)))


def double(x: jax.Array) -> jax.Array:
    """Four places for each, linear between centres: (b,h,w,c) -> (b,2h,2w,c).

    Repeating each place would be cheaper, and leaves a lattice in the pictures.
    """
    for axis in (1, 2):
        n = x.shape[axis]
        first, last = (lax.slice_in_dim(x, i, i + 1, axis=axis) for i in (0, n - 1))
        before = jnp.concatenate([first, lax.slice_in_dim(x, 0, n - 1, axis=axis)], axis)
        after = jnp.concatenate([lax.slice_in_dim(x, 1, n, axis=axis), last], axis)
        x = jnp.stack([0.75 * x + 0.25 * before, 0.75 * x + 0.25 * after], axis + 1)
        x = x.reshape(*x.shape[:axis], 2 * n, *x.shape[axis + 2 :])
    return x


def spread(x: jax.Array) -> jax.Array:
    """Channels to places: (b,h,w,4c) -> (b,2h,2w,c)."""
    b, h, w, c = x.shape
    y = x.reshape(b, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, 2 * h, 2 * w, c // 4)


def gather(x: jax.Array) -> jax.Array:
    """Places to channels, the inverse of ``spread``: (b,2h,2w,c) -> (b,h,w,4c)."""
    b, h, w, c = x.shape
    y = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(b, h // 2, w // 2, 4 * c)


class Nobody(NamedTuple):
    """A trained generator and what its codes mean.

    mean, root: of the Gaussian that the training's nuisance codes fill, (m,) and the covariance's
        root (m,m).
    centre, axes: the embedding that an identity code stands for is ``centre + axes @ code``, before
        its length is made 1; (e,) and (e,k).
    """

    generator: Generator
    mean: np.ndarray
    root: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    card: dict[str, Any]


def write_generator(path: str | os.PathLike[str], nobody: Nobody) -> None:
    """Write a generator as ``path`` (safetensors, float16) and its card beside it (``.json``)."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = state.flatten(nobody.generator) | {name: getattr(nobody, name) for name in _CODES}
    small = {name: np.asarray(value).astype(np.float16) for name, value in arrays.items()}
    safetensors.numpy.save_file(small, path)
    config = dataclasses.asdict(nobody.generator.config)
    card = {**nobody.card, "config": config, "dtype": "float16"}
    path.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n")


def read_generator(path: str | os.PathLike[str]) -> Nobody:
    """A generator (float32) from the files that ``write_generator`` wrote.

    Raises:
      ValueError: a missing or damaged file, or arrays that do not fit the card's config.
    """
    path = Path(path)
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            raise ValueError(f"no generator at {file}: wanted NAME.safetensors beside NAME.json")
    try:
        card = json.loads(path.with_suffix(".json").read_text())
        arrays = safetensors.numpy.load_file(path)
        sizes = card["config"]
        config = GeneratorConfig(sizes["identity"], sizes["nuisance"], tuple(sizes["widths"]))
        codes = {name: arrays.pop(name).astype(np.float32) for name in _CODES}
    except (ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
        raise ValueError(f"{path} is damaged ({error}): copy or train it again") from error
    made = state.fill(lambda: Generator(config, rngs=nnx.Rngs(0)), arrays)
    return Nobody(made, **codes, card=card)


@jax.jit
def generate(generator: Generator, identity: jax.Array, nuisance: jax.Array) -> jax.Array:
    """Pictures (b,160,160,3) in [0,1] of codes (b,identity), (b,nuisance); one jitted program."""
    return generator(identity, nuisance)


def draw(nobody: Nobody, seed: int, shots: Sequence[tuple[int, int]]) -> np.ndarray:
    """Pictures by a generator, each a (person, picture): uint8 (n,160,160,3).

    The card's ``sampling`` says how codes are drawn: ``nuisance`` scales their deviation, ``kept``
    is the share of its variance that is a person's own (their hair, say), ``sharpen`` and ``grain``
    give the picture back what a small decoder averages away: edges, and the sensor's noise.
    """
    how = {**SAMPLING, **nobody.card.get("sampling", {})}
    k, m = nobody.generator.config.identity, nobody.generator.config.nuisance
    who, light = np.empty((len(shots), k), np.float32), np.empty((len(shots), m), np.float32)
    for row, (person, picture) in enumerate(shots):
        who[row], own = np.split(normals((seed, person), k + m), [k])
        moment = normals((seed, person, picture, 0), m)
        code = how["kept"] ** 0.5 * own + (1 - how["kept"]) ** 0.5 * moment
        light[row] = nobody.mean + how["nuisance"] * (nobody.root @ code)
    out = np.empty((len(shots), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for start in range(0, len(shots), _BATCH):
        rows = slice(start, start + _BATCH)
        n = len(who[rows])  # the last batch is filled up: one program serves all
        full = (np.resize(a[rows], (_BATCH, a.shape[1])) for a in (who, light))
        made = np.asarray(generate(nobody.generator, *full))[:n]
        for i, (person, picture) in enumerate(shots[rows]):
            noise = how["grain"] and how["grain"] * normals(
                (seed, person, picture, 1), IMAGE_SIZE * IMAGE_SIZE
            )
            out[start + i] = _develop(made[i], how["sharpen"], noise)
    return out


def normals(key: Sequence[int], n: int) -> np.ndarray:
    """n normal numbers, float64, that follow from the key in every version of NumPy.

    Whose distributions may change their streams; those of Philox's bits and of seeds may not. The
    people who were vetted must stay the people who are drawn.
    """
    bits = np.random.Philox(np.random.SeedSequence(key)).random_raw(n + n % 2)
    a, b = ((bits >> np.uint64(11)) * 2.0**-53).reshape(2, -1)
    radius = np.sqrt(-2 * np.log1p(-a))  # Box and Muller
    return np.concatenate([radius * np.cos(2 * np.pi * b), radius * np.sin(2 * np.pi * b)])[:n]


def _develop(x: np.ndarray, sharpen: float, noise: np.ndarray | float) -> np.ndarray:
    """Edges lifted over their surroundings of 3×3, the sensor's noise, and 8 bits."""
    if sharpen:
        blurred = x
        for axis in (0, 1):
            pad = [(1, 1) if i == axis else (0, 0) for i in range(3)]
            wide = np.pad(blurred, pad, mode="edge")
            parts = [wide.take(range(i, i + IMAGE_SIZE), axis) for i in range(3)]
            blurred = (parts[0] + parts[1] + parts[2]) / 3
        x = x + sharpen * (x - blurred)
    x = x + np.broadcast_to(noise, IMAGE_SIZE * IMAGE_SIZE).reshape(IMAGE_SIZE, IMAGE_SIZE, 1)
    return (np.clip(x, 0, 1) * 255 + 0.5).astype(np.uint8)
