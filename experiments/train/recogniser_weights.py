"""What fine-tuning leaves: weights that ``advface_jax.load`` reads, their card, the results."""

import datetime
import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np

import advface_jax
from advface_jax import checkpoint, cli
from advface_jax.data import leaks
from advface_jax.models import state
from experiments.measure.results_file import surroundings
from experiments.measure.table import Column
from experiments.train.recogniser import RecogniserTraining

COLUMNS = [
    Column("ACC %", "acc", 100),
    Column("separation", "separation", digits=3),
    Column("pairs", "pairs", digits=0),
]


def write(run: RecogniserTraining, system: advface_jax.System) -> None:
    """Write the weights trained from ``system``'s with their card, finetune.json and .md, and the
    fingerprints of the people in the training."""
    out, pupils, learner, network = run.out, run.pupils, run.learner, system.network
    network.server = learner.server  # type: ignore[assignment]
    if learner.extractor is not None:
        network.extractor = learner.extractor
    arrays = {
        name: np.asarray(value)
        for name, value in state.flatten(network).items()
        if not name.startswith("logits.")  # the people of the old classifier
    }
    before, after = run.quality[0], run.quality[-1]
    card = {
        "source": out.name,
        "kind": "fine-tuned",
        "sha256": weights_sum(arrays),
        "date": datetime.date.today().isoformat(),
        **{k: getattr(network.config, k) for k in ("embedding_size", "standardization", "folded")},
        "classes": None,
        "base": {k: system.card[k] for k in ("source", "sha256")},
        # E is that of the base: its decoders and feature sets fit these weights.
        **({"features_sha256": system.features_sha256} if learner.extractor is None else {}),
        "training": run.settings,
        "held_out": {"before": before, "after": after},
        "seconds": round(run.seconds),
        "command": cli.command("experiments.finetune"),
        **surroundings(),
    }
    leaks.write_identities(out / "weights.identities", pupils.training.identities)
    publish(out, arrays, card)
    rows = [
        {
            "method": f"held-out people, {when}",
            **dict.fromkeys(("epsilon", "ssim", "psnr", "mse", "srra")),
            "n": len(pupils.held),
            **{k: quality[k] for k in ("acc", "pairs", "separation")},
        }
        for when, quality in (("before", before), ("after", after))
    ]
    remark = (
        f"Measured on {run.settings['held_people']} people of the training set who were held out. "
        "Separation: the distance of the means of same and different pairs' squared distances over "
        f"their deviation. {run.rate or 0:.1f} faces/s."
    )
    notes = {
        "classifier_cross_entropy": run.classifier,
        "losses": run.losses,
        "faces_per_s": run.rate,
        "refused": run.refused,
    }
    title = "A recogniser fine-tuned"
    run.publish("finetune", title, rows, COLUMNS, notes=notes, remarks=(remark,))
    run.show_refused("finetune.json")
    cli.console.print(f"weights: {out}", markup=False, soft_wrap=True)


def weights_sum(arrays: dict[str, np.ndarray]) -> str:
    """The sha256 of a network's arrays with their names."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def publish(out: Path, arrays: dict[str, np.ndarray], card: dict[str, Any]) -> None:
    """Make ``out`` itself a checkpoint, beside what else lies there; the card comes last."""
    work = out / ".weights"
    checkpoint.save(work, checkpoint.nest(arrays), card)
    (out / "card.json").unlink(missing_ok=True)
    shutil.rmtree(out / "arrays", ignore_errors=True)
    (work / "arrays").rename(out / "arrays")
    (work / "card.json").rename(out / "card.json")
    work.rmdir()
