"""Features as a data set (paper, §4.4): a recogniser trained from nothing but protected ones.

    python -m experiments.reuse --features FOLDER --faces celeba.zip --listing celeba.tsv \\
        --preset paper --out results/reuse

FOLDER is what `python -m advface_jax features` wrote, with labels; --faces are the pictures that it
was made from. Writes reuse.json and reuse.md into --out, and both trainings.
"""

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import advface_jax
from advface_jax import checks, cli, data, defenses
from advface_jax.data import leaks
from advface_jax.data.listing import parse_where
from advface_jax.models.compact import Compact
from advface_jax.training import finetune
from experiments.measure import decoders, inputs, judging, paper
from experiments.measure.inputs import Inputs
from experiments.measure.judging import Servers, Subject
from experiments.measure.results_file import Row, surroundings
from experiments.measure.sample import Sample
from experiments.measure.subjects import Each
from experiments.measure.table import Spent, Table, publish
from experiments.measure.table_rows import row
from experiments.train.faces import names_sum
from experiments.train.labelled_features import (
    features_with_labels,
    protection,
    same_faces,
    same_shadow,
)
from experiments.train.recogniser import RecogniserTraining, hold_out
from experiments.train.run import Place

CONDITIONS = ("raw", "protected")  # of what is measured, in the order of judging
NAMES = {
    "protected": "Compact network, trained on protected features",
    "raw": "Compact network, trained on raw features",
    "facenet": "FaceNet's Ψ, trained on millions of pictures",
}


def main(
    out: cli.Out,
    features: Path,
    faces: str,
    listing: Path | None = None,
    where: tuple[str, ...] = (),
    weights: str = "facenet-512-q8",
    shadow: str = "resrec",
    epochs: int = 30,
    learning_rate: float = 1e-3,
    people: int = 16,
    images: int = 4,
    held_people: int = 32,
    preset: inputs.Preset = "demo",
    set: paper.Set = "lfw",
    measured: str | None = None,
    pairs: Path | None = None,
    limit: int | None = 300,
    batch: int = 16,
    seed: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
    workers: int = 2,
    save_every: int = 200,
    restart: bool = False,
    on_leak: leaks.OnLeak = "warn",
    missing: inputs.Missing = "refuse",
) -> None:
    """Train one small network on protected features, its twin on raw ones, and compare them.

    Both start from the same weights and see the same people for as many steps. Each is then
    measured on protected and on raw features of other faces, beside FaceNet's own Ψ. A few thousand
    faces are far too few for a good recogniser: what counts is how far the two lie apart.

    Args:
      out: Folder for the results and the trainings.
      features: Folder that `python -m advface_jax features` wrote, with labels.
      faces: The 160×160 crops that it was made from: a folder, zip, pack, tfds:NAME, 'synthetic'.
      listing: Tab-separated list of them, with columns file, identity, …
      where: Keep rows of the listing by COLUMN=VALUE, as lfw_lookalike=-
      weights: A known name or a checkpoint folder, whose E made the features.
      shadow: The S that the set was protected with, which protects the measured faces too:
        transrec, resrec, urec, or a .safetensors file.
      epochs: Passes over the training faces.
      learning_rate: Adam's, × 0.94 after each epoch.
      people: People in a batch.
      images: Images of each of them in a batch.
      held_people: People of the training set held out, to watch the trainings by.
      preset: demo: measure on 48 embedded synthetic faces. paper: on the pairs of --set.
      set: lfw, cfp_fp or agedb_30, with --preset paper.
      measured: Faces to measure on, instead of the preset's: as --faces.
      pairs: Their pairs, as for the other experiments.
      limit: At most so many pairs; protecting their faces takes most of the time.
      batch: Faces protected together.
      seed: Of the weights, the order, who is held out, and pairs that are drawn.
      precision: Of the protection; bfloat16 is for accelerators.
      workers: Threads that read features ahead.
      save_every: Steps between checkpoints.
      restart: Throw earlier trainings in --out away.
      on_leak: What to do when measured people are among the training's: warn, or refuse.
      missing: What to do about pairs whose faces are missing: refuse, or drop and count them.
    """
    began = time.monotonic()
    sample = Sample(
        preset, set, out, weights, measured, None, pairs, limit, batch, seed, on_leak, missing
    )
    sample.check(shadow)
    checks.positive(save_every=save_every, held_people=held_people)
    cli.present(features=features, faces=faces, listing=listing)
    chosen = parse_where(where)
    config = finetune.FinetuneConfig(
        classifier_epochs=0,
        epochs=epochs,
        learning_rate=learning_rate,
        people=people,
        images=images,
        flip=False,  # features cannot be mirrored, and both trainings are to be alike
        seed=seed,
    )
    cli.loading(weights)
    system = advface_jax.load(weights)
    found = features_with_labels(system, features)
    how, epsilon = protection(found)
    if found.card.get("labels") != "original":
        raise ValueError(
            f"{features} was written with labels {found.card.get('labels')!r}; wanted 'original', "
            "by which the same people are held out of both: make it anew with --labels original"
        )
    same_shadow(system, found, shadow)
    crops = data.read_faces(faces, listing=listing, where=chosen)
    same_faces(found, crops)
    common = {
        "finetune": dataclasses.asdict(config),
        "weights_sha256": system.features_sha256,
        "held_people": held_people,
    }
    protected = {
        "epsilon": epsilon,
        **dataclasses.asdict(how),
        **{k: found.card.get(k) for k in ("dtype", "shadow_sha256")},
    }
    taught = {}
    for name, items, extractor, special, ahead in (
        ("protected", found, None, {"protection": protected}, workers),
        ("raw", crops, system.extractor, {}, 0),
    ):
        settings = {**common, **special, "trained_on": name, "names_sha256": names_sum(items)}
        place = Place(out / name, settings, save_every, measure_every=5, workers=ahead)
        pupils = hold_out(items, held_people, seed)
        server = Compact(rngs=nnx.Rngs(seed))
        learner = finetune.Learner(server, Compact.embedding_size, pupils.classes, seed)
        taught[name] = run = RecogniserTraining(learner, extractor, pupils, config, place)
        if not restart:
            run.resume()
        if run.step < run.total:
            run.to_the_end(f"on {name} features")
    given = sample.read()
    result = table(system, given, sample, found, crops, taught, common, shadow, precision, began)
    publish(result, out)


def table(
    system: advface_jax.System,
    given: Inputs,
    sample: Sample,
    found: data.FeatureSet,
    crops: data.Faces,
    taught: Mapping[str, RecogniserTraining],
    training: Mapping[str, Any],
    shadow: str,
    precision: str,
    began: float,
) -> Table:
    """Each network on raw and on protected features of ``given``, beside FaceNet's own Ψ.

    ``taught`` has the training on "protected" features and the one on "raw" ones, ``training``
    their common settings; ``began`` is by ``time.monotonic``.
    """
    faces, over, origin = given
    how, epsilon = protection(found)
    shared = leaks.find_leaks(crops, faces)
    leaks.refuse_or_warn(shared, "the training", sample.on_leak)
    decoder = decoders.decoder(system, shadow, "shadow")
    servers: dict[str, Any] = {name: run.learner.server for name, run in taught.items()}
    settings = {
        "experiment": "reuse",
        **origin,
        **decoders.of_system(system),
        "features": found.folder.name,
        "features_names_sha256": names_sum(found),
        "shadow": Path(shadow).stem,
        "shadow_sha256": decoders.digest(decoder),
        "epsilon": epsilon,
        **dataclasses.asdict(how),
        "training": training,
        "networks": {name: decoders.digest(server) for name, server in servers.items()},
        "batch": sample.batch,
        "precision": precision,
        "versions": surroundings()["versions"],
    }
    defence = defenses.advface(extractor=system.extractor, shadow=decoder, config=how)
    store = Each((defence,), jnp.float32(epsilon), precision)
    recognise = Servers((*servers.values(), system.server))
    subject = Subject(system.extractor, store, (), recognise, system.network)
    with judging.exactly(precision):
        judged, _, earlier, rate, folder = judging.measure(
            faces, subject, settings=settings, **sample.how
        )
    parts = np.split(
        judged.stored, np.cumsum([s.embedding_size for s in servers.values()]), axis=-1
    )
    rows = []
    for name, stored in zip((*servers, "facenet"), parts, strict=True):
        one = judged._replace(stored=stored)
        for i, condition in enumerate(CONDITIONS):
            extra = {"set": origin["set"], "trained_on": name, "measured_on": condition}
            rows.append(row(NAMES[name], epsilon if i else None, one, i, over, extra=extra))
    run = taught["protected"]
    weights = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(servers["protected"], nnx.Param)))
    return Table(
        "reuse",
        "A recogniser trained from a packaged set of protected features",
        rows,
        ("", "ACC % on protected features", "ACC % on raw features"),
        [
            [NAMES[name], *(_cell(rows, name, condition) for condition in reversed(CONDITIONS))]
            for name in NAMES
        ],
        settings,
        notes={
            "seen_in_training": {"trainings": shared.counts()},
            "trainings": {name: _training(run) for name, run in taught.items()},
            "faces_per_s": round(rate, 3),
        },
        spent=Spent(earlier, time.monotonic() - began),
        remarks=(
            f"Compact network: {weights:,} weights, trained from scratch on "
            f"{len(run.pupils.training):,} faces of {run.pupils.classes} people, {run.total:,} "
            f"steps of {run.config.batch}: far too little for a good recogniser, so compare its "
            "rows with each other and not with FaceNet's. In brackets: 95 % bootstrap over the "
            "pairs; another seed of the training would differ too.",
            f"ε = {epsilon:g}, {how.steps} steps, S {settings['shadow']}; {rows[0]['n']:,} faces, "
            f"{rows[0]['pairs']:,} pairs ({settings['faces']}); seed {sample.seed}.",
        ),
        kept=(folder,),
        caption="A recogniser from features alone",
    )


def _training(run: RecogniserTraining) -> dict[str, Any]:
    return {
        "faces": len(run.pupils.training),
        "people": run.pupils.classes,
        "steps": run.total,
        "seconds": round(run.seconds, 1),
        "faces_per_s": run.rate,
        "held_out": run.quality,
        "losses_of_every_tenth_step": run.losses[::10],
        "refused": run.refused,
    }


def _cell(rows: list[Row], trained: str, measured: str) -> str:
    (r,) = (r for r in rows if (r["trained_on"], r["measured_on"]) == (trained, measured))
    low, high = (f"{100 * x:.1f}" for x in r["acc_ci"])
    return f"{100 * r['acc']:.2f} ({low} to {high})"


if __name__ == "__main__":
    cli.start(main, "experiments.reuse")
