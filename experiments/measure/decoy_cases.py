"""What the sweep of decoys compares, and everything that is read off each of them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import attacks, defenses, metrics, networks, sharding
from advface_jax.decoy import DEVIATION, DecoyConfig, Keyed, keyed
from advface_jax.defenses import Defense, decoys

STITCHED = 60
"""Faces that one sibling learns from."""
AMPLIFIED = (2.0, 4.0, 8.0)
FOREIGN = 8
"""Patterns of his own that an attacker averages over."""
NEAR = (0.2, 0.4)
"""Noise on every kernel of Ψ, in its deviation: siblings much nearer than another network."""


class Case(NamedTuple):
    """One setting of the defence."""

    epsilon: float
    weight: float
    steps: int
    shadows: int
    parts: int
    key: bool = False

    @property
    def label(self) -> str:
        key = ", key" if self.key else ""
        return (
            f"ε = {self.epsilon:g}, λ = {self.weight:g}, {self.steps} steps, "
            f"{self.shadows} shadows, {self.parts} faces{key}"
        )


def one_at_a_time(key: bool, **axes: Sequence[Any]) -> list[Case]:
    """The base, which is the first value of every axis; with ``key``, the base with a secret
    pattern; and the others, one changed at a time."""
    base = Case(**{axis: values[0] for axis, values in axes.items()})
    found = [base, base._replace(key=True)] if key else [base]
    for axis, values in axes.items():
        found += [base._replace(**{axis: value}) for value in values[1:]]
    return found


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class World:
    """The networks of defender and attackers.

    Attributes:
      network: Ψ(E(·)).
      attacker: R.
      faces: (n,160,160,3), the drawn ones that decoys are mixed from.
      shadows: the defender's siblings.
      outside: the attackers', in no objective, by name.
      pattern: the secret.
    """

    network: Any
    attacker: Any
    faces: jax.Array
    shadows: tuple[Any, ...]
    outside: Mapping[str, Any]
    pattern: jax.Array

    def defense(self, case: Case, threshold: float) -> Defense:
        return defenses.decoy(
            recogniser=self.network.server,
            extractor=self.network.extractor,
            faces=self.faces,
            shadows=self.shadows[: case.shadows],
            pattern=self.pattern if case.key else None,
            parts=case.parts,
            config=DecoyConfig(steps=case.steps, weight=case.weight, threshold=threshold),
        )


def world(
    network: Any,
    attacker: Any,
    other: Any,
    public: np.ndarray,
    drawn: np.ndarray,
    n: int,
    seed: int,
) -> World:
    """Siblings of ``other`` put onto z: n shadows, one of other faces, one of other faces and
    patches, each from ``STITCHED`` of the ``public`` faces (m,160,160,3) uint8; and Ψ itself with
    noise on its kernels."""
    batches = [public[i : i + 8].astype(np.float32) / 255 for i in range(0, len(public), 8)]
    z, target = (
        np.concatenate([np.asarray(_called(one.extractor, jnp.asarray(b))) for b in batches])
        for one in (network, other)
    )

    def sibling(i: int, patch: int) -> attacks.Sibling:
        mine = np.arange(STITCHED * i, STITCHED * (i + 1)) % len(z)
        return attacks.sibling(attacks.stitch(z[mine], target[mine], patch=patch), other.server)

    rng = np.random.default_rng(seed)
    outside = {"sibling": sibling(n, 3), "sibling, 1×1": sibling(n + 1, 1)}
    outside |= {f"Ψ ± {share:g}": noisy(network.server, share, rng) for share in NEAR}
    pattern = DEVIATION * rng.normal(size=z.shape[1:]).astype(np.float32)
    return World(
        network,
        attacker,
        jnp.asarray(drawn, jnp.float32) / 255,
        tuple(sibling(i, 3) for i in range(n)),
        outside,
        jnp.asarray(pattern),
    )


def noisy(server: Any, share: float, rng: np.random.Generator) -> Any:
    """A recogniser near to Ψ: Gaussian noise on every kernel, in shares of its deviation."""

    def moved(leaf: Any) -> Any:
        if np.ndim(leaf) < 2:
            return leaf
        return leaf + jnp.asarray(share * np.std(leaf) * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(moved, server)


Embeddings = dict[str, np.ndarray]


class Measured(NamedTuple):
    """Of one stored set: what each reader reads, the picture's likeness, and some pictures."""

    read: Embeddings
    cosine: np.ndarray
    likeness: dict[str, np.ndarray]
    pictures: np.ndarray
    decoys: np.ndarray | None


def measured(
    world: World,
    case: Case | None,
    defense: Defense,
    images: np.ndarray,
    *,
    epsilon: float | None,
    batch: int,
    seed: int,
    progress: Callable[[int], None],
) -> Measured:
    """Protects (n,160,160,3) uint8 by ``defense`` and reads everything off what is stored."""
    mesh = sharding.across(batch)
    root, parts = jax.random.key(seed), []
    world, defense = sharding.replicate((world, defense), mesh)
    for real, chosen in _batches(len(images), batch):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(root, chosen.astype(np.uint32))
        mask = (np.arange(batch) < real).astype(np.float32)
        pixels, keys, mask = sharding.split((images[chosen], keys, mask), mesh)
        x = jnp.asarray(pixels, jnp.float32) / 255
        z = _called(world.network.extractor, x)
        stored = defense(z, key=keys, epsilon=epsilon, mask=mask)
        decoy = decoys.start(defense, keys) if case else None
        own = decoys.recogniser(defense) if case else world.network.server
        read = {
            name: np.asarray(_read(reader, seen))
            for name, reader, seen in readings(world, case, own, stored, decoy)
        }
        picture = _called(world.attacker, stored)
        nobody = None if case is None else decoys.pictures(defense, keys)
        like = {"ssim": metrics.ssim(picture, x), "psnr": metrics.psnr(picture, x)}
        if nobody is not None:
            like["ssim_decoy"] = metrics.ssim(picture, nobody)
        cosine = np.sum(read["recogniser"] * np.asarray(_read(own, z)), -1)
        shown = [None if p is None else np.asarray(p) for p in (picture, nobody)]
        some = {k: np.asarray(v)[:real] for k, v in like.items()}
        parts.append(({k: v[:real] for k, v in read.items()}, cosine[:real], some, shown))
        progress(real)
    first = parts[0][3]
    return Measured(
        {k: np.concatenate([p[0][k] for p in parts]) for k in parts[0][0]},
        np.concatenate([p[1] for p in parts]),
        {k: np.concatenate([p[2][k] for p in parts]) for k in parts[0][2]},
        np.round(first[0] * 255).astype(np.uint8),
        None if first[1] is None else np.round(first[1] * 255).astype(np.uint8),
    )


def readings(
    world: World, case: Case | None, own: Any, stored: jax.Array, decoy: jax.Array | None
) -> Iterator[tuple[str, Any, jax.Array]]:
    """(name, recogniser, what it is shown) for everyone who reads what is stored."""
    yield "recogniser", own, stored
    if case is None or case.shadows:
        yield "shadow", world.shadows[0], stored
    for name, reader in world.outside.items():
        yield name, reader, stored
    attacker = world.outside["sibling"]
    estimate = _called(world.network.extractor, _called(world.attacker, stored))
    for k in AMPLIFIED[:2]:
        yield f"decoy estimated ×{k:g}", attacker, _amplified(stored, estimate, k)
    if decoy is None:
        return
    public = world.network.server
    for k in AMPLIFIED:
        louder = _amplified(stored, decoy, k)
        yield f"decoy known ×{k:g}", attacker, louder
        if case and case.key:
            yield f"Ψ, decoy known ×{k:g}", public, louder
    if case and case.key:
        yield "Ψ", public, stored
        for i in range(FOREIGN):
            pattern = DEVIATION * jax.random.normal(jax.random.key(1000 + i), stored.shape[1:])
            yield f"foreign {i}", keyed(public, pattern), stored


def known(world: World, images: np.ndarray, batch: int) -> Embeddings:
    """What each reader makes of undefended photographs."""
    mesh = sharding.across(batch)
    world = sharding.replicate(world, mesh)
    readers = {
        "recogniser": world.network.server,
        "private": Keyed(world.network.server, world.pattern),
        "shadow": world.shadows[0],
        **world.outside,
    }
    parts = []
    for real, chosen in _batches(len(images), batch):
        pixels = sharding.split(images[chosen], mesh)
        z = _called(world.network.extractor, jnp.asarray(pixels, jnp.float32) / 255)
        parts.append({name: np.asarray(_read(one, z))[:real] for name, one in readers.items()})
    return {name: np.concatenate([part[name] for part in parts]) for name in readers}


def _batches(n: int, batch: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, n, batch):
        real = min(batch, n - start)
        yield real, np.resize(np.arange(start, start + real), batch)  # padding repeats


def _amplified(stored: jax.Array, decoy: jax.Array, k: float) -> jax.Array:
    return jnp.maximum(decoy + k * (stored - decoy), 0)


@jax.jit
def _called(network: Any, x: jax.Array) -> jax.Array:
    return network(x)


@jax.jit
def _read(reader: Any, z: jax.Array) -> jax.Array:
    return networks.Normalised(reader)(z)
