"""Kinds of secret change of z before Ψ, compared at screening size: which makes the best key?

Each is measured in one way: the server reads by its own change; the public Ψ and two fixed changes
of the same kind stand in the objective as shadow recognisers; the attacker has eight others.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import defenses, metrics
from advface_jax.data import Pairs
from experiments.decoy import readings as decoy_readings
from experiments.decoy.cases import Case, World
from experiments.decoy.rows import by_foreign, tar
from experiments.measure.results_file import Row

FIXED, ATTACKER = 2, 8


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Changed:
    """Ψ(max(gain · z[rows, columns] + pattern, 0))."""

    recogniser: Any
    pattern: jax.Array
    gain: jax.Array
    rows: jax.Array
    columns: jax.Array

    def __call__(self, z: jax.Array) -> jax.Array:
        moved = jnp.einsum("ij,bjkc->bikc", self.rows, z)
        moved = jnp.einsum("ij,bkjc->bkic", self.columns, moved)
        return self.recogniser(jnp.maximum(moved * self.gain[None] + self.pattern[None], 0))


Draw = Callable[[np.random.Generator, tuple[int, ...]], dict[str, np.ndarray]]


def white(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"pattern": 0.3 * rng.normal(size=shape)}


def smooth(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Of 8×8 places, interpolated; of the same deviation."""
    coarse = rng.normal(size=(8, 8, shape[2]))
    for axis in (0, 1):
        coarse = np.tensordot(_between(np.linspace(0, 7, shape[axis]), 8), coarse, (1, axis))
        coarse = np.moveaxis(coarse, 0, axis)
    return {"pattern": 0.3 * coarse / coarse.std()}


def gains(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"gain": 1 + 0.3 * rng.normal(size=(1, 1, shape[2]))}


def geometry(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Shifted by up to 3 places and scaled by up to 6 % along each axis."""
    found = {}
    for name, n in zip(("rows", "columns"), shape[:2], strict=True):
        at = np.arange(n) - (n - 1) / 2
        at = at * rng.uniform(0.94, 1.06) + rng.uniform(-3, 3) + (n - 1) / 2
        found[name] = _between(np.clip(at, 0, n - 1), n)
    return found


def together(rng: np.random.Generator, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {**white(rng, shape), **gains(rng, shape), **geometry(rng, shape)}


FAMILIES: dict[str, Draw] = {
    "pattern": white,
    "smooth pattern": smooth,
    "channel gains": gains,
    "small geometry": geometry,
    "pattern, gains and geometry": together,
}


def _between(at: np.ndarray, n: int) -> np.ndarray:
    """(len(at), n): linear interpolation at places from 0 to n - 1."""
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(n)))


def changed(recogniser: Any, draw: Draw, seed: Sequence[int], shape: tuple[int, ...]) -> Changed:
    """Ψ behind a change that follows from a seed."""
    usual = {
        "pattern": np.zeros((1, 1, 1)),
        "gain": np.ones((1, 1, 1)),
        "rows": np.eye(shape[0]),
        "columns": np.eye(shape[1]),
    }
    drawn = usual | draw(np.random.default_rng(seed), shape)
    return Changed(recogniser, **{k: jnp.asarray(v, jnp.float32) for k, v in drawn.items()})


def row(
    name: str,
    world: World,
    case: Case,
    threshold: float,
    images: np.ndarray,
    bare: np.ndarray,
    people: Sequence[str],
    over: Pairs,
    how: Mapping[str, Any],
) -> tuple[Row, decoy_readings.Measured]:
    """One family, and what was read of it; ``bare`` is what the public Ψ makes of the
    photographs."""
    psi, shape = world.network.server, world.pattern.shape
    own, *others = (
        changed(psi, FAMILIES[name], (how["seed"], i), shape) for i in range(1 + FIXED + ATTACKER)
    )
    defense = defenses.decoy(
        recogniser=own,
        extractor=world.network.extractor,
        faces=world.faces,
        shadows=(*world.shadows[:1], psi, *others[:FIXED]),
        parts=case.parts,
        config=case.config(threshold),
    )
    outside = {"sibling": world.outside["sibling"], "Ψ": psi}
    outside |= {f"foreign {i}": one for i, one in enumerate(others[FIXED:])}
    theirs = dataclasses.replace(world, shadows=(), outside=outside)
    some = case._replace(shadows=0, key=False)
    settings = how["settings"] | {"family": name}
    found = decoy_readings.measured(
        theirs, some, defense, images, epsilon=case.epsilon, **{**how, "settings": settings}
    )
    raw = decoy_readings.known(
        dataclasses.replace(theirs, outside={"own": own}), images, how["batch"], private=False
    )
    line: Row = {
        "method": f"Key: {name}",
        "n": len(images),
        "pairs": len(over),
        "epsilon": case.epsilon,
        "cosine": float(found.cosine.mean()),
        "refused_share": float((found.cosine < threshold).mean()),
        "cosine_to_public": float((raw["own"] * bare).sum(-1).mean()),
        **{k: float(v.mean()) for k, v in found.likeness.items()},
    }
    for kind, seen in (("acc", found.read["recogniser"]), ("acc_raw", raw["own"])):
        distances = metrics.squared_distance(seen[over.left], raw["own"][over.right])
        line[kind] = metrics.ten_fold_accuracy(distances, over.same, over.fold).accuracy
    readings = {
        "tar": (found.read["recogniser"], raw["own"]),
        "tar_Ψ": (found.read["Ψ"], bare),
        **{f"tar_{name}": (seen, bare) for name, seen in by_foreign(found.read).items()},
    }
    line |= {kind: tar(seen, known, people) for kind, (seen, known) in readings.items()}
    return line, found
