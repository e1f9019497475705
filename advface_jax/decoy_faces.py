"""Faces for decoys, of people who do not exist, from a secret.

A thief's picture of what is stored shows the decoy, and may accuse no one.
"""

from __future__ import annotations

import numpy as np

from advface_jax import checks, data, keys


def draw(secret: bytes, system: str, faces: int = 32) -> np.ndarray:
    """The faces that a system's decoys are mixed from: (faces,160,160,3) float32 in [0,1].

    People who do not exist, drawn from the secret (some 25 ms each). Keep them as secret.

    Raises:
      ValueError: as for ``keys.derive``, or no face.

    Example:
      >>> from advface_jax import decoy_faces
      >>> secret = bytes(32)  # secrets.token_bytes(32), and kept
      >>> decoy_faces.draw(secret, "front door", faces=2).shape
      (2, 160, 160, 3)
    """
    checks.positive(faces=faces)
    seed = int.from_bytes(keys.derive(secret, system, "faces"), "big")
    return data.synthetic_faces(faces, 1, seed).images.astype(np.float32) / 255
