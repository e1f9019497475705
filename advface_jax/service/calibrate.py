"""The threshold of a store's own recogniser, from faces like those that it will see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from advface_jax.metrics import verification
from advface_jax.service.gate import Gate

RATES = (1e-2, 1e-3, 1e-4)


class Threshold(NamedTuple):
    """At a false accept rate ``far`` over the pairs of different people: the cosine, and the share
    ``tar`` of pairs of one person that it accepts."""

    far: float
    cosine: float
    tar: float


def thresholds(gate: Gate, images: np.ndarray, identities: Sequence[str]) -> list[Threshold]:
    """Of undefended faces: images uint8 (n,s,s,3), with equal labels for one person.

    Raises:
      ValueError: too few pairs of different people for the smallest rate, or none of one person.
    """
    labels = np.asarray(identities)
    embeddings = np.stack(
        [gate.embed(gate.features(one[None].astype(np.float32) / 255)) for one in images]
    )
    one, other = np.triu_indices(len(labels), 1)
    distances = np.clip(2 - 2 * (embeddings @ embeddings.T)[one, other], 0, 4)
    same = labels[one] == labels[other]
    if (~same).sum() < 10 / min(RATES) or not same.any():
        raise ValueError(
            f"got {same.sum():,} pairs of one person and {(~same).sum():,} of two; wanted some, "
            f"and {10 / min(RATES):,.0f}: 500 faces, two of each person"
        )
    found = []
    for far in RATES:
        bound = verification.threshold_at_far(distances[~same], far)
        found.append(Threshold(far, 1 - bound / 2, verification.srra(distances[same], bound)))
    return found
