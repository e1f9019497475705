"""The decoy as the tables build it: drawn faces, shadow recognisers and a pattern, by a seed."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import attacks, data, defenses
from advface_jax.decoy import DEFAULT, DEVIATION, EPSILON
from advface_jax.defenses import Defense, decoys
from advface_jax.defenses.defense import EPSILON as NOISE
from advface_jax.models import sface
from experiments.measure.compared import Case, called, case

NAMES = ("Decoy", "Decoy with a key")
DRAWN = 32
"""Faces that decoys are mixed from; no other part of the project draws these people."""
LEARNT = 60
"""Further drawn faces, of which the shadow recognisers are learnt."""
PATCHES = (3, 1)
"""Sides through which they see z, one each."""
BATCH = 20


def drawn(seed: int, n: int = DRAWN) -> np.ndarray:
    """Faces of nobody (n,160,160,3) uint8, which are the secret in experiments."""
    return data.synthetic_faces(n, 1, seed=1000 + seed).images


def other(weights: str) -> str:
    """A public recogniser that is not the server's."""
    return "facenet-512-q8" if weights == "facenet-128" else "facenet-128"


def check(system: advface_jax.System, *others: advface_jax.System) -> None:
    """ValueError for no other recogniser, or where one of them is the server's own: its weights
    count, whatever its name."""
    own = [one for one in others if one.card["sha256"] == system.card["sha256"]]
    if own or not others:
        named = own and f"{own[0].card['source']}, which is the server's own recogniser"
        raise ValueError(f"got --sibling {named or 'nothing'}; wanted other public recognisers")


def pair(system: advface_jax.System, other: advface_jax.System, seed: int) -> tuple[Defense, ...]:
    """The decoy without and with a key, with shadow recognisers that need no photograph.

    Args:
      system: E and Ψ.
      other: A public recogniser, which the shadow recognisers are made of.
      seed: Of everything secret; deploy with ``advface_jax.keys`` instead.
    """
    check(system, other)
    mixed, learnt = np.split(drawn(seed, DRAWN + LEARNT), [DRAWN])
    faces = jnp.asarray(mixed, jnp.float32) / 255
    shadows = [stitched(system, other, learnt, patch) for patch in PATCHES]
    rng = np.random.default_rng([seed, 1000])
    z = called(system.extractor, faces[:1])
    pattern = DEVIATION * rng.normal(size=z.shape[1:]).astype(np.float32)
    return tuple(
        defenses.decoy(
            recogniser=system.server,
            extractor=system.extractor,
            faces=faces,
            shadows=shadows,
            pattern=one,
        )
        for one in (None, pattern)
    )


def features(system: advface_jax.System, faces: np.ndarray) -> np.ndarray:
    """E of faces (n,160,160,3) uint8."""
    batches = [faces[i : i + BATCH].astype(np.float32) / 255 for i in range(0, len(faces), BATCH)]
    return np.concatenate(
        [np.asarray(called(system.extractor, jnp.asarray(one))) for one in batches]
    )


def stitched(
    system: advface_jax.System, other: advface_jax.System, learnt: np.ndarray, patch: int = 3
) -> attacks.Sibling:
    """``other`` put onto z by what it makes of faces (n,160,160,3) uint8."""
    z, target = features(system, learnt), features(other, learnt)
    grid = sface.grid() if isinstance(other.network, sface.SFace) else None
    return attacks.sibling(attacks.stitch(z, target, patch=patch, grid=grid), other.server)


def settings(other: advface_jax.System) -> dict[str, Any]:
    """What determines ``pair`` beside the system and the seed, for the settings of a table."""
    numbers = {"epsilon": EPSILON, "parts": decoys.PARTS, **dataclasses.asdict(DEFAULT)}
    numbers["shadow_patches"] = list(PATCHES)
    return {"sibling_sha256": other.card["sha256"], "decoy": numbers}


def bound(epsilon: float) -> float:
    """A decoy's ε in a table of noises within ``epsilon``: one and a half of it, so that the usual
    ones go together. It bounds the step away from somebody else, and is no noise on a face."""
    return round(epsilon * EPSILON / NOISE, 9)


def cases(
    system: advface_jax.System, other: advface_jax.System, epsilon: float, seed: int
) -> list[Case]:
    """The decoy without and with a key, within ``bound``, for attackers who have its code and
    secrets of their own: of a seed 10,000 further, so that no run's secret is another's guess."""
    own, guessed = (pair(system, other, one) for one in (seed, seed + 10_000))
    both, ours = zip(own, guessed, strict=True), bound(epsilon)
    return [case(one, system.network, ours, guess) for one, guess in both]
