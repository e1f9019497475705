"""Read the arrays of an ONNX file without the ``onnx`` package: plain ones, and int8 in blocks."""

from pathlib import Path

import numpy as np

from weights_convert.sources import Refused, Room, explained, wire

_DTYPES = {1: "<f4", 2: "u1", 3: "i1", 6: "<i4", 7: "<i8", 10: "<f2", 11: "<f8"}
_VALUES = {1: 4, 2: 5, 3: 5, 6: 5, 7: 7, 11: 10}  # the field for values outside raw_data


def _tensor(data: memoryview, room: Room) -> tuple[str, np.ndarray]:
    """TensorProto: its name and array."""
    parts = list(wire.fields(data))
    single = dict(parts)
    name, kind = wire.text(single.get(8, b"")), single.get(2, 0)
    if kind not in _DTYPES:
        raise Refused(f"the array {name!r} has ONNX's type {kind}, which is not read")
    if single.get(14, 0):
        raise Refused(f"the array {name!r} lies in another file; give one file with all weights")
    dtype = np.dtype(_DTYPES[kind])
    whole = np.dtype("i8")
    shape = tuple(int(n) for number, v in parts if number == 1 for n in wire.packed(v, whole))
    size = room.take(shape)
    if 9 in single:
        array = np.frombuffer(single[9], dtype)
    else:
        given = (v for number, v in parts if number == _VALUES.get(kind))
        array = np.array([x for v in given for x in wire.packed(v, dtype)], dtype)
    if array.size != size:
        raise ValueError(f"{array.size} values for {name} of shape {shape}")
    return name, array.reshape(shape)


def _dequantised(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """NAME_quantized, with its scales and zero points by block along the last axis, as NAME."""
    found = {}
    for name, q in arrays.items():
        base, _, part = name.rpartition("_")
        if part != "quantized":
            if not any(f"{name.removesuffix(end)}_quantized" in arrays for end in _BESIDE):
                found[name] = q
            continue
        scales, zeros = arrays[f"{base}_scales"], arrays[f"{base}_zero_point"]
        fits = scales.shape == zeros.shape and scales.shape[:-1] == q.shape[:-1]
        if not fits or not scales.size or q.shape[-1] % scales.shape[-1]:
            raise ValueError(f"scales of shape {scales.shape} for {name} of shape {q.shape}")
        block = q.shape[-1] // scales.shape[-1]
        whole = q.astype(np.float32) - np.repeat(zeros, block, -1).astype(np.float32)
        value = whole * np.repeat(scales, block, -1)
        shape = arrays.get(f"{base}_shape")
        found[base] = value if shape is None else value.reshape(shape)
    return found


_BESIDE = ("_scales", "_zero_point", "_shape")


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every array of the graph by its own name, those kept as int8 blocks as float32."""
    data = memoryview(Path(path).read_bytes())
    with explained(path, "an ONNX file", "give SFace's (face_recognition_sface_2021dec….onnx)"):
        graph, room = wire.message(data)[7], Room()
        found = dict(_tensor(v, room) for number, v in wire.fields(graph) if number == 5)
        arrays = _dequantised(found)
    if not arrays:
        raise ValueError(f"{path}: no arrays in this graph; give the file with its weights")
    return arrays
