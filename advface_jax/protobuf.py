"""Protocol buffers without schemas: a message's fields, one after the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from advface_jax.untrusted import ITEMS, BadFile


def varint(data: memoryview, position: int) -> tuple[int, int]:
    """The variable-length number at ``position``, and the position behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise BadFile("a number of more than ten bytes")


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Each field of a message: its number, and an int or the bytes it holds."""
    position = 0
    for _ in range(ITEMS):
        if position >= len(data):
            return
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
            raise BadFile(f"wire type {form}")
        if number == 0 or position + size > len(data):
            raise BadFile("a field that reaches beyond its message")
        yield number, data[position : position + size]
        position += size
    raise BadFile(f"a message of more than {ITEMS:,} fields")


class Message(dict[int, int | memoryview]):
    """A message without repeated fields, by field number; each is asked for by its kind."""

    def number(self, field: int, default: int = 0) -> int:
        """A whole number; BadFile where the field is bytes."""
        value = self.get(field, default)
        if not isinstance(value, int):
            raise BadFile(f"field {field} is no number")
        return value

    def bytes(self, field: int, default: bytes | None = None) -> memoryview:
        """Bytes; BadFile where the field is a number, or missing without a default."""
        value = self.get(field, default)
        if value is None or isinstance(value, int):
            raise BadFile(f"field {field} is missing or no bytes")
        return memoryview(value)

    def text(self, field: int) -> str:
        """Text, empty by default."""
        return text(self.bytes(field, b""))


def message(data: memoryview) -> Message:
    """A message; of a repeated field the last."""
    return Message(fields(data))


def repeated(data: memoryview, wanted: int) -> Iterator[memoryview]:
    """A repeated field of bytes; BadFile where it is a number."""
    for number, value in fields(data):
        if number == wanted:
            if isinstance(value, int):
                raise BadFile(f"field {number} is no bytes")
            yield value


def text(data: bytes | memoryview) -> str:
    return bytes(data).decode("utf-8")


def packed(data: int | memoryview, dtype: np.dtype) -> np.ndarray:
    """A repeated number, packed or single; integers are signed."""
    if isinstance(data, int):
        return np.array([signed(data)], np.int64)
    if dtype.kind == "f":
        return np.frombuffer(data, dtype)
    return np.fromiter(_varints(data), np.int64)


def _varints(data: memoryview) -> Iterator[int]:
    position = 0
    while position < len(data):
        value, position = varint(data, position)
        yield signed(value)


def signed(value: int) -> int:
    """A negative number is written as its 64-bit two's complement."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
