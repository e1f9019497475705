"""Faces in: crops in memory or on demand, batches and pairs of them, synthetic faces."""

from advface_jax.data.batches import Batch, batches, epoch_order, to_device
from advface_jax.data.drawn.faces import synthetic_faces, synthetic_names
from advface_jax.data.faces import Faces
from advface_jax.data.feature_sets.reading import FeatureSet, open_features
from advface_jax.data.formats import protocols
from advface_jax.data.formats.protocols import read_agedb, read_cfp
from advface_jax.data.grouped import Chosen, Grouped
from advface_jax.data.pairs import Pairs, index_pairs, make_pairs, pair_names, read_pairs, subset
from advface_jax.data.reading import open_faces, read_faces
from advface_jax.data.records import NamedPair, Source
from advface_jax.data.sources import open_source

__all__ = [
    "Batch", "Chosen", "Faces", "FeatureSet", "Grouped", "NamedPair", "Pairs", "Source",
    "batches", "epoch_order", "index_pairs", "make_pairs", "open_faces", "open_features",
    "open_source", "pair_names", "protocols", "read_agedb", "read_cfp", "read_faces", "read_pairs",
    "subset", "synthetic_faces", "synthetic_names", "to_device",
]  # fmt: skip
