"""How well a recogniser tells people apart: the check of converted weights, and of shared features.

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
from advface_jax import checks, cli, data, metrics
from experiments.measure import inputs, results_file
from experiments.measure import sample as flags


def main(
    sample: flags.OfSample,
    flip: bool = False,
    resize: bool = False,
    trained_on: Path | None = None,
) -> None:
    """Ten-fold verification accuracy of FaceNet weights on faces, or on shared features.

    Shared features are a folder that `python -m advface_jax features` wrote, given as --faces.

    Args:
      flip: Embed each picture and its mirror image; their normalised sum is the embedding.
      resize: Take square pictures of other sizes too; packs of insightface always are.
      trained_on: Whom the weights saw: NAME.identities of train_decoder, or a list with columns
        file and identity.
    """
    began = time.monotonic()
    checks.positive(batch=sample.batch)
    system = advface_jax.load(sample.weights)
    crops, over, origin = _inputs(system, sample, resize)
    shared: dict[str, Any] = {}
    if isinstance(crops, data.FeatureSet):
        if flip or trained_on:
            raise ValueError(
                f"{sample.faces} holds features: they cannot be mirrored, and name nobody"
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
    seconds = time.monotonic() - began
    config: dict[str, Any] = {
        **origin,
        "flip": flip,
        "weights": system.card["source"],
        "weights_sha256": system.card["sha256"],
    }
    cells = [
        row["weights"],
        f"{100 * verified.accuracy:.2f} ± {100 * verified.std:.2f}",
        f"{verified.threshold:.2f}",
        f"{len(over):,}",
        f"{len(crops):,}",
    ]
    text = results_file.markdown(("weights", "ACC %", "threshold", "pairs", "faces"), [cells])
    where = results_file.surroundings()
    call = cli.command("experiments.verify")
    text += f"\n\n`{call}`\n{where['hardware']}, {seconds / 60:.1f} min, {where['date']}."
    results_file.write_results(
        sample.out,
        "verify",
        [row],
        command=call,
        config=config,
        seconds=seconds,
        notes={"seen_in_training": shared},
        text=text,
    )
    cli.answer.print(
        f"{cells[0]}: {cells[1]} % on {cells[3]} pairs; written: {sample.out / 'verify.json'}, "
        f"{sample.out / 'verify.md'}",
        soft_wrap=True,
    )


def _inputs(
    system: advface_jax.System, sample: flags.Sample, resize: bool
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
        over = data.index_pairs(data.subset(data.read_pairs(pairs), sample.limit), found)
    elif found.identities:
        over = inputs.draw(found, sample.limit, sample.seed)
    else:
        raise ValueError(f"{faces} was written without labels: no pairs can be drawn from it")
    card = {k: found.card[k] for k in asked[2:]}
    told = {
        "features": Path(faces).name,
        "pairs": str(pairs and pairs.name),
        "seed": sample.seed,
        **card,
    }
    return found, over, told


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
                raise ValueError(f"face {one.refused[0][0]} cannot be had: {one.refused[0][1]}")
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
