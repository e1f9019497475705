"""Everything that is read off each setting of the decoy, batch by batch."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import attacks, metrics, networks, sharding
from advface_jax.attacks import reading
from advface_jax.decoy import Keyed, keyed
from advface_jax.defenses import Defense, decoys
from experiments.decoy.cases import Case, World
from experiments.measure.compared import called
from experiments.measure.judging import keys_of
from experiments.measure.kept import Arrays, Batch, batches, folder_of, kept

FOREIGN = 8
"""Patterns of his own that an attacker averages over."""
Embeddings = dict[str, np.ndarray]


class Measured(NamedTuple):
    """Of one stored set: what each reader reads, the picture's likeness, and some pictures.

    Attributes:
      read: (n,e) by reader; "replayed" is what the server makes of R's picture.
      cosine: (n,) by the server's recogniser, of stored and enrolled.
      likeness: (n,) by measure.
      pictures, decoys: of the first batch, uint8; None for what has no decoy.
      folder: where the batches are kept: ``discard`` it once the results are written.
      earlier: seconds of the batches kept from earlier sittings.
    """

    read: Embeddings
    cosine: np.ndarray
    likeness: dict[str, np.ndarray]
    pictures: np.ndarray
    decoys: np.ndarray | None
    folder: Path | None = None
    earlier: float = 0.0


def measured(
    world: World,
    case: Case | None,
    defense: Defense,
    images: np.ndarray,
    *,
    epsilon: float | None,
    batch: int,
    seed: int,
    keep: Path,
    settings: Mapping[str, Any],
    linkers: Mapping[str, attacks.Attack] | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> Measured:
    """Protects (n,160,160,3) uint8 by ``defense`` and reads everything off what is stored.

    ``linkers`` are further readers, which learnt from named items. Finished batches are kept in
    the folder ``keep``; a run with the same ``settings`` resumes.
    """
    mesh = sharding.across(batch)
    one = {"case": case and list(case), "epsilon": epsilon, "defense": networks.digest(defense)}
    folder = folder_of(keep, {**settings, **one})
    place = sharding.replicate((world, defense), mesh)

    def make(one: Batch) -> Arrays:
        given = sharding.split((images[one.chosen], keys_of(seed, one.chosen), one.mask), mesh)
        found = _batch(*place, case, epsilon, linkers or {}, not one.start, *given)
        return {k: np.asarray(v)[: one.real] for k, v in found.items()}

    wanted, first = ("read.recogniser", "cosine.own", "like.ssim"), ("first.pictures",)
    done = kept(folder, len(images), batch, wanted, make, lambda one, _: progress(one.real), first)
    parts = done.parts

    def joined(kind: str) -> dict[str, np.ndarray]:
        named = {k.partition(".")[2]: k for k in parts[0] if k.startswith(kind)}
        return {name: np.concatenate([p[k] for p in parts]) for name, k in named.items()}

    return Measured(
        joined("read."),
        joined("cosine.")["own"],
        joined("like."),
        parts[0]["first.pictures"],
        parts[0].get("first.decoys"),
        folder,
        done.earlier,
    )


def _batch(world, defense, case, epsilon, linkers, first, pixels, keys, mask) -> dict[str, Any]:
    x = jnp.asarray(pixels, jnp.float32) / 255
    z = called(world.network.extractor, x)
    stored = defense(z, key=keys, epsilon=epsilon, mask=mask)
    decoy = nobody = None
    if case:
        decoy, nobody = decoys.start(defense, keys), decoys.pictures(defense, keys)
    own = decoys.recogniser(defense) if case else world.network.server
    found = {f"read.{k}": seen for k, seen in readings(world, case, own, stored, decoy)}
    found |= {f"read.{k}": read(attack, stored) for k, attack in linkers.items()}
    picture = called(world.attacker, stored)
    found["read.replayed"] = read(own, called(world.network.extractor, picture))
    found["cosine.own"] = jnp.sum(found["read.recogniser"] * read(own, z), -1)
    found |= {"like.ssim": metrics.ssim(picture, x), "like.psnr": metrics.psnr(picture, x)}
    if nobody is not None:
        found["like.ssim_decoy"] = metrics.ssim(picture, nobody)
    shown = {"first.pictures": picture, "first.decoys": nobody} if first else {}
    return found | {
        k: np.round(np.asarray(v) * 255).astype(np.uint8) for k, v in shown.items() if v is not None
    }


def readings(
    world: World, case: Case | None, own: Any, stored: jax.Array, decoy: jax.Array | None
) -> Iterator[tuple[str, Any]]:
    """(name, embeddings) of everyone who reads what is stored."""
    yield "recogniser", read(own, stored)
    if world.shadows and (case is None or case.shadows):
        yield "shadow", read(world.shadows[0], stored)
    for name, reader in world.outside.items():
        yield name, read(reader, stored)
    public = world.network.server
    readers = {"": world.outside["sibling"], **({"Ψ, ": public} if case and case.key else {})}
    estimate = called(world.network.extractor, called(world.attacker, stored))
    starts = {"estimated": (estimate, reading.GAINS[:2]), "known": (decoy, reading.GAINS)}
    for told, (start, gains) in starts.items():
        for k in gains if start is not None else ():
            for who, reader in readers.items():
                name = f"{who}decoy {told} ×{k:g}"
                yield name, reading.amplified(name, reader, ("start",), k).run(stored, start)
    if case and case.key and decoy is not None:
        yield "Ψ", read(public, stored)
        for i in range(FOREIGN):  # each by itself: their mean is taken of all batches
            normal = jax.random.normal(jax.random.key(1000 + i), stored.shape[1:])
            yield f"foreign {i}", read(keyed(public, world.deviation * normal), stored)


def known(
    world: World,
    images: np.ndarray,
    batch: int,
    linkers: Mapping[str, attacks.Attack] | None = None,
    private: bool = True,
) -> Embeddings:
    """What each reader makes of undefended photographs."""
    mesh = sharding.across(batch)
    world = sharding.replicate(world, mesh)
    readers = {
        "recogniser": world.network.server,
        **({"private": Keyed(world.network.server, world.pattern)} if private else {}),
        **({"shadow": world.shadows[0]} if world.shadows else {}),
        **world.outside,
        **(linkers or {}),
    }
    parts = []
    for _, real, chosen, _ in batches(len(images), batch):
        pixels = sharding.split(images[chosen], mesh)
        z = called(world.network.extractor, jnp.asarray(pixels, jnp.float32) / 255)
        parts.append({name: np.asarray(read(one, z))[:real] for name, one in readers.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in readers}


def items(
    defense: Defense, world: World, images: np.ndarray, epsilon: float, batch: int, seed: int
) -> np.ndarray:
    """What the server stores of further faces, float16, by keys of another root."""
    parts = []
    for _, real, chosen, mask in batches(len(images), batch):
        z = called(world.network.extractor, jnp.asarray(images[chosen], jnp.float32) / 255)
        stored = defense(z, key=keys_of(seed, chosen), epsilon=epsilon, mask=jnp.asarray(mask))
        parts.append(np.asarray(stored)[:real].astype(np.float16))
    return np.concatenate(parts)


def read(reader: Any, z: jax.Array) -> jax.Array | np.ndarray:
    """A recogniser's embeddings of length 1; an attack's as they are."""
    if isinstance(reader, attacks.Attack):
        return reader(z, batch=len(z))
    return _read(reader, z)


@jax.jit
def _read(reader: Any, z: jax.Array) -> jax.Array:
    return networks.Normalised(reader)(z)
