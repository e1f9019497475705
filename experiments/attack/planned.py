"""The cases of the worst case, in the order of its table; each is built when it is measured."""

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import advface_jax
from advface_jax import ProtectConfig, defenses, networks
from experiments.attack import attackers, duetface_case, floors, joining, sealed
from experiments.attack.knowing import Builder, World
from experiments.measure import decoyed
from experiments.measure.compared import Case, case, of_features
from experiments.measure.decoders import Models


class Planned(NamedTuple):
    """A case that can be measured.

    Attributes:
      name: In the table.
      make: What builds it.
      builders: Its attackers.
      joined: Whether the user has named it.
      settings: What determines it beside the table's own.
    """

    name: str
    make: Callable[[], Case]
    builders: Sequence[Builder]
    joined: bool = False
    settings: Mapping[str, Any] = {}

    @classmethod
    def of(cls, made: Case, builders: Sequence[Builder], joined: bool = False) -> "Planned":
        return cls(made.name, lambda: made, builders, joined)


def plan(
    world: World,
    models: Models,
    config: ProtectConfig,
    epsilon: float,
    seed: int,
    builders: Sequence[Builder],
    joined: Sequence[str] = (),
    on_template: Sequence[Builder] = (),
) -> list[Planned]:
    """Without defence, each defence of a feature, those that ``joined`` names, decoys,
    DuetFace, sealed at rest (where ``cryptography`` is installed), and the floors."""
    network = world.system.network
    ours = (defenses.none(), *of_features(models, config))
    theirs = [(_joined(one, world.system), joining.function(one, "defense")) for one in joined]

    @functools.cache
    def decoys() -> dict[str, Case]:  # takes a minute
        found = decoyed.cases(world.system, world.sibling, epsilon, seed)
        return {one.name: one for one in found}

    found = [Planned.of(case(one, network, epsilon), builders) for one in ours]
    for one, function in theirs:
        made = Planned.of(case(one, network, epsilon), builders, True)
        sums = {"defense": networks.digest(one), "source": joining.source_sum(function)}
        found.append(made._replace(settings=sums))
    decoy = decoyed.settings(world.sibling)
    found += [
        Planned(name, lambda name=name: decoys()[name], builders, settings=decoy)
        for name in decoyed.NAMES
    ]
    if channels := duetface_case.planned(world.system):
        found.append(Planned.of(*channels))
    if importlib.util.find_spec("cryptography"):
        found += [Planned.of(one, attackers.ON_FEATURES) for one in sealed.cases(network, seed)]
    return found + [Planned.of(*one) for one in floors.floors(world, on_template)]


def _joined(source: str, system: advface_jax.System) -> defenses.Defense:
    found = joining.function(source, "defense")(system)
    defense = joining.built(found, defenses.Defense, source, "defense")
    if not defense.for_server:
        raise ValueError(
            f"got --defense {source}, which stores no features for the server ({defense.name}); "
            "wanted one that Ψ recognises"
        )
    return defense
