"""The one dispatch over every format: from a path to a source of images."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from advface_jax.data.formats import folders, insightface, prepared
from advface_jax.data.records import Source
from advface_jax.untrusted import BadFile


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a set of photographs or crops without reading any image.

    Images are sorted by name in folders and archives, else in the order of the pack. Nothing is
    unpacked to the disk, and no pickle is executed.

    Args:
      path: One of: a folder or a zip of ``identity/image.jpg``, or of flat files, each its own
        identity; an insightface RecordIO pack ``NAME.rec`` with ``NAME.idx`` beside it, or a
        folder with ``train.rec``; an insightface verification set ``NAME.bin``, which carries its
        pairs; a prepared tensorflow-datasets set, by its folder or as "tfds:NAME" (extra `data`).

    Raises:
      ValueError: there is no such set, or it cannot be read.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from advface_jax import data
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> Image.new("RGB", (640, 480)).save(folder / "photo.jpg")  # any size
      >>> data.open_source(folder).names
      ('photo.jpg',)
    """
    if str(path).startswith(prepared.PREFIX):
        return prepared.open_named(str(path).removeprefix(prepared.PREFIX))
    path = Path(path)
    if path.is_dir():
        if any((path / card).is_file() for card in ("dataset_info.json", "features.json")):
            return prepared.open_prepared(path)
        if not (path / "train.rec").is_file():
            return folders.open_folder(path)
        path = path / "train.rec"
    if path.is_file() and path.suffix == ".rec":
        return insightface.open_rec(path)
    if path.is_file() and path.suffix == ".bin":
        return insightface.open_bin(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return folders.open_zip(path)
    what = "does not exist"
    if path.exists():
        what = "is neither a folder nor a zip archive (or is one that was cut short)"
    raise BadFile(
        f"{path} {what}: give a folder or a zip of identity/image.jpg, an insightface .rec or "
        ".bin, a prepared data set as 'tfds:NAME', or 'synthetic'"
    )
