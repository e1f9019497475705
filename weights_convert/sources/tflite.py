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

from advface_jax.untrusted import DEPTH, NAME, read_bytes
from weights_convert.sources import BadFile, Refused, Room, explained

_DTYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 7: "<i2", 9: "i1"}


class _Table:
    """One flatbuffer table: a position in the bytes, fields by number.

    Tables and vectors may overlap, or be the same many times: ``room`` counts each visit.
    """

    def __init__(self, data: bytes, position: int, room: Room):
        room.count()
        self.data, self.position, self.room = data, position, room
        self.vtable = position - self._unpack("<i", position)
        self.vtable_size = self._unpack("<H", self.vtable)

    def _unpack(self, form: str, position: int) -> Any:
        # For negative offsets struct would read from the end.
        if position < 0:
            raise BadFile(f"an offset of {position}")
        return struct.unpack_from(form, self.data, position)[0]

    def _field(self, number: int) -> int | None:
        slot = 4 + 2 * number
        if slot + 2 > self.vtable_size:
            return None  # written by an older schema: the field has its default
        offset = self._unpack("<H", self.vtable + slot)
        return self.position + offset if offset else None

    def _target(self, number: int) -> int | None:
        """Where the child of a field begins."""
        where = self._field(number)
        return None if where is None else where + self._unpack("<I", where)

    def scalar(self, number: int, form: str, default: int = 0) -> int:
        where = self._field(number)
        return default if where is None else self._unpack(form, where)

    def table(self, number: int) -> _Table | None:
        start = self._target(number)
        return None if start is None else _Table(self.data, start, self.room)

    def tables(self, number: int) -> list[_Table]:
        start = (self._target(number) or 0) + 4
        steps = self.vector(number, "<u4")
        self.room.count(steps.size)
        places = (start + 4 * i + step for i, step in enumerate(steps.tolist()))
        return [_Table(self.data, place, self.room) for place in places]

    def vector(self, number: int, dtype: str, most: int | None = None) -> np.ndarray:
        start = self._target(number)
        if start is None:
            return np.zeros(0, dtype)
        count = self._unpack("<I", start)
        if most is not None and count > most:
            raise BadFile(f"{count:,} entries where at most {most:,} are read")
        return np.frombuffer(self.data, dtype, count, start + 4)

    def text(self, number: int) -> str:
        return bytes(self.vector(number, "u1", NAME)).decode("utf-8")


def _dequantised(values: np.ndarray, tensor: _Table, name: str) -> np.ndarray:
    """``(q - zero_point) * scale`` as float32, for one scale per tensor."""
    quantisation = tensor.table(4)
    if quantisation is None or (scale := quantisation.vector(2, "<f4")).size == 0:
        return values  # a plain integer tensor, such as a shape
    zero = quantisation.vector(3, "<i8")
    if scale.size != 1 or zero.size > 1:
        raise Refused(
            f"its tensor {name!r} has {scale.size} scales, and only one a tensor is read; give the "
            "weights that it was made from"
        )
    tensor.room.take(values.shape)
    return (values.astype(np.float32) - np.float32(zero.sum())) * scale[0]


def _constants(data: bytes) -> dict[str, np.ndarray]:
    room = Room()
    model = _Table(data, struct.unpack_from("<I", data, 0)[0], room)
    buffers = model.tables(4)
    arrays: dict[str, np.ndarray] = {}
    for subgraph in model.tables(2):
        for tensor in subgraph.tables(0):
            number = tensor.scalar(2, "<I")
            if number >= len(buffers):
                raise BadFile(f"a tensor of buffer {number:,} of {len(buffers):,}")
            contents = buffers[number].vector(0, "u1")
            if contents.size == 0:
                continue  # an activation, computed at run time
            name, kind = tensor.text(3), tensor.scalar(1, "<b")
            if kind not in _DTYPES:
                raise BadFile(f"tensor {name!r} has TFLite type {kind}, which is not a number")
            if name in arrays:
                raise BadFile(f"two constant tensors are called {name!r}")
            shape = tensor.vector(0, "<i4", DEPTH).tolist()
            room.take(shape, np.dtype(_DTYPES[kind]).itemsize)
            values = contents.view(_DTYPES[kind]).reshape(shape)
            if values.dtype.kind in "iu":
                values = _dequantised(values, tensor, name)
            arrays[name] = values
    return arrays


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every constant of a TFLite file by its own name.

    8-bit and 16-bit tensors with one scale come back as float32 ``(q - zero_point) * scale``, all
    others as they are stored. Convolution kernels are (out, height, width, in).
    """
    data = read_bytes(path)
    with explained(path, "a TFLite file", "give a .tflite file, or fetch it again"):
        if data[4:8] != b"TFL3":
            raise BadFile(f"bytes 4 to 8 are {data[4:8]!r}, wanted b'TFL3'")
        return _constants(data)
