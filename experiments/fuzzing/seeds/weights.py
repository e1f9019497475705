"""Weight files of every form that is read."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np

from experiments.fuzzing import tensorflow_files, weight_files
from experiments.fuzzing.seeds import Files, written, zipped


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"conv/kernel": (1, 1, 2, 2), "conv/bias": (2,), "dense/kernel": (3, 2)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def torch_zip() -> list[Files]:
    whole = weight_files.Built(
        weight_files.Named("net", "Net"),
        {"_parameters": weight_files.torch_value(arrays()), "_buffers": {}, "_modules": {}},
    )
    nested = {"epoch": 3, "state_dict": weight_files.torch_value(arrays()), "best": [0.5, None]}
    return [
        written("w", lambda path: weight_files.write_torch(path, arrays())),
        written("w", lambda p: weight_files.write_torch(p, arrays(), weight_files.pickled(nested))),
        written("w", lambda p: weight_files.write_torch(p, arrays(), weight_files.pickled(whole))),
    ]


def torch_legacy() -> list[Files]:
    made = arrays()
    parts = [
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    ]
    parts += [weight_files.pickled(weight_files.torch_value(made))]
    parts += [pickle.dumps([str(i) for i in range(len(made))], 2)]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in made.values()]
    return [{"w": b"".join(parts)}]


def keras() -> list[Files]:
    return [
        written("w", lambda path: weight_files.write_keras(path, arrays())),
        written("w", lambda path: weight_files.write_keras3(path, arrays())),
        written("w", _chunked),
    ]


def _chunked(path: Path) -> None:
    import h5py

    with h5py.File(path, "w", libver="latest") as file:
        for name, array in arrays().items():
            group = file.require_group(f"model_weights/{name.partition('/')[0]}")
            group.create_dataset(name, data=array, chunks=(1,) * array.ndim, compression="gzip")
            group.attrs["names"] = [name.encode()]


def keras_zip() -> list[Files]:
    return [
        {"w": files["w.keras"]}
        for names in (True, False)
        for files in [
            written("w.keras", lambda p, n=names: weight_files.write_keras3(p, arrays(), names=n))
        ]
    ]


def graph() -> list[Files]:
    return [written("w", lambda path: tensorflow_files.write_graph(path, arrays()))]


def tf_checkpoint() -> list[Files]:
    return [
        written(
            "w.index",
            lambda p, c=packed: tensorflow_files.write_checkpoint(p, arrays(), compressed=c),
        )
        for packed in (False, True)
    ]


def tflite() -> list[Files]:
    made = arrays() | {"q": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    return [written("w", lambda p: tensorflow_files.write_tflite(p, made, {"q": (0.5, 3)}))]


def onnx() -> list[Files]:
    def tensor(name: str, array: np.ndarray, kind: int) -> bytes:
        body = b"".join(tensorflow_files.field(1, n) for n in array.shape)
        body += tensorflow_files.field(2, kind) + tensorflow_files.field(8, name)
        return tensorflow_files.field(5, body + tensorflow_files.field(9, array.tobytes()))

    parts = [tensor(name, array, 1) for name, array in arrays().items()]
    blocks = np.arange(8, dtype=np.int8).reshape(2, 4)
    parts += [tensor("b_quantized", blocks, 3), tensor("b_scales", np.ones((2, 2), "<f4"), 1)]
    parts += [tensor("b_zero_point", np.zeros((2, 2), np.int8), 3)]
    values = (
        tensorflow_files.field(2, 1) + tensorflow_files.field(8, "v") + tensorflow_files.field(1, 2)
    )
    parts += [
        tensorflow_files.field(5, values + tensorflow_files.field(4, struct.pack("<2f", 1, 2)))
    ]
    return [{"w": tensorflow_files.field(7, b"".join(parts))}]


def safetensors() -> list[Files]:
    return [written("w", lambda path: weight_files.write_safetensors(path, arrays()))]


def wheel() -> list[Files]:
    files = written("w", lambda path: weight_files.write_torch(path, arrays()))
    names = [f"facenet_pytorch/data/{net}.pt" for net in ("pnet", "rnet", "onet")]
    return [zipped(dict.fromkeys(names, files["w"]))]


def source_archive() -> list[Files]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("top/model/w.h5", "top/setup.py"):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"hello"))
    return [{"w": gzip.compress(out.getvalue(), mtime=0)}]
