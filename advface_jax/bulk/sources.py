"""What can be protected: crops from any source, photographs, or a set of features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax import cropping, data, detection
from advface_jax.data import crops
from advface_jax.data.feature_sets.planning import Items
from advface_jax.data.records import Source


@dataclass(frozen=True, eq=False)
class Photographs:
    """Photographs of any size as 160x160 crops of their faces, found when they are asked for."""

    source: Source
    detector: Any
    config: cropping.CropConfig

    @property
    def names(self) -> tuple[str, ...]:
        return self.source.names

    @property
    def identities(self) -> tuple[str, ...]:
        return self.source.identities

    def __len__(self) -> int:
        return len(self.source.names)

    def crop(self, i: int) -> np.ndarray:
        """The crop of a photograph's face, uint8 (160,160,3); ValueError with the reason."""

        def find(photo: np.ndarray) -> detection.Detections:
            return detection.detect(photo, self.detector)

        try:
            photo = crops.decode(self.source.read(self.names[i]))
        except OSError as error:
            raise ValueError(f"unreadable: {error}") from error
        return cropping.one_face(photo, self.config, find)


def is_features(source: str) -> bool:
    """Whether it is a folder of a feature set."""
    card = Path(source) / "card.json"
    return card.is_file() and any(Path(source).glob("features-*.json"))


def open_items(source: str, *, crop: bool, limit: int | None, **options: Any) -> Items:
    """The items of ``source``, lazy.

    Args:
      source: crops as ``data.open_faces`` takes them, photographs, or a folder of features.
      crop: it holds photographs, whose faces are looked for by MTCNN.
      limit: only the first so many.
      options: of ``data.open_faces``: listing, where, resize.

    Raises:
      ValueError: it is unreadable or empty, or options that do not fit it.
    """
    chosen = {name: value for name, value in options.items() if value}
    if (is_features(source) or crop) and chosen:
        raise ValueError(
            f"got --{next(iter(chosen))} for {source}, which are "
            f"{'photographs' if crop else 'features'}; wanted it with crops only"
        )
    if is_features(source):
        if limit is not None or crop:
            raise ValueError(
                f"got --{'crop' if crop else 'limit'} for {source}, a set of features; wanted it "
                "with pictures only"
            )
        return data.open_features(source)
    if not crop:
        return data.open_faces(source, limit=limit, **options)
    opened = data.open_source(source)
    if not len(opened):
        raise ValueError(f"{source} holds no photograph")
    return Photographs(opened.first(limit), detection.load_detector(), cropping.CropConfig())
