"""Fine-tune the recogniser as the paper does, or Ψ alone on stored features (the offline mode).

    python -m experiments.finetune --features FOLDER --out results/offline
    python -m experiments.finetune --faces casia.rec --part all --out results/finetuned

The folder --out is then a checkpoint that `advface_jax.load` and --weights read; finetune.json and
finetune.md stand beside it, and checkpoint/, from which the same command goes on after a stop, with
the result of an unbroken run.
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes

import advface_jax
from advface_jax import checks, cli, data
from advface_jax.training import finetune
from experiments.measure.decoders import of_system
from experiments.train.faces import OfSelection, Selection, TrainingFaces, in_memory, names_sum
from experiments.train.labelled_features import features_with_labels
from experiments.train.recogniser import RecogniserTraining, hold_out, train_classifier
from experiments.train.recogniser_weights import write
from experiments.train.run import Place

TABLE = True  # written by what it calls: --json and --html are for it, too


def main(
    out: cli.Out,
    chosen: OfSelection,
    config: Annotated[finetune.FinetuneConfig, OmitArgPrefixes],
    features: Path | None = None,
    faces: str | None = None,
    weights: str = "facenet-512-q8",
    part: Literal["server", "all"] = "server",
    held_people: int = 32,
    measure_every: int = 1,
    workers: int = 2,
    save_every: int = 200,
    restart: bool = False,
) -> None:
    """Fine-tune a recogniser: a classifier over the frozen network, then the whole of it.

    The losses are cross-entropy and, in the second stage, triplet loss; Adam's rate is multiplied
    by 0.94 after each epoch (paper, section 5.1). Some people are held out: how well pairs of them
    are verified is measured before, and after the epochs. Interrupt it at will: the same command
    resumes.

    Args:
      out: Folder for the weights, finetune.json and the checkpoint.
      features: Folder that `python -m advface_jax features` wrote, with labels: Ψ alone is trained,
        on these features as they are (the paper's offline mode).
      faces: Or 160×160 crops: a folder or zip of identity/image.jpg, an insightface pack (.rec), a
        prepared data set (tfds:NAME), or 'synthetic'.
      chosen: Which of the faces.
      config: How it is trained.
      weights: A known name or a checkpoint folder.
      part: server trains Ψ, and E's decoders and feature sets still fit; all trains E too.
      held_people: People held out to measure on.
      measure_every: Epochs between two measurements.
      workers: Threads that read ahead, of features and of pictures on the disk.
      save_every: Steps between checkpoints, each three times the size of the weights.
      restart: Throw an earlier run in --out away.
    """
    _one_of(features, faces, chosen, part)
    checks.positive(measure_every=measure_every, save_every=save_every, held_people=held_people)
    cli.folder(out)
    if (out / "card.json").is_file() and _kind(out / "card.json") != "fine-tuned":
        raise ValueError(f"{out} holds a checkpoint of something else: give another --out")
    # Batch norm is trained on, where the weights have it; 8-bit ones come without.
    cli.loading(weights)
    system = advface_jax.load(weights, fold=False)
    items, origin = _items(system, features, faces, chosen)
    config = dataclasses.replace(config, flip=config.flip and features is None)
    pupils = hold_out(items, held_people, config.seed, chosen.limit)
    settings = {
        **origin,
        "part": part,
        "finetune": dataclasses.asdict(config),
        **of_system(system),
        "people": pupils.classes,
        "held_people": held_people,
        "faces_trained": len(pupils.training),
        "faces_held": len(pupils.held),
        "measure_every": measure_every,
    }
    network = system.network
    inputs, trained = network.config.embedding_size, network.extractor if part == "all" else None
    learner = finetune.Learner(network.server, inputs, pupils.classes, config.seed, trained)
    client = network.extractor if part == "server" and features is None else None
    place = Place(out, settings, save_every, measure_every, 0 if in_memory(items) else workers)
    run = RecogniserTraining(learner, client, pupils, config, place)
    stage_one = out / ".classifier"
    if restart:
        shutil.rmtree(stage_one, ignore_errors=True)
    if restart or not run.resume():
        if config.classifier_epochs:
            train_classifier(run, learner, stage_one)
        run.measure()
        run.save()
        shutil.rmtree(stage_one, ignore_errors=True)  # embeddings of every face: not for keeping
    elif run.is_finished("recogniser", "card.json", "finetune.json"):
        return
    run.to_the_end()
    write(run, system)


def _one_of(features: Path | None, faces: str | None, chosen: Selection, part: str) -> None:
    """ValueError unless the flags name features or faces, and only what fits them."""
    if (features is None) == (faces is None):
        raise ValueError("give either --features FOLDER (protected features) or --faces (pictures)")
    cli.present(features=features, faces=faces)
    chosen.check()
    if features is None:
        return
    if chosen.listing or chosen.where or chosen.resize:
        raise ValueError("--listing, --where and --resize choose pictures: leave them out")
    if part == "all":
        raise ValueError("features are E's, which cannot be trained on them: give --part server")


def _kind(card: Path) -> str | None:
    """What the checkpoint of a card is; None where the card is damaged."""
    try:
        return json.loads(card.read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        return None


def _items(
    system: advface_jax.System, features: Path | None, faces: str | None, chosen: Selection
) -> tuple[data.Faces | data.FeatureSet, dict[str, Any]]:
    if faces is not None:
        pictures = TrainingFaces(**vars(chosen), faces=faces)
        crops = pictures.open()
        return crops, {**pictures.settings(crops), "names_sha256": names_sum(crops)}
    found = features_with_labels(system, Path(features or ""))
    asked = ("epsilon", "steps", "alpha", "bound", "method", "statistics", "dtype", "labels")
    return found, {
        "features": found.folder.name,
        **{k: found.card.get(k) for k in (*asked, "shadow_sha256")},
        "faces_read": min(len(found), chosen.limit or len(found)),
        "names_sha256": names_sum(found),
    }


if __name__ == "__main__":
    cli.start(main, "experiments.finetune")
