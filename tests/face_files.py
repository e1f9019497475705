"""Small real files of the face sets' formats, and the broken ones that people have."""

from __future__ import annotations

import contextlib
import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from advface_jax.data import Faces, NamedPair


def valued(*identities: str, first=0) -> Faces:
    """A face each, named IDENTITY/i.jpg, the pixels of the i-th all ``first`` + i."""
    images = np.zeros((len(identities), 160, 160, 3), np.uint8)
    images += np.arange(first, first + len(images), dtype=np.uint8)[:, None, None, None]
    return Faces(tuple(f"{who}/{i}.jpg" for i, who in enumerate(identities)), identities, images)


@dataclass(frozen=True)
class Numbers:
    """Items that are their own number; some are unreadable."""

    n: int
    broken: tuple[int, ...] = ()

    def __len__(self):
        return self.n

    def crop(self, index):
        if index in self.broken:
            raise ValueError(f"unreadable: {index}")
        return np.array([index], np.uint8)


def picture(value=128, size=(160, 160), mode="RGB", kind="PNG") -> bytes:
    """An encoded image of one colour, the first channel of it `value`."""
    colour = value if mode == "L" else (value, 20, 200, 255)[: len(mode)]
    return encoded(Image.new(mode, size, colour), kind)


def noise(seed=0, size=(160, 160), kind="JPEG") -> bytes:
    """An encoded image whose bytes do not compress away, so that it can be cut in the middle."""
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    return encoded(Image.fromarray(pixels), kind)


def encoded(image: Image.Image, kind="PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def bomb(wide: int, high: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""
    data = picture(size=(1, 1))
    head = b"IHDR" + struct.pack(">II", wide, high) + data[24:29]
    return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


@contextlib.contextmanager
def full_disk(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes, which looks like a full disk to a writer."""
    resource = pytest.importorskip("resource", reason="this system has no limit on files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def archive(path: Path, files: Mapping[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as out:
        for name, data in files.items():
            out.writestr(name, data)
    return path


def table(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(row.replace(" ", "\t") for row in rows) + "\n", encoding="utf-8")
    return path


def record(labels: float | Sequence[float], image: bytes = b"", key=0, part=0) -> bytes:
    """One RecordIO record, as MXNet's `recordio.pack` and `MXRecordIO.write` make it."""
    if isinstance(labels, (int, float)):
        payload = struct.pack("<IfQQ", 0, labels, key, 0)
    else:
        payload = struct.pack("<IfQQ", len(labels), 0, key, 0)
        payload += np.asarray(labels, "<f4").tobytes()
    payload += image
    words = struct.pack("<II", 0xCED7230A, part << 29 | len(payload))
    return words + payload + b"\0" * (-len(payload) % 4)


def rec_pack(path: Path, people: Mapping[int, Sequence[bytes]], ranges=True) -> Path:
    """`train.rec`, `train.idx` and `property` in a folder, laid out as insightface's packs.

    Record 0 holds (the first identity record, one past the last); identity records hold the
    [first, end) of their images. Without `ranges`, images alone, as MXNet's im2rec writes them.
    """
    path.mkdir(parents=True, exist_ok=True)
    images = [(label, data) for label, pictures in people.items() for data in pictures]
    first = len(images) + 1
    records: list[tuple[int, bytes]] = []
    if ranges:
        records.append((0, record([first, first + len(people)])))
    for key, (label, data) in enumerate(images, 1):
        records.append((key, record(label, data, key)))
    start = 1
    for key, pictures in enumerate(people.values() if ranges else (), first):
        records.append((key, record([start, start + len(pictures)], key=key)))
        start += len(pictures)
    at, lines = 0, []
    with open(path / "train.rec", "wb") as out:
        for key, data in records:
            lines.append(f"{key}\t{at}\n")
            at += out.write(data)
    (path / "train.idx").write_text("".join(lines))
    (path / "property").write_text(f"{len(people)},112,112")
    return path / "train.rec"


def bin_set(path: Path, images: Sequence[bytes], same: Sequence[bool], protocol=4) -> Path:
    """A verification set as insightface's `lfw2pack.py` dumps it under Python 3."""
    path.write_bytes(pickle.dumps((list(images), list(same)), protocol))
    return path


def bin_set_of_python2(path: Path, images: Sequence[bytes], same: Sequence[bool]) -> Path:
    """The same as Python 2 wrote it, protocol 2 with bytes as its `str`: the public files."""
    out = b"\x80\x02]q\x00("
    for i, data in enumerate(images):
        short = len(data) < 256
        out += b"U" + bytes([len(data)]) if short else b"T" + struct.pack("<i", len(data))
        out += data + b"r" + struct.pack("<I", i + 1)
    out += b"e]q\x00(" + b"".join(b"\x88" if yes else b"\x89" for yes in same) + b"e\x86q\x00."
    assert pickle.loads(out, encoding="bytes") == (list(images), list(same))
    path.write_bytes(out)
    return path


def cfp(root: Path, frontal: Sequence[str], profile: Sequence[str], splits: Mapping[str, str]):
    """CFP's folder Protocol: both numbered lists of images, and the files of the folds."""
    files = {f"Split/{name}.txt": pairs.encode() for name, pairs in splits.items()}
    for name, images in (("Pair_list_F.txt", frontal), ("Pair_list_P.txt", profile)):
        lines = [f"{n} ../Data/Images/{image}" for n, image in enumerate(images, 1)]
        files[name] = "\r\n".join(lines).encode()
    return folder(root, files)


def small_cfp(root: Path) -> tuple[Path, list[str]]:
    """CFP's folder Protocol of two people, two folds of each protocol, and the images' names."""
    frontal = [f"{p:03d}/frontal/{i:02d}.jpg" for p in (1, 2) for i in (1, 2)]
    profile = [f"{p:03d}/profile/01.jpg" for p in (1, 2)]
    splits = {
        "FP/01/same": "1,1", "FP/01/diff": "2,2", "FP/02/same": "4,2\n", "FP/02/diff": "3,1",
        "FF/01/same": "1,2", "FF/01/diff": "1,3\n2,4",
    }  # fmt: skip
    return cfp(root / "Protocol", frontal, profile, splits), frontal + profile


CFP_PAIRS = (
    NamedPair("001/frontal/01.jpg", "001/profile/01.jpg", True, 1),
    NamedPair("001/frontal/02.jpg", "002/profile/01.jpg", False, 1),
    NamedPair("002/frontal/02.jpg", "002/profile/01.jpg", True, 2),
    NamedPair("002/frontal/01.jpg", "001/profile/01.jpg", False, 2),
)


def struct_of(**fields):
    record = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        record[name][0, 0] = value
    return record


def agedb(path: Path, folds: Sequence[Sequence[tuple]], variable="splits", image=struct_of) -> Path:
    """AgeDB's protocol file as MATLAB writes it: folds of (name, name, 1 or -1)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    splits = np.empty((len(folds), 1), object)
    for f, fold in enumerate(folds):
        images, labels = np.empty((2, len(fold)), object), np.zeros((1, len(fold)))
        for i, (left, right, label) in enumerate(fold):
            images[0, i], images[1, i] = image(name=left, age=30.0), image(name=right, age=60.0)
            labels[0, i] = label
        splits[f, 0] = struct_of(pair=images, same=labels)
    savemat(path, {variable: splits})
    return path
