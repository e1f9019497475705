"""The commands that are killed, on drawn faces and small networks, and sums of what they leave."""

import hashlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from advface_jax import data

SMALL = "experiments.fault.small:system"
WITHOUT = ("seconds", "command", "date", "spent", "loading")


class Case(NamedTuple):
    """A command, and how to read what it left.

    Attributes:
      name: of the command.
      words: ``python -m`` and these; OUT stands for the folder of results.
      records: OUT -> what is compared, by name: every record once.
    """

    name: str
    words: tuple[str, ...]
    records: Callable[[Path], dict[str, str]]


def cases(place: Path) -> list[Case]:
    """The cases on faces drawn into ``place``."""
    faces, photos = place / "faces", place / "photos"
    if not photos.exists():
        _draw(faces, photos)
    few = ("--weights", SMALL, "--batch", "2", "--steps", "2")
    shards = (*few, "--shard-size", "4", "--limit", "40", "--seed", "1", "-o", "OUT")
    training = ("--width", "4", "--depth", "0", "--epochs", "6", "--batch", "4", "--save-every")
    asked: dict[str, tuple[tuple[str, ...], Callable[[Path], dict[str, str]]]] = {
        "protect": (("advface_jax", "protect", f"{faces}", *shards, "--dtype", "int8"), _features),
        "features": (("advface_jax", "features", f"{faces}", *shards), _features),
        "crop": (("advface_jax", "crop", f"{photos}", "-o", "OUT"), _crops),
        "prepare": (
            ("advface_jax", "prepare", "casia-webface", f"{faces}", "-o", "OUT"),
            _prepared,
        ),
        "train_decoder": (
            ("experiments", "train_decoder", "--faces", f"{faces}", "--weights", SMALL, "-o", "OUT")
            + ("--decoder", "transrec", *training, "3"),
            _decoder,
        ),
        "tradeoff": (
            ("experiments", "tradeoff", *few, "--epsilons", "0.1", "0.2", "0.4", "-o", "OUT"),
            _rows,
        ),
    }
    return [Case(name, *what) for name, what in asked.items()]


def _draw(faces: Path, photos: Path) -> None:
    drawn = data.synthetic_faces(24, 4, seed=7)
    for name, face in zip(drawn.names, drawn.images, strict=True):
        file = (faces / name).with_suffix(".png")
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(file)
    for i, face in enumerate(drawn.images):
        canvas = np.full((256, 256, 3), 90, np.uint8)
        canvas[48:208, 48:208] = face
        made = io.BytesIO()
        Image.fromarray(canvas).save(made, "JPEG")
        file = photos / f"p{i // 4}" / f"{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(made.getvalue())


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _prepared(out: Path) -> dict[str, str]:
    """Every picture of a prepared set, and its files' names; array_record's own bytes differ from
    run to run."""
    files = {path.relative_to(out).as_posix(): "" for path in out.rglob("*") if path.is_file()}
    (folder,) = {path.parent for path in out.rglob("dataset_info.json")}
    found = data.open_source(folder)
    return files | {name: _sum(found.read(name)) for name in found.names}


def _features(out: Path) -> dict[str, str]:
    """Every record of a feature set, and its files' names: nothing else may lie there."""
    found = data.open_features(out)
    found.check()
    records = {f"record {i}": _sum(found.crop(i).tobytes()) for i in range(len(found))}
    return records | {path.name: _sum(path.read_bytes()) for path in out.iterdir()}


def _crops(out: Path) -> dict[str, str]:
    """Every crop, and every photograph's line."""
    lines = (out / "crops.tsv").read_text(encoding="utf-8").splitlines()
    crops = {p.relative_to(out).as_posix(): _sum(p.read_bytes()) for p in out.rglob("*.jpg")}
    counted = {line: str(lines.count(line)) for line in lines}
    rest = {p.name: "" for p in out.iterdir() if p.is_file()}
    return crops | counted | rest


def _decoder(out: Path) -> dict[str, str]:
    """The weights, the results with the losses of every step, and the files' names."""
    weights = {p.name: _sum(p.read_bytes()) for p in out.glob("*.safetensors")}
    results = json.loads((out / "train_decoder.json").read_text(encoding="utf-8"))
    files = {p.name: "" for p in out.iterdir() if p.is_file()}
    return files | weights | {f"result {k}": _plain({k: v}) for k, v in results.items()}


def _rows(out: Path) -> dict[str, str]:
    """Every row of a table."""
    results = json.loads((out / "tradeoff.json").read_text(encoding="utf-8"))
    files = {p.name: "" for p in out.iterdir()}
    return files | {f"row {i}": _plain(row) for i, row in enumerate(results["rows"])}


def _plain(value: object) -> str:
    """Without what the clock changes."""

    def clean(x: object) -> object:
        if isinstance(x, dict):
            return {k: clean(v) for k, v in x.items() if k not in WITHOUT}
        return [clean(v) for v in x] if isinstance(x, list) else x

    return json.dumps(clean(value), sort_keys=True)
