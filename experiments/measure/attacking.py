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
from experiments.measure.attackers import World
from experiments.measure.compared import Case
from experiments.measure.judging import folder_of, keep_arrays, kept_arrays

LIKENESS = ("ssim", "psnr", "mse")


class Read(NamedTuple):
    """What one attack read off n items; what it does not read is None.

    Attributes:
      seen: (n,e) the attacker's embedding of each item: read off it, or of the picture.
      known: (n,e) of each item's photograph, by the same network.
      likeness: (n,) by measure, of the picture.
      replayed: (n,e) Ψ(E(picture)), for the server.
    """

    seen: np.ndarray
    known: np.ndarray
    likeness: dict[str, np.ndarray] | None
    replayed: np.ndarray | None


class Attacked(NamedTuple):
    """One defence under all its attacks."""

    served: np.ndarray  # (n,e) the server's embedding of each stored item
    probes: np.ndarray  # (n,e) of each photograph, which no defence touched
    reads: list[Read]  # of each attack
    earlier: float  # seconds of the batches kept from earlier sittings
    folder: Path  # of the kept batches


def attacked(
    case: Case,
    attacks: Sequence[Attack],
    world: World,
    faces: Faces,
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
        sharding.replicate(case.recognise, mesh),
        sharding.replicate(world.system.network, mesh),
        sharding.replicate(world.sibling.network, mesh),
        [_Runner(one, mesh) for one in attacks],
    )
    folder = folder_of(keep, {**settings, "case": case.name, "attacks": [a.name for a in attacks]})
    wanted = ["served", "probes", "seconds"]
    for i, one in enumerate(attacks):
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
            found = _batch(case, place, mesh, *given)
            kept = {k: np.asarray(v)[:real] for k, v in found.items()}
            kept["seconds"] = np.array(time.monotonic() - began)
            keep_arrays(file, kept)
        else:
            earlier += float(kept["seconds"])
        parts.append(kept)
        progress(real)
    whole = {k: np.concatenate([part[k] for part in parts]) for k in wanted if k != "seconds"}
    reads = []
    for i, one in enumerate(attacks):
        likeness = replayed = None
        if one.reads == "picture":
            likeness = {k: whole[f"{i}.{k}"] for k in LIKENESS}
            replayed = whole[f"{i}.replayed"]
        reads.append(Read(whole[f"{i}.seen"], whole[f"{i}.known"], likeness, replayed))
    return Attacked(whole["served"], whole["probes"], reads, earlier, folder)


class _Networks(NamedTuple):
    client: Any
    recognise: Any
    system: Any
    sibling: Any
    attacks: list["_Runner"]


class _Runner:
    """An attack's ``run``, compiled where it is a pytree of arrays; anything else runs as it is."""

    def __init__(self, attack: Attack, mesh: Any):
        self.attack = attack
        leaves = jax.tree.leaves(attack.run)
        if all(isinstance(leaf, (jax.Array, np.ndarray)) for leaf in leaves):
            run = sharding.replicate(attack.run, mesh)
            self.run = Attack(
                attack.name, attack.knows, attack.reads, lambda x: _called(run, x), attack.cost
            )
        else:
            self.run = attack

    def __call__(self, stored: Any) -> Any:
        return self.run(stored, batch=len(stored))


def _batch(
    case: Case, place: _Networks, mesh: Any, pixels: Any, mask: Any, keys: Any
) -> dict[str, Any]:
    images = jnp.asarray(pixels, jnp.float32) / 255
    item = _called(place.client, images)
    stolen, served = case.store(item, keys, mask)
    z: Any = None
    found = {
        "served": _called(place.recognise, served, images),
        "probes": _called(place.system, images),
    }
    by_sibling = _called(place.sibling, images)
    for i, one in enumerate(place.attacks):
        read = one(stolen)
        if one.attack.reads == "identity":
            found[f"{i}.seen"] = read
            if len(stolen.shape) == 2:  # a template: compared with the photograph's own
                found[f"{i}.known"] = found["probes"]
                continue
            z = _called(place.system.extractor, images) if z is None else z
            found[f"{i}.known"] = one(z)
            continue
        pictures = sharding.split(np.clip(read, 0, 1), mesh)
        for k in LIKENESS:
            found[f"{i}.{k}"] = getattr(metrics, k)(pictures, images)
        found[f"{i}.seen"] = _called(place.sibling, pictures)
        found[f"{i}.known"] = by_sibling
        found[f"{i}.replayed"] = _called(place.system, pictures)
    return found


@jax.jit
def _called(network: Any, *given: jax.Array) -> jax.Array:
    return network(*given)
