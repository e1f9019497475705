"""Readers near to Ψ, and readers that learnt from stolen, named items of other people."""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np

from advface_jax import System, attacks
from advface_jax.attacks import linkers
from advface_jax.data import Faces
from advface_jax.defenses import Defense
from experiments.attack.knowing import of_faces
from experiments.decoy import readings
from experiments.decoy.cases import World

NEARER = dataclasses.replace(linkers.TUNING, classifier_epochs=10, epochs=4, learning_rate=5e-5)


def tuned(system: System, public: Faces, batch: int) -> dict[str, attacks.Attack]:
    """Ψ trained further on undefended features of named public faces: its near relation. Empty
    where there are too few of one person."""
    people = list(public.identities)
    if not linkers.enough(people):
        return {}
    z = of_faces(system.extractor, public, batch).astype(np.float32)
    knows = ("recogniser",)
    network = system.server
    return {"Ψ tuned": linkers.tuned("Ψ tuned", network, z, people, knows, config=NEARER)}


def named(
    world: World, other: System, stored: np.ndarray, people: Sequence[str], n: int
) -> dict[str, attacks.Attack]:
    """Two linkers that learn from the first n stolen items (m, …) with names: a linear one, and
    the stitched sibling trained further. One that has too few of one person is left out."""
    who = list(people[:n])
    items, of_z = stored[:n].astype(np.float32), world.outside["sibling"]
    found = {}
    if max(collections.Counter(who).values(), default=0) > 1 and len(set(who)) > 1:
        found[f"names {n}, linear"] = linkers.fisher("", items, who)
    if linkers.enough(who):
        before = of_z.stitch
        sibling = linkers.tuned("", other.server, items, who, ("names",), before=before)
        found[f"names {n}, sibling"] = sibling
    return found


def stolen(
    world: World,
    other: System,
    defense: Defense,
    public: Faces,
    sizes: Sequence[int],
    epsilon: float,
    batch: int,
    seed: int,
) -> tuple[dict[str, attacks.Attack], set[str]]:
    """``named`` of each of ``sizes`` items of public faces, enrolled in the same system, those with
    the most items of a person first; and the names of the linkers that were left out."""
    count = collections.Counter(public.identities)
    people = public.identities
    order = sorted(range(len(public)), key=lambda i: (-count[people[i]], people[i]))
    chosen = np.array(order[: max(sizes)])
    items = readings.items(defense, world, public.images[chosen], epsilon, batch, seed)
    who = [people[i] for i in chosen]
    found = {}
    for n in sizes:
        found |= named(world, other, items, who, n)
    wanted = {f"names {n}, {kind}" for n in sizes for kind in ("linear", "sibling")}
    return found, wanted - set(found)
