"""Read a ``.safetensors`` file: a header in JSON, then the raw numbers (bfloat16, too)."""

import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from advface_jax.untrusted import parse_json, read_bytes
from weights_convert.sources import BadFile, Refused, Room, explained

_DTYPES = {
    **{"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")},
    **{"BF16": np.dtype(ml_dtypes.bfloat16), "BOOL": np.dtype("?")},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor by its own name. PyTorch's convolution kernels are (out, in, height, width)."""
    data = memoryview(read_bytes(path))
    with explained(path, "a safetensors file", "fetch it again"):
        (size,) = struct.unpack_from("<Q", data)
        if size > len(data) - 8:
            raise BadFile("its header reaches beyond its end")
        header, numbers = parse_json(bytes(data[8 : 8 + size])), data[8 + size :]
        header.pop("__metadata__", None)
        room = Room()
        return {name: _tensor(name, entry, numbers, room) for name, entry in header.items()}


def _tensor(name: str, entry: Any, numbers: memoryview, room: Room) -> np.ndarray:
    wanted = {"dtype": str, "shape": list, "data_offsets": list}
    if not isinstance(entry, dict) or any(
        not isinstance(entry.get(k), t) for k, t in wanted.items()
    ):
        raise BadFile(f"{name} lacks its dtype, shape or place")
    shape, places = entry["shape"], entry["data_offsets"]
    if any(type(n) is not int for n in (*shape, *places)) or len(places) != 2:
        raise BadFile(f"{name} has a shape or a place that is not of whole numbers")
    start, end = places
    if not 0 <= start <= end <= len(numbers):
        raise BadFile(f"{name} reaches beyond its end")
    if entry["dtype"] not in _DTYPES:
        raise Refused(f"{name} is of {entry['dtype']}; save it as float32 or float16")
    dtype = _DTYPES[entry["dtype"]]
    room.take(shape, dtype.itemsize)
    return np.frombuffer(numbers[start:end], dtype).reshape(shape)
