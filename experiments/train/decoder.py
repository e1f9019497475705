"""One training run of a decoder: its state, its history, and the folder that holds both."""

import functools
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from advface_jax import checkpoint, checks, cli, data, metrics, sharding
from advface_jax.data import batches as loader
from advface_jax.data import leaks
from advface_jax.models import decoders, facenet
from advface_jax.system import write_decoder
from advface_jax.training import train
from experiments.measure import plots, results_file

DIGITS = {"ssim": 3, "psnr": 2, "mse": 4}


class Run:
    """A decoder in training on ``crops``, measured on the faces ``held`` out, kept in ``out``."""

    def __init__(
        self,
        front: train.Front,
        crops: data.Faces,
        held: data.Faces,
        size: decoders.AnyConfig,
        config: train.TrainConfig,
        settings: dict[str, Any],
        out: Path,
        save_every: int,
        workers: int,
    ):
        checks.positive(save_every=save_every)
        self.mesh = sharding.across(config.batch)
        self.front = sharding.replicate(front, self.mesh)
        self.config, self.settings = config, settings
        self.out, self.save_every = out, save_every
        self.crops, self.held, self.n = crops, held, len(crops)
        self.lazy = not isinstance(crops.store, np.ndarray)
        self.workers = workers if self.lazy else 0  # a row of an array needs no reading ahead
        self.per_epoch = train.steps_per_epoch(self.n, config)
        self.total = self.per_epoch * config.epochs
        self.trainer, state = train.start(size, config, self.n)
        self.state = sharding.replicate(state, self.mesh)
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.quality: list[dict[str, float]] = []
        self.refused: dict[str, str] = {}  # faces that could not be read
        self.loading: dict[str, Any] = {}  # the rates of this sitting

    def resume(self) -> None:
        """Take up the checkpoint in the folder, if there is one."""
        place = self.out / "checkpoint"
        if not checkpoint.exists(place):
            return
        tree, card = checkpoint.restore(place)
        if "settings" not in card:
            raise ValueError(f"{place} is no checkpoint of a training: give another --out")
        if card["settings"] != self.settings:
            changed = [k for k, v in self.settings.items() if card["settings"].get(k) != v]
            raise ValueError(
                f"{self.out} holds a run with other settings ({', '.join(changed)}): give another "
                "--out, or --restart to throw it away"
            )
        leaves, structure = jax.tree.flatten(self.state)
        saved = [tree[f"leaf_{i:04d}"] for i in range(len(leaves))]
        state = jax.tree.unflatten(structure, [jax.numpy.asarray(leaf) for leaf in saved])
        self.state = sharding.replicate(state, self.mesh)
        self.step, self.seconds = card["step"], card["seconds"]
        self.losses, self.quality = card["losses"], card["quality"]
        self.refused = card["refused"]
        cli.console.print(f"resuming at step {self.step:,} of {self.total:,}")

    def batches(self):
        """What is left of the training, read ahead of it."""
        return data.batches(
            self.crops,
            batch=self.config.batch,
            seed=self.config.seed,
            start=self.step,
            stop=self.total,
            workers=self.workers,
        )

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """The pixels of the faces held out, without those that cannot be read."""
        parts = []
        for one in data.batches(self.held, batch=min(16, len(self.held)), workers=0):
            self.refused |= {self.held.names[i]: reason for i, reason in one.refused}
            parts.append(one.values[one.mask])
        return np.concatenate(parts)

    def to_the_end(self) -> None:
        alone = loader.loading_rate(self.batches())
        rates: list[float] = []
        waited, training = 0.0, 0.0
        with cli.bar("faces") as bar:
            b = self.config.batch
            task = bar.add_task("training", total=self.total * b, completed=self.step * b, note="")
            since, at = time.monotonic(), self.seconds
            pending: list[jax.Array] = []
            loaded = data.to_device(self.batches(), sharding=sharding.rows(self.mesh))
            one = next(loaded, None)  # before the clock runs: the readers' start is no waiting
            mark = time.perf_counter()
            while one is not None:
                self.refused |= {self.crops.names[i]: reason for i, reason in one.refused}
                # A face that cannot be read is replaced by its neighbour in the batch.
                self.state, loss = train.train_step(
                    self.state, one.values, self.front, self.trainer
                )
                pending.append(loss)  # read later: reading now would wait for the step
                self.step += 1
                asked = time.perf_counter()
                one = next(loaded, None)
                waited += time.perf_counter() - asked
                epoch_ends = self.step % self.per_epoch == 0
                saves = epoch_ends or self.step % self.save_every == 0
                if len(pending) == 10 or saves:
                    self.losses += [float(x) for x in pending]
                    spent = max(time.perf_counter() - mark, 1e-9)
                    training += spent
                    rates.append(len(pending) * b / spent)
                    self.seconds = at + time.monotonic() - since
                    pending.clear()
                    note = f"L1 {np.mean(self.losses[-50:]):.4f}  {rates[-1]:.1f} faces/s"
                    bar.update(task, completed=self.step * b, note=note)
                    if epoch_ends:
                        self.measure()
                        said = "epoch {epoch:.0f}: held-out SSIM {ssim:.3f}, PSNR {psnr:.2f} dB"
                        bar.console.print(said.format(**self.quality[-1]))
                    if saves:
                        self.save()
                    mark = time.perf_counter()
        if rates:
            self.loading = {
                "read": "disk" if self.lazy else "memory",
                "workers": self.workers,
                "loader_alone_faces_per_s": round(alone, 1),
                # the first ten steps compile
                "training_faces_per_s": round(float(np.median(rates[1:] or rates)), 1),
                "share_of_time_waiting_for_faces": round(waited / max(training, 1e-9), 5),
            }
            cli.console.print(
                "loading from {read}: {loader_alone_faces_per_s:,.0f} faces/s alone, training took "
                "{training_faces_per_s:,.1f} faces/s and waited for faces "
                "{share_of_time_waiting_for_faces:.2%} of the time".format(**self.loading)
            )

    def measure(self) -> None:
        """SSIM and PSNR of the held-out faces, with the decoder's own statistics."""
        decoder = train.finished(self.trainer, self.state)
        size = 64 if isinstance(self.front, facenet.Extractor) else 8  # of what is stored, 17 MB
        pictures = np.concatenate(
            [
                train.reconstruct(self.held_out[at : at + size], self.front, decoder, seed=at)
                for at in range(0, len(self.held_out), size)
            ]
        )
        truth = self.held_out.astype(np.float32) / 255
        self.quality.append(
            {
                "epoch": self.step // self.per_epoch,
                "ssim": float(metrics.ssim(pictures, truth).mean()),
                "psnr": float(metrics.psnr(pictures, truth).mean()),
                "mse": float(metrics.mse(pictures, truth).mean()),
            }
        )

    def save(self) -> None:
        leaves = jax.tree.leaves(self.state)
        tree = {f"leaf_{i:04d}": leaf for i, leaf in enumerate(leaves)}
        card = {
            "settings": self.settings,
            "step": self.step,
            "seconds": self.seconds,
            "losses": self.losses,
            "quality": self.quality,
            "refused": self.refused,
        }
        checkpoint.save(self.out / "checkpoint", tree, card)

    def write(self, kind: str, role: str) -> None:
        """The decoder, its card and its loss curve."""
        card = {
            **self.settings,
            "steps": self.step,
            "loss": float(np.mean(self.losses[-100:])),
            "quality": self.quality[-1],
            "faces_refused": len(self.refused),
            "seconds": round(self.seconds),
            "command": cli.command("experiments.train_decoder"),
            **results_file.surroundings(),
        }
        path = self.out / f"{kind}-{role}.safetensors"
        write_decoder(path, train.finished(self.trainer, self.state), card)
        leaks.write_identities(path.with_suffix(".identities"), self.crops.identities)
        plots.training(self.losses, self.quality, self.per_epoch, self.out / "loss.png")
        row = {"method": f"{kind} ({role})", "epsilon": None, "acc": None, "srra": None}
        row |= {k: self.quality[-1][k] for k in ("ssim", "psnr", "mse")}
        row["n"] = len(self.held_out)
        cells = [row["method"], *(f"{row[k]:.{d}f}" for k, d in DIGITS.items()), str(row["n"])]
        results_file.write_results(
            self.out,
            "train_decoder",
            [row],
            command=card["command"],
            config=self.settings,
            seconds=self.seconds,
            notes={
                "loss": card["loss"],
                "quality": self.quality,
                "loading": self.loading,
                "refused": self.refused,
            },
            text=results_file.markdown(("held-out faces", *DIGITS, "n"), [cells]),
        )
        if self.refused:
            cli.console.print(
                f"{len(self.refused):,} faces could not be read and were replaced by others, the "
                "first: {}: {}; train_decoder.json lists them".format(
                    *next(iter(self.refused.items()))
                )
            )
        cli.console.print(f"written: {path} and its card, train_decoder.json and .md, loss.png")
