"""How well a recogniser tells people apart, unprotected: the check of converted weights.

    python -m experiments.verify --weights facenet-128 --preset paper

Writes verify.json and verify.md into --out.
"""

import time
from pathlib import Path

import numpy as np

import advface_jax
from advface_jax import checks, cli, metrics
from experiments import common, inputs


def main(
    preset: inputs.Preset = "demo",
    out: Path = Path("results"),
    weights: str = "facenet-512-q8",
    faces: str | None = None,
    listing: Path | None = None,
    pairs: Path | None = None,
    batch: int = 32,
    limit: int | None = None,
    seed: int = 0,
) -> None:
    """Ten-fold verification accuracy of FaceNet weights, nothing protected.

    Args:
      preset: demo: 48 embedded faces of nobody. paper: LFW's pairs from --faces and --pairs, or
        from the folder that the variable ADVFACE_DATA names.
      out: Folder for the results.
      weights: facenet-512-q8, facenet-128, another known name, or a folder of weights_convert.
      faces: Folder or zip of 160×160 crops as identity/image.jpg, or 'synthetic'.
      listing: Tab-separated list of the faces, with columns file and identity.
      pairs: LFW's pairs.txt, or a tab-separated list (fold, same, file1, file2).
      batch: Faces at a time.
      limit: At most so many pairs, as many same as different from every fold.
      seed: Of the pairs that are drawn where none are given.
    """
    began = time.monotonic()
    checks.positive(batch=batch)
    system = advface_jax.load(weights)
    crops, over, origin = inputs.read(preset, faces, listing, pairs, limit, seed)
    parts = []
    with cli.bar("faces") as bar:
        task = bar.add_task("recognise", total=len(crops), note="")
        for start in range(0, len(crops), batch):
            pixels = crops.images[start : start + batch]
            # The last, smaller batch is filled up, so that one program serves all.
            full = np.resize(pixels, (batch, *pixels.shape[1:])).astype(np.float32) / 255
            parts.append(system.embed(full, batch=batch)[: len(pixels)])
            bar.update(task, advance=len(pixels))
    embeddings = np.concatenate(parts)
    distances = metrics.squared_distance(embeddings[over.left], embeddings[over.right])
    verified = metrics.ten_fold_accuracy(distances, over.same, over.fold)
    row = {
        "method": "Unprotected",
        "weights": system.card["source"],
        "epsilon": None,
        **dict.fromkeys(("ssim", "psnr", "mse", "srra")),  # nothing is reconstructed here
        "acc": verified.accuracy,
        "acc_std_of_folds": verified.std,
        "threshold": verified.threshold,
        "n": len(crops),
        "pairs": len(over),
    }
    seconds = time.monotonic() - began
    config = {**origin, "weights": system.card["source"], "weights_sha256": system.card["sha256"]}
    cells = [
        row["weights"],
        f"{100 * verified.accuracy:.2f} ± {100 * verified.std:.2f}",
        f"{verified.threshold:.2f}",
        f"{len(over):,}",
        f"{len(crops):,}",
    ]
    text = common.markdown(("weights", "ACC %", "threshold", "pairs", "faces"), [cells])
    where = common.surroundings()
    call = cli.command("experiments.verify")
    text += f"\n\n`{call}`\n{where['hardware']}, {seconds / 60:.1f} min, {where['date']}."
    common.write_results(
        out, "verify", [row], command=call, config=config, seconds=seconds, text=text
    )
    cli.answer.print(
        f"{cells[0]}: {cells[1]} % on {cells[3]} pairs; written: {out / 'verify.json'}, "
        f"{out / 'verify.md'}"
    )


if __name__ == "__main__":
    cli.start(main, "experiments.verify")
