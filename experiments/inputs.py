"""Which faces and which pairs an experiment measures: by preset where the flags are silent."""

import hashlib
import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from advface_jax import data

Preset = Literal["demo", "paper"]
DEMO_PEOPLE, DEMO_PICTURES = 12, 4


class Inputs(NamedTuple):
    """The faces, the pairs over them, and where they came from, for the results file."""

    faces: data.Faces
    pairs: data.Pairs
    origin: dict[str, Any]


def read(
    preset: Preset,
    faces: str | None,
    listing: Path | None,
    pairs: Path | None,
    limit: int | None,
    seed: int,
) -> Inputs:
    """Read the faces that the pairs need, and no others; without pairs, draw some.

    demo: embedded faces of nobody. paper: LFW, from the flags or from the folder that the variable
    ADVFACE_DATA names. ``limit`` keeps as many same as different pairs of every fold, in order.

    Raises:
      ValueError: paper without data, or data that cannot be read.
    """
    if preset == "paper":
        faces, pairs = _lfw(faces, pairs)
    faces = faces or "synthetic"
    if pairs is not None:
        named = data.subset(data.read_pairs(pairs), limit)
        crops = data.read_faces(faces, listing=listing, names=data.pair_names(named))
        over = data.index_pairs(named, crops)
    else:
        names = data.synthetic_names(DEMO_PEOPLE, DEMO_PICTURES) if faces == "synthetic" else None
        crops = data.read_faces(faces, listing=listing, names=names)
        images = Counter(crops.identities)
        folds = min(10, len(images) // 2, sum(n > 1 for n in images.values()))
        drawn = data.subset(data.make_pairs(crops, folds=max(folds, 2), seed=seed), limit)
        used = np.unique(np.concatenate([drawn.left, drawn.right]))
        crops = crops.select(used)
        left, right = np.searchsorted(used, drawn.left), np.searchsorted(used, drawn.right)
        over = data.Pairs(left, right, drawn.same, drawn.fold)
    origin = {
        "preset": preset,
        "faces": Path(faces).name,
        "faces_sha256": hashlib.sha256(crops.images.tobytes()).hexdigest(),
        "faces_read": len(crops),
        "faces_skipped": len(crops.skipped),
        "pairs": Path(pairs).name if pairs else "drawn from the identities",
        "folds": len(np.unique(over.fold)),
        "limit": limit,
        "seed": seed,
    }
    return Inputs(crops, over, origin)


def _lfw(faces: str | None, pairs: Path | None) -> tuple[str, Path]:
    if place := os.environ.get("ADVFACE_DATA"):
        faces = faces or str(Path(place) / "faces" / "lfw_pairs_160.zip")
        pairs = pairs or Path(place) / "lists" / "lfw_pairs.tsv"
    if faces is None or pairs is None:
        raise ValueError(
            "the paper preset measures on LFW: give --faces (160×160 crops as "
            "identity/image.jpg, folder or zip) and --pairs (LFW's pairs.txt), or set ADVFACE_DATA "
            "to a folder with faces/lfw_pairs_160.zip and lists/lfw_pairs.tsv"
        )
    return faces, pairs
