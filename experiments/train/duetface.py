"""The training of DuetFace's recogniser: its steps, what is measured of it, what it leaves."""

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import cli, data, metrics, sharding
from advface_jax.data import leaks
from advface_jax.defenses import duetface_split
from advface_jax.models.duetface import DuetFaceConfig, Recogniser
from advface_jax.models.facenet import InceptionResNetV1
from advface_jax.training import duetface, step
from experiments.measure import inputs
from experiments.measure.table import Column
from experiments.train.run import Place, Run

PEOPLE = 16  # the last in the list, never trained on: the report is of them
PAIRS = 600  # at most, of those people's faces
COLUMNS = [Column(k, k, digits=4) for k in ("cosine", "acc", "acc_facenet", "z_error")]


def hold_out(crops: data.Faces) -> tuple[data.Faces, data.Faces]:
    """The faces to train on, and those of the last people."""
    people = list(dict.fromkeys(crops.identities))
    if len(people) < PEOPLE + 1:
        raise ValueError(
            f"got {len(people)} people; wanted more than the {PEOPLE} held out: give a larger set, "
            "or a larger --limit"
        )
    apart = np.isin(crops.identities, people[-PEOPLE:])
    return crops.select(np.flatnonzero(~apart)), crops.select(np.flatnonzero(apart))


class DuetFaceTraining(Run):
    """DuetFace in training on ``crops`` in front of ``body``, measured on pairs of ``held``."""

    KEPT = ("step", "seconds", "losses", "quality")
    SHOWN = (
        "epoch {epoch:.0f}: held-out cosine {cosine:.3f}, ACC {acc:.2%} (FaceNet {acc_facenet:.2%})"
    )

    def __init__(
        self,
        body: InceptionResNetV1,
        crops: data.Faces,
        held: data.Faces,
        config: duetface.DistillConfig,
        place: Place,
    ):
        per_epoch = step.steps_per_epoch(len(crops), config.batch)
        epochs = config.feature_epochs + config.embedding_epochs
        self.distiller, state = duetface.start(DuetFaceConfig(), config, per_epoch * epochs)
        super().__init__(state, crops, config.batch, per_epoch, epochs, config.seed, place)
        self.body = sharding.replicate(body, self.mesh)
        self.feature_steps = per_epoch * config.feature_epochs
        self.crops, self.pairs = crops, inputs.draw(held, PAIRS, config.seed)
        used = np.unique(np.concatenate([self.pairs.left, self.pairs.right]))
        self.held = held.select(used)
        self.sides = [np.searchsorted(used, side) for side in (self.pairs.left, self.pairs.right)]

    def advance(self, one: data.Batch) -> jax.Array:
        embeddings = self.step >= self.feature_steps
        self.state, losses = duetface.distill_step(
            self.state, one.values, self.body, self.distiller, embeddings
        )
        return losses  # (error of z, cosine)

    def note(self) -> str:
        error, cosine = np.mean(self.losses[-50:], axis=0)
        return f"z L1 {error:.3f}, cosine {cosine:.3f}"

    def judge(self) -> dict[str, float]:
        """The held-out people: how near to FaceNet's, and the accuracy of both on their pairs."""
        model = Recogniser(step.finished(self.distiller, self.state), self.body)
        parts = []
        for one in data.batches(self.held, batch=16, workers=0):
            parts.append([np.asarray(a)[one.mask] for a in _both(model, one.values)])
        ours, theirs, errors = map(np.concatenate, zip(*parts, strict=True))
        return {
            "epoch": self.step // self.per_epoch,
            "cosine": float((ours * theirs).sum(-1).mean()),
            "acc": self._accuracy(ours),
            "acc_facenet": self._accuracy(theirs),
            "z_error": float(errors.mean()),
            "mask_weight": float(model.duetface.weight[...]),
        }

    def _accuracy(self, embeddings: np.ndarray) -> float:
        left, right = (embeddings[side] for side in self.sides)
        distances = metrics.squared_distance(left, right)
        verified = metrics.ten_fold_accuracy(distances, self.pairs.same, self.pairs.fold)
        return float(verified.accuracy)

    def write(self) -> None:
        """The recogniser, its card, the people it saw, and the results file."""
        card = self.card("train_duetface")
        card["training"] = "distilled from the FaceNet behind it, not trained as published"
        path = self.out / "duetface.safetensors"
        duetface.write_duetface(path, step.finished(self.distiller, self.state), card)
        leaks.write_identities(path.with_suffix(".identities"), self.crops.identities)
        last = self.quality[-1]
        row = {"method": "DuetFace (distilled)", "epsilon": None, "acc": last["acc"]}
        row |= dict.fromkeys(("ssim", "psnr", "mse", "srra"))
        row |= {"n": len(self.held), "pairs": len(self.pairs), "cosine": last["cosine"]}
        columns = [*COLUMNS, Column("held-out faces", "n", digits=0)]
        self.publish("train_duetface", "DuetFace's recogniser in training", [row], columns)
        cli.console.print(f"written: {path} and its card")


@jax.jit
def _both(model: Recogniser, pixels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """DuetFace's embeddings (b,e), FaceNet's (b,e), and the error of z (b,)."""
    images = pixels.astype(jnp.float32) / 255
    kept, stored = duetface_split(images)
    ours = model.duetface.features(stored, model.duetface.mask(kept), model.body)
    z = model.body.extractor(images)
    return model.body.server(ours), model.body.server(z), jnp.abs(ours - z).mean((1, 2, 3))
