"""Tiny weight files of PyTorch, safetensors and Keras, so that no test needs their libraries."""

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Arrays = dict[str, np.ndarray]


class Named:
    """Pickles as the global ``module name``, which need not exist."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name


class Call:
    """Pickles as ``function(*arguments)``."""

    def __init__(self, function: Named, *arguments: Any):
        self.function, self.arguments = function, arguments


class Built:
    """Pickles as an object of ``kind``, with these attributes."""

    def __init__(self, kind: Named, attributes: dict[str, Any]):
        self.kind, self.attributes = kind, attributes


class Persistent(tuple):
    """Pickles as a persistent id: a storage."""


class Pickler(pickle._Pickler):
    """Python's own pickler, in Python, and the kinds above."""

    write: Callable[[bytes], Any]

    def persistent_id(self, obj: Any) -> tuple | None:
        return tuple(obj) if isinstance(obj, Persistent) else None

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Named):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Call):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
        elif isinstance(obj, Built):
            self.save(obj.kind)
            self.write(pickle.EMPTY_TUPLE + pickle.NEWOBJ)
            self.save(obj.attributes)
            self.write(pickle.BUILD)
        else:
            super().save(obj, save_persistent_id)  # type: ignore[attr-defined]


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    Pickler(file, 2).dump(value)
    return file.getvalue()


def torch_value(arrays: Arrays) -> dict[str, Call]:
    def tensor(number: int, array: np.ndarray) -> Call:
        kinds = {"float32": "Float", "int64": "Long", "float16": "Half", "bfloat16": "BFloat16"}
        kind = kinds[array.dtype.name] + "Storage"
        storage = Persistent(("storage", Named("torch", kind), str(number), "cpu", array.size))
        strides = tuple(step // array.itemsize for step in array.strides)
        return Call(
            Named("torch._utils", "_rebuild_tensor_v2"),
            *(storage, 0, array.shape, strides, False),
            Call(Named("collections", "OrderedDict")),
        )

    return {name: tensor(i, array) for i, (name, array) in enumerate(arrays.items())}


def write_torch(path: Path, arrays: Arrays, pickle_bytes: bytes | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tiny/data.pkl", pickle_bytes or pickled(torch_value(arrays)))
        for i, array in enumerate(arrays.values()):
            archive.writestr(f"tiny/data/{i}", array.tobytes())
    return path


def write_safetensors(path: Path, arrays: Arrays) -> Path:
    kinds = {"float32": "F32", "int64": "I64", "float16": "F16", "bfloat16": "BF16"}
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, array in arrays.items():
        places = [end, end := end + array.nbytes]
        kind = kinds[array.dtype.name]
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": places}
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in arrays.values())
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def write_keras3(path: Path, arrays: Arrays, *, names: bool = True) -> Path:
    """As Keras 3 does: a ``.keras`` zip with config.json, or its weights alone (``.weights.h5``).

    A layer stands in a place of its class and number; ``names`` (from 3.6 or so) stand beside.
    ``arrays`` are called ``layer/variable``; a layer's variables follow one another.
    """
    layers: dict[str, list[np.ndarray]] = {}
    for name, array in arrays.items():
        layers.setdefault(name.partition("/")[0], []).append(array)
    counts: dict[str, int] = {}
    config, file_bytes = [], io.BytesIO()
    with h5py.File(file_bytes, "w") as file:
        for layer, variables in layers.items():
            word = {4: "Conv2D", 2: "Dense", 1: "BatchNormalization"}[variables[0].ndim]
            config.append({"class_name": word, "config": {"name": layer}})
            place = {"BatchNormalization": "batch_normalization"}.get(word, word.lower())
            counts[place] = count = counts.get(place, -1) + 1
            group = file.create_group(f"layers/{place}{f'_{count}' if count else ''}/vars")
            for i, variable in enumerate(variables):
                group[str(i)] = variable
            if names:
                group.attrs["name"] = layer
        file["optimizer/vars/0"] = np.zeros((5, 7), np.float32)
    if path.suffix != ".keras":
        path.write_bytes(file_bytes.getvalue())
        return path
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", "{}")
        archive.writestr("config.json", json.dumps({"config": {"layers": config}}))
        archive.writestr("model.weights.h5", file_bytes.getvalue())
    return path


def write_keras(path: Path, arrays: Arrays) -> Path:
    """A whole model: weights under ``model_weights/layer/layer/variable``, and an optimiser."""
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[f"model_weights/{name.partition('/')[0]}/{name}"] = array
        file["optimizer_weights/Adam/iterations:0"] = np.int64(3)
    return path
