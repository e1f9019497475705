"""Small valid files of each format, made here: what the fuzzing damages."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import pickle
import struct
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.fuzzing import weight_files
from experiments.fuzzing.mutate import Files

SMALL = (20, 20)  # pixels; what reads crops accepts any square


def _arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {"conv/kernel": (1, 1, 2, 2), "conv/bias": (2,), "dense/kernel": (3, 2)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def written(name: str, write: Callable[[Path], object]) -> Files:
    """All that ``write`` leaves when it writes the file of that name."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def torch_zip() -> list[Files]:
    whole = weight_files.Built(
        weight_files.Named("net", "Net"),
        {"_parameters": weight_files.torch_value(_arrays()), "_buffers": {}, "_modules": {}},
    )
    nested = {"epoch": 3, "state_dict": weight_files.torch_value(_arrays()), "best": [0.5, None]}
    return [
        written("w", lambda path: weight_files.write_torch(path, _arrays())),
        written(
            "w", lambda p: weight_files.write_torch(p, _arrays(), weight_files.pickled(nested))
        ),
        written("w", lambda p: weight_files.write_torch(p, _arrays(), weight_files.pickled(whole))),
    ]


def torch_legacy() -> list[Files]:
    arrays = _arrays()
    parts = [
        pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})
    ]
    parts += [weight_files.pickled(weight_files.torch_value(arrays))]
    parts += [pickle.dumps([str(i) for i in range(len(arrays))], 2)]
    parts += [struct.pack("<q", array.size) + array.tobytes() for array in arrays.values()]
    return [{"w": b"".join(parts)}]


def keras() -> list[Files]:
    return [
        written("w", lambda path: weight_files.write_keras(path, _arrays())),
        written("w", lambda path: weight_files.write_keras3(path, _arrays())),
        written("w", _chunked),
    ]


def _chunked(path: Path) -> None:
    import h5py

    with h5py.File(path, "w", libver="latest") as file:
        for name, array in _arrays().items():
            group = file.require_group(f"model_weights/{name.partition('/')[0]}")
            group.create_dataset(name, data=array, chunks=(1,) * array.ndim, compression="gzip")
            group.attrs["names"] = [name.encode()]


def keras_zip() -> list[Files]:
    return [
        {"w": files["w.keras"]}
        for names in (True, False)
        for files in [
            written("w.keras", lambda p, n=names: weight_files.write_keras3(p, _arrays(), names=n))
        ]
    ]


def graph() -> list[Files]:
    return [written("w", lambda path: weight_files.write_graph(path, _arrays()))]


def tf_checkpoint() -> list[Files]:
    return [
        written(
            "w.index", lambda p, c=packed: weight_files.write_checkpoint(p, _arrays(), compressed=c)
        )
        for packed in (False, True)
    ]


def tflite() -> list[Files]:
    arrays = _arrays() | {"q": np.arange(6, dtype=np.uint8).reshape(2, 3)}
    return [written("w", lambda p: weight_files.write_tflite(p, arrays, {"q": (0.5, 3)}))]


def onnx() -> list[Files]:
    def tensor(name: str, array: np.ndarray, kind: int) -> bytes:
        body = b"".join(weight_files.field(1, n) for n in array.shape)
        body += weight_files.field(2, kind) + weight_files.field(8, name)
        return weight_files.field(5, body + weight_files.field(9, array.tobytes()))

    parts = [tensor(name, array, 1) for name, array in _arrays().items()]
    blocks = np.arange(8, dtype=np.int8).reshape(2, 4)
    parts += [tensor("b_quantized", blocks, 3), tensor("b_scales", np.ones((2, 2), "<f4"), 1)]
    parts += [tensor("b_zero_point", np.zeros((2, 2), np.int8), 3)]
    values = weight_files.field(2, 1) + weight_files.field(8, "v") + weight_files.field(1, 2)
    parts += [weight_files.field(5, values + weight_files.field(4, struct.pack("<2f", 1, 2)))]
    return [{"w": weight_files.field(7, b"".join(parts))}]


def safetensors() -> list[Files]:
    return [written("w", lambda path: weight_files.write_safetensors(path, _arrays()))]


def wheel() -> list[Files]:
    files = written("w", lambda path: weight_files.write_torch(path, _arrays()))
    names = [f"facenet_pytorch/data/{net}.pt" for net in ("pnet", "rnet", "onet")]
    return [_zipped(dict.fromkeys(names, files["w"]))]


def source_archive() -> list[Files]:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("top/model/w.h5", "top/setup.py"):
            member = tarfile.TarInfo(name)
            member.size = 5
            tar.addfile(member, io.BytesIO(b"hello"))
    return [{"w": gzip.compress(out.getvalue(), mtime=0)}]


def picture(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    """An encoded image of 20×20 pixels that do not compress away."""
    depth = {"L": 1, "RGB": 3, "RGBA": 4}.get(mode, 3)
    pixels = np.random.default_rng(depth).integers(0, 255, (*SMALL, depth), np.uint8)
    image = Image.fromarray(pixels[..., 0] if depth == 1 else pixels)
    out = io.BytesIO()
    (image if image.mode == mode else image.convert(mode)).save(out, kind, **options)
    return out.getvalue()


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x112] = 6
    return exif.tobytes()


def jpeg() -> list[Files]:
    kinds = ({}, {"progressive": True}, {"exif": _exif(), "quality": 30}, {"subsampling": 2})
    return [{"w": picture("JPEG", "RGB", **kind)} for kind in kinds] + [
        {"w": picture("JPEG", "L")},
        {"w": picture("JPEG", "CMYK")},
    ]


def png() -> list[Files]:
    still = [{"w": picture("PNG", mode)} for mode in ("RGB", "RGBA", "L", "P", "LA", "1")]
    deep = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(SMALL) * 100)
    out, moving = io.BytesIO(), io.BytesIO()
    deep.save(out, "PNG")
    frames = [Image.new("RGB", SMALL, colour) for colour in ("red", "blue")]
    frames[0].save(moving, "PNG", save_all=True, append_images=frames[1:])
    more = picture("PNG", exif=_exif())
    return [*still, {"w": out.getvalue()}, {"w": moving.getvalue()}, {"w": more}]


def webp() -> list[Files]:
    frames, moving = [Image.new("RGB", SMALL, colour) for colour in ("red", "blue")], io.BytesIO()
    frames[0].save(moving, "WEBP", save_all=True, append_images=frames[1:])
    return [
        {"w": picture("WEBP", lossless=True)},
        {"w": picture("WEBP", quality=50, exif=_exif())},
        {"w": picture("WEBP", "RGBA")},
        {"w": moving.getvalue()},
    ]


def gif() -> list[Files]:
    frames, moving = [Image.new("RGB", SMALL, colour) for colour in ("red", "blue")], io.BytesIO()
    frames[0].save(moving, "GIF", save_all=True, append_images=frames[1:])
    return [{"w": picture("GIF", "P")}, {"w": moving.getvalue()}]


def tiff() -> list[Files]:
    forms = (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg")
    found = [{"w": picture("TIFF", compression=form)} for form in forms]
    found += [{"w": picture("TIFF", mode)} for mode in ("L", "RGBA", "CMYK", "I;16", "F", "1")]
    return found


def bmp() -> list[Files]:
    rle = bytearray(picture("BMP", "P"))
    rle[30] = 1  # run-length: the same bytes mean other runs
    return [{"w": picture("BMP", mode)} for mode in ("RGB", "P", "1", "RGBA")] + [{"w": bytes(rle)}]


def ppm() -> list[Files]:
    plain = b"P3\n# c\n2 2\n255\n1 2 3 4 5 6 7 8 9 10 11 12\n"
    texts = (plain, b"P1\n3 2\n101 010\n", b"P2\n2 1\n15\n3 4\n", b"P5\n2 2\n65535\n12345678")
    alpha = b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 4\nMAXVAL 255\nTUPLTYPE RGB_ALPHA\nENDHDR\n1234"
    return [{"w": text} for text in (*texts, alpha, b"P4\n9 1\nab", b"Pf\n1 1\n-1.0\n1234")] + [
        {"w": picture("PPM", mode)} for mode in ("RGB", "L", "1")
    ]


def record(labels: float | list[float], image: bytes = b"", key: int = 0) -> bytes:
    """One record of MXNet's RecordIO."""
    many = isinstance(labels, list)
    payload = struct.pack("<IfQQ", len(labels) if many else 0, 0 if many else labels, key, 0)
    payload += np.asarray(labels, "<f4").tobytes() if many else b""
    payload += image
    words = struct.pack("<II", 0xCED7230A, len(payload))
    return words + payload + bytes(-len(payload) % 4)


def rec() -> list[Files]:
    image = picture("JPEG", quality=5)
    with_people = [record([5, 7]), *(record(i // 3, image, i) for i in range(1, 5))]
    with_people += [record([1, 3]), record([3, 5])]
    found = []
    for records in (with_people, [b"", *(record(i, image, i) for i in range(1, 4))]):
        lines, at = [], 0
        for key, data in enumerate(records):
            lines += [f"{key}\t{at}\n"] * bool(data)
            at += len(data)
        found.append({"w.rec": b"".join(records), "w.idx": "".join(lines).encode()})
    return found


def bin_set() -> list[Files]:
    images, same = [picture("JPEG", quality=5), b"x" * 300, b"y", b"z"], [True, False]
    old = b"\x80\x02]q\x00(" + b"".join(
        b"U" + bytes([len(data)]) + data + b"r" + struct.pack("<I", i)
        for i, data in enumerate([b"abc", b"d", b"e", b"f"], 1)
    )
    old += b"e]q\x00(\x88\x89e\x86q\x00."
    return [{"w.bin": pickle.dumps((images, same), form)} for form in (1, 2, 3, 4, 5)] + [
        {"w.bin": old}
    ]


def mat() -> list[Files]:
    from scipy.io import savemat  # comes with JAX

    def struct_of(**fields: object) -> np.ndarray:
        one = np.empty((1, 1), [(name, object) for name in fields])
        for name, value in fields.items():
            one[name][0, 0] = value
        return one

    splits = np.empty((2, 1), object)
    for fold in range(2):
        images = np.empty((2, 2), object)
        for at in np.ndindex(2, 2):
            images[at] = struct_of(name=f"{at[0]}_{at[1]}_A", age=30.0)
        splits[fold, 0] = struct_of(pair=images, same=np.array([[1.0, -1.0]]))

    def make(packed: bool) -> Files:
        return written("w.mat", lambda p: savemat(p, {"splits": splits}, do_compression=packed))

    return [make(False), make(True)]


def _zipped(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Files:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return {"w": out.getvalue()}


def image_zip() -> list[Files]:
    image = picture("PNG", "L")
    members = {"A/1.png": image, "A/frontal/2.jpg": picture("JPEG", quality=5), "b.txt": b"x"}
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return [_zipped(members, kind) for kind in kinds]


def pair_list() -> list[Files]:
    texts = (
        "fold\tsame\tfile1\tfile2\n1\t1\ta/1.jpg\ta/2.jpg\n2\t0\ta/1.jpg\tb/1.jpg\n",
        "sep=;\nFold;Same;File1;File2\n1;true;\"a;1.jpg\";'a'\n",
        "2\t1\nA B\t1\t2\nA\t1\tB\t3\nC 1 2\nC\t1\tD\t2\n".replace(" ", "_"),
        "fold,same,file1,file2\r\n1,0,ä.jpg,b.jpg\r\n",
    )
    found = [{"w": text.encode()} for text in texts]
    return [*found, {"w": texts[0].encode("utf-16")}, {"w": texts[3].encode("cp1252")}]


def listing() -> list[Files]:
    texts = (
        "file\tidentity\tlfw_lookalike\nA/1.png\tA\t-\nA/2.png\tA\tB\n",
        "identity,file\nA,A/1.png\n",
    )
    return [{"w": text.encode()} for text in texts]


def cfp() -> list[Files]:
    lists = {
        f"Protocol/Pair_list_{view}.txt": "".join(
            f"{i} ../Data/Images/{i:03d}/{folder}/01.jpg\n" for i in range(1, 4)
        ).encode()
        for view, folder in (("F", "frontal"), ("P", "profile"))
    }
    splits = {
        f"Protocol/Split/FP/{fold:02d}/{kind}.txt": b"1,1\n2,3\n"
        for fold in (1, 2)
        for kind in ("same", "diff")
    }
    return [lists | splits]


def identities() -> list[Files]:
    from advface_jax.data import leaks

    return [written("w", lambda path: leaks.write_identities(path, ["Ann_Lee", "Bo_Ek", "12"]))]


def crop_report() -> list[Files]:
    head = "file\tcrop\tstatus\tfaces\tsize\tbox_x1y1x2y2\tprobability\tlandmarks_5xy\tpadding\n"
    row = "a.jpg\tA/a.png\tcropped\t1\t9x9\t1,2,3,4\t0.9\t1,2\t0\n"
    return [{"crops.tsv": (head + row * 2).encode()}]


def decoder() -> list[Files]:
    from flax import nnx

    from advface_jax import system
    from advface_jax.models import decoders

    config = decoders.DecoderConfig("transrec", 1, 0)
    made = decoders.decoder(config, rngs=nnx.Rngs(0))
    card = {"weights": "tiny", "weights_sha256": "0" * 64}
    return [written("w.safetensors", lambda p: system.write_decoder(p, made, card))]


def checkpoint() -> list[Files]:
    from advface_jax import checkpoint as folder

    tree = {"a": {"b": np.arange(4, dtype=np.float32)}, "c": np.ones((2, 2), np.float32)}
    return [written("w", lambda path: folder.save(path, tree, {"kind": "tiny"}))]


def feature_set() -> list[Files]:
    from advface_jax.data.feature_sets import reading

    z = np.zeros(reading.SHAPE, "<f4").tobytes()

    def write(path: Path, options: str) -> None:
        path.mkdir()
        writer = reading.array_record()[0].ArrayRecordWriter(
            str(path / "features-00000.array_record"), options
        )
        for _ in range(2):
            writer.write(z)
        writer.close()
        shard = reading.shard_file(path, 0)
        beside = {"bytes": shard.stat().st_size, "records": 2, "labels": ["1", "2"], "names": None}
        beside["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
        shard.with_suffix(".json").write_text(json.dumps(beside), encoding="utf-8")
        card = {"format": reading.FORMAT, "shape": list(reading.SHAPE), "dtype": "f32"}
        card |= {"shards": 1, "records": 2}
        (path / "card.json").write_text(json.dumps(card), encoding="utf-8")

    return [
        written("w", lambda path, o=options: write(path, o))
        for options in ("group_size:1", "group_size:2,zstd")
    ]
