"""The drawn face that comes nearest to what is stored, by evolution over its parameters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import checks, networks
from advface_jax.attacks.attack import Attack
from advface_jax.data.drawn.faces import render
from advface_jax.data.drawn.person import Person, Shot, draw_person, draw_shot

GALLERY, ROUNDS, CHILDREN = 128, 12, 4
_EXCHANGED = 0.3  # the share of a parent's parameters that a child has anew


@dataclasses.dataclass(frozen=True, eq=False)
class _Face:
    """Who it is, how it was taken, and the seed of what lies behind."""

    person: Person
    shot: Shot
    seed: int

    @functools.cached_property
    def picture(self) -> np.ndarray:
        rng = np.random.default_rng(self.seed)
        return render(self.person, self.shot, rng).astype(np.float32) / 255


@dataclasses.dataclass(frozen=True, eq=False)
class _Mixture:
    """Drawn faces, and how much there is of each."""

    faces: tuple[_Face, ...]
    shares: np.ndarray

    @functools.cached_property
    def picture(self) -> np.ndarray:
        return np.tensordot(self.shares, [face.picture for face in self.faces], 1)


def evolved(
    name: str,
    extractor: Any,
    knows: Sequence[str] = ("extractor",),
    *,
    parts: int = 1,
    gallery: int = GALLERY,
    rounds: int = ROUNDS,
    children: int = CHILDREN,
    seed: int = 0,
) -> Attack:
    """The picture of a drawn face whose E(x) is nearest to what is stored, in the mean difference.

    Each item starts from the nearest of ``gallery`` random faces. In every round its face has
    ``children`` that draw a third of their parameters anew, and the nearest goes on. No gradient,
    no training, no real face; a generator's latent code takes the place of these parameters in
    other work (the paper's [9, 29]).

    Args:
      name, knows: of the ``Attack``.
      extractor: E, as an oracle.
      parts: how many faces a picture is mixed from, with random shares: 2 imitates a decoy.
      gallery, rounds, children: as above; an item costs rounds · children pictures of some 20 ms.
      seed: of all that is drawn.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> E = lambda x: x[:, ::8, ::8]  # any network
      >>> how = {"gallery": 2, "rounds": 1, "children": 1}
      >>> attack = attacks.evolved("Drawn", E, **how)
      >>> attack(E(jnp.full((1, 160, 160, 3), 0.5))).shape
      (1, 160, 160, 3)
    """
    checks.positive(parts=parts, gallery=gallery, rounds=rounds, children=children)
    net = networks.network(extractor, "extractor")

    @functools.cache
    def first() -> tuple[list[_Mixture], np.ndarray]:
        rng = np.random.default_rng([seed, 0])
        drawn = [_random(rng, parts) for _ in range(gallery)]
        return drawn, np.concatenate(
            [_features(net, drawn[i : i + 16]) for i in range(0, gallery, 16)]
        )

    def run(stored: jax.Array) -> np.ndarray:
        wanted = np.asarray(stored, np.float32)
        drawn, features = first()
        apart = np.stack([np.abs(features - z).mean((1, 2, 3)) for z in wanted])
        best = [drawn[i] for i in apart.argmin(1)]
        nearest = apart.min(1)
        rng = np.random.default_rng([seed, 1])
        for _ in range(rounds):
            tried = [[_child(rng, parent) for parent in best] for _ in range(children)]
            for young in tried:
                now = np.abs(_features(net, young) - wanted).mean((1, 2, 3))
                better = now < nearest
                best = [c if b else p for c, b, p in zip(young, better, best, strict=True)]
                nearest = np.where(better, now, nearest)
        return np.stack([one.picture for one in best]).astype(np.float32)

    cost = {"passes of E": rounds * children, "pictures drawn": rounds * children}
    return Attack(name, tuple(knows), "picture", run, cost)


def _face(rng: np.random.Generator) -> _Face:
    return _Face(draw_person(rng), draw_shot(rng), int(rng.integers(2**31)))


def _random(rng: np.random.Generator, parts: int) -> _Mixture:
    return _Mixture(tuple(_face(rng) for _ in range(parts)), rng.dirichlet(np.ones(parts)))


def _child(rng: np.random.Generator, parent: _Mixture) -> _Mixture:
    """The parent with some parameters of one face, and by chance its shares, drawn anew."""
    at, fresh = int(rng.integers(len(parent.faces))), _face(rng)
    old = parent.faces[at]
    person, shot = _exchanged(rng, old.person, fresh.person), _exchanged(rng, old.shot, fresh.shot)
    faces = (*parent.faces[:at], _Face(person, shot, old.seed), *parent.faces[at + 1 :])
    redrawn = rng.random() < _EXCHANGED
    return _Mixture(faces, rng.dirichlet(np.ones(len(faces))) if redrawn else parent.shares)


def _exchanged(rng: np.random.Generator, old: Any, new: Any) -> Any:
    names = [f.name for f in dataclasses.fields(old) if rng.random() < _EXCHANGED]
    return dataclasses.replace(old, **{name: getattr(new, name) for name in names})


def _features(net: Any, drawn: Sequence[_Mixture]) -> np.ndarray:
    return np.asarray(
        _extract(net, jnp.asarray(np.stack([one.picture for one in drawn]), jnp.float32))
    )


@jax.jit
def _extract(net: Any, pictures: jax.Array) -> jax.Array:
    return net(pictures).astype(jnp.float32)
