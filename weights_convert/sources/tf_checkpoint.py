"""Read a TensorFlow checkpoint (``.index`` with its ``.data-…`` files), without TensorFlow.

The index is a LevelDB table: sorted keys in blocks, each value a BundleEntryProto with a variable's
place in the data files.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from weights_convert.sources import Refused, explained, wire

MAGIC = 0xDB4775248B80FB57
_FOOTER = 48
OBJECTS = b"_CHECKPOINTABLE_OBJECT_GRAPH"


def _unsnappy(data: memoryview) -> memoryview:
    """Raw snappy: literals, and copies of what came before."""
    size, position = wire.varint(data, 0)
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
            raise ValueError("a copy from before the beginning")
        for _ in range(length):  # byte by byte: a copy may overlap itself
            out.append(out[-offset])
    if len(out) != size:
        raise ValueError(f"{len(out)} bytes, wanted {size}")
    return memoryview(bytes(out))


def _handle(data: memoryview, position: int) -> tuple[int, int, int]:
    offset, position = wire.varint(data, position)
    size, position = wire.varint(data, position)
    return offset, size, position


def _block(data: memoryview, offset: int, size: int) -> Iterator[tuple[bytes, memoryview]]:
    """Keys and values of the block at ``offset``; its type byte follows it."""
    kind = data[offset + size]
    if kind > 1:
        raise ValueError(f"block compression {kind}")
    stored = data[offset : offset + size]
    block = _unsnappy(stored) if kind else stored
    (restarts,) = struct.unpack_from("<I", block, len(block) - 4)
    end = len(block) - 4 - 4 * restarts
    if end < 0:
        raise ValueError(f"{restarts} restarts in a block of {len(block)} bytes")
    position, key = 0, b""
    while position < end:
        shared, position = wire.varint(block, position)
        rest, position = wire.varint(block, position)
        length, position = wire.varint(block, position)
        if position + rest + length > end:
            raise ValueError("an entry that reaches beyond its block")
        key = key[:shared] + bytes(block[position : position + rest])
        position += rest
        yield key, block[position : position + length]
        position += length


def _entries(data: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    if len(data) < _FOOTER or struct.unpack_from("<Q", data, len(data) - 8)[0] != MAGIC:
        raise ValueError("it does not end as a TensorFlow index does")
    footer = data[-_FOOTER:]
    *_, position = _handle(footer, 0)
    for _, value in _block(data, *_handle(footer, position)[:2]):
        yield from _block(data, *_handle(value, 0)[:2])


def files(path: str | Path) -> list[Path]:
    """The index and the data files beside it."""
    path = Path(path)
    return [path, *sorted(path.parent.glob(f"{path.stem}.data-*-of-*"))]


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every numeric variable of a checkpoint by its own name, from its ``.index`` file."""
    path = Path(path)
    data = memoryview(path.read_bytes())
    remedy = "give the .index file, with its .data file beside it"
    with explained(path, "the index of a TensorFlow checkpoint", remedy):
        entries = dict(_entries(data))
        header = wire.message(entries.pop(b""))
        count = header.get(1, 0)
        if not isinstance(count, int):
            raise Refused(
                "a checkpoint of TensorFlow's version 1; load it in TensorFlow and save it again "
                "(tf.train.Saver), or freeze its graph into a .pb"
            )
        if header.get(2, 0) != 0:
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
            raise ValueError(f"it needs {count} data files and beside it are {present}")
        shards = [path.with_suffix(f".data-{i:05d}-of-{count:05d}") for i in range(count)]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise ValueError(f"beside it {', '.join(missing)} is missing")
        contents = [np.memmap(shard, np.uint8, "r") for shard in shards]
        return {
            key.decode("utf-8"): array
            for key, entry in variables.items()
            if (array := _variable(entry, contents)) is not None
        }


def _variable(entry: dict[int, int | memoryview], contents: list[np.memmap]) -> np.ndarray | None:
    """BundleEntryProto as an array; None for what is not a number (text, object graphs)."""
    dtype = wire.DTYPES.get(entry.get(1, 0))  # type: ignore[arg-type]
    if dtype is None:
        return None
    shape = wire.shape(entry[2]) if 2 in entry else ()  # type: ignore[arg-type]
    start, size = int(entry.get(4, 0)), int(entry.get(5, 0))  # type: ignore[arg-type]
    data = contents[int(entry.get(3, 0))][start : start + size]  # type: ignore[arg-type]
    if data.size != size:
        raise ValueError("its data file is too short")
    return np.frombuffer(data.tobytes(), dtype).reshape(shape)
