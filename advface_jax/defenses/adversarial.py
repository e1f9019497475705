"""The paper's own defence, in the common signature."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from advface_jax import checks, networks
from advface_jax.defenses.defense import Defense
from advface_jax.protect import PAPER, Decoder, Extractor, LinenPair, ProtectConfig, protect

NAMES = {"pgd": "AdvFace", "fgsm": "AdvFace (FGSM)", "mifgsm": "AdvFace (MI-FGSM)"}


def advface(
    *,
    extractor: Extractor | LinenPair,
    shadow: Decoder | LinenPair,
    config: ProtectConfig | Mapping[str, Any] = PAPER,
) -> Defense:
    """AdvFace (section 4): ``protect`` with PGD, FGSM or MI-FGSM, as ``config.method`` says.

    |stored - z~| ≤ ε, where z~ = E(S(z)) differs from z; ε = 0 stores z~ (with ``start="z"`` read
    z for z~). It does not protect against an adaptive attacker, who trains on protected features.

    Args:
      extractor, shadow: E and S of ``advface_jax.load(…)``, or your own, as for ``protect``.
      config: method, steps, step size, bound, batch statistics, start. With ``statistics="batch"``
        a face's result depends on the other faces of its batch (but not on padding).

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import defenses
      >>> E, S = (lambda x: 2 * x), (lambda z: z / 2 + 0.01 * z**2)  # any networks
      >>> defense = defenses.advface(extractor=E, shadow=S)
      >>> defense(jnp.ones((3, 4)), epsilon=0.2).shape
      (3, 4)
    """
    config = checks.config(config, ProtectConfig)
    given = {"extractor": extractor, "shadow": shadow}
    parts = {name: networks.network(part, name) for name, part in given.items()}
    return Defense(NAMES[config.method], _advface, config, parts, takes_epsilon=True)


def _advface(z, keys, epsilon, mask, settings: ProtectConfig, networks) -> jax.Array:
    return protect(z, epsilon=epsilon, config=settings, mask=mask, **networks)
