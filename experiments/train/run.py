"""One training in a folder: its steps, its history, its checkpoints, and going on after a stop."""

import abc
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from advface_jax import checkpoint, checks, cli, data, lock, sharding, stopping
from advface_jax.data.batches import Readable
from advface_jax.training.step import TrainState
from experiments.measure.results_file import Row, surroundings
from experiments.measure.table import Column, Spent, Table, printed, publish

READ = 10  # losses read at a time: reading one waits for its step


class Place(NamedTuple):
    """Where a training is kept, and what of it."""

    out: Path
    settings: dict[str, Any]  # a checkpoint of others is refused
    save_every: int  # steps between checkpoints
    measure_every: int = 1  # epochs between measurements
    workers: int = 0  # threads that read ahead


class Run(abc.ABC):
    """A training whose state and history are kept in ``out``.

    A subclass says what a step is (``advance``), what is measured after an epoch (``judge``), and
    how both are shown (``note``, ``SHOWN``).

    Attributes:
      state: what is trained, replicated over the devices of ``mesh``, across which a batch lies.
      step: steps done, of ``total``.
      seconds: of training in all sittings.
      losses: one entry a step.
      quality: one entry a measurement.
      refused: items that could not be read, by name, and why.
      rate: faces/s of this sitting; None where it had no step.
      waiting: share of this sitting's time in which a step waited for its faces.
    """

    KEPT: tuple[str, ...] = ("step", "seconds", "losses", "quality", "refused")  # beside the state
    SHOWN = ""  # an entry of ``quality`` for the terminal

    def __init__(
        self,
        state: TrainState,
        items: Readable,
        batch: int,
        per_epoch: int,
        epochs: int,
        order: int | None,
        place: Place,
    ):
        """``order`` is the seed of the items' order; None where they have one of their own."""
        checks.positive(save_every=place.save_every, measure_every=place.measure_every)
        self.mesh = sharding.across(batch)
        self.state = sharding.replicate(state, self.mesh)
        self.items, self.batch, self.order = items, batch, order
        self.per_epoch, self.total = per_epoch, per_epoch * epochs
        self.place, self.out, self.settings = place, place.out, place.settings
        self.step, self.seconds = 0, 0.0
        self.losses: list[Any] = []
        self.quality: list[dict[str, float]] = []
        self.refused: dict[str, str] = {}
        self.rate: float | None = None
        self.waiting = 0.0

    @abc.abstractmethod
    def advance(self, one: data.Batch) -> Any:
        """Take one step; its losses, still on the device."""

    @abc.abstractmethod
    def judge(self) -> dict[str, float]:
        """Measure what is trained so far."""

    @abc.abstractmethod
    def note(self) -> str:
        """The latest losses, for the progress bar."""

    def resume(self) -> bool:
        """Take up the checkpoint in the folder; whether there was one. Refuse other settings."""
        place = self.out / "checkpoint"
        if not checkpoint.exists(place):
            return False
        tree, card = checkpoint.restore(place)
        held = card.get("settings") or {}
        # An older run of a decoder does not say which faces it had.
        asked = {k: v for k, v in self.settings.items() if k in held or k != "names_sha256"}
        if held != asked:
            changed = [k for k, v in asked.items() if held.get(k) != v]
            raise ValueError(
                f"{self.out} holds a run with other settings ({', '.join(changed)}): give another "
                "--out, or --restart to throw it away"
            )
        self.state = sharding.replicate(refilled(self.state, tree), self.mesh)
        for name in self.KEPT:
            setattr(self, name, card[name])
        cli.console.print(f"resuming at step {self.step:,} of {self.total:,}")
        return True

    def save(self) -> None:
        card = {name: getattr(self, name) for name in ("settings", *self.KEPT)}
        checkpoint.save(self.out / "checkpoint", leaves(self.state), card)

    def is_finished(self, what: str, *files: str) -> bool:
        """Whether nothing is left to do: no step, and ``files``, of which the results' JSON comes
        last, are written. Says so."""
        written = all((self.out / file).exists() for file in files)
        if done := self.step == self.total and written:
            cli.console.print(f"{self.out} holds the finished {what}; --restart trains it anew")
        return done

    def batches(self):
        """What is left of the training, read ahead of it."""
        return data.batches(
            self.items,
            batch=self.batch,
            seed=self.order,
            start=self.step,
            stop=self.total,
            workers=self.place.workers,
        )

    def measure(self) -> None:
        self.quality.append(self.judge())
        cli.console.print(self.SHOWN.format(**self.quality[-1]))

    def to_the_end(self, title: str = "training") -> None:
        """Train what is left; measure and save after epochs, save every few steps, on SIGTERM."""
        rates: list[float] = []
        pending: list[Any] = []
        waited = trained = 0.0
        with lock.only_writer(self.out), stopping.at_good_moments(), cli.bar("faces") as bar:
            done, total = self.step * self.batch, self.total * self.batch
            task = bar.add_task(title, total=total, completed=done, note="")
            began = time.monotonic() - self.seconds
            loaded = data.to_device(self.batches(), sharding=sharding.rows(self.mesh))
            one = next(loaded, None)  # before the clock runs: the readers' start is no waiting
            mark = time.perf_counter()
            while one is not None:
                pending.append(self.advance(one))
                self.step += 1
                asked = time.perf_counter()
                one = next(loaded, None)
                waited += time.perf_counter() - asked
                epoch, within = divmod(self.step, self.per_epoch)
                saves = not within or self.step % self.place.save_every == 0 or stopping.asked()
                if len(pending) < READ and not saves:
                    continue
                self.losses += [np.array(jax.device_get(x)).tolist() for x in pending]
                spent = max(time.perf_counter() - mark, 1e-9)
                trained += spent
                rates.append(len(pending) * self.batch / spent)
                pending.clear()
                note = f"{self.note()}  {rates[-1]:.1f} faces/s"
                bar.update(task, completed=self.step * self.batch, note=note)
                if not within and (
                    epoch % self.place.measure_every == 0 or self.step == self.total
                ):
                    self.measure()
                self.seconds = time.monotonic() - began
                if saves:
                    self.save()
                if one is not None:
                    stopping.check()
                mark = time.perf_counter()
        if rates:
            self.rate = float(np.median(rates[1:] or rates))  # the first steps compile
            self.waiting = waited / trained

    def card(self, name: str) -> dict[str, Any]:
        """What the card of the result says of its training by the command ``name``."""
        return {
            **self.settings,
            "steps": self.step,
            "quality": self.quality[-1],
            "seconds": round(self.seconds),
            "command": cli.command(f"experiments.{name}"),
            **surroundings(),
        }

    def publish(self, name: str, title: str, rows: list[Row], columns: list[Column], **more: Any):
        """Write and show the results of the command ``name``; ``more`` is of its ``Table``."""
        shown = [{**self.quality[-1], **row} for row in rows]
        text = printed([row["method"] for row in rows], shown, [{}] * len(rows), columns)
        notes = {"quality": self.quality, **more.pop("notes", {})}
        spent = Spent(0.0, self.seconds)
        some = (name, title, rows, *text, self.settings, notes, spent)
        publish(Table(*some, caption=title, **more), self.out)

    def show_refused(self, file: str) -> None:
        """Say how many items could not be read, and that ``file`` lists them."""
        for name, why in list(self.refused.items())[:1]:
            cli.console.print(
                f"{len(self.refused):,} faces could not be read, the first: {name}: {why}; {file} "
                "lists them",
                markup=False,
            )


def leaves(state: Any) -> dict[str, Any]:
    """The arrays of a tree by number, as a checkpoint has them."""
    return {f"leaf_{i:04d}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}


def refilled(state: Any, tree: dict[str, Any]) -> Any:
    """``state`` with the arrays that ``leaves`` made of another like it."""
    old, structure = jax.tree.flatten(state)
    saved = [jax.numpy.asarray(tree[f"leaf_{i:04d}"]) for i in range(len(old))]
    return jax.tree.unflatten(structure, saved)
