"""Attacks on one defence, batch by batch: what they read off every stored item."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import metrics, sharding
from advface_jax.attacks import Attack
from advface_jax.data import Faces
from advface_jax.defenses import decoys
from experiments.attack.knowing import Against, World
from experiments.measure.compared import Case, called
from experiments.measure.judging import keys_of
from experiments.measure.kept import Arrays, Batch, folder_of, kept

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
    client, extractor = (
        sharding.replicate(one, mesh) for one in (case.client, world.system.extractor)
    )
    plain = [one.attack if isinstance(one, Against) else one for one in attacks]
    folder = folder_of(keep, {**settings, "case": case.name, "attacks": [a.name for a in plain]})
    wanted = ["served", "probes"]
    for i, one in enumerate(plain):
        wanted += [f"{i}.seen", f"{i}.known"]
        wanted += [f"{i}.{k}" for k in (*LIKENESS, "replayed") if one.reads == "picture"]

    def make(one: Batch) -> Arrays:
        given = faces.batch(one.chosen), one.mask, keys_of(seed, one.chosen)
        given = sharding.split(given, mesh)
        place = client, extractor
        found = _batch(case, attacks, world, place, photographs, one.start, mesh, given)
        return {k: np.asarray(v)[: one.real] for k, v in found.items()}

    done = kept(folder, len(faces), batch, wanted, make, lambda one, _: progress(one.real))
    whole = {k: np.concatenate([part[k] for part in done.parts]) for k in wanted}
    reads = []
    for i, one in enumerate(plain):
        likeness = replayed = None
        if one.reads == "picture":
            likeness = {k: whole[f"{i}.{k}"] for k in LIKENESS}
            replayed = whole[f"{i}.replayed"]
        reads.append(Read(whole[f"{i}.seen"], whole[f"{i}.known"], likeness, replayed))
    return Attacked(whole["served"], whole["probes"], reads, done.earlier, folder)


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


def _batch(
    case: Case,
    attacks: Sequence[Attack | Against],
    world: World,
    place: tuple[Any, Any],
    photographs: Photographs,
    start: int,
    mesh: Any,
    given: tuple[Any, Any, Any],
) -> dict[str, Any]:
    pixels, mask, keys = given
    client, extractor = place
    images = jnp.asarray(pixels, jnp.float32) / 255
    item = called(client, images)
    stolen, served = case.store(item, keys, mask)
    decoy = decoys.start(case.defense, keys) if case.defense and case.starts else None
    z = item if case.client is world.system.extractor else called(extractor, images)
    probes = np.asarray(case.shown(images))
    found = {"served": case.recognise(served, images), "probes": probes}
    sibling = world.of_photographs[0]
    by_sibling = photographs.once(start, sibling, lambda: sibling(images, batch=len(images)))
    for i, one in enumerate(attacks):
        attack = one.attack if isinstance(one, Against) else one
        secret = decoy if "start" in attack.knows else None
        read = attack(stolen, start=secret, batch=len(stolen))
        found[f"{i}.seen"] = read
        if attack.reads == "identity":
            if len(stolen.shape) == 2:  # a template
                found[f"{i}.known"] = probes
            elif not isinstance(one, Against):
                found[f"{i}.known"] = attack(z, batch=len(stolen))
            elif "leak" in one.source:
                store = case.store if one.source == "leak" else case.imitated or case.store
                again, _ = store(item, jax.vmap(jax.random.fold_in, (0, None))(keys, 1), mask)
                found[f"{i}.known"] = one.known(again, batch=len(stolen))
            else:
                shown = z if one.source == "features" else images
                found[f"{i}.known"] = photographs.once(
                    start, one.known, lambda a=one.known, x=shown: a(x, batch=len(x))
                )
            continue
        shown = sharding.split(np.clip(read, 0, 1), mesh)
        alike = _likeness(shown, images)
        found |= {f"{i}.{k}": v for k, v in alike.items()}
        found |= {f"{i}.seen": sibling(shown, batch=len(shown)), f"{i}.known": by_sibling}
        found[f"{i}.replayed"] = case.shown(shown)
    return found


@jax.jit
def _likeness(pictures: jax.Array, images: jax.Array) -> dict[str, jax.Array]:
    return {k: getattr(metrics, k)(pictures, images) for k in LIKENESS}
