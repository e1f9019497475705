"""What an attacker has, whatever the defence, and what of one defence."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import attacks, data, defenses, networks
from advface_jax.attacks import Attack, reading
from advface_jax.defenses import decoys
from advface_jax.models import sface
from experiments.attack import maps
from experiments.measure.compared import Case, Store, case, protected
from experiments.measure.judging import keys_of
from experiments.measure.kept import batches

STITCHED = 60  # public faces that a stitch learns from: more gain nothing
PATCHES = (1, 5)  # sides through which further stitches see z; the first one's is 3
NUDGED = 5  # the side of a patch of what is stored, from which a nudge is guessed
SIBLING = ("extractor", "public recogniser")


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
        return of_faces(network, self.public, self.batch, n)

    @property
    def sibling(self) -> advface_jax.System:
        return self.siblings[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The siblings'."""
        return tuple(
            "SFace" if isinstance(one.network, sface.SFace) else str(one.card["source"])
            for one in self.siblings
        )

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

    @functools.cached_property
    def read_through(self) -> dict[int, Attack]:
        """The first of them once more, as attacks, through patches of other sides."""
        z, first = self.some_features(min(STITCHED, len(self.public))), self.sibling
        stitches = {side: self.stitched(first, z, side).stitch for side in PATCHES}
        name = f"stitched {self.names[0]}"
        return {
            side: self.read_by(f"{name}, {side}×{side}", first, one, SIBLING)
            for side, one in stitches.items()
        }

    @functools.cached_property
    def read_z(self) -> tuple[Attack, ...]:
        """The same, as attacks."""
        return tuple(
            self.read_by(f"stitched {name}", one, of_z.stitch, SIBLING)
            for name, one, of_z in zip(self.names, self.siblings, self.on_z, strict=True)
        )

    def read_by(
        self, name: str, one: advface_jax.System, stitch: Any, knows: tuple[str, ...]
    ) -> Attack:
        """A sibling after a stitch."""
        found = reading.read(name, one.server, knows, before=stitch)
        return dataclasses.replace(found, cost={"faces": min(STITCHED, len(self.public))})

    @functools.cached_property
    def of_photographs(self) -> tuple[Attack, ...]:
        """Each sibling on photographs, as it reads a picture."""
        return tuple(
            reading.read("photograph", one.server, SIBLING, before=one.extractor)
            for one in self.siblings
        )

    @functools.cached_property
    def psi(self) -> Attack:
        """Ψ itself reads z."""
        return reading.read("Ψ", self.system.server, ("recogniser",))

    def stitched(
        self, one: advface_jax.System, source: np.ndarray, patch: int = 3
    ) -> attacks.Sibling:
        """A sibling, put onto what a source (n,77,77,64) is of the first n public faces."""
        target = self.of_public(one.extractor, len(source)).astype(np.float32)
        grid = sface.grid() if isinstance(one.network, sface.SFace) else None
        return attacks.sibling(attacks.stitch(source, target, patch=patch, grid=grid), one.server)

    @functools.cached_property
    def embeddings(self) -> np.ndarray:
        """Ψ of the public faces, float32."""
        return self.psi(self.features, batch=self.batch)

    @functools.cached_property
    def from_template(self) -> maps.FromTemplate:
        """A picture from Ψ(z)."""
        return self.from_embeddings(self.embeddings)

    def from_embeddings(self, embeddings: np.ndarray) -> maps.FromTemplate:
        """A picture from any recogniser's embeddings, learnt on those of the public faces."""
        return maps.from_template(embeddings, self.public.images)


@dataclasses.dataclass(frozen=True)
class Known:
    """What an attacker on one defence may use; an attack says what it uses (``Attack.knows``)."""

    world: World
    case: Case

    @property
    def code(self) -> tuple[str, ...]:
        """What it is to know the defence: its code, and S where it has one."""
        secret = self.case.imitation is not None
        has = "shadow" in self._parts and not secret
        return ("extractor", "defense", *(("shadow",) if has else ()))

    @property
    def _parts(self) -> Mapping[str, Any]:
        """The defence's networks by name; one that joins may hold them in any other pytree."""
        found = self.case.defense and self.case.defense.networks
        return found if isinstance(found, Mapping) else {}

    @property
    def protects(self) -> bool:
        """Whether there is a defence, so that items stored are not the client's."""
        return self.case.defense not in (None, defenses.none())

    @property
    def named(self) -> bool:
        """Whether stolen items with names are of use: a defence, and people with several faces."""
        people = self.world.public.identities
        return self.case.defense is not None and len(set(people)) not in (1, len(people))

    def embedding(self, stored: Any) -> jax.Array:
        """Ψ of what is stored; a template is that already."""
        stored = jnp.asarray(stored)
        return stored if stored.ndim == 2 else jnp.asarray(self.world.psi.run(stored))

    def some(self, n: int) -> np.ndarray:
        """The first n of ``stored``, float32, all of which are stored only where needed."""
        if "stored" in self.__dict__ or n > STITCHED:
            return self.stored[:n].astype(np.float32)
        return self._protected(self._imitated, n).astype(np.float32)

    @functools.cached_property
    def stored(self) -> np.ndarray:
        """The public faces as the attacker's own copy of the defence stores them, float16 (n,…), in
        their order: with secrets of the attacker's, if it has any."""
        return self._protected(self._imitated)

    @functools.cached_property
    def stolen(self) -> np.ndarray:
        """The public faces as the server stores them, as ``stored``: in the role of stolen items
        that have names."""
        return self._protected(self.case.store) if self.case.imitation else self.stored

    @property
    def _imitated(self) -> Store:
        return self.case.imitated or self.case.store

    @functools.cached_property
    def to_start(self) -> maps.Back:
        """From a stored decoy to its secret start: less a nudge that is linear in what is stored,
        learnt on public faces that the attacker stored himself."""
        n, seed = min(STITCHED, len(self.world.public)), self.world.seed + 1
        own, steps = self.case.imitation, range(0, n, self.world.batch)
        assert own is not None, "asked where the attacker has secrets of his own"
        numbers = (np.arange(at, min(at + self.world.batch, n)) for at in steps)
        starts = [np.asarray(decoys.start(own, keys_of(seed, one))) for one in numbers]
        stored = self.some(n)
        return maps.Back(attacks.stitch(stored, stored - np.concatenate(starts), patch=NUDGED))

    def _protected(self, store: Store, n: int | None = None) -> np.ndarray:
        world = self.world
        return protected(store, world.features[:n], world.seed + 1, world.batch)

    @functools.cached_property
    def back(self) -> attacks.Stitch | None:
        """A linear map from what is stored back to z, learnt on public faces; None where what is
        stored is z."""
        if not self.protects:
            return None
        n = min(STITCHED, len(self.world.public))
        return attacks.stitch(self.some(n), self.world.some_features(n))

    @functools.cached_property
    def with_own_shadow(self) -> "Known | None":
        """What an attacker knows who has the defence's code and not its S: he takes R for S."""
        defense = self.case.defense
        if defense is None or "shadow" not in self._parts:
            return None
        ours = {**self._parts, "shadow": networks.network(self.world.attacker, "shadow")}
        defense = dataclasses.replace(defense, networks=ours)
        network = self.world.system.network
        again = case(defense, network, self.case.epsilon or 0.0)
        return _WithOwnShadow(self.world, again)


class _WithOwnShadow(Known):
    @property
    def code(self) -> tuple[str, ...]:
        return ("extractor", "defense")


Source = Literal["features", "photograph", "leak", "other leak"]


class Against(NamedTuple):
    """An attack that reads identities, and what reads the other side, which it is compared with.

    ``known`` reads, by ``source``, the photographs' unprotected features; the photographs
    themselves; the same faces as the defence stores them a second time, with the same secret or
    with another one. Without an ``Against``, the attack itself reads the features.
    """

    attack: Attack
    known: Attack
    source: Source = "features"


Builder = Callable[[Known], "Attack | Against | None"]
"""An attack on one defence, or None where it makes no sense."""


def built(build: Builder, known: Known) -> Attack | Against | None:
    """The attack, if there is one; ValueError where somebody's function returns anything else."""
    found = build(known)
    if found is not None and not isinstance(found, (Attack, Against)):
        raise ValueError(
            f"the attack {getattr(build, '__name__', build)} returned a {type(found).__name__}; "
            "wanted an advface_jax.attacks.Attack, or None where it does not apply"
        )
    return found


def of_faces(network: Any, faces: data.Faces, batch: int, n: int | None = None) -> np.ndarray:
    """A network of the first n faces, float16."""
    parts = [
        np.asarray(of_pixels(network, faces.batch(chosen)))[:real].astype(np.float16)
        for _, real, chosen, _ in batches(min(n or len(faces), len(faces)), batch)
    ]
    return np.concatenate(parts)


@jax.jit
def of_pixels(network: Any, pixels: jax.Array) -> jax.Array:
    """A network of pixels (b,160,160,3) uint8."""
    return network(pixels.astype(jnp.float32) / 255)
