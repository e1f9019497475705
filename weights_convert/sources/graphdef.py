"""Read the frozen variables of a TensorFlow GraphDef (``.pb``), without TensorFlow."""

from pathlib import Path

import numpy as np

from advface_jax.untrusted import read_bytes
from weights_convert.sources import BadFile, Room, explained, wire

# The fields of a TensorProto for values outside tensor_content.
_VALUE_FIELDS = {1: 5, 2: 6, 3: 7, 9: 10}


def _tensor(data: memoryview, room: Room) -> np.ndarray | None:
    """TensorProto as an array; None for what is not a number (text, resources)."""
    single = wire.message(data)
    kind = single.number(1)
    if kind not in wire.DTYPES:
        return None
    dtype, dimensions = wire.DTYPES[kind], wire.shape(single.bytes(2)) if 2 in single else ()
    size = room.take(dimensions, dtype.itemsize)
    if 4 in single:
        return np.frombuffer(single.bytes(4), dtype).reshape(dimensions)
    given = [v for number, v in wire.fields(data) if number == _VALUE_FIELDS.get(kind)]
    values = np.concatenate([np.zeros(0, dtype), *(wire.packed(v, dtype) for v in given)])
    if values.size > size:
        raise BadFile(f"{values.size} values for shape {dimensions}")
    # The last value stands for all that follow; none at all means zeros.
    array = np.full(size, values[-1] if values.size else 0, dtype)
    array[: values.size] = values
    return array.reshape(dimensions)


def _nodes(data: memoryview) -> tuple[dict[str, memoryview], set[str]]:
    """The constants (TensorProto), and the names that an Identity node reads."""
    constants: dict[str, memoryview] = {}
    read_by_identity: set[str] = set()
    for node in wire.repeated(data, 1):
        single = wire.message(node)
        op = single.text(2)
        if op == "Const":
            entries = [wire.message(value) for value in wire.repeated(node, 5)]
            attributes = {entry.text(1): entry.bytes(2) for entry in entries}
            if "value" not in attributes:
                raise BadFile("a constant without a value")
            constants[single.text(1)] = wire.message(attributes["value"]).bytes(8)
        elif op == "Identity":
            read_by_identity.update(wire.text(value) for value in wire.repeated(node, 3))
    return constants, read_by_identity


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The variables of a frozen graph by their own names.

    Freezing turns each variable into a constant read by an Identity node; other constants (shapes,
    epsilons) have no such reader and are no weights. A graph without such readers gives all its
    constants. Convolution kernels are (height, width, in, out).
    """
    data = memoryview(read_bytes(path))
    with explained(path, "a TensorFlow GraphDef", "give a frozen .pb"):
        constants, frozen = _nodes(data)
        wanted = [name for name in constants if name in frozen] or list(constants)
        room = Room()
        arrays = {name: _tensor(constants[name], room) for name in wanted}
    found = {name: array for name, array in arrays.items() if array is not None}
    if not found:
        raise BadFile(f"{path}: no constants in this graph; give a frozen .pb, with its weights")
    return found
