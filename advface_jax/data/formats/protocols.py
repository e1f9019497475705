"""Verification protocols beside LFW's: the folds of CFP and of AgeDB, from their own files.

Files are named as inside the data sets' image folders, so that crops made from those folders keep
the names: ``001/frontal/01.jpg`` in CFP, ``NAME.jpg`` in AgeDB.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np

from advface_jax import checks
from advface_jax.data.formats import matlab
from advface_jax.data.records import NamedPair
from advface_jax.data.tables import read_lines
from advface_jax.untrusted import BadFile


def read_cfp(
    folder: str | os.PathLike[str], protocol: Literal["FP", "FF"] = "FP"
) -> list[NamedPair]:
    """The folds of CFP-FP (frontal against profile) or CFP-FF, each its same pairs first.

    Source: Sengupta et al., "Frontal to profile face verification in the wild", 2016.

    Args:
      folder: The data set's, or the folder ``Protocol`` in it, with Pair_list_F.txt,
        Pair_list_P.txt and Split/FP (or FF)/01 ... 10, of 350 same and 350 different pairs each.

    Raises:
      ValueError: with the line, for files that are missing or do not fit.

    Example:
      >>> from advface_jax import data
      >>> pairs = data.read_cfp("cfp-dataset")  # doctest: +SKIP
      >>> len(pairs)  # doctest: +SKIP
      7000
    """
    checks.choice(protocol, "protocol", ("FP", "FF"))
    root = Path(folder)
    root = root / "Protocol" if (root / "Protocol").is_dir() else root
    first, second = (_images(root / f"Pair_list_{view}.txt") for view in protocol)
    split = root / "Split" / protocol
    places = sorted(p for p in split.iterdir() if p.is_dir()) if split.is_dir() else []
    if not places:
        raise BadFile(f"{split} has no folds: wanted the folders 01 to 10, as CFP comes")
    pairs = []
    for fold, place in enumerate(places, 1):
        for file, same in ((place / "same.txt", True), (place / "diff.txt", False)):
            for number, line in _lines(file):
                try:
                    left, right = (int(word) for word in line.split(","))
                    pair = NamedPair(first[left], second[right], same, fold)
                except ValueError:
                    raise _wrong(file, number, "two numbers as in '12,34'", line) from None
                except KeyError as missing:
                    want = f"numbers of the image lists, which have no {missing}"
                    raise _wrong(file, number, want, line) from None
                pairs.append(pair)
    return pairs


def _images(file: Path) -> dict[int, str]:
    """The numbered list '1 ../Data/Images/001/frontal/01.jpg': number to '001/frontal/01.jpg'."""
    images = {}
    for number, line in _lines(file):
        try:
            key, path = line.split()
            name = path.replace("\\", "/").split("/Images/", 1)[1]
            if ".." in name.split("/") or int(key) in images:
                raise BadFile
        except (ValueError, IndexError):
            want = "a new number and a path, as in '1 ../Data/Images/001/frontal/01.jpg'"
            raise _wrong(file, number, want, line) from None
        images[int(key)] = name
    return images


def _lines(file: Path) -> list[tuple[int, str]]:
    try:
        text = read_lines(file)
    except ValueError as error:
        raise BadFile(
            f"{error}: give CFP's folder, with Protocol/Pair_list_F.txt, Pair_list_P.txt and "
            "Split in it"
        ) from None
    lines = [(n, line.strip()) for n, line in enumerate(text, 1) if line.strip()]
    if not lines:
        raise BadFile(f"{file} is empty: copy it again from the data set")
    return lines


def _wrong(file: Path, number: int, wanted: str, got: str) -> BadFile:
    return BadFile(f"{file}, line {number}: wanted {wanted}; got {got!r:.200}")


def read_agedb(path: str | os.PathLike[str]) -> list[NamedPair]:
    """AgeDB-30's ten folds of 600 pairs whose two pictures lie 30 years apart.

    The file's variable ``splits`` is a cell of ten structs: a 2 x 600 cell of (name, age), and 600
    labels, 1 for same and -1 for different. Ages are not kept. Source: Moschoglou et al., "AgeDB:
    the first manually collected, in-the-wild age database", 2017; the layout as insightface's and
    other readers of that file assume it.

    Args:
      path: The .mat file of the protocol, or a folder that holds exactly one ``*30_years.mat``, as
        ``04_FINAL_protocol_30_years.mat``.

    Raises:
      ValueError: the file is missing, damaged or of another layout.

    Example:
      >>> from advface_jax import data
      >>> pairs = data.read_agedb("04_FINAL_protocol_30_years.mat")  # doctest: +SKIP
      >>> len(pairs)  # doctest: +SKIP
      6000
    """
    path = Path(path)
    if path.is_dir():
        found = agedb_files(path)
        if len(found) != 1:
            raise BadFile(
                f"{path} has {len(found)} files like 04_FINAL_protocol_30_years.mat: name one"
            )
        path = found[0]
    try:
        found = matlab.read(path, "splits")
    except ValueError as error:
        raise BadFile(
            f"{path}: {error}; wanted AgeDB's protocol, a MATLAB file with the cell 'splits'"
        ) from error
    splits = found.ravel() if isinstance(found, np.ndarray) else [found]
    return [pair for fold, split in enumerate(splits, 1) for pair in _agedb_fold(path, fold, split)]


def agedb_files(folder: Path) -> list[Path]:
    """The protocol's files below a folder, without a Mac's resource forks."""
    found = folder.rglob("*30_years.mat")
    return sorted(path for path in found if not path.name.startswith("."))


def _agedb_fold(path: Path, fold: int, split: Any) -> list[NamedPair]:
    def wrong(what: str) -> BadFile:
        return BadFile(f"{path}, fold {fold}: {what}; wanted AgeDB's protocol as it comes")

    fields = _inner(split)
    if not (isinstance(fields, tuple) and len(fields) >= 2):
        raise wrong("not a struct of pairs and labels")
    images, labels = fields[:2]
    if not (isinstance(images, np.ndarray) and isinstance(labels, np.ndarray)):
        raise wrong("not a struct of pairs and labels")
    labels = labels.ravel()
    if images.shape != (2, len(labels)) or labels.dtype.kind not in "iuf":
        raise wrong(f"images of shape {images.shape} for {len(labels)} labels")
    pairs = []
    for number, label in enumerate(labels, 1):
        names = []
        for image in images[:, number - 1]:
            item = _inner(image)
            if isinstance(item, np.ndarray):  # a cell of name and age; else a struct, or the name
                item = tuple(item.ravel())
            name = _inner(item[0]) if isinstance(item, tuple) and item else item
            if not isinstance(name, str) or not name or "/" in name or "\\" in name:
                raise wrong(f"pair {number} has {name!r:.60} where a file's name should be")
            whole = name.lower().endswith((".jpg", ".jpeg", ".png"))
            names.append(name if whole else f"{name}.jpg")
        if label not in (1, 0, -1):
            raise wrong(f"pair {number} has the label {label}, neither 1 nor -1")
        pairs.append(NamedPair(names[0], names[1], bool(label == 1), fold))
    return pairs


def _inner(value: Any) -> Any:
    """MATLAB's scalars come as arrays, and in cells of one."""
    while isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    return value
