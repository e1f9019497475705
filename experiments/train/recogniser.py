"""The training of a recogniser: its people, its steps, what is measured of it."""

import hashlib
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from advface_jax import checkpoint, checks, cli, data, metrics, sharding
from advface_jax.data.batches import Readable
from advface_jax.models.facenet import Extractor
from advface_jax.training import finetune, step
from experiments.measure import inputs
from experiments.measure.kept import keep_arrays, kept_arrays
from experiments.train.run import Place, Run, leaves, refilled

EMBEDDED = 32  # faces at a time where nothing is trained
SAVE_SECONDS = 60  # between two checkpoints of the classifier alone


class Pupils(NamedTuple):
    """The people that a recogniser learns from, and those on which it is measured meanwhile."""

    training: data.Chosen
    labels: np.ndarray  # int32 (n,), 0, 1, …
    held: data.Chosen
    pairs: data.Pairs  # of the held

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def hold_out(
    items: data.Faces | data.FeatureSet, held_people: int, seed: int, limit: int | None = None
) -> Pupils:
    """Draw ``held_people`` people with two images or more, and keep them out of the training.

    Only the first ``limit`` items are used.
    """
    checks.positive(held_people=held_people)
    identities = items.identities[:limit]
    people, which, counts = np.unique(identities, return_inverse=True, return_counts=True)
    able = np.flatnonzero(counts > 1)
    if len(able) < held_people or held_people < 4 or len(people) < held_people + 2:
        raise ValueError(
            f"got {len(identities)} faces of {len(people)} people, {len(able)} of them with two or "
            f"more, and --held-people {held_people}; wanted at least 4 held out who have two faces "
            "or more, and 2 people to train on: give more people, or change --held-people"
        )
    out = np.isin(which, np.random.default_rng(seed).permutation(able)[:held_people])
    training = data.Chosen(items, np.flatnonzero(~out))
    held = data.Chosen(items, np.flatnonzero(out))
    labels = np.unique(which[~out], return_inverse=True)[1].astype(np.int32)
    return Pupils(training, labels, held, inputs.draw(held, None, seed))  # type: ignore[arg-type]


def bottlenecks(
    items: Readable,
    server: finetune.Recogniser,
    extractor: Extractor | None,
    title: str,
    keep: Path | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Every item through the network.

    Returns:
      (n,e) float32, 0 where an item is unreadable, and those items' indices with the reasons.
      Parts are kept in the folder ``keep``, from which a stopped call goes on.
    """
    size = min(EMBEDDED, len(items))
    parts: list[np.ndarray] = []
    refused: dict[int, str] = {}
    wanted = "values", "refused", "reasons"
    while keep and (kept := kept_arrays(keep / f"{len(parts):06d}.npz", wanted)):
        parts.append(kept["values"])
        why = zip(kept["refused"], kept["reasons"], strict=True)
        refused |= {int(i): str(reason) for i, reason in why}
    with cli.bar("faces") as bar:
        done = sum(map(len, parts))
        task = bar.add_task(title, total=len(items), completed=done, note="")
        began, since = time.monotonic(), done
        for one in data.batches(items, batch=size, start=len(parts), workers=0):
            values = np.array(finetune.bottleneck(one.values, server, extractor))
            values[~one.mask] = 0
            values = values[: len(items) - done]
            parts.append(values)
            refused |= dict(one.refused)
            if keep:
                keep.mkdir(parents=True, exist_ok=True)
                rows, reasons = zip(*one.refused, strict=True) if one.refused else ((), ())
                why = {"refused": np.array(rows, np.int64), "reasons": np.array(reasons, str)}
                keep_arrays(keep / f"{one.step:06d}.npz", {"values": values, **why})
            done += len(values)
            rate = (done - since) / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=done, note=f"{rate:.1f} faces/s")
    return np.concatenate(parts), refused


class RecogniserTraining(Run):
    """A recogniser in training on ``pupils``, measured on the people held out, kept in ``out``.

    ``extractor`` is the frozen E for pixels, where the learner has none of its own. A batch lies
    across all devices; triplets are found in the whole of it.

    Attributes:
      classifier: mean cross-entropy of each epoch of the classifier alone.
      losses: (triplet, cross-entropy) of each step.
    """

    KEPT = ("step", "seconds", "classifier", "losses", "quality", "refused")
    SHOWN = "epoch {epoch:.0f}: held-out ACC {acc:.2%}, separation {separation:.3f}"

    def __init__(
        self,
        learner: finetune.Learner,
        extractor: Extractor | None,
        pupils: Pupils,
        config: finetune.FinetuneConfig,
        place: Place,
    ):
        self.pupils, self.config = pupils, config
        many = config.people, config.images, config.epochs, config.seed
        self.rows = data.Grouped(pupils.training, pupils.labels, *many)
        epoch = self.rows.per_epoch
        self.tuner, state = finetune.start(learner, config, epoch)
        super().__init__(state, self.rows, config.batch, epoch, config.epochs, None, place)
        self.extractor = sharding.replicate(extractor, self.mesh)
        self.classifier: list[float] = []

    @property
    def learner(self) -> finetune.Learner:
        """The networks as trained so far."""
        return step.finished(self.tuner, self.state)

    def to_the_end(self, title: str = "training") -> None:
        if not self.quality:
            self.measure()
        super().to_the_end(title)

    def advance(self, one: data.Batch) -> finetune.Losses:
        rows = self.rows.rows(one.indices)
        broken = {int(self.rows.rows([i])[0]): why for i, why in one.refused}
        self.keep_refused(broken, self.pupils.training)
        given = one.values, self.pupils.labels[rows], one.mask.astype(np.float32)
        self.state, losses = finetune.train_step(
            self.state, *sharding.split(given, self.mesh), self.extractor, self.tuner
        )
        return losses

    def note(self) -> str:
        triplet, entropy = np.mean(self.losses[-20:], axis=0)
        return f"{triplet:.4f} + {entropy:.3f}"

    def keep_refused(self, refused: dict[int, str], chosen: data.Chosen) -> None:
        """Keep on record which of the chosen items could not be read, and why."""
        names = getattr(chosen.items, "names", ())
        for i, why in refused.items():
            row = int(chosen.rows[i])
            self.refused[names[row] if names else f"item {row}"] = why

    def judge(self) -> dict[str, float]:
        """Verification on the people held out: ACC, and how far apart same and different lie."""
        learner, pairs = self.learner, self.pupils.pairs
        extractor = learner.extractor or self.extractor
        found, refused = bottlenecks(self.pupils.held, learner.server, extractor, "held out")
        self.keep_refused(refused, self.pupils.held)
        lost = np.array([*refused], np.int64)
        kept = ~(np.isin(pairs.left, lost) | np.isin(pairs.right, lost))
        unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
        distances = metrics.squared_distance(unit[pairs.left[kept]], unit[pairs.right[kept]])
        same = pairs.same[kept]
        verified = metrics.ten_fold_accuracy(distances, same, pairs.fold[kept])
        near, far = distances[same], distances[~same]
        return {
            "epoch": self.step / self.per_epoch,
            "acc": verified.accuracy,
            # Where nearly all pairs are judged rightly this still separates better from worse.
            "separation": float((far.mean() - near.mean()) / (far.var() + near.var()) ** 0.5),
            "same": float(near.mean()),
            "different": float(far.mean()),
            "pairs": int(kept.sum()),
        }


def train_classifier(run: RecogniserTraining, learner: finetune.Learner, keep: Path) -> None:
    """Stage one: train the classifier alone over the frozen network, then begin ``run`` with it.

    Outputs of the network and state are kept in ``keep``, from which a stopped call goes on.
    """
    key = hashlib.sha256(repr(sorted(run.settings.items())).encode()).hexdigest()[:16]
    extractor = learner.extractor or run.extractor
    outputs, refused = bottlenecks(
        run.pupils.training, learner.server, extractor, "frozen network", keep / key
    )
    run.keep_refused(refused, run.pupils.training)
    good = np.setdiff1d(np.arange(len(outputs)), [*refused])
    training = finetune.ClassifierTraining(
        outputs[good], run.pupils.labels[good], learner.logits, run.config
    )
    place = keep / key / "classifier"
    if checkpoint.exists(place):
        tree, card = checkpoint.restore(place)
        params, memory = refilled((training.state.params, training.state.optimizer), tree)
        training.state = training.state._replace(params=params, optimizer=memory)
        training.epoch, run.classifier = card["epoch"], card["losses"]
    total, saved = run.config.classifier_epochs, time.monotonic()
    with cli.bar("epochs") as bar:
        task = bar.add_task("classifier", total=total, completed=training.epoch, note="")
        while training.epoch < total:
            run.classifier.append(training.advance())
            bar.update(task, advance=1, note=f"cross-entropy {run.classifier[-1]:.3f}")
            if time.monotonic() - saved > SAVE_SECONDS:
                card = {"epoch": training.epoch, "losses": run.classifier}
                kept = leaves((training.state.params, training.state.optimizer))
                checkpoint.save(place, kept, card)
                saved = time.monotonic()
    learner.logits = step.finished(training.trainer, training.state)
    run.tuner, state = finetune.start(learner, run.config, run.per_epoch)
    run.state = sharding.replicate(state, run.mesh)
