"""Attacks on one defence, batch by batch: what they read off every stored item."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import metrics, sharding
from advface_jax.attacks import Attack
from advface_jax.data import Faces
from experiments.measure.attackers import Against, World
from experiments.measure.compared import Case
from experiments.measure.judging import folder_of, keep_arrays, kept_arrays

LIKENESS = ("ssim", "psnr", "mse")


class Read(NamedTuple):
    """What one attack read off n items; what it does not read is None.

    Attributes:
      seen: (n,e) the attacker's embedding of each item: read off it, or of the picture.
      known: (n,e) of each item's photograph, by the same network.
      likeness: (n,) by measure, of the picture.
      replayed: (n,e) what the server makes of the picture, shown to the client.
    """

    seen: np.ndarray
    known: np.ndarray
    likeness: dict[str, np.ndarray] | None
    replayed: np.ndarray | None


class Attacked(NamedTuple):
    """One defence under all its attacks."""

    served: np.ndarray  # (n,e) the server's embedding of each stored item
    probes: np.ndarray  # (n,e) the server's of each photograph, which no defence touched
    reads: list[Read]  # of each attack
    earlier: float  # seconds of the batches kept from earlier sittings
    folder: Path  # of the kept batches


def attacked(
    case: Case,
    attacks: Sequence[Attack | Against],
    world: World,
    faces: Faces,
    photographs: "Photographs",
    *,
    batch: int,
    seed: int,
    keep: Path,
    settings: Mapping[str, Any],
    progress: Callable[[int], None] = lambda n: None,
) -> Attacked:
    """Stores every face and attacks it; a run with the same ``settings`` resumes.

    An attack that reads identities is asked for those of undefended features, too: they are what
    its readings are compared with. Pictures are read by the public recogniser.
    """
    mesh = sharding.across(batch)
    place = _Networks(
        sharding.replicate(case.client, mesh),
        sharding.replicate(world.system.extractor, mesh),
        sharding.replicate(case.recognise, mesh),
        sharding.replicate(case.replay or world.system.network, mesh),
        sharding.replicate(world.sibling.network, mesh),
    )
    plain = [one.attack if isinstance(one, Against) else one for one in attacks]
    folder = folder_of(keep, {**settings, "case": case.name, "attacks": [a.name for a in plain]})
    wanted = ["served", "probes", "seconds"]
    for i, one in enumerate(plain):
        wanted += [f"{i}.seen", f"{i}.known"]
        wanted += [f"{i}.{k}" for k in (*LIKENESS, "replayed") if one.reads == "picture"]
    root, parts, earlier = jax.random.key(seed), [], 0.0
    for start in range(0, len(faces), batch):
        file = folder / f"{start:06d}.npz"
        real = min(batch, len(faces) - start)
        kept = kept_arrays(file, wanted)
        if kept is None:
            began = time.monotonic()
            chosen = np.resize(np.arange(start, start + real), batch)  # padding repeats, masked
            mask = (np.arange(batch) < real).astype(np.float32)
            keys = jax.vmap(jax.random.fold_in, (None, 0))(root, chosen.astype(np.uint32))
            given = sharding.split((faces.batch(chosen), mask, keys), mesh)
            found = _batch(case, attacks, world, place, photographs, start, mesh, given)
            kept = {k: np.asarray(v)[:real] for k, v in found.items()}
            kept["seconds"] = np.array(time.monotonic() - began)
            keep_arrays(file, kept)
        else:
            earlier += float(kept["seconds"])
        parts.append(kept)
        progress(real)
    whole = {k: np.concatenate([part[k] for part in parts]) for k in wanted if k != "seconds"}
    reads = []
    for i, one in enumerate(plain):
        likeness = replayed = None
        if one.reads == "picture":
            likeness = {k: whole[f"{i}.{k}"] for k in LIKENESS}
            replayed = whole[f"{i}.replayed"]
        reads.append(Read(whole[f"{i}.seen"], whole[f"{i}.known"], likeness, replayed))
    return Attacked(whole["served"], whole["probes"], reads, earlier, folder)


class Photographs:
    """What networks make of the measured photographs: the same for every defence, so kept."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], np.ndarray] = {}
        self._alive: list[Any] = []  # whose numbers are keys

    def once(self, start: int, network: Any, make: Callable[[], Any]) -> np.ndarray:
        if (key := (start, id(network))) not in self._kept:
            self._alive.append(network)
            self._kept[key] = np.asarray(make())
        return self._kept[key]


class _Networks(NamedTuple):
    client: Any
    extractor: Any
    recognise: Any
    replay: Any
    sibling: Any


def _batch(
    case: Case,
    attacks: Sequence[Attack | Against],
    world: World,
    place: _Networks,
    photographs: Photographs,
    start: int,
    mesh: Any,
    given: tuple[Any, Any, Any],
) -> dict[str, Any]:
    pixels, mask, keys = given
    images = jnp.asarray(pixels, jnp.float32) / 255
    item = called(place.client, images)
    stolen, served = case.store(item, keys, mask)
    z = item if case.client is world.system.extractor else called(place.extractor, images)
    probes, by_sibling = (
        photographs.once(start, whose, lambda network=network: called(network, images))
        for whose, network in (
            (case.replay or world.system, place.replay),
            (world.sibling, place.sibling),
        )
    )
    found = {"served": called(place.recognise, served, images), "probes": probes}
    for i, one in enumerate(attacks):
        attack = one.attack if isinstance(one, Against) else one
        read = attack(stolen, batch=len(stolen))
        found[f"{i}.seen"] = read
        if attack.reads == "identity":
            if len(stolen.shape) == 2:  # a template
                found[f"{i}.known"] = probes
            elif isinstance(one, Against):
                known = photographs.once(start, one.known, lambda n=one.known: called(n, z))
                found[f"{i}.known"] = known
            else:
                found[f"{i}.known"] = attack(z, batch=len(stolen))
            continue
        shown = sharding.split(np.clip(read, 0, 1), mesh)
        alike = _likeness(shown, images)
        found |= {f"{i}.{k}": v for k, v in alike.items()}
        found |= {f"{i}.seen": called(place.sibling, shown), f"{i}.known": by_sibling}
        found[f"{i}.replayed"] = called(place.replay, shown)
    return found


@jax.jit
def called(network: Any, *given: jax.Array) -> jax.Array:
    """A network as an argument of the compiled program."""
    return network(*given)


@jax.jit
def _likeness(pictures: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    return {k: getattr(metrics, k)(pictures, images) for k in LIKENESS}
