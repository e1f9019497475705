"""Protocol buffers without schemas: a message's fields, TensorFlow's shapes and types."""

from collections.abc import Iterator
from typing import Any

import numpy as np

_NAMES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
DTYPES = {number: np.dtype(name) for number, name in _NAMES.items()}
"""TensorFlow's ``DataType`` numbers."""


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """The variable-length number at ``position``, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")


def fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Each field of a message: its number, and an int or the bytes it holds."""
    position = 0
    while position < len(data):
        tag, position = varint(data, position)
        number, form = tag >> 3, tag & 7
        if form == 0:
            value, position = varint(data, position)
            yield number, value
            continue
        if form == 2:
            size, position = varint(data, position)
        elif form in (1, 5):
            size = 8 if form == 1 else 4
        else:
            raise ValueError(f"wire type {form}")
        if number == 0 or position + size > len(data):
            raise ValueError("a field that reaches beyond its message")
        yield number, data[position : position + size]
        position += size


def message(data: memoryview) -> dict[int, Any]:
    """A message without repeated fields, by field number."""
    return dict(fields(data))


def text(data: bytes | memoryview) -> str:
    return bytes(data).decode("utf-8")


def shape(data: memoryview) -> tuple[int, ...]:
    """TensorShapeProto."""
    return tuple(message(dim).get(1, 0) for number, dim in fields(data) if number == 2)


def packed(data: int | memoryview, dtype: np.dtype) -> list[Any]:
    """A repeated number, packed or single; integers are signed."""
    if isinstance(data, int):
        return [_signed(data)]
    if dtype.kind == "f":
        return list(np.frombuffer(data, dtype))
    values, position = [], 0
    while position < len(data):
        value, position = varint(data, position)
        values.append(_signed(value))
    return values


def _signed(value: int) -> int:
    """A negative number is written as its 64-bit two's complement."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
