"""One training run of a recogniser: its faces, its state, its history, and the folder for both."""

import hashlib
import time
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from advface_jax import checkpoint, checks, cli, data, metrics, sharding
from advface_jax.data.batches import Readable
from advface_jax.models.facenet import Extractor
from advface_jax.training import finetune
from experiments.measure import inputs

EMBEDDED = 32  # faces at a time where nothing is trained
KEPT = ("step", "seconds", "classifier", "losses", "quality", "refused")  # beside the state
SAVE_SECONDS = 60  # between two checkpoints of the classifier alone


class Pupils(NamedTuple):
    """Whom a recogniser learns from, and others on whom it is measured as it learns."""

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
    """Keep ``held_people`` drawn people with two images or more out of the training; of all items
    only the first ``limit`` are used.

    Raises:
      ValueError: people who do not suffice.
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


def names_sum(items: data.Faces | data.FeatureSet) -> str:
    """What tells one training set from another: the sum of its labels and names, in order."""
    told = "\n".join([*items.identities, *items.names])
    return hashlib.sha256(told.encode()).hexdigest()


def bottlenecks(
    items: Readable,
    server: finetune.Recogniser,
    extractor: Extractor | None,
    title: str,
    keep: Path | None = None,
) -> tuple[np.ndarray, dict[int, str]]:
    """Every item through the network, (n,e) float32, and (index, reason) of those that cannot be
    read, whose rows are 0. Parts are kept in the folder ``keep``, so that it goes on there."""
    size = min(EMBEDDED, len(items))
    parts: list[np.ndarray] = []
    refused: dict[int, str] = {}
    while keep and (file := keep / f"{len(parts):06d}.npz").is_file():
        try:
            with np.load(file) as kept:
                part, why = kept["values"], zip(kept["refused"], kept["reasons"], strict=True)
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
            break  # damaged: it is computed again
        parts.append(part)
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
                unfinished = keep / ".unfinished.npz"
                rows, reasons = zip(*one.refused, strict=True) if one.refused else ((), ())
                np.savez(
                    unfinished,
                    values=values,
                    refused=np.array(rows, np.int64),
                    reasons=np.array(reasons, str),
                )
                unfinished.rename(keep / f"{one.step:06d}.npz")
            done += len(values)
            rate = (done - since) / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=done, note=f"{rate:.1f} faces/s")
    return np.concatenate(parts), refused


class Run:
    """A recogniser in training on ``pupils``, measured on the people held out, kept in ``out``.

    ``extractor`` is the frozen E for pixels, where the learner has none of its own. A batch lies
    across all devices; triplets are found in the whole of it.
    """

    def __init__(
        self,
        learner: finetune.Learner,
        extractor: Extractor | None,
        pupils: Pupils,
        config: finetune.FinetuneConfig,
        settings: dict[str, Any],
        out: Path,
        *,
        save_every: int,
        measure_every: int,
        workers: int,
    ):
        checks.positive(save_every=save_every, measure_every=measure_every)
        self.mesh = sharding.across(config.batch)
        self.extractor = sharding.replicate(extractor, self.mesh)
        self.pupils, self.config = pupils, config
        self.settings, self.out = settings, out
        self.save_every, self.measure_every, self.workers = save_every, measure_every, workers
        self.order = data.Grouped(
            pupils.training,
            pupils.labels,
            config.people,
            config.images,
            config.epochs,
            config.seed,
        )
        self.per_epoch = self.order.per_epoch
        self.total = self.per_epoch * config.epochs
        self.step, self.seconds = 0, 0.0
        self.begin(learner)
        self.classifier: list[float] = []  # mean cross-entropy of each epoch of stage one
        self.losses: list[list[float]] = []  # (triplet, cross-entropy) of each step
        self.quality: list[dict[str, float]] = []
        self.refused: dict[str, str] = {}
        self.rate: float | None = None  # faces/s of this sitting; None where it had no step

    def begin(self, learner: finetune.Learner) -> None:
        """Start from these weights."""
        self.tuner, state = finetune.start(learner, self.config, self.per_epoch)
        self.state = sharding.replicate(state, self.mesh)

    @property
    def learner(self) -> finetune.Learner:
        """The networks as trained so far."""
        return finetune.finished(self.tuner, self.state)

    def resume(self) -> bool:
        """Take up the checkpoint in the folder; whether there was one.

        Raises:
          ValueError: one of a run with other settings.
        """
        place = self.out / "checkpoint"
        if not checkpoint.exists(place):
            return False
        tree, card = checkpoint.restore(place)
        if card.get("settings") != self.settings:
            held = card.get("settings", {})
            changed = [k for k, v in self.settings.items() if held.get(k) != v]
            raise ValueError(
                f"{self.out} holds a run with other settings ({', '.join(changed)}): give another "
                "--out, or --restart to throw it away"
            )
        self.state = sharding.replicate(_refilled(self.state, tree), self.mesh)
        for k in KEPT:
            setattr(self, k, card[k])
        cli.console.print(f"resuming at step {self.step:,} of {self.total:,}")
        return True

    def save(self) -> None:
        card = {k: getattr(self, k) for k in ("settings", *KEPT)}
        checkpoint.save(self.out / "checkpoint", _leaves(self.state), card)

    def to_the_end(self, title: str = "training") -> None:
        """Train what is left, measuring and saving on the way."""
        if not self.quality:
            self.measure()
        b, rates = self.config.batch, []
        with cli.bar("faces") as bar:
            task = bar.add_task(title, total=self.total * b, completed=self.step * b, note="")
            since, at, mark = time.monotonic(), self.seconds, time.perf_counter()
            pending: list[finetune.Losses] = []
            for one in data.to_device(self._batches(), sharding=sharding.rows(self.mesh)):
                rows = self.order.rows(one.indices)
                broken = {int(self.order.rows([i])[0]): why for i, why in one.refused}
                self.note(broken, self.pupils.training)
                given = one.values, self.pupils.labels[rows], one.mask.astype(np.float32)
                self.state, losses = finetune.train_step(
                    self.state, *sharding.split(given, self.mesh), self.extractor, self.tuner
                )
                pending.append(losses)  # read later: reading now would wait for the step
                self.step += 1
                epoch_ends = self.step % self.per_epoch == 0
                saves = epoch_ends or self.step % self.save_every == 0
                if len(pending) == 5 or saves:
                    self.losses += [[float(x) for x in pair] for pair in pending]
                    rates.append(len(pending) * b / max(time.perf_counter() - mark, 1e-9))
                    self.seconds = at + time.monotonic() - since
                    pending.clear()
                    triplet, entropy = np.mean(self.losses[-20:], axis=0)
                    note = f"{triplet:.4f} + {entropy:.3f}, {rates[-1]:.1f} faces/s"
                    bar.update(task, completed=self.step * b, note=note)
                    epoch = self.step // self.per_epoch
                    last = self.step == self.total
                    if epoch_ends and (epoch % self.measure_every == 0 or last):
                        self.measure()
                        self.seconds = at + time.monotonic() - since
                    if saves:
                        self.save()
                    mark = time.perf_counter()
        if rates:  # the first of them compile
            self.rate = float(np.median(rates[1:] or rates))

    def _batches(self):
        return data.batches(
            self.order,
            batch=self.config.batch,
            start=self.step,
            stop=self.total,
            workers=self.workers,
        )

    def note(self, refused: dict[int, str], chosen: data.Chosen) -> None:
        """Keep on record which of the chosen items could not be read, and why."""
        names = getattr(chosen.items, "names", ())
        for i, why in refused.items():
            row = int(chosen.rows[i])
            self.refused[names[row] if names else f"item {row}"] = why

    def measure(self) -> None:
        """Verification on the people held out: ACC, and how far apart same and different lie."""
        learner, pairs = self.learner, self.pupils.pairs
        extractor = learner.extractor or self.extractor
        found, refused = bottlenecks(self.pupils.held, learner.server, extractor, "held out")
        self.note(refused, self.pupils.held)
        lost = np.array([*refused], np.int64)
        kept = ~(np.isin(pairs.left, lost) | np.isin(pairs.right, lost))
        unit = found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-6)
        distances = metrics.squared_distance(unit[pairs.left[kept]], unit[pairs.right[kept]])
        same = pairs.same[kept]
        verified = metrics.ten_fold_accuracy(distances, same, pairs.fold[kept])
        near, far = distances[same], distances[~same]
        self.quality.append(
            {
                "epoch": self.step / self.per_epoch,
                "acc": verified.accuracy,
                # Where nearly all pairs are judged rightly this still tells better from worse.
                "separation": float((far.mean() - near.mean()) / (far.var() + near.var()) ** 0.5),
                "same": float(near.mean()),
                "different": float(far.mean()),
                "pairs": int(kept.sum()),
            }
        )
        said = "epoch {epoch:.0f}: held-out ACC {acc:.2%}, separation {separation:.3f}"
        cli.console.print(said.format(**self.quality[-1]))


def train_classifier(run: Run, learner: finetune.Learner, keep: Path) -> list[float]:
    """Stage one: the classifier alone, over the outputs of the frozen network, computed once; the
    run then begins with it. Returns its mean loss in each epoch.

    Outputs and state are kept in ``keep``: it goes on where it was stopped.
    """
    key = hashlib.sha256(repr(sorted(run.settings.items())).encode()).hexdigest()[:16]
    extractor = learner.extractor or run.extractor
    outputs, refused = bottlenecks(
        run.pupils.training, learner.server, extractor, "frozen network", keep / key
    )
    run.note(refused, run.pupils.training)
    good = np.setdiff1d(np.arange(len(outputs)), [*refused])
    training = finetune.ClassifierTraining(
        outputs[good], run.pupils.labels[good], run.pupils.classes, run.config
    )
    place, losses = keep / key / "classifier", []
    if checkpoint.exists(place):
        tree, card = checkpoint.restore(place)
        training.state = _refilled(training.state, tree)
        training.epoch, losses = card["epoch"], card["losses"]
    total, saved = run.config.classifier_epochs, time.monotonic()
    with cli.bar("epochs") as bar:
        task = bar.add_task("classifier", total=total, completed=training.epoch, note="")
        while training.epoch < total:
            losses.append(training.advance())
            bar.update(task, advance=1, note=f"cross-entropy {losses[-1]:.3f}")
            if time.monotonic() - saved > SAVE_SECONDS:
                card = {"epoch": training.epoch, "losses": losses}
                checkpoint.save(place, _leaves(training.state), card)
                saved = time.monotonic()
    learner.logits = training.logits
    run.begin(learner)
    return losses


def _leaves(state: Any) -> dict[str, Any]:
    return {f"leaf_{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}


def _refilled(state: Any, tree: dict[str, Any]) -> Any:
    leaves, structure = jax.tree.flatten(state)
    saved = [jax.numpy.asarray(tree[f"leaf_{i:04d}"]) for i in range(len(leaves))]
    return jax.tree.unflatten(structure, saved)
