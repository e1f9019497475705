"""Defences behind one signature: what the client has -> what the server stores.

    from advface_jax import defenses
    defense = defenses.ball()  # or none, walk, laplace, advface, decoy, duetface, …
    stored = defense(z, key=jax.random.key(0), epsilon=0.2)

``Defense`` states what a defence takes, what it stores (all that an attacker sees), and which
network recognises that. Here are the paper's method, its baselines, and decoys; none but decoys
withstands adaptive attackers (docs/attacks.md). All raise ValueError for settings out of range.
"""

from advface_jax.defenses.adversarial import advface
from advface_jax.defenses.channels import dctdp, duetface, duetface_split, partialface
from advface_jax.defenses.decoys import decoy
from advface_jax.defenses.defense import Defense
from advface_jax.defenses.frequency import block_dct
from advface_jax.defenses.noise import ball, laplace, none, walk

__all__ = [
    "Defense",
    "advface",
    "ball",
    "block_dct",
    "dctdp",
    "decoy",
    "duetface",
    "duetface_split",
    "laplace",
    "none",
    "partialface",
    "walk",
]
