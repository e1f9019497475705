"""Read the arrays of an ONNX file without the ``onnx`` package: plain ones, and int8 in blocks."""

from pathlib import Path

import numpy as np

from advface_jax.untrusted import DEPTH, read_bytes
from weights_convert.sources import BadFile, Refused, Room, explained, wire

_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
_VALUES = {1: 4, 2: 5, 3: 5, 6: 5, 7: 7, 11: 10}  # the field for values outside raw_data


def _tensor(data: memoryview, room: Room) -> tuple[str, np.ndarray]:
    """TensorProto: its name and array."""
    single = wire.message(data)
    name, kind = single.text(8), single.number(2)
    if kind not in _DTYPES:
        raise Refused(f"the array {name!r} has ONNX's type {kind}, which is not read")
    if single.get(14, 0):
        raise Refused(f"the array {name!r} lies in another file; give one file with all weights")
    dtype, whole = np.dtype(_DTYPES[kind]), np.dtype("i8")
    dimensions = [wire.packed(v, whole) for number, v in wire.fields(data) if number == 1]
    shape = tuple(int(n) for part in dimensions for n in part[:DEPTH])
    size = room.take(shape, dtype.itemsize)
    if 9 in single:
        array = np.frombuffer(single.bytes(9), dtype)
    else:
        given = [v for number, v in wire.fields(data) if number == _VALUES.get(kind)]
        parts = [wire.packed(v, dtype).astype(dtype) for v in given]
        array = np.concatenate([np.zeros(0, dtype), *parts])
    if array.size != size:
        raise BadFile(f"{array.size} values for {name} of shape {shape}")
    return name, array.reshape(shape)


def _dequantised(arrays: dict[str, np.ndarray], room: Room) -> dict[str, np.ndarray]:
    """NAME_quantized, with its scales and zero points by block along the last axis, as NAME."""
    found = {}
    for name, q in arrays.items():
        base, _, part = name.rpartition("_")
        if part != "quantized":
            if not any(f"{name.removesuffix(end)}_quantized" in arrays for end in _BESIDE):
                found[name] = q
            continue
        scales, zeros = arrays.get(f"{base}_scales"), arrays.get(f"{base}_zero_point")
        if scales is None or zeros is None or not q.ndim:
            raise BadFile(f"{name} of shape {q.shape} without its scales and zero points")
        fits = scales.shape == zeros.shape and scales.shape[:-1] == q.shape[:-1]
        if not fits or not scales.size or q.shape[-1] % scales.shape[-1]:
            raise BadFile(f"scales of shape {scales.shape} for {name} of shape {q.shape}")
        for _ in range(3):  # q, the zeros and the scales as float32
            room.take(q.shape)
        block = q.shape[-1] // scales.shape[-1]
        whole = q.astype(np.float32) - np.repeat(zeros, block, -1).astype(np.float32)
        value = whole * np.repeat(scales, block, -1)
        shape = arrays.get(f"{base}_shape")
        found[base] = value if shape is None else _reshaped(value, shape)
    return found


def _reshaped(value: np.ndarray, shape: np.ndarray) -> np.ndarray:
    if shape.dtype.kind not in "iu" or shape.ndim != 1:
        raise BadFile("the shape of an array is not of whole numbers")
    return value.reshape(shape.tolist())


_BESIDE = ("_scales", "_zero_point", "_shape")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every array of the graph by its own name, those kept as int8 blocks as float32."""
    data = memoryview(read_bytes(path))
    with explained(path, "an ONNX file", "give SFace's (face_recognition_sface_2021dec….onnx)"):
        graph, room = wire.message(data).bytes(7), Room()
        found = dict(_tensor(value, room) for value in wire.repeated(graph, 5))
        arrays = _dequantised(found, room)
    if not arrays:
        raise BadFile(f"{path}: no arrays in this graph; give the file with its weights")
    return arrays
