"""Measure a protection over faces and pairs: what the attacker sees, what recognition keeps."""

import hashlib
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from advface_jax import checks, metrics
from advface_jax.data import Faces, Pairs
from advface_jax.models.decoders import Decoder
from advface_jax.models.facenet import InceptionResNetV1
from experiments.common import Row


class Judged(NamedTuple):
    """What R and Ψ make of stored features, per condition c (unprotected first) and face n."""

    ssim: np.ndarray  # (c, n) of R's picture
    psnr: np.ndarray  # (c, n) dB
    mse: np.ndarray  # (c, n)
    stored: np.ndarray  # (c, n, e) Ψ(z'): what recognition compares
    replayed: np.ndarray  # (c, n, e) Ψ(E(R(z'))): the attacker shows its picture to the client


class Models(NamedTuple):
    """Ψ(E(·)), the server's S, the attacker's R."""

    network: InceptionResNetV1
    shadow: Decoder
    attacker: Decoder


Store = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(z (b,77,77,64), keys (b,), mask (b,)) -> what is stored in each condition, (c,b,77,77,64).

A pytree, whose leaves are arguments of the compiled program and whose static fields are hashable.
"""


@jax.jit
def judge_batch(
    pixels: jax.Array,
    mask: jax.Array,
    keys: jax.Array,
    store: Store,
    network: InceptionResNetV1,
    attacker: Decoder,
) -> tuple[Judged, jax.Array]:
    """One batch (b,160,160,3) uint8 through every condition, and R's pictures (c,b,160,160,3)
    uint8; unprotected comes first, and ``store``'s own conditions after it."""
    images = pixels.astype(jnp.float32) / 255
    z = network.extractor(images)
    protected = store(z, keys, mask).astype(jnp.float32)

    def judge(stored: jax.Array):
        picture = attacker(stored)
        replayed = network.server(network.extractor(picture))
        measures = (f(picture, images) for f in (metrics.ssim, metrics.psnr, metrics.mse))
        judged = Judged(*measures, network.server(stored), replayed)  # type: ignore[arg-type]
        return judged, jnp.round(picture * 255).astype(jnp.uint8)

    return lax.map(judge, jnp.concatenate([z[None], protected]))


def judge(
    faces: Faces,
    store: Store,
    models: Models,
    *,
    batch: int,
    seed: int = 0,
    keep: Path,
    settings: dict[str, Any],
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[Judged, np.ndarray, float]:
    """All faces, in batches of ``batch``; each finished batch is kept in the folder ``keep``, so
    that a run with the same ``settings`` resumes. Also R's pictures of the first batch, and the
    seconds that all batches took, in whichever sitting.

    A face's key comes of ``seed`` and its number: how faces are batched changes no noise.
    """
    checks.positive(batch=batch)
    root = jax.random.key(seed)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = keep / key
    folder.mkdir(parents=True, exist_ok=True)
    parts: list[Judged] = []
    pictures, seconds = np.empty(0), 0.0
    for start in range(0, len(faces), batch):
        file = folder / f"{start:06d}.npz"
        real = min(batch, len(faces) - start)
        kept = _read(file, with_pictures=start == 0)
        if kept is None:
            began = time.monotonic()
            chosen = np.resize(np.arange(start, start + real), batch)  # padding repeats, masked
            mask = (np.arange(batch) < real).astype(np.float32)
            judged, seen = judge_batch(
                faces.batch(chosen),
                mask,
                jax.vmap(jax.random.fold_in, (None, 0))(root, chosen.astype(np.uint32)),
                store,
                models.network,
                models.attacker,
            )
            part = Judged(*(np.asarray(a)[:, :real] for a in judged))
            kept = part._asdict()
            if start == 0:
                kept["pictures"] = np.asarray(seen)[:, :real]
            kept["seconds"] = np.array(time.monotonic() - began)
            _write(file, kept)
        if start == 0:
            pictures = kept.pop("pictures")
        seconds += float(kept.pop("seconds"))
        parts.append(Judged(**kept))
        progress(real)
    joined = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    return Judged(*joined), pictures, seconds


def _write(file: Path, arrays: dict[str, np.ndarray]) -> None:
    unfinished = file.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)  # type: ignore[arg-type]
    unfinished.rename(file)


def _read(file: Path, *, with_pictures: bool) -> dict[str, np.ndarray] | None:
    """A kept batch, or None when it is not there or damaged (it is then measured again)."""
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            wanted = (*Judged._fields, "seconds", *(["pictures"] if with_pictures else []))
            return {name: arrays[name] for name in wanted}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def row(method: str, epsilon: float | None, judged: Judged, condition: int, pairs: Pairs) -> Row:
    """One line of the results: means over faces, ACC and SRRA over pairs.

    ``srra`` is type II: R's picture of one image of a person against the stored feature of
    another, accepted below the threshold that the pairs of this row choose. ``srra_same_image``
    is type I: against the stored feature of the very same image.
    """
    stored, replayed = judged.stored[condition], judged.replayed[condition]
    distances = metrics.squared_distance(stored[pairs.left], stored[pairs.right])
    verified = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold)
    same_image, other_image = replay_distances(stored, replayed, pairs)
    different = distances[~pairs.same]
    thresholds = {
        "": verified.threshold,
        "_far_1e-2": metrics.threshold_at_far(different, 1e-2),
        "_far_1e-3": metrics.threshold_at_far(different, 1e-3),
    }
    faces = judged.ssim.shape[1]
    means = {k: float(getattr(judged, k)[condition].mean()) for k in ("ssim", "psnr", "mse")}
    return {
        "method": method,
        "epsilon": epsilon,
        **means,
        "acc": verified.accuracy,
        "srra": metrics.srra(other_image, verified.threshold),
        "n": faces,
        "pairs": len(pairs),
        "acc_std_of_folds": verified.std,
        "ssim_std_of_faces": float(judged.ssim[condition].std()),
        "threshold": verified.threshold,
        **{f"srra{k}": metrics.srra(other_image, t) for k, t in thresholds.items() if k},
        **{f"srra_same_image{k}": metrics.srra(same_image, t) for k, t in thresholds.items()},
        "cosine_to_unprotected": float((stored * judged.stored[0]).sum(-1).mean()),
    }


def replay_distances(
    stored: np.ndarray, replayed: np.ndarray, pairs: Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances of replayed embeddings to the enrolled: (same image, other image)."""
    left, right = pairs.left[pairs.same], pairs.right[pairs.same]
    other = metrics.squared_distance(
        np.concatenate([replayed[left], replayed[right]]),
        np.concatenate([stored[right], stored[left]]),
    )
    return metrics.squared_distance(replayed, stored), other


def floor(faces: Faces, judged: Judged, network: InceptionResNetV1, pairs: Pairs) -> Row:
    """The mean of the measured faces as everybody's picture: an attacker without any feature.

    A protected picture with a lower SSIM than this is wrecked, which is not yet private.
    """
    mean = (faces.images.mean(0) / 255).astype(np.float32)[None]
    replayed = np.repeat(np.asarray(jax.jit(lambda n, x: n(x))(network, mean)), len(faces), 0)
    stored = judged.stored[0]
    distances = metrics.squared_distance(stored[pairs.left], stored[pairs.right])
    threshold = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold).threshold
    same_image, other_image = replay_distances(stored, replayed, pairs)
    sums = np.zeros(3)
    measure = jax.jit(
        lambda a, b: jnp.stack([f(a, b).sum() for f in (metrics.ssim, metrics.psnr, metrics.mse)])
    )
    for start in range(0, len(faces), 64):
        some = (faces.images[start : start + 64] / 255).astype(np.float32)
        sums += np.asarray(measure(np.repeat(mean, len(some), 0), some))
    ssim, psnr, mse = (sums / len(faces)).tolist()
    return {
        "method": "Mean face (floor)",
        "epsilon": None,
        "ssim": ssim,
        "psnr": psnr,
        "mse": mse,
        "acc": None,
        "srra": metrics.srra(other_image, threshold),
        "n": len(faces),
        "pairs": len(pairs),
        "srra_same_image": metrics.srra(same_image, threshold),
    }
