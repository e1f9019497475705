"""Attackers who guess what a defence keeps secret, or have stolen it: its start, and its key.

A decoy goes from a start towards the enrolled face, as far as Ψ needs. Who knows the start goes on
in that direction (``reading.amplified``) until other recognisers see the face, too.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from advface_jax import attacks
from advface_jax.attacks import Attack, reading
from advface_jax.decoy import DEVIATION, keyed
from experiments.attack.knowing import STITCHED, Against, Builder, Known

GUESSED = (2.0, 4.0)
"""Gains on an estimate of the start; all of ``reading.GAINS`` on the start itself."""
OWN_KEYS = 8


class Reader(NamedTuple):
    """A recogniser of z: the stitched sibling, or Ψ."""

    name: str
    knows: tuple[str, ...]
    run: attacks.Sibling
    plain: Attack  # what it makes of undefended features


def _reader(known: Known, psi: bool) -> Reader:
    world = known.world
    if psi:
        return Reader("Ψ", ("recogniser",), world.system.server, world.psi)
    return Reader(
        f"stitched {world.names[0]}", ("public recogniser",), world.on_z[0], world.read_z[0]
    )


def estimated(known: Known, psi: bool, gain: float) -> Against | None:
    """From E(R(z')), what R draws of the start."""
    if not known.protects:
        return None
    world, reader = known.world, _reader(known, psi)
    start = reading.estimated(world.system.extractor, world.attacker)
    name = f"{reader.name}, from E(R(z')), × {gain:g}"
    knows = ("extractor", *reader.knows)
    return Against(reading.amplified(name, reader.run, knows, gain, start), reader.plain)


def learnt(known: Known, psi: bool, gain: float) -> Against | None:
    """From a linear map of z', learnt on items that the attacker made with starts of his own."""
    if not (known.case.starts and known.case.imitation):  # one joined has no secrets of his own
        return None
    reader, n = _reader(known, psi), min(STITCHED, len(known.world.public))
    name = f"{reader.name}, from the start as learnt, × {gain:g}"
    knows = (*known.code, *reader.knows)
    found = reading.amplified(name, reader.run, knows, gain, known.to_start)
    return Against(dataclasses.replace(found, cost={"faces": n}), reader.plain)


def stolen(known: Known, psi: bool, gain: float) -> Against | None:
    """From the start itself."""
    if not known.case.starts:
        return None
    reader = _reader(known, psi)
    name = f"{reader.name}, from the true start, × {gain:g}"
    return Against(
        reading.amplified(name, reader.run, ("start", *reader.knows), gain), reader.plain
    )


def under_own_keys(known: Known, less: bool) -> Against | None:
    """What Ψ reads under secret patterns of the attacker's, on average; ``less`` what it reads
    without one."""
    if not (known.case.private and known.case.starts):
        return None
    world, shape = known.world, known.world.features.shape[1:]
    root = jax.random.fold_in(jax.random.key(world.seed), OWN_KEYS)
    patterns = [
        DEVIATION * jax.random.normal(one, shape) for one in jax.random.split(root, OWN_KEYS)
    ]
    own = [keyed(world.system.server, one) for one in patterns]
    name = f"Ψ under {OWN_KEYS} keys of his own{', less Ψ' if less else ''}"
    knows, minus = ("defense", "recogniser"), world.system.server if less else None
    return Against(reading.averaged(name, own, knows, minus), world.psi)


def with_key(known: Known) -> Against | None:
    """The private recogniser, its key stolen."""
    read = _with_key(known)
    return read and Against(read, read)


def picture_with_key(known: Known) -> Attack | None:
    """A picture from what the private recogniser reads, its key stolen."""
    read = _with_key(known)
    if read is None:
        return None
    world = known.world
    draw = world.from_embeddings(read(world.features, batch=world.batch))

    def run(stored: jax.Array) -> jax.Array:
        return draw(jnp.asarray(read.run(stored)))

    name, knows = "picture from Ψ with the stolen key", ("extractor", *read.knows)
    return Attack(name, knows, "picture", run, {"faces": len(world.public)})


def _with_key(known: Known) -> Attack | None:
    if not (known.case.private and known.case.defense):
        return None
    private = known.case.defense.server(known.world.system.server)
    return reading.read("Ψ with the stolen key", private, ("recogniser", "key"))


def _each(build: Callable[..., Against | None], gains: tuple[float, ...]) -> list[Builder]:
    return [functools.partial(build, psi=psi, gain=k) for psi in (False, True) for k in gains]


ON_SECRETS: tuple[Builder, ...] = (
    *_each(estimated, GUESSED),
    *_each(learnt, GUESSED),
    functools.partial(under_own_keys, less=False),
    functools.partial(under_own_keys, less=True),
    *_each(stolen, reading.GAINS),
    with_key,
    picture_with_key,
)
