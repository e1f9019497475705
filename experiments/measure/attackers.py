"""What an attacker has, and the attacks of the worst case that need no training of a network."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import attacks, data
from advface_jax.attacks import Attack, cleaning, linkers, pictures, reading
from advface_jax.models import sface
from experiments.measure.compared import Case, Store, protected
from experiments.measure.judging import Servers

FLOORS = ("Ignorance (floor)", "Template (floor)")
STITCHED = 60  # public faces that a stitch learns from: more gain nothing
RIDGE = 1e-2  # of the template's pictures, as a share of the mean square of an embedding's element


@dataclasses.dataclass(frozen=True)
class World:
    """What attackers have, whatever the defence.

    Attributes:
      system: E as an oracle (``system.extractor``), and Ψ for those who have it.
      siblings: Public recognisers that are not the server's; the first one reads pictures.
      attacker: The paper's R.
      public: Faces of people who are not measured.
      batch, seed: Of what the attacker computes.
    """

    system: advface_jax.System
    siblings: tuple[advface_jax.System, ...]
    attacker: Any
    public: data.Faces
    batch: int = 16
    seed: int = 0

    def of_public(self, network: Callable[[jax.Array], jax.Array], n: int | None = None):
        """``network`` of the first n public faces, float16."""
        parts, n = [], min(n or len(self.public), len(self.public))
        for start in range(0, n, self.batch):
            chosen = np.resize(np.arange(start, min(start + self.batch, n)), self.batch)
            pixels = self.public.batch(chosen)
            parts.append(np.asarray(of_pixels(network, pixels)).astype(np.float16))
        return np.concatenate(parts)[:n]

    @property
    def sibling(self) -> advface_jax.System:
        return self.siblings[0]

    @property
    def name(self) -> str:
        """The first sibling's."""
        return str(self.sibling.card["source"])

    @functools.cached_property
    def features(self) -> np.ndarray:
        """Of the public faces, float16."""
        return self.of_public(self.system.extractor)

    def some_features(self, n: int) -> np.ndarray:
        """Of the first n public faces, float32."""
        return self.features[:n].astype(np.float32)

    @functools.cached_property
    def on_z(self) -> tuple[attacks.Sibling, ...]:
        """Each sibling, put onto z by a linear map learnt on public faces."""
        n = min(STITCHED, len(self.public))
        return tuple(self.stitched(one, self.some_features(n)) for one in self.siblings)

    def stitched(self, one: advface_jax.System, source: np.ndarray) -> attacks.Sibling:
        """A sibling, put onto what a source (n,77,77,64) is of the first n public faces."""
        target = self.of_public(one.extractor, len(source)).astype(np.float32)
        grid = sface.grid() if isinstance(one.network, sface.SFace) else None
        return attacks.sibling(attacks.stitch(source, target, grid=grid), one.server)

    @functools.cached_property
    def from_template(self) -> "FromTemplate":
        """A picture from Ψ(z), by ridge on public faces."""
        embeddings = self.of_public(self.system.network).astype(np.float64)
        pixels = self.public.images.reshape(len(embeddings), -1) / np.float32(255)
        mean, centre = pixels.mean(0), embeddings.mean(0)
        x = embeddings - centre
        penalty = RIDGE * np.square(x).mean() * len(x)
        weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (pixels - mean))
        parts = (jnp.asarray(a, jnp.float32) for a in (weights, centre, mean))
        return FromTemplate(*parts)


@dataclasses.dataclass(frozen=True)
class Known:
    """What an attacker on one defence may use; an attack says what it uses (``Attack.knows``)."""

    world: World
    case: Case

    @property
    def code(self) -> tuple[str, ...]:
        """What it is to know the defence: its code, and S where it has one."""
        networks = self.case.defense and self.case.defense.networks
        return ("extractor", "defense", *(("shadow",) if networks else ()))

    def some(self, n: int) -> np.ndarray:
        """The first n of ``stored``, float32."""
        return self.stored[:n].astype(np.float32)

    @functools.cached_property
    def stored(self) -> np.ndarray:
        """The public faces as the attacker's own copy of the defence stores them, float16 (n,…), in
        their order: with secrets of the attacker's, if it has any."""
        return self._protected(self.case.imitated or self.case.store)

    @functools.cached_property
    def stolen(self) -> np.ndarray:
        """The public faces as the server stores them, as ``stored``: in the role of stolen items
        that have names."""
        return self._protected(self.case.store) if self.case.imitated else self.stored

    def _protected(self, store: Store) -> np.ndarray:
        return protected(store, self.world.features, self.world.seed + 1, self.world.batch)


class Against(NamedTuple):
    """An attack that reads identities, and what reads the photographs to compare them with:
    unprotected features z (b,…) -> embeddings (b,e). By default that is the attack itself."""

    attack: Attack
    known: Callable[[Any], Any]


Builder = Callable[[Known], "Attack | Against | None"]
"""An attack on one defence, or None where it makes no sense."""


@jax.jit
def of_pixels(network: Any, pixels: jax.Array) -> jax.Array:
    """A network of pixels (b,160,160,3) uint8."""
    return network(pixels.astype(jnp.float32) / 255)


@jax.jit
def of_features(network: Any, z: jax.Array) -> jax.Array:
    return network(z)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FromTemplate:
    """A picture that is linear in an embedding (b,e)."""

    weights: jax.Array
    centre: jax.Array
    mean: jax.Array

    def __call__(self, embedding: jax.Array) -> jax.Array:
        picture = self.mean[None] + (embedding - self.centre[None]) @ self.weights
        return jnp.clip(picture, 0, 1).reshape(-1, 160, 160, 3)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class After:
    """One function after another."""

    first: Callable[[jax.Array], jax.Array]
    second: Callable[[jax.Array], jax.Array]

    def __call__(self, x: jax.Array) -> jax.Array:
        return of_features(self.second, of_features(self.first, x))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Same:
    """What is stored is what is read."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Always:
    """The same picture, whatever is stored."""

    picture: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(self.picture, (len(x), *self.picture.shape))


def paper(known: Known) -> Attack:
    """The paper's R, which was trained on unprotected features."""
    return pictures.decoded("R", known.world.attacker, ("extractor",))


def clipped(known: Known) -> Attack:
    """E ends in a ReLU: what is negative was added by the defence."""
    r = known.world.attacker
    return pictures.decoded("R, negatives clipped", r, ("extractor",), cleaning.clip)


def denoised(known: Known) -> Attack | None:
    """R after a linear map from protected to unprotected features of public faces."""
    if known.case.defense is None:
        return None
    n = min(STITCHED, len(known.world.public))
    back = attacks.stitch(known.some(n), known.world.some_features(n))
    found = pictures.decoded("R, denoised", known.world.attacker, known.code, back)
    return dataclasses.replace(found, cost={"faces": n})


def sibling(known: Known, number: int = 0) -> Against:
    """A public recogniser on z."""
    world = known.world
    of_z, name = world.on_z[number], f"stitched {world.siblings[number].card['source']}"
    found = reading.read(name, of_z, ("extractor", "public recogniser"))
    cost = {"faces": min(STITCHED, len(world.public))}
    return Against(dataclasses.replace(found, cost=cost), of_z)


def adapted_sibling(known: Known) -> Against | None:
    """The same with the map learnt on protected features."""
    if known.case.defense is None:
        return None
    world, n = known.world, min(STITCHED, len(known.world.public))
    name = f"stitched {world.name}, adaptive"
    knows = (*known.code, "public recogniser")
    found = reading.read(name, world.stitched(world.sibling, known.some(n)), knows)
    return Against(dataclasses.replace(found, cost={"faces": n}), world.on_z[0])


def moved_sibling(known: Known) -> Against:
    """Which way the sibling's embedding moved from E(R(z')), an estimate of the start."""
    world, of_z = known.world, known.world.on_z[0]
    start = reading.estimated(world.system.extractor, world.attacker)
    name = f"stitched {world.name}, less the estimated start"
    return Against(reading.moved(name, of_z, ("extractor", "public recogniser"), start), of_z)


def linked(known: Known) -> Attack | None:
    """A linear linker from stolen items with names: public faces in the role of the stolen."""
    people = known.world.public.identities
    if known.case.defense is None or len(set(people)) in (1, len(people)):
        return None
    return linkers.fisher("linear linker", known.stolen.astype(np.float32), people)


def tuned(known: Known) -> Attack | None:
    """The stitched sibling, trained further on stolen, named items: minutes for each defence, so it
    is no part of the default; ``--attack experiments.measure.attackers:tuned``."""
    world, people = known.world, known.world.public.identities
    if known.case.defense is None or len(set(people)) in (1, len(people)):
        return None
    of_z, knows = world.on_z[0], ("extractor", "public recogniser", "names")
    name = f"stitched {world.name}, tuned on names"
    return linkers.tuned(
        name,
        world.sibling.server,
        known.stolen.astype(np.float32),
        people,
        knows,
        before=of_z.stitch,
    )


def convolutional(known: Known) -> Attack | None:
    """A small network trained from nothing on stolen, named items; likewise by ``--attack``."""
    people = known.world.public.identities
    if known.case.defense is None or len(set(people)) in (1, len(people)):
        return None
    return linkers.convolutional("small linker", known.stolen.astype(np.float32), people)


def server(known: Known) -> Against:
    """Ψ itself."""
    psi = known.world.system.server
    return Against(reading.read("Ψ", psi, ("recogniser",)), psi)


def picture_of_template(known: Known) -> Attack:
    """Ψ(z') to a picture."""
    run = After(known.world.system.server, known.world.from_template)
    knows, cost = ("extractor", "recogniser"), {"faces": len(known.world.public)}
    return Attack("picture from Ψ(z')", knows, "picture", run, cost)


ON_FEATURES: tuple[Builder, ...] = (
    paper,
    clipped,
    denoised,
    sibling,
    adapted_sibling,
    moved_sibling,
    linked,
    server,
    picture_of_template,
)


def on_features(world: World) -> list[Builder]:
    """All of them: ``ON_FEATURES``, and each further sibling."""
    further = range(1, len(world.siblings))
    return [*ON_FEATURES, *(functools.partial(sibling, number=i) for i in further)]


def template(known: Known) -> Attack:
    """What Ψ(z) alone gives away, where it is all that is stored."""
    return Attack("template", ("recogniser",), "identity", Same())


def picture(known: Known) -> Attack:
    run, cost = known.world.from_template, {"faces": len(known.world.public)}
    return Attack("picture from the template", ("recogniser",), "picture", run, cost)


def mean_face(known: Known) -> Attack:
    mean = known.world.public.images.mean(0) / 255
    return Attack("mean face", (), "picture", Always(jnp.asarray(mean, jnp.float32)))


def floors(network: Any) -> list[tuple[Case, Sequence[Builder]]]:
    """What is read without any item, and from Ψ(z) and nothing else."""

    def nothing(z: Any, keys: jax.Array, mask: Any) -> tuple[Any, Any]:
        return jnp.zeros((len(z), 1)), z

    def embedding(z: Any, keys: jax.Array, mask: Any) -> tuple[Any, Any]:
        return of_features(network.server, z), z

    server = Servers((network.server,))
    ignorance, template_ = FLOORS
    return [
        (Case(ignorance, nothing, server, network.extractor), (mean_face,)),
        (Case(template_, embedding, server, network.extractor), (template, picture)),
    ]


def built(build: Builder, known: Known) -> Attack | Against | None:
    """The attack, if there is one; ValueError where somebody's function returns anything else."""
    found = build(known)
    if found is not None and not isinstance(found, (Attack, Against)):
        raise ValueError(
            f"the attack {getattr(build, '__name__', build)} returned a {type(found).__name__}; "
            "wanted an advface_jax.attacks.Attack, or None where it does not apply"
        )
    return found
