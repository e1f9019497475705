"""MATLAB's .mat files of level 5 (``save -v6`` and ``-v7``): one variable, read with bounds.

Read here and not by ``scipy.io.loadmat``, which a damaged file can crash. Source: MathWorks,
"MAT-File Format", chapter 1.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax.untrusted import DEPTH, MAT_BYTES, BadFile, Room, read_bytes

_MOST = MAT_BYTES
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = {
    1: "i1",
    2: "u1",
    3: "i2",
    4: "u2",
    5: "i4",
    6: "u4",
    7: "f4",
    9: "f8",
    12: "i8",
    13: "u8",
}
_TEXTS = {1: "latin-1", 2: "latin-1", 4: "utf-16-", 16: "utf-8", 17: "utf-16-", 18: "utf-32-"}


def read(path: str | os.PathLike[str], variable: str) -> Any:
    """A variable: text as str, numbers as an array, a cell as an array of objects, a struct as the
    tuple of its fields (several structs: an array of tuples).

    Raises:
      ValueError: with what is wrong, and what the file has instead of the variable.
    """
    path = Path(path)
    try:
        data = read_bytes(path, _MOST)
    except OSError as error:
        raise BadFile(error.strerror or str(error)) from error
    if data.startswith(b"MATLAB 7.3"):
        raise BadFile("a file of MATLAB 7.3, which is HDF5: save it in MATLAB with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise BadFile("not a MATLAB file of level 5")
    known, room, left = [], Room(), _MOST
    for kind, part in _elements(memoryview(data)[128:], order):
        if kind == _COMPRESSED:
            inside = _unpacked(part, left)
            left -= len(inside)
            kind, part = next(_elements(memoryview(inside), order), (0, part))
        if kind == _MATRIX:
            name = _head(part, order)[2]
            if name == variable:
                return _array(part, order, room)
            known.append(name)
            room.count()
    raise BadFile(f"it holds {', '.join(known)[:300] or 'nothing'}")


def _unpacked(part: memoryview, left: int) -> bytes:
    """An element, where all elements before it left so many bytes of the file's budget."""
    unpacker = zlib.decompressobj()
    try:
        data = unpacker.decompress(part, left + 1)  # 0 would be no bound
    except zlib.error as error:
        raise BadFile(f"damaged ({error})") from None
    if len(data) > left:
        raise BadFile(f"more than {_MOST >> 20} MiB")
    return data


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """The type and the bytes of each element in a row."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if small := kind >> 16:  # at most 4 bytes, which are in the tag itself
            kind, size, start = kind & 0xFFFF, small, at + 4
        if start + size > len(data) or small > 4:
            raise BadFile(f"cut short or damaged: {size:,} bytes are wanted at byte {start:,}")
        at = start + size if kind == _COMPRESSED else -(-(start + size) // 8) * 8
        yield kind, data[start : start + size]


def _head(data: memoryview, order: str) -> tuple[int, tuple[int, ...], str, Any]:
    """A matrix' class, dimensions and name, and the elements behind them."""
    parts = _elements(data, order)
    try:
        flags, dimensions, name = (bytes(next(parts)[1]) for _ in range(3))
        kind = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    except (StopIteration, RuntimeError, struct.error):
        raise BadFile("damaged: a matrix without its head") from None
    shape = tuple(int(n) for n in np.frombuffer(dimensions[: len(dimensions) & ~3], f"{order}i4"))
    if not 2 <= len(shape) <= 32 or min(shape) < 0 or math.prod(shape) > len(data):
        raise BadFile(f"damaged: {len(data):,} bytes for a matrix of shape {str(shape)[:80]}")
    return kind, shape, name.decode("latin-1"), parts


def _array(data: memoryview, order: str, room: Room, depth: int = 0) -> Any:
    room.count()
    if not len(data):
        return np.empty((0, 0))
    if depth > DEPTH:
        raise BadFile("cells in cells without an end")
    kind, shape, _, parts = _head(data, order)
    if kind in (_CELL, _STRUCT):
        fields = 1
        if kind == _STRUCT:
            (_, length), (_, names) = next(parts, (0, b"")), next(parts, (0, b""))
            width = int.from_bytes(length, "little" if order == "<" else "big")
            fields = len(names) // width if width else 0
            if not fields:
                raise BadFile("damaged: a struct without fields")
        items = [_array(part, order, room, depth + 1) for _, part in parts]
        if len(items) != math.prod(shape) * fields:
            raise BadFile(f"damaged: {len(items)} items in a cell or struct of shape {shape}")
        if kind == _STRUCT:
            items = [tuple(items[i : i + fields]) for i in range(0, len(items), max(fields, 1))]
            if len(items) == 1:
                return items[0]
        return _objects(items, shape)
    stored, values = next(parts, (0, memoryview(b"")))
    if kind == _CHAR and stored in _TEXTS:
        coding = _TEXTS[stored]
        coding += {"<": "le", ">": "be"}[order] if coding.endswith("-") else ""
        return bytes(values).decode(coding, "replace")
    if stored in _NUMBERS and len(values) == math.prod(shape) * int(_NUMBERS[stored][1]):
        return np.frombuffer(values, order + _NUMBERS[stored]).reshape(shape, order="F")
    raise BadFile(f"damaged, or of a class that is not read: {kind}, stored as {stored}")


def _objects(items: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(len(items), object)
    for i, item in enumerate(items):
        array[i] = item
    return array.reshape(shape, order="F")
