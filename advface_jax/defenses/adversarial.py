"""The paper's own defence, in the common signature."""

import jax

from advface_jax.defenses.defense import Defense
from advface_jax.protect import Decoder, Extractor, ProtectConfig, protect

PAPER = ProtectConfig()
NAMES = {"pgd": "AdvFace", "fgsm": "AdvFace (FGSM)", "mifgsm": "AdvFace (MI-FGSM)"}


def advface(*, extractor: Extractor, shadow: Decoder, config: ProtectConfig = PAPER) -> Defense:
    """AdvFace (section 4): ``protect`` with PGD, FGSM or MI-FGSM, as ``config.method`` says.

    |stored - z~| ≤ ε, where z~ = E(S(z)) differs from z; ε = 0 stores z~ (with ``start="z"`` read
    z for z~). It does not protect against an adaptive attacker, who trains on protected features.

    Args:
      extractor, shadow: E and S of ``advface_jax.load(…)``.
      config: method, steps, step size, bound, batch statistics, start. With ``statistics="batch"``
        a face's result depends on the other faces of its batch (but not on padding).
    """
    networks = {"extractor": extractor, "shadow": shadow}
    return Defense(NAMES[config.method], _advface, config, networks, takes_epsilon=True)


def _advface(z, keys, epsilon, mask, settings: ProtectConfig, networks) -> jax.Array:
    return protect(z, epsilon=epsilon, config=settings, mask=mask, **networks)
