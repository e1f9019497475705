"""Train DuetFace's client/server recogniser, by distillation from the FaceNet behind it.

    python -m experiments.train_duetface --faces celeba_A_shadow_160.zip \\
        --listing celeba_A_shadow_160.tsv --where lfw_lookalike=- --out runs/duetface

The published recogniser is trained from scratch, by labels, on millions of faces. This one learns,
in front of FaceNet's frozen layers, to give them what they would have seen of the image: its
accuracy is what DuetFace's channels allow, not what DuetFace's own training would reach.

Writes duetface.safetensors with its card (.json) and the fingerprints of the people it saw
(.identities), and train_duetface.json and .md into --out, and a checkpoint after every epoch and
every --save-every steps: the same command resumes it.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import checkpoint, checks, cli, data, metrics, sharding
from advface_jax.data import leaks
from advface_jax.data.listing import parse_where
from advface_jax.defenses import duetface_split
from advface_jax.models.duetface import DuetFaceConfig, Recogniser
from advface_jax.models.facenet import InceptionResNetV1
from advface_jax.training import duetface
from experiments.measure import inputs, results_file
from experiments.train.recogniser import names_sum

PEOPLE = 16  # the last in the list, never trained on: the report is of them
PAIRS = 600  # at most, of those people's faces
DIGITS = {"cosine": 4, "acc": 4, "acc_facenet": 4, "z_error": 4}
Default = duetface.DistillConfig


def main(
    out: Path,
    faces: str = "synthetic",
    listing: Path | None = None,
    where: tuple[str, ...] = (),
    weights: str = "facenet-512-q8",
    learning_rate: float = Default.learning_rate,
    batch: int = Default.batch,
    feature_epochs: int = Default.feature_epochs,
    embedding_epochs: int = Default.embedding_epochs,
    flip: bool = Default.flip,
    seed: int = Default.seed,
    limit: int | None = None,
    resize: bool = False,
    save_every: int = 100,
    restart: bool = False,
) -> None:
    """Train DuetFace's recogniser in front of a frozen FaceNet: a stem on the server's 162
    frequency channels, and a mask from the client's 30.

    First FaceNet's feature z is the target (L1), then its embedding as well (cosine); Adam under a
    cosine schedule. The last 16 people are held out, and after each epoch the cosine to FaceNet's
    embeddings and the accuracy on pairs of their faces are reported. Interrupt it at will.

    Args:
      out: Folder for the recogniser, its card and the checkpoint.
      faces: 160×160 crops: a folder or zip of identity/image.jpg, an insightface pack (.rec), a
        prepared data set (tfds:NAME), or 'synthetic'.
      listing: Tab-separated list with columns file, identity, …
      where: Keep rows of the listing by COLUMN=VALUE, as lfw_lookalike=-
      weights: The FaceNet: a known name or a checkpoint folder of weights_convert.
      learning_rate: Adam's at its peak.
      batch: Faces a step.
      feature_epochs: Passes over the faces towards z alone; half the price of the others.
      embedding_epochs: Passes after them, towards the embedding too.
      flip: Mirror half of the pictures.
      seed: Of the weights, the order, the flips, and the pairs held out.
      limit: Use only the first so many faces.
      resize: Take square pictures of other sizes too (insightface's have 112×112).
      save_every: Steps between checkpoints.
      restart: Throw an earlier run in --out away.
    """
    checks.positive(save_every=save_every)
    config = Default(learning_rate, batch, feature_epochs, embedding_epochs, flip, seed)
    system = advface_jax.load(weights)
    crops = data.read_faces(
        faces, listing=listing, where=parse_where(where), limit=limit, resize=resize
    )
    people = list(dict.fromkeys(crops.identities))
    if len(people) < PEOPLE + 1:
        raise ValueError(
            f"got {len(people)} people; wanted more than the {PEOPLE} held out: give a larger set, "
            "or a larger --limit"
        )
    apart = set(people[-PEOPLE:])
    held = [i for i, who in enumerate(crops.identities) if who in apart]
    rest = [i for i, who in enumerate(crops.identities) if who not in apart]
    settings = {
        "duetface": dataclasses.asdict(DuetFaceConfig()),
        "train": dataclasses.asdict(config),
        "weights": system.card["source"],
        "weights_sha256": system.card["sha256"],
        "faces": Path(faces).name,
        "where": list(where),
        "names_sha256": names_sum(crops),
        "resize": resize,
        "faces_read": len(crops),
        "faces_skipped": len(crops.skipped),
        "identities": len(people),
        "held_out_people": PEOPLE,
        "held_out_faces": len(held),
    }
    run = Run(system.network, crops.select(rest), crops.select(held), config, settings, out)
    if not restart:
        run.resume()
    if run.step == run.total and (out / "duetface.safetensors").exists():
        cli.console.print(f"{out} holds the finished recogniser; --restart trains it anew")
        return
    run.to_the_end(save_every)
    run.write()


class Run:
    """One training: its state, its history, and the folder that holds both."""

    def __init__(
        self,
        body: InceptionResNetV1,
        crops: data.Faces,
        held: data.Faces,
        config: duetface.DistillConfig,
        settings: dict[str, Any],
        out: Path,
    ):
        if len(crops) < config.batch:
            raise ValueError(f"got {len(crops)} faces for batches of {config.batch}; wanted more")
        self.mesh = sharding.across(config.batch)
        self.body = sharding.replicate(body, self.mesh)
        self.crops, self.config, self.settings = crops, config, settings
        self.out, self.seconds = out, 0.0
        self.per_epoch = len(crops) // config.batch
        self.total = self.per_epoch * (config.feature_epochs + config.embedding_epochs)
        self.distiller, state = duetface.start(DuetFaceConfig(), config, self.total)
        self.state = sharding.replicate(state, self.mesh)
        self.step = 0
        self.losses: list[list[float]] = []  # (error of z, cosine) of each step
        self.quality: list[dict[str, float]] = []
        self.pairs = inputs.draw(held, PAIRS, config.seed)
        used = np.unique(np.concatenate([self.pairs.left, self.pairs.right]))
        self.held, self.at = held.select(used), {int(i): k for k, i in enumerate(used)}

    def resume(self) -> None:
        """Take up the checkpoint in the folder, if there is one."""
        place = self.out / "checkpoint"
        if not checkpoint.exists(place):
            return
        tree, card = checkpoint.restore(place)
        if card.get("settings") != self.settings:
            raise ValueError(
                f"{self.out} holds a run with other settings: give another --out, or --restart to "
                "throw it away"
            )
        leaves, structure = jax.tree.flatten(self.state)
        saved = [jnp.asarray(tree[f"leaf_{i:04d}"]) for i in range(len(leaves))]
        self.state = sharding.replicate(jax.tree.unflatten(structure, saved), self.mesh)
        self.step, self.seconds = card["step"], card["seconds"]
        self.losses, self.quality = card["losses"], card["quality"]
        cli.console.print(f"resuming at step {self.step:,} of {self.total:,}")

    def save(self) -> None:
        tree = {f"leaf_{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(self.state))}
        names = ("settings", "step", "seconds", "losses", "quality")
        checkpoint.save(self.out / "checkpoint", tree, {k: getattr(self, k) for k in names})

    def to_the_end(self, save_every: int) -> None:
        b, since, at = self.config.batch, time.monotonic(), self.seconds
        left = data.batches(
            self.crops, batch=b, seed=self.config.seed, start=self.step, stop=self.total, workers=0
        )
        with cli.bar("faces") as bar:
            task = bar.add_task("training", total=self.total * b, completed=self.step * b, note="")
            for one in data.to_device(left, sharding=sharding.rows(self.mesh)):
                embeddings = self.step >= self.per_epoch * self.config.feature_epochs
                self.state, said = duetface.distill_step(
                    self.state, one.values, self.body, self.distiller, embeddings
                )
                self.losses.append([float(x) for x in said])
                self.step += 1
                error, cosine = np.mean(self.losses[-50:], axis=0)
                note = f"z L1 {error:.3f}" + (f", cosine {cosine:.3f}" if embeddings else "")
                bar.update(task, completed=self.step * b, note=note)
                self.seconds = at + time.monotonic() - since
                epoch_ends = self.step % self.per_epoch == 0
                if epoch_ends:
                    self.measure()
                    told = "epoch {epoch:.0f}: held-out cosine {cosine:.3f}, ACC {acc:.2%}"
                    told += " (FaceNet {acc_facenet:.2%})"
                    bar.console.print(told.format(**self.quality[-1]))
                if epoch_ends or self.step % save_every == 0:
                    self.save()

    def measure(self) -> None:
        """The held-out people: how near to FaceNet's, and the accuracy of both on their pairs."""
        model = Recogniser(duetface.finished(self.distiller, self.state), self.body)
        ours, theirs, errors = [], [], []
        for start in range(0, len(self.held), 16):
            chosen = np.arange(start, min(start + 16, len(self.held)))
            padded = np.resize(chosen, 16)
            outcome = [np.asarray(a)[: len(chosen)] for a in _both(model, self.held.batch(padded))]
            for kept, part in zip((ours, theirs, errors), outcome, strict=True):
                kept.append(part)
        a, b = np.concatenate(ours), np.concatenate(theirs)
        self.quality.append(
            {
                "epoch": self.step // self.per_epoch,
                "cosine": float((a * b).sum(-1).mean()),
                "acc": self._accuracy(a),
                "acc_facenet": self._accuracy(b),
                "z_error": float(np.concatenate(errors).mean()),
                "mask_weight": float(model.duetface.weight[...]),
            }
        )

    def _accuracy(self, embeddings: np.ndarray) -> float:
        sides = self.pairs.left, self.pairs.right
        left, right = ([self.at[int(i)] for i in side] for side in sides)
        distances = metrics.squared_distance(embeddings[left], embeddings[right])
        verified = metrics.ten_fold_accuracy(distances, self.pairs.same, self.pairs.fold)
        return float(verified.accuracy)

    def write(self) -> None:
        """The recogniser, its card, the people it saw, and the results file."""
        card = {
            **self.settings,
            "training": "distilled from the FaceNet behind it, not trained as published",
            "steps": self.step,
            "quality": self.quality[-1],
            "seconds": round(self.seconds),
            "command": cli.command("experiments.train_duetface"),
            **results_file.surroundings(),
        }
        path = self.out / "duetface.safetensors"
        duetface.write_duetface(path, duetface.finished(self.distiller, self.state), card)
        leaks.write_identities(path.with_suffix(".identities"), self.crops.identities)
        last = self.quality[-1]
        row = {"method": "DuetFace (distilled)", "epsilon": None, "acc": last["acc"]}
        row |= dict.fromkeys(("ssim", "psnr", "mse", "srra"))
        row |= {"n": len(self.held), "pairs": len(self.pairs), "cosine": last["cosine"]}
        cells = [row["method"], *(f"{last[k]:.{d}f}" for k, d in DIGITS.items()), str(row["n"])]
        results_file.write_results(
            self.out,
            "train_duetface",
            [row],
            command=card["command"],
            config=self.settings,
            seconds=self.seconds,
            notes={"quality": self.quality},
            text=results_file.markdown(("held-out people", *DIGITS, "n"), [cells]),
        )
        cli.console.print(f"written: {path} and its card, train_duetface.json and .md")


@jax.jit
def _both(model: Recogniser, pixels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """DuetFace's embeddings (b,e), FaceNet's (b,e), and the error of z (b,)."""
    images = pixels.astype(jnp.float32) / 255
    kept, stored = duetface_split(images)
    ours = model.duetface.features(stored, model.duetface.mask(kept), model.body)
    z = model.body.extractor(images)
    return model.body.server(ours), model.body.server(z), jnp.abs(ours - z).mean((1, 2, 3))


if __name__ == "__main__":
    cli.start(main, "experiments.train_duetface")
