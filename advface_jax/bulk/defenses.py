"""The defences that a command line can name."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from advface_jax import cli, defenses, networks
from advface_jax.models import decoders
from advface_jax.protect import ProtectConfig
from advface_jax.system import OWN, System

ADVFACE = "advface"
OTHERS: dict[str, Callable[[], defenses.Defense]] = {
    **{"none": defenses.none, "ball": defenses.ball, "walk": defenses.walk},
    **{"laplace": defenses.laplace, "duetface": defenses.duetface},
    **{"partialface": defenses.partialface, "dctdp": defenses.dctdp},
}
NAMES = (ADVFACE, *OTHERS)


def check(name: str) -> None:
    """ValueError for a name of no defence, before anything is loaded."""
    if name not in NAMES and ":" not in name:
        raise ValueError(
            f"got --defense {name}; wanted one of {', '.join(NAMES)}, or MODULE:FUNCTION, a "
            "function of the system that returns a Defense"
        )


def shadow_of(system: System, shadow: str) -> tuple[Any, dict[str, Any]]:
    """S by its kind or its file, and what a card says of it."""
    if system.own is not None:
        network = system.decoder(OWN, "shadow")
        return network, {"shadow": OWN, "shadow_sha256": networks.digest(network)}
    kind = shadow in decoders.KINDS
    file = system.decoder_file(shadow, "shadow") if kind else Path(shadow)
    network = system.read_decoder(file)
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    return network, {"shadow": vars(network.config), "shadow_sha256": sha256}


def build(
    name: str, system: System, shadow: str, config: ProtectConfig
) -> tuple[defenses.Defense, dict[str, Any]]:
    """The defence, and what the card of a set says of its networks.

    Raises:
      ValueError: as for ``check``; a module or function that is not found or returns another thing;
        a shadow decoder that is not found or is of other features.
    """
    check(name)
    if name == ADVFACE:
        decoder, card = shadow_of(system, shadow)
        return defenses.advface(extractor=system.extractor, shadow=decoder, config=config), card
    if name in OTHERS:
        return OTHERS[name](), {"defense": name}
    made = cli.function(name, "defense")(system)
    if not isinstance(made, defenses.Defense):
        raise ValueError(
            f"--defense {name} returned a {type(made).__name__}; wanted an "
            "advface_jax.defenses.Defense"
        )
    return made, {"defense": name, "defense_sha256": networks.digest(made)}
