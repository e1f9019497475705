"""DuetFace as a case: it stores frequency channels of the image, which no attack on z reads."""

import functools
from typing import Any

import jax

import advface_jax
from advface_jax import defenses
from advface_jax.attacks import Attack, pictures
from experiments.attack.attackers import shown_to
from experiments.attack.knowing import Against, Builder, Known
from experiments.measure.channels import SOLVABLE, NotMeasured, read_duetface
from experiments.measure.compared import Case, called
from experiments.measure.subjects import DuetFaceServer, Images, Solved

NAME = "DuetFace"


def planned(system: advface_jax.System) -> tuple[Case, list[Builder]] | None:
    """The case with its attackers; None where no recogniser is shipped for these weights."""
    try:
        networks = read_duetface(system, None, None)
    except NotMeasured:
        return None
    if networks.recogniser is None:
        return None
    duetface = defenses.duetface()

    def store(images: Any, keys: jax.Array, mask: Any) -> tuple[Any, Any]:
        stored = duetface(images, mask=mask)
        return stored, stored

    def decoded(known: Known) -> Attack:
        return pictures.decoded("R of channels", networks.decoder, ("defense",))

    server = functools.partial(called, DuetFaceServer(networks.recogniser))
    made = Case(NAME, store, server, Images(), probe=duetface)
    return made, [decoded, solved, solved_elsewhere]


def solved(known: Known) -> Attack:
    """Linear algebra, without training."""
    return Attack("solved", (), "picture", Solved(SOLVABLE["duetface"]))


def solved_elsewhere(known: Known) -> Against | None:
    """The same, read by a further public recogniser."""
    return shown_to(known.world, solved(known), 1) if len(known.world.siblings) > 1 else None
