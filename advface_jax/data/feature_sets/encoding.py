"""How one feature lies in a record: float32, bfloat16, or 8 bits with a scale a channel."""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np

Dtype = Literal["f32", "bf16", "int8"]
DTYPES: tuple[str, ...] = get_args(Dtype)
LEVELS = 127  # -128 stays unused, so that zero is exact and the sign symmetric


def numbers(dtype: str) -> np.dtype:
    """The type of a record's numbers."""
    if dtype == "bf16":
        from ml_dtypes import bfloat16  # comes with jax

        return np.dtype(bfloat16)
    return np.dtype("<f4" if dtype == "f32" else "i1")


def encode(z: Any, dtype: str, xp: Any = np) -> tuple[Any, ...]:
    """Arrays (b, …) of features (b, …, c), whose bytes, row by row one after the other, are the
    records; with ``xp`` = jax.numpy on the device.

    int8: first a float32 scale for each channel of the item (its largest magnitude / 127), then
    round(z / scale), half to even. A value is off by half a scale at most.
    """
    if dtype != "int8":
        return (z.astype(numbers(dtype)),)
    scale = xp.abs(z).max(tuple(range(1, z.ndim - 1)), keepdims=True) / np.float32(LEVELS)
    rounded = xp.round(z / xp.where(scale > 0, scale, np.float32(1)))
    return scale.astype(np.float32), xp.clip(rounded, -LEVELS, LEVELS).astype(np.int8)


def size(dtype: str, shape: tuple[int, ...]) -> int:
    """Bytes of a record, before compression."""
    scales = 4 * shape[-1] if dtype == "int8" else 0
    return scales + numbers(dtype).itemsize * int(np.prod(shape))


def decode(record: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """The feature of a record, float32; its size must be ``size``'s."""
    if dtype != "int8":
        return np.frombuffer(record, numbers(dtype)).reshape(shape).astype(np.float32)
    scales = np.frombuffer(record, "<f4", shape[-1])
    return np.frombuffer(record, np.int8, offset=4 * shape[-1]).reshape(shape) * scales
