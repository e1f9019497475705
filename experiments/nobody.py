"""How good the synthetic faces are: detected, told apart, like photographs, and like no real face.

    export ADVFACE_DATA=FOLDER          # real faces
    python -m experiments.nobody
    python -m experiments.nobody --select 64

The first judges the shipped faces and writes nobody.json and nobody.md into --out. The second
chooses the people anew before that, into the package's own list (in a clone).
"""

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import checks, cli, data, detection, metrics
from advface_jax.data.drawn import faces as synthetic
from advface_jax.models import facenet
from experiments.measure import results_file
from experiments.measure.kept import keep_arrays, kept_arrays
from experiments.measure.table import Spent, Table, publish

FAR = 1e-3
ALIKE = 0.9
PICTURES = 4  # of each person, vetted and shipped
SETS = ("celeba_A_shadow_160", "celeba_B_attack_160")  # what the shipped decoders were trained on


def main(
    out: cli.Out = Path("results"),
    faces: tuple[str, ...] = (),
    listing: tuple[Path, ...] = (),
    lfw: str | None = None,
    weights: str = "facenet-512-q8",
    identities: int = 64,
    seed: int = 0,
    cache: Path = Path("results/embeddings"),
    limit: int | None = None,
    select: int = 0,
    candidates: int = 20_000,
) -> None:
    """Compare the synthetic faces with real ones: detection, accuracy, features, resemblance.

    Args:
      out: Folder for the results.
      faces: The decoders' training sets; by default CelebA A and B in ADVFACE_DATA's folder.
      listing: A tab-separated list for each of them.
      lfw: Other real faces; by default LFW in ADVFACE_DATA's folder.
      weights: The recogniser.
      identities: People of the set that is judged, four pictures each.
      seed: Of the faces and the pairs.
      cache: Folder for the real faces' embeddings, which take minutes.
      limit: Use only the first so many real faces of each set.
      select: Choose so many people first, and write them into the package's list.
      candidates: How many random people are tried for that.
    """
    began = time.monotonic()
    checks.positive(identities=identities, candidates=candidates)
    faces, listing, lfw = _places(faces, listing, lfw)
    if limit is not None:
        checks.positive(limit=limit)
    cli.folder(out)
    for place in faces:
        cli.present(faces=place)
    for place in listing:
        cli.present(listing=place)
    cli.present(lfw=lfw)
    cli.loading(weights)
    system = advface_jax.load(weights)
    real, others = read(faces, listing, limit), read((lfw,), (), limit)
    known = embed(system, real, cache / "training")
    outside = embed(system, others, cache / "evaluation")
    thresholds = {"evaluation": threshold(outside, others.identities)}
    thresholds["training"] = threshold(known, real.identities)
    if select:
        choose(system, known, thresholds, select, candidates)
    people = data.synthetic_faces(identities, PICTURES, seed)
    rows = judge(system, people, known, thresholds["evaluation"], others, seed)
    header = ("criterion", "measured", "wanted", "holds")
    config = {"weights": system.card["source"], "identities": identities, "seed": seed}
    config |= {"limit": limit, "thresholds": thresholds, "faces": [Path(f).name for f in faces]}
    table = Table(
        name="nobody",
        title="Synthetic faces against real ones",
        rows=rows,
        header=header,
        lines=[[row[key] for key in header] for row in rows],
        settings=config,
        notes={},
        spent=Spent(0, time.monotonic() - began),
        caption="Synthetic faces against real ones",
    )
    publish(table, out)


def _places(
    faces: tuple[str, ...], listing: tuple[Path, ...], lfw: str | None
) -> tuple[tuple[str, ...], tuple[Path, ...], str]:
    if place := os.environ.get("ADVFACE_DATA"):
        if not faces:
            faces = tuple(str(Path(place) / "faces" / f"{name}.zip") for name in SETS)
            listing = tuple(Path(place) / "lists" / f"{name}.tsv" for name in SETS)
        lfw = lfw or str(Path(place) / "faces" / "lfw_pairs_160.zip")
    if not faces or lfw is None:
        raise ValueError(
            "got no real faces; wanted the training sets (--faces, --listing) and others (--lfw), "
            "or ADVFACE_DATA to name a folder with faces/ and lists/ as CONTRIBUTING.md says"
        )
    return faces, listing, lfw


def read(faces: tuple[str, ...], listing: tuple[Path, ...], limit: int | None) -> data.Faces:
    """Several sets as one; ValueError unless there is a list for each set, or none."""
    if listing and len(listing) != len(faces):
        raise ValueError(f"got {len(listing)} listings for {len(faces)} sets; wanted one for each")
    places = zip(faces, listing or (None,) * len(faces), strict=True)
    sets = [data.read_faces(place, listing=rows, limit=limit) for place, rows in places]
    return data.Faces(
        tuple(f"{i}/{name}" for i, s in enumerate(sets) for name in s.names),
        tuple(who for s in sets for who in s.identities),
        np.concatenate([s.images for s in sets]),
    )


def embed(system: advface_jax.System, crops: data.Faces, out: Path) -> np.ndarray:
    """The embeddings of all faces (n,e), kept in ``out`` for the next run."""
    place = out / "embeddings.npz"
    of = hashlib.sha256(str(system.card["sha256"]).encode() + crops.images.tobytes()).hexdigest()
    kept = kept_arrays(place, ("of", "embeddings"))
    if kept is not None and str(kept["of"]) == of:
        return kept["embeddings"]
    parts = []
    with cli.bar("faces") as bar:
        task = bar.add_task("embedding", total=len(crops), note="")
        for i in range(0, len(crops), 64):
            parts.append(system.embed(crops.images[i : i + 64] / np.float32(255), batch=64))
            bar.advance(task, len(parts[-1]))
    out.mkdir(parents=True, exist_ok=True)
    embeddings = np.concatenate(parts)
    keep_arrays(place, {"of": np.array(of), "embeddings": embeddings})
    return embeddings


def threshold(embeddings: np.ndarray, identities: tuple[str, ...]) -> float:
    """The cosine that a share FAR of all pairs of pictures of different people exceed."""
    _, who = np.unique(np.array(identities), return_inverse=True)
    counts = np.zeros(40_001, np.int64)  # from -1 to 1 by 5e-5: 30 million pairs in little memory
    for start in range(0, len(who), 512):
        rows = slice(start, start + 512)
        cosines = embeddings[rows] @ embeddings[start:].T
        later = np.arange(cosines.shape[1])[None] > np.arange(cosines.shape[0])[:, None]
        different = cosines[later & (who[rows, None] != who[None, start:])]
        bins = np.floor((np.clip(different, -1, 1) + 1) * 20_000).astype(np.int64)
        counts += np.bincount(bins, minlength=len(counts))
    if not counts.sum():
        raise ValueError("got real faces of one person; wanted two people or more to compare")
    above = counts[::-1].cumsum()[::-1]  # pairs at this bin or higher
    at = int(np.argmax(above <= FAR * counts.sum()))
    return round(at / 20_000 - 1, 5)


def choose(
    system: advface_jax.System,
    known: np.ndarray,
    thresholds: dict[str, float],
    count: int,
    candidates: int,
) -> None:
    """Write the first ``count`` people who resemble none of ``known`` into the package's list.

    All four pictures must stay below the stricter of the thresholds, and the cosine of two people's
    mean embeddings below ALIKE, so that the people differ.
    """
    limit = min(thresholds.values()) - 0.01  # other machines round otherwise
    chosen: dict[int, np.ndarray] = {}
    looked = 0
    with cli.bar("people") as bar:
        task = bar.add_task("choosing", total=count, note="")
        for start in range(0, candidates, 16):
            block = range(start, min(start + 16, candidates))
            looked += len(block)
            # one picture of each first: most people fail there
            first = _embed(system, synthetic.draw(0, [(person, 0) for person in block]))
            left = [k for k in range(len(block)) if (first[k] @ known.T).max() <= limit]
            if not left:
                continue
            shots = [(block[k], j) for k in left for j in range(1, PICTURES)]
            rest = _embed(system, synthetic.draw(0, shots)).reshape(len(left), PICTURES - 1, -1)
            for k, others in zip(left, rest, strict=True):
                mean = first[k] + others.sum(0)
                mean /= np.linalg.norm(mean)
                twins = any(mean @ other > ALIKE for other in chosen.values())
                if len(chosen) < count and not twins and (others @ known.T).max() <= limit:
                    chosen[block[k]] = mean
            bar.update(task, completed=len(chosen), note=f"of {looked} looked at")
            if len(chosen) == count:
                break
    if len(chosen) < count:
        raise ValueError(
            f"got {len(chosen)} of {looked} random people who resemble nobody; wanted {count}: "
            "give more --candidates"
        )
    how = {
        "command": cli.command("experiments.nobody"),
        "looked_at": looked,
        "pictures": PICTURES,
        "largest_cosine_allowed": limit,
        "thresholds_at_far": {"far": FAR, **thresholds},
        "largest_cosine_between_people": ALIKE,
        "training_pictures": len(known),
        "weights": system.card["source"],
    }
    how |= results_file.surroundings()
    text = json.dumps({"people": list(chosen), "people_chosen": how}, indent=2)
    synthetic.VETTED.write_text(text + "\n", encoding="utf-8")
    synthetic._vetted.cache_clear()


def _embed(system: advface_jax.System, pixels: np.ndarray) -> np.ndarray:
    """Embeddings (n,e) of uint8 pictures, by one program for every n."""
    parts = []
    for start in range(0, len(pixels), 16):
        some = pixels[start : start + 16]
        full = np.resize(some, (16, *some.shape[1:])) / np.float32(255)
        parts.append(system.embed(full, batch=16)[: len(some)])
    return np.concatenate(parts)


@jax.jit
def _sums(pixels: jax.Array, extractor: facenet.Extractor) -> jax.Array:
    z = extractor(pixels.astype(jnp.float32) / 255)
    return jnp.stack([z.mean(), (z**2).mean(), (z == 0).astype(jnp.float32).mean()])


def moments(system: advface_jax.System, crops: data.Faces, step: int = 1) -> dict[str, float]:
    """Mean, deviation and share of zeros of E's features of every ``step``-th crop, by 16."""
    rows = np.arange(0, len(crops), step)
    rows = rows[: max(len(rows) // 16 * 16, 1)]
    batches = (crops.batch(rows[i : i + 16]) for i in range(0, len(rows), 16))
    sums = [np.asarray(_sums(batch, system.extractor), np.float64) for batch in batches]
    mean, square, zeros = np.mean(sums, 0)
    return {"mean": float(mean), "std": float(np.sqrt(square - mean**2)), "zeros": float(zeros)}


def judge(
    system: advface_jax.System,
    people: data.Faces,
    known: np.ndarray,
    limit: float,
    others: data.Faces,
    seed: int,
) -> list[dict[str, Any]]:
    """One row a criterion: measured, wanted, whether it holds, and the numbers."""
    found = float(np.mean([len(detection.detect(image)) > 0 for image in people.images]))
    e = _embed(system, people.images)
    pairs = data.make_pairs(people, folds=10, seed=seed)
    apart = metrics.squared_distance(e[pairs.left], e[pairs.right])
    accuracy = metrics.ten_fold_accuracy(apart, pairs.same, pairs.fold).accuracy
    nearest = (e @ known.T).max(1)
    over = int((nearest > limit).sum())
    ours, real = moments(system, people), moments(system, others, step=max(len(others) // 2000, 1))
    name = f"FaceNet's accuracy, {len(pairs):,} pairs"
    like = f"pictures like one of {len(known):,} trained on, FAR {FAR:g}"
    cosines = f"cosine ≤ {nearest.max():.3f}, median {np.median(nearest):.3f}"
    return [
        _row("pictures", len(people), 256, None, f"{len(people)}", "≥ 256"),
        _row("found by MTCNN", found, 0.95, None, f"{found:.1%}", "≥ 95%"),
        _row(name, accuracy, 0.85, 0.999, f"{accuracy:.2%}", "85% to 99.9%"),
        *(
            _row(f"E's features: {k}", a, 0.8 * b, 1.2 * b, f"{a:.3f}", f"{b:.3f} ± 20%")
            for (k, a), b in zip(ours.items(), real.values(), strict=True)
        ),
        _row(like, over, None, 0, f"{over} ({cosines})", f"0 above {limit:.3f}"),
    ]


def _row(
    name: str, value: float, low: float | None, high: float | None, measured: str, wanted: str
) -> dict[str, Any]:
    holds = (low is None or value >= low) and (high is None or value <= high)
    row = {"criterion": name, "measured": measured, "wanted": wanted}
    numbers = {"value": float(value), "low": low, "high": high}
    return row | {"holds": "yes" if holds else "no"} | numbers


if __name__ == "__main__":
    cli.start(main, "experiments.nobody")
