"""The roofline: the least work of an iteration of the ascent, and the ceilings of this machine.

Work is counted from the network's own convolutions, not from a compiled program, which may do more.
"""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax.models.decoders import Decoder
from advface_jax.models.facenet import FEATURE_SHAPE
from advface_jax.protect import ascent
from experiments.benchmark.timing import timed

LONG_ENOUGH = 0.03  # seconds of a ceiling's run, so that starting it does not count
MATRIX, LARGEST_MATRIX = 2048, 16384
COPY, LARGEST_COPY = 2**26, 2**31  # bytes


class Work(NamedTuple):
    """Of one iteration on one face: multiplications and additions, and bytes to and from memory."""

    flops: float
    bytes: float

    def least_seconds(self, flops_per_s: float, bytes_per_s: float) -> float:
        """The least time, where arithmetic and memory work side by side."""
        return max(self.flops / flops_per_s, self.bytes / bytes_per_s)

    def bound(self, flops_per_s: float, bytes_per_s: float) -> str:
        arithmetic = self.flops / flops_per_s >= self.bytes / bytes_per_s
        return "arithmetic" if arithmetic else "memory"


@contextlib.contextmanager
def as_on_a_tpu() -> Iterator[None]:
    """Layers choose by ``jax.default_backend()``; in here they choose as for a TPU."""
    real = jax.default_backend
    jax.default_backend = lambda: "tpu"
    try:
        yield
    finally:
        jax.default_backend = real


def iteration(decoder: Decoder, dtype: str = "float32") -> Work:
    """The forward pass and the gradient in the feature.

    FLOPs: two for each multiplication of a convolution by anything but a zero of padding, and as
    many again for the gradient. Batch norm, ReLU and the like are not counted (about 1%).

    Bytes, a lower bound: each convolution reads its input and writes its output; backward it reads
    the output and its gradient and writes the input's; the step reads z and z~ too. Everything else
    is assumed fused, and nothing to stay in a cache from one convolution to the next.
    """
    z = jax.ShapeDtypeStruct((1, *FEATURE_SHAPE), dtype)
    flops, elements = 0, 2 * math.prod(FEATURE_SHAPE)
    with as_on_a_tpu():
        program = jax.make_jaxpr(lambda z: decoder(z, "batch"))(z)
    for eqn in _convolutions(program.jaxpr):
        x, y = eqn.invars[0].aval, eqn.outvars[0].aval
        flops += 2 * 2 * _multiplications(eqn)
        elements += 2 * x.size + 3 * y.size
    return Work(flops, elements * jnp.dtype(dtype).itemsize)


def counted(decoder: Decoder) -> float | None:
    """The same FLOPs by XLA's count of the lowered program, with the small operations: a check on
    ``iteration``."""
    shapes = (1, *FEATURE_SHAPE), (1, 160, 160, 3)
    z, image = (jax.ShapeDtypeStruct(shape, "float32") for shape in shapes)
    gradient = jax.jit(lambda z, x_tilde, decoder: ascent(decoder, x_tilde, "batch", None)(z))
    with as_on_a_tpu():
        cost = gradient.lower(z, image, decoder).cost_analysis()
    flops = float((cost or {}).get("flops", math.nan))
    return flops if math.isfinite(flops) else None  # GPUs' compilers may count none


def _convolutions(jaxpr: Any) -> Iterator[Any]:
    """The convolutions of a program and of the programs inside it."""
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "conv_general_dilated":
            yield eqn
        for value in eqn.params.values():
            for inner in value if isinstance(value, (tuple, list)) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from _convolutions(inner)


def _multiplications(eqn: Any) -> int:
    """Those of a convolution (b,h,w,i), (kh,kw,i,o) by numbers other than padding's zeros."""
    x, kernel = (v.aval.shape for v in eqn.invars)
    y = eqn.outvars[0].aval.shape
    places = 1
    for d in (0, 1):
        stride, dilation = eqn.params["window_strides"][d], eqn.params["lhs_dilation"][d]
        before = eqn.params["padding"][d][0]
        at = stride * np.arange(y[d + 1])[:, None] + np.arange(kernel[d])[None] - before
        real = (at >= 0) & (at <= (x[d + 1] - 1) * dilation) & (at % dilation == 0)
        places *= int(real.sum())
    return x[0] * places * kernel[2] * kernel[3]


class Ceiling(NamedTuple):
    """A simple, large operation to time, and its amount: FLOPs, or bytes."""

    run: Callable[[], Any]
    amount: float


def matmul(dtype: str) -> Ceiling:
    """A product of two square matrices at the precision in force, large enough to time."""
    product = jax.jit(jnp.matmul)
    n = MATRIX
    while True:
        a = jnp.full((n, n), 0.5, dtype)
        ceiling = Ceiling(lambda a=a: product(a, a), 2 * n**3)
        if _long(ceiling) or n >= LARGEST_MATRIX:
            return ceiling
        n *= 2


def copy() -> Ceiling:
    """Reading and writing a large array in place, so that no memory is allocated."""
    write = jax.jit(lambda x: x + 1, donate_argnums=0)
    size = COPY
    while True:
        held = [jnp.zeros(size // 4, jnp.float32)]

        def run(held=held):
            held[0] = write(held[0])
            return held[0]

        ceiling = Ceiling(run, 2 * size)
        if _long(ceiling) or size >= LARGEST_COPY:
            return ceiling
        size *= 2


def _long(ceiling: Ceiling) -> bool:
    timed(ceiling.run)  # compiles
    return min(timed(ceiling.run).wall for _ in range(2)) >= LONG_ENOUGH
