"""Read a TensorFlow checkpoint (``.index`` with its ``.data-…`` files), without TensorFlow.

The index is a LevelDB table: sorted keys in blocks, each value a BundleEntryProto with a variable's
place in the data files.
"""

import contextlib
import glob
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from advface_jax.untrusted import NAME, open_file, read_bytes
from weights_convert.sources import BadFile, Refused, Room, explained, wire

_Entry = tuple[bytes, memoryview]
_BLOCK = 4 << 20  # bytes of a block, which LevelDB makes of 4 kB or one variable's entry
_DATA = 1 << 40  # bytes of a data file, of which only what the arrays need is read
_PART = 64  # bytes of a block that take about as long as an entry
MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
OBJECTS = b"_CHECKPOINTABLE_OBJECT_GRAPH"


def _unsnappy(data: memoryview) -> memoryview:
    """Raw snappy: literals, and copies of what came before."""
    size, position = wire.varint(data, 0)
    if size > _BLOCK:
        raise BadFile(f"a block of {size:,} bytes")
    out = bytearray()
    while position < len(data):
        tag = data[position]
        position += 1
        form, length = tag & 3, tag >> 2
        if form == 0:
            if length >= 60:  # the length is in the next one to four bytes
                count = length - 59
                length = int.from_bytes(data[position : position + count], "little")
                position += count
            out += data[position : position + length + 1]
            position += length + 1
            continue
        if form == 1:
            offset = (tag >> 5) << 8 | data[position]
            length, position = (length & 7) + 4, position + 1
        else:
            count = 2 if form == 2 else 4
            offset = int.from_bytes(data[position : position + count], "little")
            length, position = length + 1, position + count
        if not 0 < offset <= len(out):
            raise BadFile("a copy from before the beginning")
        for _ in range(length):  # byte by byte: a copy may overlap itself
            out.append(out[-offset])
        if len(out) > size:
            break
    if len(out) != size:
        raise BadFile(f"{len(out)} bytes, wanted {size}")
    return memoryview(bytes(out))


def _handle(data: memoryview, position: int) -> tuple[int, int, int]:
    offset, position = wire.varint(data, position)
    size, position = wire.varint(data, position)
    return offset, size, position


def _block(data: memoryview, offset: int, size: int, room: Room) -> Iterator[_Entry]:
    """Keys and values of the block at ``offset``; its type byte follows it."""
    if size > _BLOCK:
        raise BadFile(f"a block of {size:,} bytes")
    room.count(1 + size // _PART)  # blocks may overlap
    kind = data[offset + size]
    if kind > 1:
        raise BadFile(f"block compression {kind}")
    stored = data[offset : offset + size]
    block = _unsnappy(stored) if kind else stored
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise BadFile(f"{restarts} restarts in a block of {len(block)} bytes")
    position, key = 0, b""
    while position < end:
        shared, position = wire.varint(block, position)
        rest, position = wire.varint(block, position)
        length, position = wire.varint(block, position)
        if position + rest + length > end:
            raise BadFile("an entry that reaches beyond its block")
        if shared + rest > NAME:
            raise BadFile(f"a name of more than {NAME:,} bytes")
        room.count()
        key = key[:shared] + bytes(block[position : position + rest])
        position += rest
        yield key, block[position : position + length]
        position += length


def _entries(data: memoryview, room: Room) -> Iterator[_Entry]:
    if len(data) < _FOOTER or struct.unpack_from("<Q", data, len(data) - 8)[0] != MAGIC:
        raise BadFile("it does not end as a TensorFlow index does")
    footer = data[-_FOOTER:]
    *_, position = _handle(footer, 0)
    for _, value in _block(data, *_handle(footer, position)[:2], room):
        yield from _block(data, *_handle(value, 0)[:2], room)


def files(path: str | Path) -> list[Path]:
    """The index and the data files beside it."""
    path = Path(path)
    return [path, *sorted(path.parent.glob(f"{glob.escape(path.stem)}.data-*-of-*"))]


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every numeric variable of a checkpoint by its own name, from its ``.index`` file."""
    path = Path(path)
    data, room = memoryview(read_bytes(path)), Room()
    remedy = "give the .index file, with its .data file beside it"
    with explained(path, "the index of a TensorFlow checkpoint", remedy):
        entries = dict(_entries(data, room))
        header = wire.message(entries.pop(b"", memoryview(b"")))
        count = header.get(1, 0)
        if not isinstance(count, int):
            raise Refused(
                "a checkpoint of TensorFlow's version 1; load it in TensorFlow and save it again "
                "(tf.train.Saver), or freeze its graph into a .pb"
            )
        if header.number(2) != 0:
            raise Refused("its numbers are not little-endian; save it on another machine")
        if OBJECTS in entries:
            raise Refused(
                "a checkpoint of TensorFlow 2, which names objects and no variables; load the "
                "model in TensorFlow and save it as an .h5 (model.save('facenet.h5'))"
            )
        variables = {key: wire.message(value) for key, value in entries.items()}
        if parted := [key for key, entry in variables.items() if 7 in entry]:
            raise Refused(
                f"it keeps the variable {parted[0].decode('utf-8', 'replace')!r} in several parts, "
                "which is not read; save it without a partitioner, or freeze its graph into a .pb"
            )
        if count > len(files(path)):
            present = len(files(path)) - 1
            raise BadFile(f"it needs {count} data files and beside it are {present}")
        shards = [path.with_suffix(f".data-{i:05d}-of-{count:05d}") for i in range(count)]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise BadFile(f"beside it {', '.join(missing)} is missing")
        with contextlib.ExitStack() as stack:
            opened = [stack.enter_context(open_file(shard, _DATA)) for shard in shards]
            found = {k.decode("utf-8"): _variable(e, opened, room) for k, e in variables.items()}
        return {name: array for name, array in found.items() if array is not None}


def _variable(entry: wire.Message, contents: list[BinaryIO], room: Room) -> np.ndarray | None:
    """BundleEntryProto as an array; None for what is not a number (text, object graphs)."""
    dtype = wire.DTYPES.get(entry.number(1))
    if dtype is None:
        return None
    shape = wire.shape(entry.bytes(2)) if 2 in entry else ()
    size = room.take(shape, dtype.itemsize) * dtype.itemsize
    start, shard = entry.number(4), entry.number(3)
    if entry.number(5) != size or shard >= len(contents) or start >= _DATA:
        raise BadFile(f"an entry that does not fit: {entry.number(5):,} bytes at {start:,}")
    if os.fstat(contents[shard].fileno()).st_size < start + size:
        raise BadFile("its data file is too short")
    contents[shard].seek(start)
    data = contents[shard].read(size)
    if len(data) != size:
        raise BadFile("its data file is too short")
    return np.frombuffer(data, dtype).reshape(shape)
