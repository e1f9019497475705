"""What a stored feature's type costs: size, accuracy and leakage of f32, bf16 and int8.

    python -m experiments.dtypes --limit 60
    python -m experiments.dtypes --preset paper --limit 600 --steps 3

Writes dtypes.json and dtypes.md into --out.
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import cli, metrics
from advface_jax.data import FeatureSet, open_features
from advface_jax.data.feature_sets import encoding, planning, running, writing
from advface_jax.data.feature_sets.shards import Fate
from advface_jax.defenses.defense import EPSILON
from experiments.attack.knowing import of_pixels
from experiments.measure import judging
from experiments.measure.compared import called
from experiments.measure.inputs import Inputs
from experiments.measure.kept import batches
from experiments.measure.results_file import Row
from experiments.measure.sample import Ascent, OfAscent, OfSample, Sample
from experiments.measure.table import Spent, Table, publish

COLUMNS = [
    ("MB / face", "mb", "{:.3f}"),
    ("largest error", "error", "{:.4f}"),
    ("SSIM of R's picture", "ssim", "{:.4f}"),
    ("ACC %", "acc", "{:.2f}"),
]


def main(sample: OfSample, ascent: OfAscent) -> None:
    """Protect every face once with AdvFace at ε = 0.2, store it in each type, and read it back.

    Size is that of the shards, compressed; accuracy has both images of a pair stored; leakage is
    the SSIM of the attacker's picture R(stored). The attacker does not know of the protection.
    Stopped? The same command resumes.
    """
    ascent.config()
    system, given = sample.open()
    publish(table(system, given, sample, ascent), sample.out)


def table(system: advface_jax.System, given: Inputs, sample: Sample, ascent: Ascent) -> Table:
    """The rows, one a type."""
    began = time.monotonic()
    card = {**_ascended(ascent), "weights_sha256": system.features_sha256}
    card["faces_sha256"] = given.origin["faces_sha256"]
    with judging.exactly(ascent.precision):
        exact = _protected(system, given, sample, ascent, card)
    rows = []
    for dtype in encoding.DTYPES:
        out = sample.out / f"set-{dtype}"
        stored = exact if dtype == "f32" else _again(exact, out, dtype, card)
        rows.append({"method": dtype, **_row(system, given, sample.batch, exact, stored)})
    header = ("", *(title for title, _, _ in COLUMNS))
    text = [[row["method"], *(form.format(row[key]) for _, key, form in COLUMNS)] for row in rows]
    settings = {**given.origin, **_ascended(ascent)}
    settings |= {"batch": sample.batch, "weights": sample.weights}
    spent = Spent(0.0, time.monotonic() - began)
    title = "Types of stored features"
    return Table("dtypes", title, rows, header, text, settings, {}, spent, caption=title)


def _ascended(ascent: Ascent) -> dict[str, Any]:
    """What determines the protection, for the card of the set and for the table's settings."""
    numbers = dataclasses.asdict(ascent.config())
    return {"epsilon": EPSILON, **numbers, "precision": ascent.precision}


def _protected(
    system: advface_jax.System,
    given: Inputs,
    sample: Sample,
    ascent: Ascent,
    card: Mapping[str, Any],
) -> FeatureSet:
    config = ascent.config()

    def protect(pixels: np.ndarray, mask: np.ndarray) -> Any:
        z = of_pixels(system.extractor, pixels).astype(ascent.precision)
        parts = {"extractor": system.extractor, "shadow": system.shadow}
        real = mask.astype(np.float32)
        stored = advface_jax.protect(z, epsilon=EPSILON, config=config, mask=real, **parts)
        return stored.astype(jnp.float32)

    options: dict[str, Any] = {"names": True, "dtype": "f32", "seed": sample.seed}
    out = sample.out / "set-f32"
    options |= {"batch": sample.batch, "shard_size": 16 * sample.batch}
    writing.write_features(out, given.faces, protect, card=card, **options)
    return open_features(out)


def _again(exact: FeatureSet, out: Path, dtype: str, card: Mapping[str, Any]) -> FeatureSet:
    """The same set in another type; ``card`` is what was written into the exact one's."""
    kept = ("batch", "labels", "names", "seed", *card)
    settings = {**{k: exact.card[k] for k in kept}, "dtype": dtype}
    out.mkdir(parents=True, exist_ok=True)
    made = planning.begin(out, exact, settings, exact.card["shard_size"], exact.shape)
    if made is not None:

        def step(one, device):
            return np.full(len(one.mask), Fate.KEPT), encoding.encode(one.values, dtype)

        running.run(made, step, made.left())
        planning.finish(made)
    return open_features(out)


def _row(
    system: advface_jax.System, given: Inputs, batch: int, exact: FeatureSet, stored: FeatureSet
) -> Row:
    embeddings, likeness, errors = [], [], []
    n = len(stored)
    for _, few, rows, _ in batches(n, batch):
        z = stored.features(rows)
        errors.append(np.abs(z - exact.features(rows)).max())
        embeddings.append(np.asarray(called(system.server, z))[:few])
        faces = given.faces.batch(rows).astype(np.float32) / 255
        likeness.append(np.asarray(metrics.ssim(called(system.attacker, z), faces))[:few])
    e, pairs = np.concatenate(embeddings), given.pairs
    distances = metrics.squared_distance(e[pairs.left], e[pairs.right])
    judged = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold)
    size = sum(path.stat().st_size for path in stored.folder.glob("*.array_record"))
    return {
        "mb": size / n / 1e6,
        "error": float(max(errors)),
        "ssim": float(np.concatenate(likeness).mean()),
        "acc": 100 * float(judged.accuracy),
        "faces": n,
        "pairs": len(pairs),
    }


if __name__ == "__main__":
    cli.start(main, "experiments.dtypes")
