"""Read a ``.safetensors`` file: a header in JSON, then the raw numbers (bfloat16, too)."""

import json
import struct
from pathlib import Path

import ml_dtypes
import numpy as np

from weights_convert.sources import Refused, Room, explained

_DTYPES = {
    **{"F64": np.dtype("<f8"), "F32": np.dtype("<f4"), "F16": np.dtype("<f2")},
    **{"BF16": np.dtype(ml_dtypes.bfloat16), "BOOL": np.dtype("?")},
    **{f"I{8 * n}": np.dtype(f"<i{n}") for n in (1, 2, 4, 8)},
    **{f"U{8 * n}": np.dtype(f"<u{n}") for n in (1, 2, 4, 8)},
}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor by its own name. PyTorch's convolution kernels are (out, in, height, width)."""
    data = memoryview(Path(path).read_bytes())
    with explained(path, "a safetensors file", "fetch it again"):
        (size,) = struct.unpack_from("<Q", data)
        if size > len(data) - 8:
            raise ValueError("its header reaches beyond its end")
        header, numbers = json.loads(bytes(data[8 : 8 + size])), data[8 + size :]
        header.pop("__metadata__", None)
        room, arrays = Room(), {}
        for name, entry in header.items():
            start, end = entry["data_offsets"]
            if not 0 <= start <= end <= len(numbers):
                raise ValueError(f"{name} reaches beyond its end")
            if entry["dtype"] not in _DTYPES:
                raise Refused(f"{name} is of {entry['dtype']}; save it as float32 or float16")
            room.take(entry["shape"])
            arrays[name] = np.frombuffer(numbers[start:end], _DTYPES[entry["dtype"]]).reshape(
                entry["shape"]
            )
        return arrays
