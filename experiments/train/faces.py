"""The faces that a training learns from: their flags, and how they are read."""

import dataclasses
import hashlib
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from tyro.conf import OmitArgPrefixes

from advface_jax import checks, cli, data
from advface_jax.data.listing import parse_where

IN_MEMORY = 10_000  # more faces than these (0.8 GB of pixels) are read from the disk as needed
Read = Literal["auto", "memory", "disk"]


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which of the faces.

    Attributes:
      listing: Tab-separated list with columns file, identity, …
      where: Keep rows of the listing by COLUMN=VALUE, as lfw_lookalike=-
      limit: Use only the first so many faces.
      resize: Take square pictures of other sizes too (insightface's have 112×112).
    """

    listing: Path | None = None
    where: tuple[str, ...] = ()
    limit: int | None = None
    resize: bool = False

    def check(self) -> None:
        """ValueError for what is wrong without a look at the faces."""
        checks.positive(limit=1 if self.limit is None else self.limit)
        parse_where(self.where)
        cli.present(faces=getattr(self, "faces", None), listing=self.listing)


@dataclasses.dataclass(frozen=True)
class TrainingFaces(Selection):
    """The faces that a training learns from.

    Attributes:
      faces: 160×160 crops: a folder or zip of identity/image.jpg, an insightface pack (.rec), a
        prepared data set (tfds:NAME), or 'synthetic'.
    """

    faces: str = "synthetic"

    def open(self, read: Read = "auto") -> data.Faces:
        """The faces, in memory or to be read from the disk; ``auto`` decides by their number."""
        choice: dict[str, Any] = {**vars(self), "where": parse_where(self.where)}
        faces = choice.pop("faces")
        if read == "auto":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the second reading says what was skipped
                many = len(data.open_faces(faces, **choice)) > IN_MEMORY
            read = "disk" if many else "memory"
        return (data.open_faces if read == "disk" else data.read_faces)(faces, **choice)

    def settings(self, crops: data.Faces) -> dict[str, Any]:
        """What a training on these ``crops`` keeps of their choice."""
        return {
            "faces": Path(self.faces).name,
            "where": list(self.where),
            "resize": self.resize,
            "faces_read": len(crops),
            "faces_skipped": len(crops.skipped),
        }


OfSelection = Annotated[Selection, OmitArgPrefixes]
OfTraining = Annotated[TrainingFaces, OmitArgPrefixes]


def in_memory(items: data.Faces | data.FeatureSet) -> bool:
    """Whether a row is only a row of an array, which needs no reading ahead."""
    return isinstance(getattr(items, "store", None), np.ndarray)


def names_sum(items: data.Faces | data.FeatureSet) -> str:
    """A checksum that differs between training sets: of their labels and names, in order."""
    return hashlib.sha256("\n".join([*items.identities, *items.names]).encode()).hexdigest()
