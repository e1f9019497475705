"""Read the constant tensors of a TFLite file, without TensorFlow.

A ``.tflite`` file is a flatbuffer: tables whose fields are found through a table of offsets. Four
of them are read (Model, SubGraph, Tensor, Buffer); quantised tensors become float32 again. Field
numbers are those of TensorFlow Lite's ``schema.fbs``.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.sources import explained

_DTYPES = {
    0: np.dtype("<f4"),
    1: np.dtype("<f2"),
    2: np.dtype("<i4"),
    3: np.dtype("u1"),
    4: np.dtype("<i8"),
    7: np.dtype("<i2"),
    9: np.dtype("i1"),
}


class _Table:
    """One flatbuffer table: a position in the bytes, fields by number."""

    def __init__(self, data: bytes, position: int):
        self.data, self.position = data, position
        self.vtable = position - self._unpack("<i", position)
        self.vtable_size = self._unpack("<H", self.vtable)

    def _unpack(self, form: str, position: int) -> Any:
        # For negative offsets struct would read from the end.
        if position < 0:
            raise IndexError(position)
        return struct.unpack_from(form, self.data, position)[0]

    def _field(self, number: int) -> int | None:
        slot = 4 + 2 * number
        if slot + 2 > self.vtable_size:
            return None  # written by an older schema: the field has its default
        offset = self._unpack("<H", self.vtable + slot)
        return self.position + offset if offset else None

    def _target(self, position: int) -> int:
        return position + self._unpack("<I", position)

    def scalar(self, number: int, form: str, default: int = 0) -> int:
        where = self._field(number)
        return default if where is None else self._unpack(form, where)

    def table(self, number: int) -> _Table | None:
        where = self._field(number)
        return None if where is None else _Table(self.data, self._target(where))

    def tables(self, number: int) -> list[_Table]:
        where = self._field(number)
        if where is None:
            return []
        start = self._target(where)
        count = self._unpack("<I", start)
        if start + 4 + 4 * count > len(self.data):
            raise IndexError(count)
        return [_Table(self.data, self._target(start + 4 + 4 * index)) for index in range(count)]

    def vector(self, number: int, dtype: np.dtype) -> np.ndarray:
        where = self._field(number)
        if where is None:
            return np.zeros(0, dtype)
        start = self._target(where)
        count = self._unpack("<I", start)
        return np.frombuffer(self.data, dtype, count, start + 4)


def _dequantised(values: np.ndarray, tensor: _Table, name: str) -> np.ndarray:
    """``(q - zero_point) * scale`` as float32, for one scale per tensor."""
    quantisation = tensor.table(4)
    scale = quantisation.vector(2, np.dtype("<f4")) if quantisation else np.zeros(0, np.float32)
    zero = quantisation.vector(3, np.dtype("<i8")) if quantisation else np.zeros(0, np.int64)
    if scale.size == 0:
        return values  # a plain integer tensor, such as a shape
    if scale.size != 1 or zero.size > 1:
        raise ValueError(
            f"tensor {name!r} is quantised with {scale.size} scales; "
            "only one scale per tensor is supported"
        )
    shift = int(zero[0]) if zero.size else 0
    return (values.astype(np.float32) - np.float32(shift)) * scale[0]


def _constants(data: bytes) -> dict[str, np.ndarray]:
    model = _Table(data, struct.unpack_from("<I", data, 0)[0])
    buffers = model.tables(4)
    arrays: dict[str, np.ndarray] = {}
    for subgraph in model.tables(2):
        for tensor in subgraph.tables(0):
            name = bytes(tensor.vector(3, np.dtype("u1"))).decode("utf-8")
            contents = buffers[tensor.scalar(2, "<I")].vector(0, np.dtype("u1"))
            if contents.size == 0:
                continue  # an activation, computed at run time
            kind = tensor.scalar(1, "<b")
            if kind not in _DTYPES:
                raise ValueError(f"tensor {name!r} has TFLite type {kind}, which is not a number")
            if name in arrays:
                raise ValueError(f"two constant tensors are called {name!r}")
            shape = tuple(int(n) for n in tensor.vector(0, np.dtype("<i4")))
            values = contents.view(_DTYPES[kind]).reshape(shape)
            if values.dtype.kind in "iu":
                values = _dequantised(values, tensor, name)
            arrays[name] = values
    return arrays


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every constant of a TFLite file by its own name.

    8-bit and 16-bit tensors with one scale come back as float32 ``(q - zero_point) * scale``, all
    others as they are stored. Convolution kernels are (out, height, width, in).

    Raises:
      ValueError: no TFLite file, or a damaged one.
    """
    data = Path(path).read_bytes()
    with explained(path, "a TFLite file", "give a .tflite file, or fetch it again"):
        if data[4:8] != b"TFL3":
            raise ValueError(f"bytes 4 to 8 are {data[4:8]!r}, wanted b'TFL3'")
        return _constants(data)
