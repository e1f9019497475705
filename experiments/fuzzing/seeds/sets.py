"""Packs, archives and folders of faces and features."""

from __future__ import annotations

import hashlib
import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from experiments.fuzzing.seeds import Files, written, zipped
from experiments.fuzzing.seeds.images import picture
from experiments.fuzzing.tensorflow_files import field


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


def image_zip() -> list[Files]:
    image = picture("PNG", "L")
    members = {"A/1.png": image, "A/frontal/2.jpg": picture("JPEG", quality=5), "b.txt": b"x"}
    kinds = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    return [zipped(members, kind) for kind in kinds]


def feature_set() -> list[Files]:
    from advface_jax.data.feature_sets import chunks, reading

    z = np.zeros(reading.SHAPE, "<f4").tobytes()

    def write(path: Path, options: str) -> None:
        path.mkdir()
        writer = chunks.array_record()[0].ArrayRecordWriter(
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


def prepared_set() -> list[Files]:
    """As our builders leave it, and as tensorflow-datasets did before 2022, without lists."""
    features = "tensorflow_datasets.core.features."
    image = picture("JPEG", quality=5)

    def told(now: bool) -> dict[str, Any]:
        kinds = {"image": "image_feature.Image", "name": "text_feature.Text"}
        if now:
            parts: dict[str, Any] = {}
            parts |= {key: {"pythonClassName": features + kind} for key, kind in kinds.items()}
            parts["image"]["image"] = {"dtype": "uint8"}
            parts["name"]["text"] = {}
            return {
                "pythonClassName": f"{features}features_dict.FeaturesDict",
                "featuresDict": {"features": parts},
            }
        kinds = {"image": "image_feature.Image", "label": "class_label_feature.ClassLabel"}
        parts = {key: {"type": features + kind, "content": {}} for key, kind in kinds.items()}
        return {"type": f"{features}features_dict.FeaturesDict", "content": parts}

    def example(i: int, now: bool) -> bytes:
        own = field(1, field(1, f"a/{i}.jpg")) if now else field(3, field(1, field(1, i)[1:]))
        values = {"image": field(1, field(1, image)), "name" if now else "label": own}
        entries = (field(1, field(1, key) + field(2, value)) for key, value in values.items())
        return field(1, b"".join(entries))

    def write(folder: Path, now: bool) -> None:
        from advface_jax.data.feature_sets import chunks

        folder.mkdir()
        file = folder / "tiny-train.array_record-00000-of-00001"
        writer = chunks.array_record()[0].ArrayRecordWriter(str(file), "group_size:1")
        for i in range(3):
            writer.write(example(i, now))
        writer.close()
        info = {"name": "tiny", "version": "1.0.0", "fileFormat": "array_record"}
        split = {"name": "train", "shardLengths": ["3"], "numBytes": "900"}
        split |= {"filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}
        texts = {"dataset_info.json": json.dumps(info | {"splits": [split]})}
        texts["features.json"] = json.dumps(told(now))
        if now:
            rows = "".join(f"a/{i}.jpg\ta\n" for i in range(3))
            texts["faces.tsv"] = f"file\tidentity\n{rows}"
            texts["pairs.tsv"] = "fold\tsame\tfile1\tfile2\n1\t1\ta/0.jpg\ta/1.jpg\n"
            texts["skipped.tsv"] = "file\treason\nb.jpg\tunreadable\n"
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")

    return [written("w", lambda path, n=now: write(path, n)) for now in (True, False)]
