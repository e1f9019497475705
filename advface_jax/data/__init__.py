"""Faces in: crops in memory or on demand, verification pairs over them, faces of nobody."""

from advface_jax.data.faces import Faces, epoch_order, open_faces, read_faces
from advface_jax.data.pairs import (
    NamedPair,
    Pairs,
    index_pairs,
    make_pairs,
    pair_names,
    read_pairs,
    subset,
)
from advface_jax.data.sources import Source, open_source
from advface_jax.data.synthetic import synthetic_faces, synthetic_names

__all__ = [
    "Faces",
    "NamedPair",
    "Pairs",
    "Source",
    "epoch_order",
    "index_pairs",
    "make_pairs",
    "open_faces",
    "open_source",
    "pair_names",
    "read_faces",
    "read_pairs",
    "subset",
    "synthetic_faces",
    "synthetic_names",
]
