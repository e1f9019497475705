"""Further attacks of the worst case, which take minutes for each defence: ``--attackers full``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import attacks
from advface_jax.attacks import Attack, linkers, pictures, reading
from experiments.attack import drawer
from experiments.attack.adaptive import Adaptive
from experiments.attack.floors import FLOORS
from experiments.attack.knowing import SIBLING, Against, Builder, Known
from experiments.attack.maps import After
from experiments.measure.compared import called

STEPS = 100  # of Adam over pixels
FEW = (100, 1000)  # pairs, where there are more


def solved(known: Known) -> Attack:
    """The pixels whose features are nearest to what is stored."""
    return pictures.solved("pixels", known.world.system.extractor, steps=STEPS)


def solved_for_psi(known: Known) -> Attack:
    """The pixels that Ψ takes for what is stored, from R's picture or the template's."""
    world, knows = known.world, ("extractor", "recogniser")
    first = world.from_template if known.case.name in FLOORS else world.attacker
    if known.back is not None:
        first, knows = After(known.back, first), (*known.code, "recogniser")
    more = {"first": first, "recogniser": world.system.server, "steps": STEPS}
    return pictures.solved("pixels for Ψ", world.system.extractor, knows, **more)


def evolved(known: Known) -> Attack:
    """The mixture of two drawn faces whose features are nearest to what is stored."""
    world = known.world
    return attacks.evolved(
        "drawn faces' parameters", world.system.extractor, parts=2, seed=world.seed + 2
    )


def moved_from_evolved(known: Known) -> Against:
    """Which way the sibling's embedding moved from that face, another estimate of the start."""
    world, face = known.world, evolved(known)
    name = f"stitched {world.names[0]}, less the start by drawn faces"
    moved = reading.moved(
        name, world.sibling.server, (*SIBLING, "start"), before=world.on_z[0].stitch
    )

    def run(stored: Any) -> Any:
        return moved.run(stored, called(world.system.extractor, jnp.asarray(face.run(stored))))

    return Against(Attack(name, SIBLING, "identity", run, face.cost), world.read_z[0])


class Drawn:
    """Ψ(z') to a picture by a network whose training showed its pictures to Ψ; a ``Builder`` for
    one world, in which the network is trained once."""

    def __init__(self) -> None:
        self._drawer: drawer.Drawer | None = None

    def __call__(self, known: Known) -> Attack:
        world = known.world
        if self._drawer is None:
            faces = world.public.images, world.embeddings
            self._drawer = drawer.train(world.system.network, *faces, seed=world.seed)
        trained = self._drawer

        def run(stored: Any) -> jax.Array:
            return called(trained, known.embedding(stored))

        cost = {"faces": len(world.public), "epochs": drawer.PASSES}
        return Attack("drawn from Ψ(z')", ("extractor", "recogniser"), "picture", run, cost)


def tuned(known: Known) -> Attack | None:
    """The stitched sibling, trained further on stolen, named items."""
    if not (known.named and linkers.enough(known.world.public.identities)):
        return None
    world, people = known.world, known.world.public.identities
    knows = ("extractor", "public recogniser", "names")
    name, of_z = f"stitched {world.names[0]}, tuned on names", world.on_z[0]
    return linkers.tuned(
        name,
        world.sibling.server,
        known.stolen.astype(np.float32),
        people,
        knows,
        before=of_z.stitch,
    )


def convolutional(known: Known) -> Attack | None:
    """A small network trained from nothing on stolen, named items."""
    people = known.world.public.identities
    if not (known.named and linkers.enough(people)):
        return None
    knows = ("names", "extractor")
    return linkers.convolutional("small linker", known.stolen.astype(np.float32), people, knows)


def on_template(builders: Sequence[Builder]) -> list[Builder]:
    """Those of ``full`` that need Ψ(z) and nothing else."""
    return [one for one in builders if one is solved_for_psi or isinstance(one, Drawn)]


def full(out: Path, epochs: int) -> list[Builder]:
    """All of them; decoders trained for ``epochs`` are kept in ``out``."""
    trained = [
        Adaptive(out, epochs, start="scratch"),
        *(Adaptive(out, epochs, pairs=n) for n in FEW),
        *(Adaptive(out, epochs, kind=kind) for kind in ("transrec", "resrec", "urec")),
        Adaptive(out, epochs, shadow="own"),
    ]
    others = [solved, evolved, moved_from_evolved, tuned, convolutional, solved_for_psi, Drawn()]
    return [*(trained if epochs else []), *others]
