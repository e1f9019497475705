"""Read the frozen variables of a TensorFlow GraphDef (``.pb``), without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.sources import Room, explained, wire

# The fields of a TensorProto for values outside tensor_content.
_VALUE_FIELDS = {1: 5, 2: 6, 3: 7, 9: 10}


def _tensor(data: memoryview, room: Room) -> np.ndarray | None:
    """TensorProto as an array; None for what is not a number (text, resources)."""
    single = wire.message(data)
    kind = single.get(1, 0)
    if kind not in wire.DTYPES:
        return None
    dtype, dimensions = wire.DTYPES[kind], wire.shape(single[2]) if 2 in single else ()
    if 4 in single:
        return np.frombuffer(single[4], dtype).reshape(dimensions)
    values: list[Any] = []
    for number, value in wire.fields(data):
        if number == _VALUE_FIELDS.get(kind):
            values += wire.packed(value, dtype)
    size = room.take(dimensions)
    if len(values) > size:
        raise ValueError(f"{len(values)} values for shape {dimensions}")
    # The last value stands for all that follow; none at all means zeros.
    array = np.full(size, values[-1] if values else 0, dtype)
    array[: len(values)] = values
    return array.reshape(dimensions)


def _nodes(data: memoryview) -> tuple[dict[str, memoryview], set[str]]:
    """The constants (TensorProto), and the names that an Identity node reads."""
    constants: dict[str, memoryview] = {}
    read_by_identity: set[str] = set()
    for node in (value for number, value in wire.fields(data) if number == 1):
        single, parts = wire.message(node), list(wire.fields(node))
        op = wire.text(single.get(2, b""))
        if op == "Const":
            entries = [wire.message(value) for number, value in parts if number == 5]
            attributes = {wire.text(entry[1]): entry[2] for entry in entries}
            constants[wire.text(single.get(1, b""))] = wire.message(attributes["value"])[8]
        elif op == "Identity":
            read_by_identity.update(wire.text(value) for number, value in parts if number == 3)
    return constants, read_by_identity


def read(path: str | Path) -> dict[str, np.ndarray]:
    """The variables of a frozen graph by their own names.

    Freezing turns each variable into a constant read by an Identity node; other constants (shapes,
    epsilons) have no such reader and are no weights. A graph without such readers gives all its
    constants. Convolution kernels are (height, width, in, out).
    """
    data = memoryview(Path(path).read_bytes())
    with explained(path, "a TensorFlow GraphDef", "give a frozen .pb"):
        constants, frozen = _nodes(data)
        wanted = [name for name in constants if name in frozen] or list(constants)
        room = Room()
        arrays = {name: _tensor(constants[name], room) for name in wanted}
    found = {name: array for name, array in arrays.items() if array is not None}
    if not found:
        raise ValueError(f"{path}: no constants in this graph; give a frozen .pb, with its weights")
    return found
