"""Pack what a machine with an accelerator and without a network lacks, into one folder.

    python scripts/pack_for_device.py FOLDER                  # here, about 50 MB
    bash FOLDER/run.sh experiments.accelerator --minutes 8    # there, in the repository's root

Packages, the recogniser's 8-bit weights and, where ADVFACE_DATA names their folder, faces of the
evaluation sets as WebP, which are read by what they hold and keep their names. With --attackers
also what experiments.worst_case and experiments.decoys need:

    python scripts/pack_for_device.py FOLDER --limit 2000 --public-faces 1016 --attackers SFACE.onnx
    bash FOLDER/run.sh experiments.worst_case --preset paper --limit 700 --sibling facenet-128 SFACE

The other machine needs Python >= 3.11, jax, flax, optax, orbax-checkpoint, numpy, h5py, matplotlib,
pillow and, for the comparison, torch. Results come into $OUT (or ./results), one archive a command.
Faces are encoded again (quality 90, 42 dB) and facenet-128 is rounded: figures from them are not
quite the files'.
"""

import io
import json
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Container
from pathlib import Path, PurePosixPath

import numpy as np
import tyro
from PIL import Image

import advface_jax
from advface_jax import checkpoint, data, weights
from experiments.attack.public_faces import CELEBA, LISTED, PublicFaces
from experiments.measure import evaluation_sets
from experiments.measure.paper import Set

PACKAGES = (
    *("dm-pix", "chex", "platformdirs", "pooch", "safetensors"),
    *("tyro", "docstring-parser", "typeguard", "rich", "markdown-it-py", "mdurl", "pygments"),
    *("toolz", "requests", "idna", "urllib3", "certifi", "charset-normalizer"),
    *("cryptography", "cffi", "pycparser"),
    *("pytest", "iniconfig", "pluggy", "packaging"),
)
QUALITY = 90
CLIPPED = (1.0, 0.8, 0.6, 0.45)
"""Shares of a channel's largest number at which rounding may clip; the best one is taken."""


def main(
    folder: Path,
    /,
    sets: tuple[Set, ...] = ("lfw",),
    limit: int | None = None,
    public_faces: int = 0,
    attackers: Path | None = None,
    bits: int = 6,
) -> None:
    """Pack what a machine with an accelerator and without a network lacks, into one folder.

    Args:
      folder: Is filled.
      sets: Evaluation sets whose faces go with it, if ADVFACE_DATA names their folder.
      limit: Only the faces of this many of their pairs, as --limit of the experiments takes them.
      public_faces: So many of CelebA B's, as --public-faces takes them.
      attackers: SFace's face_recognition_sface_2021dec_int8bq.onnx; facenet-128 goes with it.
      bits: Of every number of facenet-128's kernels, 2 to 8.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _packages(folder / "site.tar.xz")
    advface_jax.load("facenet-512-q8")  # fetched and checked, if it is not here yet
    _squeeze(weights.cache_dir() / "weights" / "facenet-512-q8.tflite", folder / "weights.xz")
    place = os.environ.get("ADVFACE_DATA")
    lists = folder / "lists"
    for name in sets if place else ():
        crops, pairs = evaluation_sets.find(name)
        if pairs is None or not zipfile.is_zipfile(crops):
            raise SystemExit(f"got {crops}; wanted a zip of crops and a list of pairs for {name}")
        wanted = data.pair_names(data.subset(data.read_pairs(pairs), limit))
        _faces(Path(crops), folder, {_stem(one) for one in wanted})
        (shutil.copytree if pairs.is_dir() else shutil.copy)(pairs, _made(lists) / pairs.name)
    if place and public_faces:
        chosen = PublicFaces(public_faces=public_faces).read("paper").names
        _faces(Path(place, "faces", CELEBA), folder, {_stem(one) for one in chosen})
        shutil.copy(Path(place, "lists", LISTED), _made(lists))
    if attackers:
        _squeeze(attackers, folder / f"{attackers.name}.xz")
        _rounded("facenet-128", bits, folder)
    shutil.copy(Path(__file__).with_name("run_on_device.sh"), folder / "run.sh")
    size = sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB")


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _squeeze(source: Path, to: Path) -> None:
    to.write_bytes(lzma.compress(source.read_bytes(), preset=9))


def _packages(to: Path) -> None:
    with tempfile.TemporaryDirectory() as at, tarfile.open(to, "w:xz") as archive:
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--only-binary=:all:", "--target", at, *PACKAGES], check=True)
        archive.add(at, "site")


def _faces(source: Path, folder: Path, wanted: Container[str]) -> None:
    with zipfile.ZipFile(source) as faces, zipfile.ZipFile(folder / source.name, "w") as packed:
        for name in faces.namelist():
            if not name.endswith("/") and _stem(name) in wanted:
                smaller = io.BytesIO()
                image = Image.open(io.BytesIO(faces.read(name))).convert("RGB")
                image.save(smaller, "WEBP", quality=QUALITY)
                packed.writestr(name, smaller.getvalue())


def _rounded(name: str, bits: int, folder: Path) -> None:
    """A recogniser whose kernels are rounded to so many bits, a scale for each output channel."""
    card = advface_jax.load(name).card
    tree, _ = checkpoint.restore(weights.cache_dir() / "checkpoints" / name)
    kept = {}
    for leaf, value in checkpoint.flatten(tree).items():
        value = np.asarray(value)
        if value.ndim < 2:
            kept[leaf] = value
        else:
            kept[f"q:{leaf}"], kept[f"s:{leaf}"] = _quantised(value, 2 ** (bits - 1) - 1)
    written = io.BytesIO()
    np.savez(written, **kept)
    (folder / f"{name}.npz.xz").write_bytes(lzma.compress(written.getvalue()))
    (folder / f"{name}.json").write_text(json.dumps({**card, "rounded_to_bits": bits}))


def _quantised(kernel: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    axes = tuple(range(kernel.ndim - 1))
    largest = np.maximum(np.abs(kernel).max(axes, keepdims=True), np.finfo(np.float32).tiny)
    tried = []
    for share in CLIPPED:
        scale = largest * share / most
        steps = np.clip(np.round(kernel / scale), -most, most)
        tried.append((((steps * scale - kernel) ** 2).sum(axes), steps, scale))
    best = np.stack([error for error, _, _ in tried]).argmin(0)
    steps = np.choose(best, [one for _, one, _ in tried])
    scale = np.choose(best, [one for _, _, one in tried])
    return steps.astype(np.int8), scale.astype(np.float32)


if __name__ == "__main__":
    tyro.cli(main)
