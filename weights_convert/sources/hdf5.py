"""HDF5 files as Keras writes them, read with bounds: groups, arrays of numbers, text attributes.

Read here and not by the HDF5 library, which is written in C, follows links to other files, and is
made for files that one trusts. Links to elsewhere, virtual and external arrays are refused. Source:
The HDF Group, "HDF5 File Format Specification", version 3.0.
"""

from __future__ import annotations

import itertools
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from advface_jax.untrusted import DEPTH, NAME
from weights_convert.sources import BadFile, Refused, Room, hdf5_groups
from weights_convert.sources.hdf5_bytes import Bytes

_SPACE, _TYPE, _EXTERNAL, _LAYOUT, _FILTERS, _ATTRIBUTE = 1, 3, 7, 8, 11, 12
_DEFLATE, _SHUFFLE, _FLETCHER = 1, 2, 3
_FLOATS = {2: (5, 10), 4: (8, 23), 8: (11, 52)}  # bytes: exponent and mantissa, as IEEE has them
_ELSEWHERE = (1 << 64) - 1  # an address that was never given


@dataclass(frozen=True)
class Array:
    """An array that was found and not read."""

    file: Bytes
    messages: list[tuple[int, bytes]]
    shape: tuple[int, ...]

    def read(self, room: Room) -> np.ndarray:
        """The numbers."""
        dtype = _dtype(_one(self.messages, _TYPE))
        size = room.take(self.shape, dtype.itemsize) * dtype.itemsize
        layout = Bytes(_one(self.messages, _LAYOUT))
        version, kind = layout.number(0, 1), layout.number(1, 1)
        if version not in (3, 4):
            raise Refused("its arrays are laid out as before 2005; save it again")
        if kind == 0:
            data = layout.at(4, layout.number(2, 2))
        elif kind == 1:
            data = self.file.at(layout.number(2), size) if size else b""
        elif kind == 2 and version == 3:
            return self._of_chunks(layout, dtype, room)
        else:
            raise Refused(
                "its arrays are virtual, or in chunks of a new form; save it without compression"
            )
        if len(data) != size:
            raise BadFile(f"{len(data):,} bytes for an array of {size:,}")
        return np.frombuffer(data, dtype).reshape(self.shape).copy()

    def _of_chunks(self, layout: Bytes, dtype: np.dtype, room: Room) -> np.ndarray:
        rank = layout.number(2, 1) - 1
        dims = [layout.number(11 + 4 * i, 4) for i in range(rank)]
        fits = rank == len(self.shape) and rank > 0
        if not fits or any(not 0 < d <= max(n, 1) for d, n in zip(dims, self.shape, strict=True)):
            raise BadFile(f"chunks of {dims[:9]} for an array of {self.shape}")
        filters = _filters(self.messages)
        array = np.zeros(self.shape, dtype)
        wanted = math.prod(-(-n // d) for n, d in zip(self.shape, dims, strict=True))
        seen = set()
        for size, skipped, start, address in self._chunks(layout.number(3), rank, room):
            room.take(dims, dtype.itemsize)
            place = tuple(slice(s, s + d) for s, d in zip(start, dims, strict=True))
            if start in seen or any(
                s % d or s >= n for s, d, n in zip(start, dims, self.shape, strict=True)
            ):
                raise BadFile(f"a chunk at {start}")
            seen.add(start)
            data = self.file.at(address, size)
            most = math.prod(dims) * dtype.itemsize
            for i, kind in reversed(list(enumerate(filters))):
                if not skipped >> i & 1:
                    data = _unfiltered(data, kind, dtype.itemsize, most)
            if len(data) != most:
                raise BadFile(f"a chunk of {len(data):,} bytes; wanted {most:,}")
            part = np.frombuffer(data, dtype).reshape(dims)
            inside = array[place]
            inside[...] = part[tuple(slice(0, n) for n in inside.shape)]
        if len(seen) != wanted:
            raise BadFile(f"{len(seen)} of the {wanted:,} chunks of an array")
        return array

    def _chunks(self, address: int, rank: int, room: Room) -> Iterator[tuple[int, int, tuple, int]]:
        """Size, filters left out, place and address of each chunk."""
        width = 8 + 8 * (rank + 1)
        for at in hdf5_groups.leaves(self.file, address, 1, width, room):
            size, skipped = self.file.number(at, 4), self.file.number(at + 4, 4)
            start = tuple(self.file.number(at + 8 + 8 * i) for i in range(rank))
            yield size, skipped, start, self.file.number(at + width)


@dataclass(frozen=True)
class Contents:
    """What a file holds.

    Attributes:
      arrays: by their paths.
      names: the attribute ``name`` of each group that has one, by the group's path.
    """

    arrays: dict[str, Array]
    names: dict[str, str]


def contents(data: bytes, room: Room) -> Contents:
    """All arrays of a file, none of them read; an object with several paths is met once."""
    file = Bytes(data)
    arrays: dict[str, Array] = {}
    names: dict[str, str] = {}
    waiting, seen = [("", _root(file), 0)], set()
    while waiting:
        path, address, depth = waiting.pop()
        if address in seen:
            continue
        if len(path) > NAME or depth > DEPTH:
            raise BadFile("groups in groups without an end")
        seen.add(address)
        messages = list(hdf5_groups.messages(file, address, room))
        kinds = {kind for kind, _ in messages}
        if _EXTERNAL in kinds:
            raise BadFile(f"{path} points into another file")
        if _LAYOUT in kinds:
            arrays[path] = Array(file, messages, _shape(_one(messages, _SPACE)))
            continue
        if (name := _name(file, messages, room)) is not None:
            names[path] = name
        for link, target in hdf5_groups.links(file, messages, room):
            waiting.append((f"{path}/{link}" if path else link, target, depth + 1))
    return Contents(dict(sorted(arrays.items())), names)


def _root(file: Bytes) -> int:
    """The address of the root group's header."""
    if file.at(0, 8) != b"\x89HDF\r\n\x1a\n":
        raise BadFile("it does not begin as HDF5 does")
    version = file.number(8, 1)
    if version not in (0, 1, 2, 3):
        raise BadFile(f"a superblock of version {version}")
    sizes = file.at(13, 2) if version < 2 else file.at(9, 2)
    base, end, root = {0: (24, 40, 64), 1: (28, 44, 68)}.get(version, (12, 28, 36))
    if sizes != b"\x08\x08" or file.number(base):
        raise Refused("addresses of another size than 8 bytes; save it again")
    if file.number(end) > len(file):
        raise BadFile(f"cut short: {len(file):,} of {file.number(end):,} bytes")
    return file.number(root)


def _one(messages: list[tuple[int, bytes]], kind: int) -> bytes:
    for found, body in messages:
        if found == kind:
            return body
    raise BadFile("an array without its shape, type or place")


def _shape(body: bytes) -> tuple[int, ...]:
    space = Bytes(body)
    version, rank, kind = space.number(0, 1), space.number(1, 1), space.number(3, 1)
    if version not in (1, 2) or rank > 32 or (version == 2 and kind == 2):
        raise BadFile(f"a shape of {rank} axes")
    start = 8 if version == 1 else 4
    return tuple(space.number(start + 8 * i) for i in range(rank))


def _dtype(body: bytes) -> np.dtype:
    kind = Bytes(body)
    number, flags, size = kind.number(0, 1) & 15, kind.number(1, 1), kind.number(4, 4)
    order = ">" if flags & 1 else "<"
    if number == 8:  # an enumeration, as h5py keeps truth values: its base type follows
        return _dtype(kind.at(8, len(body) - 8)) if kind.number(8, 1) & 15 == 0 else _refuse(8)
    if number == 0 and size in (1, 2, 4, 8):
        return np.dtype(f"{order}{'i' if flags & 8 else 'u'}{size}")
    if number == 1 and (kind.number(13, 1), kind.number(15, 1)) == _FLOATS.get(size):
        return np.dtype(f"{order}f{size}")
    return _refuse(number)


def _refuse(number: int) -> Any:
    raise Refused(f"it has an array of HDF5's class {number}, which is none of plain numbers")


def _filters(messages: list[tuple[int, bytes]]) -> list[int]:
    """The filters of an array's chunks, in the order in which they were applied."""
    found = []
    for kind, body in messages:
        if kind != _FILTERS:
            continue
        part = Bytes(body)
        version, at = part.number(0, 1), 8 if part.number(0, 1) == 1 else 2
        for _ in range(min(part.number(1, 1), 32)):
            number = part.number(at, 2)
            named = version == 1 or number >= 256
            length = part.number(at + 2, 2) if named else 0
            values = part.number(at + (6 if named else 4), 2)
            at += (8 if named else 6) + length + 4 * values
            at += 4 * (values % 2) if version == 1 else 0
            found.append(number)
    return found


def _unfiltered(data: bytes, kind: int, itemsize: int, most: int) -> bytes:
    if kind == _FLETCHER:
        return data[:-4]
    if kind == _DEFLATE:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(data, most + 4)
        if unpacker.unconsumed_tail or not unpacker.eof:
            raise BadFile("a chunk that does not unpack to its size")
        return data
    if kind == _SHUFFLE:
        whole = len(data) // itemsize * itemsize
        turned = np.frombuffer(data[:whole], np.uint8).reshape(itemsize, -1).T
        return turned.tobytes() + data[whole:]
    raise Refused(f"its arrays are compressed with HDF5's filter {kind}; save it without")


def _name(file: Bytes, messages: list[tuple[int, bytes]], room: Room) -> str | None:
    """The attribute ``name``, if it is text."""
    for kind, body in messages:
        part = Bytes(body) if kind == _ATTRIBUTE else None
        if part is None or (version := part.number(0, 1)) not in (1, 2, 3):
            continue
        sizes = [part.number(2 + 2 * i, 2) for i in range(3)]
        steps = [-(-size // 8) * 8 if version == 1 else size for size in sizes]
        at = [9 if version == 3 else 8, *steps]
        starts = list(itertools.accumulate(at))
        if part.at(starts[0], sizes[0]).rstrip(b"\0") != b"name":
            continue
        dtype = Bytes(part.at(starts[1], sizes[1]))
        kind_of, size = dtype.number(0, 1) & 15, dtype.number(4, 4)
        if kind_of == 3 and size <= NAME:
            raw = part.at(starts[3], size)
        elif kind_of == 9:
            value = starts[3]
            raw = _global(file, part.number(value + 4), part.number(value + 12, 4), room)
        else:
            return None
        return raw.rstrip(b"\0").decode("utf-8")
    return None


def _global(file: Bytes, address: int, wanted: int, room: Room) -> bytes:
    """An object of a global heap, where text of any length is kept."""
    if file.at(address, 4) != b"GCOL":
        raise BadFile("text that is not there")
    at, end = address + 16, address + file.number(address + 8)
    while at + 16 <= end:
        room.count()
        index, size = file.number(at, 2), file.number(at + 8)
        if index == 0:
            break
        if index == wanted:
            if size > NAME:
                raise BadFile(f"a name of more than {NAME:,} bytes")
            return file.at(at + 16, size)
        at += 16 + -(-size // 8) * 8
    raise BadFile("text that is not there")
