"""Measures a protection over faces, batch by batch: what the attacker sees, what is recognised."""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advface_jax import checks, cli, metrics, sharding
from advface_jax.data import Faces
from advface_jax.models.facenet import IMAGE_SIZE
from experiments.measure.kept import Arrays, Batch, folder_of, kept

FACES = {
    "ssim": 2,
    "psnr": 2,
    "mse": 2,
    "stored": 1,
    "replayed": 2,
    "diagnosed": 2,
}  # which axis counts faces


class Judged(NamedTuple):
    """What attackers and recogniser make of stored items, by condition c, attacker a, face n."""

    ssim: np.ndarray  # (c, a, n) of the attacker's picture
    psnr: np.ndarray  # (c, a, n) dB
    mse: np.ndarray  # (c, a, n)
    stored: np.ndarray  # (c, n, e) Ψ(z'): what recognition compares
    replayed: np.ndarray  # (c, a, n, e) Ψ(E(R(z'))): an attacker shows its picture to the client
    diagnosed: np.ndarray  # (c, k, n) k numbers of the subject's diagnose


class Measured(NamedTuple):
    """All faces judged, the first batch's pictures, and the time that it took."""

    judged: Judged
    pictures: np.ndarray  # (c, a, batch, 160, 160, 3) uint8
    earlier: float  # seconds of the batches kept from earlier sittings
    rate: float  # faces a second, of the median whole batch: compiling is left out
    folder: Path  # where the batches were kept: ``discard`` it once the results are written


Store = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(item (b,…), keys (b,), mask (b,)) -> what is stored in each condition, (c,b,*stored)."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Subject:
    """What is measured.

    Every callable is a pytree (an nnx module, a ``Defense``, a registered dataclass): its arrays
    are arguments of the compiled program, its static fields hashable.

    Attributes:
      client: images (b,160,160,3) in [0,1] -> the item that the defence takes.
      store: the item -> what is stored, all conditions stacked.
      attackers: each what is stored (b,*stored) -> its picture (b,160,160,3). Without any,
        recognition alone is measured.
      recognise: what is stored, and the images -> embeddings (b,e). The images are for a client
        that keeps a share of its own; others ignore them.
      replay: images -> embeddings (b,e) of what is shown to the client.
      unprotected: whether the item itself, stored as it is, comes first, as condition 0.
      image_size: the side of the images that ``client`` takes; the crops are resized to it.
      diagnose: the item, all that is stored (c,b,*stored) and the mask (b,) -> (c,k,b), any k
        numbers about each stored item; or None.
    """

    client: Callable[[jax.Array], jax.Array]
    store: Store
    attackers: tuple[Callable[[jax.Array], jax.Array], ...]
    recognise: Callable[[jax.Array, jax.Array], jax.Array]
    replay: Callable[[jax.Array], jax.Array]
    unprotected: bool = dataclasses.field(default=True, metadata={"static": True})
    image_size: int = dataclasses.field(default=IMAGE_SIZE, metadata={"static": True})
    diagnose: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Servers:
    """One Ψ or several over the same stored features, side by side: (b, e1 + e2 + …)."""

    servers: tuple[Callable[[jax.Array], jax.Array], ...]

    def __call__(self, stored: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.concatenate([server(stored) for server in self.servers], -1)


def of_features(
    network: Any,
    store: Store,
    attackers: Sequence[Callable[[jax.Array], jax.Array]],
    image_size: int = IMAGE_SIZE,
    private: Any = None,
) -> Subject:
    """A defence of E's features: E at the client, Ψ (or a ``private`` recogniser) at the server,
    and the same after E on what is shown."""
    server = Servers((private or network.server,))
    replay = Replay(network.extractor, server)
    return Subject(
        network.extractor, store, tuple(attackers), server, replay, image_size=image_size
    )


def sized(images: jax.Array, size: int) -> jax.Array:
    """Images (b,s,s,3) at the size that a recogniser takes."""
    if images.shape[1] == size:
        return images
    return jax.image.resize(images, (len(images), size, size, 3), "linear")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Replay:
    """What is shown to the client, all the way: Ψ(E(·))."""

    client: Callable[[jax.Array], jax.Array]
    recognise: Callable[[jax.Array, jax.Array], jax.Array]

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.recognise(self.client(images), images)


@jax.jit
def judge_batch(
    pixels: jax.Array, mask: jax.Array, keys: jax.Array, subject: Subject
) -> tuple[Judged, jax.Array]:
    """One batch (b,160,160,3) uint8 through every condition, and every attacker's pictures
    (c,a,b,160,160,3) uint8. Conditions go one by one: memory does not grow with their number."""
    images = sized(pixels.astype(jnp.float32) / 255, subject.image_size)
    item = subject.client(images)
    stored = subject.store(item, keys, mask).astype(jnp.float32)
    if subject.unprotected:
        stored = jnp.concatenate([item[None], stored])

    if subject.diagnose:
        diagnosed = subject.diagnose(item, stored, mask)  # (c, k, b)
    else:
        diagnosed = jnp.zeros((len(stored), 0, len(images)))

    def judge(condition: tuple[jax.Array, jax.Array]):
        stored, diagnosed = condition
        known = subject.recognise(stored, images)  # (b, e)
        none = jnp.zeros((0, len(images)))
        measures = [none, none, none, jnp.zeros((0, *known.shape))]
        pictures = jnp.zeros((0, *images.shape))
        if subject.attackers:
            pictures = jnp.stack([attacker(stored) for attacker in subject.attackers])
            # One by one, so that the recogniser stands once in the program for all attackers.
            measures = lax.map(lambda p: _seen(p, images, subject.replay), pictures)
        *like, replayed = measures
        judged = Judged(*like, known, replayed, diagnosed)  # type: ignore[arg-type]
        return judged, jnp.round(pictures * 255).astype(jnp.uint8)

    return lax.map(judge, (stored, diagnosed))


def _seen(picture: jax.Array, images: jax.Array, replay: Callable[[jax.Array], jax.Array]):
    like = (f(picture, images) for f in (metrics.ssim, metrics.psnr, metrics.mse))
    return *like, replay(picture)


def judge(
    faces: Faces,
    subject: Subject,
    *,
    batch: int,
    seed: int = 0,
    keep: Path,
    settings: dict[str, Any],
    progress: Callable[[int], None] = lambda n: None,
    first: Callable[[Judged, np.ndarray], None] = lambda judged, pictures: None,
) -> Measured:
    """Judges all faces, in batches of ``batch`` that lie across all devices.

    ``first`` gets the first batch with its pictures as soon as it is there.

    Each finished batch is kept in the folder ``keep``, so that a run with the same ``settings``
    resumes; a second process of the same run is refused. A face's key is derived from ``seed`` and
    its number, whatever its batch.
    """
    checks.positive(batch=batch)
    mesh = sharding.across(batch)
    subject = sharding.replicate(subject, mesh)

    def make(one: Batch) -> Arrays:
        keys = keys_of(seed, one.chosen)
        given = sharding.split((faces.batch(one.chosen), one.mask, keys), mesh)
        judged, seen = judge_batch(*given, subject)
        found = {
            name: np.asarray(array).take(range(one.real), FACES[name])
            for name, array in judged._asdict().items()
        }
        shown = {} if one.start else {"pictures": np.asarray(seen)[:, :, : one.real]}
        return found | shown

    def advance(one: Batch, arrays: Arrays) -> None:
        progress(one.real)
        if not one.start:
            first(_judged([arrays]), arrays["pictures"])

    folder = folder_of(keep, settings)
    found = kept(folder, len(faces), batch, Judged._fields, make, advance, first=("pictures",))
    rate = min(batch, len(faces)) / max(float(np.median(found.seconds)), 1e-9)
    pictures = found.parts[0]["pictures"]
    return Measured(_judged(found.parts), pictures, found.earlier, rate, folder)


def _judged(parts: Sequence[Arrays]) -> Judged:
    """The batches in one."""
    return Judged(
        **{k: np.concatenate([part[k] for part in parts], axis) for k, axis in FACES.items()}
    )


def measure(faces: Faces, subject: Subject, **how: Any) -> Measured:
    """``judge`` under a progress bar; ``how`` are its keywords."""
    with cli.bar("faces") as bar:
        task = bar.add_task("protect, attack, recognise", total=len(faces), note="compiling")

        def progress(n: int) -> None:
            bar.update(task, advance=n)
            rate = bar.tasks[0].completed / max(bar.tasks[0].elapsed or 0, 1e-9)
            bar.update(task, note=f"{rate:.2f} faces/s")

        return judge(faces, subject, progress=progress, **how)


@contextlib.contextmanager
def exactly(precision: str):
    """In float32 no matrix product is rounded on its way: accelerators would, by default."""
    exact = jax.default_matmul_precision("highest") if precision == "float32" else None
    with exact or contextlib.nullcontext():
        yield


def keys_of(seed: int, items: np.ndarray) -> jax.Array:
    """The keys of items by their numbers (n,)."""
    root = jax.random.key(seed)
    return jax.vmap(jax.random.fold_in, (None, 0))(root, items.astype(np.uint32))
