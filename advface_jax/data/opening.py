"""The one dispatch over every format: from a path to a source of images, or to pairs."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

from advface_jax.data.formats import folders, insightface, pair_lists, prepared, protocols
from advface_jax.data.records import NamedPair, Source


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
    raise ValueError(
        f"{path} {what}: give a folder or a zip of identity/image.jpg, an insightface .rec or "
        ".bin, a prepared data set as 'tfds:NAME', or 'synthetic'"
    )


def read_pairs(path: str | os.PathLike[str]) -> list[NamedPair]:
    """Read verification pairs, in the order of their file.

    Args:
      path: A list as ``formats.pair_lists`` reads it (tab-separated, or LFW's pairs.txt); CFP's
        folder (its FP folds); AgeDB-30's .mat file; or a set of faces that carries its pairs
        (insightface's .bin, a prepared data set).

    Raises:
      ValueError: with the line that does not fit, or where there are no pairs.
    """
    place = Path(path)
    if (place / "Protocol").is_dir() or (place / "Pair_list_F.txt").is_file():
        return protocols.read_cfp(place)
    if place.suffix == ".mat":
        return protocols.read_agedb(place)
    if not (str(path).startswith(prepared.PREFIX) or place.is_dir() or place.suffix == ".bin"):
        return pair_lists.read_list(place)
    carried = open_source(path).pairs
    if not carried:
        raise ValueError(
            f"{path} carries no pairs: give LFW's pairs.txt, a tab-separated list, CFP's "
            "folder, AgeDB-30's .mat, an insightface .bin or a prepared data set with pairs"
        )
    return list(carried)
