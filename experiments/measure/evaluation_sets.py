"""Where the paper's three evaluation sets lie: in the flags, or in the folder of ADVFACE_DATA.

That folder holds, for each set, its faces under `faces/` and its pairs under `lists/`:

    lfw       faces/lfw_pairs_160.zip (or lfw.zip, or the folder lfw) and lists/lfw_pairs.tsv, or
              LFW's own lists/pairs.txt
    cfp_fp    faces/cfp_fp.zip or the folder cfp_fp (PERSON/frontal/01.jpg ...) and CFP's folder
              Protocol as lists/cfp_fp (Pair_list_F.txt, Pair_list_P.txt, Split), or
              lists/cfp_fp.tsv
    agedb_30  faces/agedb_30.zip or the folder agedb_30 (0_MariaCallas_35_f.jpg ...) and
              lists/04_FINAL_protocol_30_years.mat (or test_splits_30_years.mat, or a folder
              agedb_30 that holds one of them), or lists/agedb_30.tsv

or a set that carries its pairs, which needs no file under `lists/`: a prepared one, as
faces/NAME/1.0.0 (`python -m advface_jax prepare ... -o FOLDER/faces`), or insightface's
faces/NAME.bin, which is of another framing (docs/datasets.md) and therefore taken last.
"""

import os
from pathlib import Path
from typing import NamedTuple

from experiments.measure.paper import Set

TITLES: dict[Set, str] = {"lfw": "LFW", "cfp_fp": "CFP-FP", "agedb_30": "AgeDB-30"}


class _Layout(NamedTuple):
    carrying: tuple[str, ...]  # under faces/: sets with their pairs
    faces: tuple[str, ...]  # under faces/: crops without
    pairs: tuple[str, ...]  # under lists/: what such crops need
    get: str  # how to come by it, for who has none


LAYOUTS: dict[Set, _Layout] = {
    "lfw": _Layout(
        (),
        ("lfw_pairs_160.zip", "lfw.zip", "lfw"),
        ("lfw_pairs.tsv", "pairs.txt"),
        "give --faces (160×160 crops as identity/image.jpg, folder or zip) and --pairs (LFW's "
        "pairs.txt), or set ADVFACE_DATA to a folder with faces/lfw_pairs_160.zip and "
        "lists/lfw_pairs.tsv",
    ),
    "cfp_fp": _Layout(
        ("cfp_fp/1.0.0",),
        ("cfp_fp.zip", "cfp_fp"),
        ("cfp_fp", "cfp_fp.tsv"),
        "give --faces (160×160 crops as PERSON/frontal/01.jpg) and --pairs (CFP's folder), or set "
        "ADVFACE_DATA to a folder with faces/cfp_fp (or cfp_fp.zip) and CFP's folder Protocol as "
        "lists/cfp_fp, or with faces/cfp_fp.bin of insightface",
    ),
    "agedb_30": _Layout(
        ("agedb_30/1.0.0",),
        ("agedb_30.zip", "agedb_30"),
        ("04_FINAL_protocol_30_years.mat", "test_splits_30_years.mat", "agedb_30", "agedb_30.tsv"),
        "give --faces (160×160 crops as 0_MariaCallas_35_f.jpg) and --pairs "
        "(04_FINAL_protocol_30_years.mat), or set ADVFACE_DATA to a folder with faces/agedb_30 "
        "(or agedb_30.zip) and lists/04_FINAL_protocol_30_years.mat, or with "
        "faces/agedb_30.bin of insightface",
    ),
}


def find(name: Set, faces: str | None = None, pairs: Path | None = None) -> tuple[str, Path | None]:
    """The faces and the pairs of a set; no pairs where the faces carry them.

    What the flags name goes before what the folder of ADVFACE_DATA has.

    Raises:
      ValueError: The set is not available; the message has what is needed.
    """
    if name not in LAYOUTS:
        raise ValueError(f"got set {name!r}; wanted one of {', '.join(LAYOUTS)}")
    layout = LAYOUTS[name]
    place = os.environ.get("ADVFACE_DATA")
    under = {part: Path(place) / part for part in ("faces", "lists")} if place else {}
    listed = pairs or _first(under.get("lists"), layout.pairs)
    if faces is not None:
        if pairs or _carries(faces):
            return faces, pairs
        if listed:
            return faces, listed
    elif ready := _first(under.get("faces"), layout.carrying):
        return str(ready), pairs
    elif (crops := _first(under.get("faces"), layout.faces)) and listed:
        return str(crops), listed
    elif pack := _first(under.get("faces"), (f"{name}.bin",)):
        return str(pack), pairs
    raise ValueError(
        f"{TITLES[name]}'s data are not available: the paper preset measures on {TITLES[name]}: "
        f"{layout.get}; docs/datasets.md goes from the download to there"
    )


def available(name: Set) -> bool:
    """Whether a set can be measured without flags that say where it is."""
    try:
        find(name)
    except ValueError:
        return False
    return True


def _first(folder: Path | None, names: tuple[str, ...]) -> Path | None:
    found = (folder / name for name in names if folder and (folder / name).exists())
    return next(found, None)


def _carries(faces: str) -> bool:
    """Whether a set of faces may bring its own pairs; those that cannot say so when opened."""
    path = Path(faces)
    prepared = (path / "dataset_info.json").is_file() or (path / "features.json").is_file()
    return faces.startswith("tfds:") or path.suffix == ".bin" or prepared
