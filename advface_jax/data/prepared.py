"""Data sets prepared by tensorflow-datasets as array_record, read without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from advface_jax.data.sources import Source


def open_named(name: str) -> Source:
    """The set that tensorflow-datasets has prepared under a name in its own data folder."""
    raise ValueError(f"tfds:{name}: not read yet")


def open_prepared(folder: Path) -> Source:
    """The set prepared in a folder, the one with dataset_info.json."""
    raise ValueError(f"{folder}: not read yet")
