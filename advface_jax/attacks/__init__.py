"""Attacks behind one signature: what the server stores -> a picture, or an identity.

    from advface_jax import attacks
    stitch = attacks.stitch(system.extractor(public), other.extractor(public))
    sibling = attacks.sibling(stitch, other.server)
    attack = attacks.reading.read("Sibling", sibling, ("extractor", "public recogniser"))
    embeddings = attack(stored)

``Attack`` states what an attacker knows and what the attack reads and costs. ``reading`` holds
those on identity without training, ``linkers`` those trained on stolen, named items, ``pictures``
those on pictures and their replay, ``evolved`` a search over drawn faces, ``cleaning`` what comes
before any of them.
"""

from advface_jax.attacks import cleaning, linkers, pictures, reading
from advface_jax.attacks.attack import KNOWLEDGE, Attack
from advface_jax.attacks.channels import solve_channels
from advface_jax.attacks.evolved import evolved
from advface_jax.attacks.stitching import Sibling, Stitch, explained, sibling, stitch

__all__ = [
    "KNOWLEDGE",
    "Attack",
    "Sibling",
    "Stitch",
    "cleaning",
    "evolved",
    "explained",
    "linkers",
    "pictures",
    "reading",
    "sibling",
    "solve_channels",
    "stitch",
]
