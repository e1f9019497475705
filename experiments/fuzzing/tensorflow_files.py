"""Tiny files of TensorFlow, written by hand: protocol buffers, a LevelDB table, a flatbuffer."""

import os
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def field(number: int, value: int | bytes | str) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    raw = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(raw)) + raw


def shape_proto(shape: tuple[int, ...]) -> bytes:
    return b"".join(field(2, field(1, size)) for size in shape)


def tensor_proto(array: np.ndarray) -> bytes:
    return field(1, 1) + field(2, shape_proto(array.shape)) + field(4, array.tobytes())


def node(name: str, op: str, inputs: tuple[str, ...] = (), tensor: bytes | None = None) -> bytes:
    body = field(1, name) + field(2, op) + b"".join(field(3, i) for i in inputs)
    if tensor is not None:
        body += field(5, field(1, "value") + field(2, field(8, tensor)))
    return field(1, body)


def write_graph(path: Path, arrays: Arrays) -> Path:
    """A frozen graph: each variable a Const read by an Identity, beside a Const that is neither."""
    graph = [node("batchnorm/add/y", "Const", tensor=tensor_proto(np.array(1e-3, np.float32)))]
    for name, array in arrays.items():
        graph.append(node(name, "Const", tensor=tensor_proto(array)))
        graph.append(node(f"{name}/read", "Identity", (name,)))
    path.write_bytes(b"".join(graph))
    return path


def snappy_literal(data: bytes) -> bytes:
    return varint(len(data)) + bytes([61 << 2]) + struct.pack("<H", len(data) - 1) + data


def table_block(entries: list[tuple[bytes, bytes]]) -> bytes:
    out, before = b"", b""
    for key, value in entries:
        shared = len(os.path.commonprefix([key, before]))
        out += varint(shared) + varint(len(key) - shared) + varint(len(value))
        out, before = out + key[shared:] + value, key
    return out + struct.pack("<II", 0, 1)


def write_checkpoint(
    path: Path,
    arrays: Arrays,
    *,
    compressed: bool = False,
    header: bytes = field(1, 1),
    parted: str = "",
) -> Path:
    """``path`` (ending in .index), two keys a block, and its one data file."""
    entries, data = [(b"", header)], bytearray()
    for name in sorted(arrays):
        array = arrays[name]
        entry = field(1, 1) + field(2, shape_proto(array.shape))
        entry += field(4, len(data)) + field(5, array.nbytes)
        entry += field(7, b"") if name == parted else b""
        entries.append((name.encode(), entry))
        data += array.tobytes()
    out, handles = b"", []

    def put(block: bytes) -> bytes:
        nonlocal out
        stored = snappy_literal(block) if compressed else block
        handle = varint(len(out)) + varint(len(stored))
        out += stored + bytes([int(compressed)]) + bytes(4)  # its type, and a checksum, not read
        return handle

    for start in range(0, len(entries), 2):
        part = entries[start : start + 2]
        handles.append((part[-1][0], put(table_block(part))))
    footer = put(table_block([])) + put(table_block(handles))
    out += footer.ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    path.write_bytes(out)
    path.with_suffix(".data-00000-of-00001").write_bytes(data)
    return path


Child = Callable[[bytearray], int]


def flat_table(fields: dict[int, bytes | Child]) -> Child:
    def write(out: bytearray) -> int:
        slots = max(fields, default=-1) + 1
        vtable = len(out)
        offsets = {number: 4 + 8 * i for i, number in enumerate(fields)}
        out += struct.pack("<HH", 4 + 2 * slots, 4 + 8 * len(fields))
        out += b"".join(struct.pack("<H", offsets.get(i, 0)) for i in range(slots))
        out += bytes(-len(out) % 4)
        start = len(out)
        out += struct.pack("<i", start - vtable) + bytes(8 * len(fields))
        for number, value in fields.items():
            place = start + offsets[number]
            if callable(value):
                struct.pack_into("<I", out, place, value(out) - place)
            else:
                out[place : place + len(value)] = value
        return start

    return write


def flat_vector(data: bytes, count: int) -> Child:
    def write(out: bytearray) -> int:
        out.extend(bytes(-len(out) % 4))
        out.extend(struct.pack("<I", count) + data)
        return len(out) - len(data) - 4

    return write


def flat_tables(children: list[Child]) -> Child:
    def write(out: bytearray) -> int:
        out.extend(bytes(-len(out) % 4))
        start = len(out)
        out.extend(struct.pack("<I", len(children)) + bytes(4 * len(children)))
        for i, child in enumerate(children):
            place = start + 4 + 4 * i
            struct.pack_into("<I", out, place, child(out) - place)
        return start

    return write


def write_tflite(
    path: Path, arrays: Arrays, quantised: dict[str, tuple[float, int]] | None = None
) -> Path:
    """Float tensors, and 8-bit ones whose scale and zero point are in ``quantised``."""
    tensors, buffers = [], [flat_table({})]
    for name, array in arrays.items():
        shape = np.array(array.shape, "<i4")
        fields: dict[int, bytes | Child] = {
            0: flat_vector(shape.tobytes(), shape.size),
            1: bytes([{"f4": 0, "i4": 2, "u1": 3}[array.dtype.str[1:]]]),
            2: struct.pack("<I", len(buffers)),
            3: flat_vector(name.encode(), len(name)),
        }
        if quantised and name in quantised:
            scale, zero = quantised[name]
            scales, zeros = struct.pack("<f", scale), struct.pack("<q", zero)
            fields[4] = flat_table({2: flat_vector(scales, 1), 3: flat_vector(zeros, 1)})
        tensors.append(flat_table(fields))
        buffers.append(flat_table({0: flat_vector(array.tobytes(), array.nbytes)}))
    activation = flat_table({1: b"\0", 2: struct.pack("<I", 0), 3: flat_vector(b"relu", 4)})
    subgraph = flat_table({0: flat_tables([*tensors, activation])})
    model = flat_table({2: flat_tables([subgraph]), 4: flat_tables(buffers)})
    out = bytearray(b"\0\0\0\0TFL3")
    struct.pack_into("<I", out, 0, model(out))
    path.write_bytes(bytes(out))
    return path
