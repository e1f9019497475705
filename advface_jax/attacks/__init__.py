"""Attacks behind one signature: what the server stores -> a picture, or an identity.

``Attack`` states what an attacker knows and what the attack reads and costs. Some need no training
(``solve_channels``; ``stitch`` and ``sibling``, a closed form).
"""

from advface_jax.attacks.attack import KNOWLEDGE, Attack
from advface_jax.attacks.channels import solve_channels
from advface_jax.attacks.stitching import Sibling, Stitch, explained, sibling, stitch

__all__ = [
    "KNOWLEDGE",
    "Attack",
    "Sibling",
    "Stitch",
    "explained",
    "sibling",
    "solve_channels",
    "stitch",
]
