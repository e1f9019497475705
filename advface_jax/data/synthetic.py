"""Faces of nobody."""

from __future__ import annotations
from advface_jax.data.faces import Faces


def synthetic_faces(identities: int = 64, per_identity: int = 4, seed: int = 0) -> Faces:
    raise NotImplementedError
