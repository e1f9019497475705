"""How well a recogniser tells people apart: a check of converted weights and of shared features.

    python -m experiments.verify --weights facenet-128 --preset paper
    python -m experiments.verify --faces agedb_30.bin
    python -m experiments.verify --faces FOLDER_OF_FEATURES

Writes verify.json and verify.md into --out.
"""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import advface_jax
from advface_jax import cli, data, metrics
from experiments.measure import decoders, inputs
from experiments.measure.sample import OfSample, Sample
from experiments.measure.table import Spent, Table, publish


def main(
    sample: OfSample, flip: bool = False, resize: bool = False, trained_on: Path | None = None
) -> None:
    """Ten-fold verification accuracy of FaceNet weights on faces, or on shared features.

    Shared features are a folder that `python -m advface_jax features` wrote, given as --faces.

    Args:
      flip: Embed each picture and its mirror image; their normalised sum is the embedding.
      resize: Take square pictures of other sizes too; packs of insightface always are.
      trained_on: The people in the training of the weights: NAME.identities of train_decoder, or a
        list with columns file and identity.
    """
    sample.check()
    cli.present(trained_on=trained_on)
    cli.loading(sample.weights, "faces")
    system = advface_jax.load(sample.weights)
    given = _inputs(system, sample, resize)
    publish(table(system, given, sample, flip, trained_on), sample.out)


def table(
    system: advface_jax.System,
    given: tuple[data.Faces | data.FeatureSet, data.Pairs, dict[str, Any]],
    sample: Sample,
    flip: bool = False,
    trained_on: Path | None = None,
) -> Table:
    """One row; arguments as for ``main``."""
    began = time.monotonic()
    crops, over, origin = given
    shared: dict[str, Any] = {}
    if isinstance(crops, data.FeatureSet):
        if flip or trained_on:
            raise ValueError(
                f"{crops.folder} holds features: they cannot be mirrored, and have no people's "
                "names; give neither --flip nor --trained-on"
            )
    elif trained_on:
        if not trained_on.is_file():
            raise ValueError(f"{trained_on} does not exist: give NAME.identities, or a listing")
        shared = inputs.seen_in_training({"the recogniser": trained_on}, crops, sample.on_leak)
    embeddings = _embeddings(system, crops, sample.batch, flip)
    distances = metrics.squared_distance(embeddings[over.left], embeddings[over.right])
    verified = metrics.ten_fold_accuracy(distances, over.same, over.fold)
    row = {
        "method": "AdvFace" if isinstance(crops, data.FeatureSet) else "Unprotected",
        "weights": system.card["source"],
        "epsilon": origin.get("epsilon"),
        **dict.fromkeys(("ssim", "psnr", "mse", "srra")),  # nothing is reconstructed here
        "acc": verified.accuracy,
        "acc_std_of_folds": verified.std,
        "threshold": verified.threshold,
        "set": origin.get("set"),
        "n": len(crops),
        "pairs": len(over),
    }
    cells = [
        row["weights"],
        f"{100 * verified.accuracy:.2f} ± {100 * verified.std:.2f}",
        f"{verified.threshold:.2f}",
        f"{len(over):,}",
        f"{len(crops):,}",
    ]
    return Table(
        "verify",
        "How well a recogniser tells people apart",
        [row],
        ("weights", "ACC %", "threshold", "pairs", "faces"),
        [cells],
        {**origin, "flip": flip, **decoders.of_system(system)},
        notes={"seen_in_training": shared},
        spent=Spent(0.0, time.monotonic() - began),
        remarks=("ACC ±: the standard deviation over the folds.",),
        caption="Verification",
    )


def _inputs(
    system: advface_jax.System, sample: Sample, resize: bool
) -> tuple[data.Faces | data.FeatureSet, data.Pairs, dict[str, Any]]:
    faces, pairs = sample.faces, sample.pairs
    if faces is None or not (Path(faces) / "card.json").is_file():
        return sample.read(resize)
    found = data.open_features(faces)
    asked = ("weights", "weights_sha256", "epsilon", "steps", "alpha", "dtype", "shadow_sha256")
    if lacking := [k for k in asked if k not in found.card]:
        raise ValueError(f"the card of {faces} lacks {', '.join(lacking)}: copy the set again")
    if found.card["weights_sha256"] != system.features_sha256:
        raise ValueError(
            f"{faces} holds features of {found.card['weights']}; these weights are "
            f"{system.card['source']}: give --weights {found.card['weights']}"
        )
    if pairs is not None:
        named = data.subset(data.read_pairs(pairs), sample.limit)
        over = inputs.indexed(named, found, sample.missing)
    elif found.identities:
        over = inputs.draw(found, sample.limit, sample.seed)
    else:
        raise ValueError(f"{faces} was written without labels: no pairs can be drawn from it")
    card = {k: found.card[k] for k in asked[2:]}
    origin = {
        "features": Path(faces).name,
        "pairs": str(pairs and pairs.name),
        "seed": sample.seed,
        **inputs.dropped(over, sample.missing),
        **card,
    }
    return found, over, origin


@jax.jit
def _recognise(network: Any, z: jax.Array) -> jax.Array:
    return network.server(z)


def _embeddings(
    system: advface_jax.System, crops: data.Faces | data.FeatureSet, batch: int, flip: bool
) -> np.ndarray:
    """Ψ(E(x)), or Ψ(z_adv) of shared features: L2-normalised (n,e)."""
    parts = []
    with cli.bar("faces") as bar:
        task = bar.add_task("recognise", total=len(crops), note="")
        for one in data.batches(crops, batch=batch, workers=0):
            if one.refused:
                raise ValueError(f"face {one.refused[0][0]} is unreadable: {one.refused[0][1]}")
            if isinstance(crops, data.FeatureSet):
                e = np.asarray(_recognise(system.network, one.values))
            else:
                images = one.values.astype(np.float32) / 255
                e = system.embed(images, batch=batch)
                if flip:
                    e = e + system.embed(images[:, :, ::-1], batch=batch)
                    e /= np.linalg.norm(e, axis=1, keepdims=True)
            parts.append(e[one.mask])
            bar.update(task, advance=int(one.mask.sum()))
    return np.concatenate(parts)


if __name__ == "__main__":
    cli.start(main, "experiments.verify")
