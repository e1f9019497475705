"""The attacks of the worst case that need no training of a network."""

import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from advface_jax.attacks import Attack, cleaning, linkers, pictures, reading
from experiments.attack import guessing
from experiments.attack.knowing import PATCHES, SIBLING, STITCHED, Against, Builder, Known, World


def paper(known: Known) -> Attack:
    """The paper's R, which was trained on unprotected features."""
    return pictures.decoded("R", known.world.attacker, ("extractor",))


def clipped(known: Known) -> Attack:
    """E ends in a ReLU: what is negative was added by the defence."""
    r = known.world.attacker
    return pictures.decoded("R, negatives clipped", r, ("extractor",), cleaning.clip)


def blurred(known: Known) -> Attack:
    """Noise has higher frequencies than a face."""
    r, smooth = known.world.attacker, cleaning.blur()
    return pictures.decoded("R, blurred", r, ("extractor",), smooth)


def denoised(known: Known) -> Attack | None:
    """R after a linear map from protected to unprotected features of public faces."""
    if known.back is None:
        return None
    r, cost = known.world.attacker, {"faces": min(STITCHED, len(known.world.public))}
    found = pictures.decoded("R, denoised", r, known.code, known.back)
    return dataclasses.replace(found, cost=cost)


def denoised_with_own_shadow(known: Known) -> Attack | None:
    """The same by an attacker who lacks the defender's S and takes R for it."""
    ours = known.with_own_shadow
    found = ours and denoised(ours)
    return found and dataclasses.replace(found, name="R, denoised, own S")


def replayed(known: Known, number: int, back: bool) -> Against | None:
    """A picture without training, R's or after the way ``back``, shown to a further public
    recogniser."""
    picture = denoised(known) if back else paper(known)
    return picture and shown_to(known.world, picture, number)


def shown_to(world: World, picture: Attack, number: int) -> Against:
    """Whom a further public recogniser sees in a picture."""
    photograph = world.of_photographs[number]

    def run(stored: Any) -> Any:
        return photograph.run(jnp.asarray(picture.run(stored)))

    name = f"{picture.name}, read by {world.names[number]}"
    knows = (*dict.fromkeys((*picture.knows, "public recogniser")),)
    return Against(Attack(name, knows, "identity", run, picture.cost), photograph, "photograph")


def sibling(known: Known, number: int = 0) -> Against:
    """A public recogniser on z."""
    return Against(known.world.read_z[number], known.world.read_z[number])


def sibling_through(known: Known, patch: int) -> Against:
    """The same, z seen through patches of another side."""
    read = known.world.read_through[patch]
    return Against(read, read)


def adapted_sibling(known: Known) -> Against | None:
    """The same with the map learnt on protected features."""
    if not known.protects:
        return None
    world, n = known.world, min(STITCHED, len(known.world.public))
    name, stitch = (
        f"stitched {world.names[0]}, adaptive",
        world.stitched(world.sibling, known.some(n)),
    )
    found = world.read_by(name, world.sibling, stitch.stitch, (*known.code, "public recogniser"))
    return Against(found, world.read_z[0])


def moved_sibling(known: Known) -> Against:
    """Which way the sibling's embedding moved from E(R(z')), an estimate of the start."""
    world = known.world
    start = reading.estimated(world.system.extractor, world.attacker)
    name = f"stitched {world.names[0]}, less the estimated start"
    server, stitch = world.sibling.server, world.on_z[0].stitch
    return Against(reading.moved(name, server, SIBLING, start, stitch), world.read_z[0])


def linked(known: Known) -> Attack | None:
    """A linear linker from stolen items with names: public faces in the role of the stolen."""
    if not known.named or (known.stolen == known.stolen[:1]).all():  # which tell nobody apart
        return None
    items, people = known.stolen.astype(np.float32), known.world.public.identities
    return linkers.fisher("linear linker", items, people, ("names", "extractor"))


def server(known: Known) -> Against:
    """Ψ itself."""
    return Against(known.world.psi, known.world.psi)


def picture_of_template(known: Known) -> Attack:
    """Ψ(z') to a picture."""
    world, knows = known.world, ("extractor", "recogniser")

    def run(stored: Any) -> Any:
        return world.from_template(known.embedding(stored))

    return Attack("picture from Ψ(z')", knows, "picture", run, {"faces": len(world.public)})


def leaked_twice(known: Known, elsewhere: bool = False) -> Against | None:
    """Two leaks of the same people, the second enrolled anew, linked by the sibling: by the same
    server, or by one with another secret."""
    if not known.protects or (elsewhere and not known.case.imitation):
        return None
    read = known.world.read_z[0]
    name = f"two leaks{' of two secrets' if elsewhere else ''}, linked by {read.name}"
    source = "other leak" if elsewhere else "leak"
    return Against(dataclasses.replace(read, name=name), read, source)


ON_FEATURES: tuple[Builder, ...] = (
    paper,
    clipped,
    blurred,
    denoised,
    denoised_with_own_shadow,
    sibling,
    *(functools.partial(sibling_through, patch=side) for side in PATCHES),
    adapted_sibling,
    moved_sibling,
    linked,
    leaked_twice,
    functools.partial(leaked_twice, elsewhere=True),
    server,
    picture_of_template,
    *guessing.ON_SECRETS,
)


def on_features(world: World) -> list[Builder]:
    """All of them: ``ON_FEATURES``, and those of each further sibling."""
    further = range(1, len(world.siblings))
    shown = [functools.partial(replayed, back=back) for back in (False, True)]
    more = [functools.partial(one, number=i) for i in further for one in (sibling, *shown)]
    return [*ON_FEATURES, *more]
