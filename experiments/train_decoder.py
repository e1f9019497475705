"""Train a decoder on the features of a recogniser: S for the server, R for the attacker.

    python -m experiments.train_decoder --decoder resrec --role shadow \\
        --faces celeba_A_shadow_160.zip --listing celeba_A_shadow_160.tsv \\
        --where lfw_lookalike=- --out runs/resrec-shadow

Writes DECODER-ROLE.safetensors with its card (.json) and loss.png into --out, and a checkpoint
after every epoch and every --save-every steps: the same command resumes it, and gives what an
unbroken run would have given.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

import advface_jax
from advface_jax import checkpoint, checks, cli, metrics, train
from advface_jax.data import faces as data
from advface_jax.models import decoders
from advface_jax.system import Role, System, write_decoder
from experiments import common, plots

DIGITS = {"ssim": 3, "psnr": 2, "mse": 4}
HELD_OUT = 64  # faces at the end of the set, never trained on: their SSIM and PSNR are the report


def main(
    out: Path,
    faces: str = "synthetic",
    decoder: decoders.Kind = "resrec",
    role: Role = "shadow",
    listing: Path | None = None,
    where: tuple[str, ...] = (),
    weights: str = "facenet-512-q8",
    width: int | None = None,
    depth: int | None = None,
    learning_rate: float = train.TrainConfig.learning_rate,
    schedule: Literal["constant", "cosine"] = train.TrainConfig.schedule,
    batch: int = train.TrainConfig.batch,
    epochs: int = train.TrainConfig.epochs,
    flip: bool = train.TrainConfig.flip,
    seed: int = train.TrainConfig.seed,
    limit: int | None = None,
    save_every: int = 200,
    restart: bool = False,
) -> None:
    """Train a decoder (TransRec, ResRec or URec) to turn features back into faces.

    The loss is L1 (paper, Eq. 1 and 3), the optimiser Adam. The last 64 faces are held out and
    their SSIM and PSNR reported after each epoch. Interrupt it at will: the same command resumes.

    Args:
      out: Folder for the decoder, its card, loss.png and the checkpoint.
      faces: Folder or zip of 160×160 crops, or 'synthetic'.
      decoder: transrec, resrec or urec.
      role: shadow (the server's S) or attacker (R): give them different people.
      listing: Tab-separated list with columns file, identity, …
      where: Keep rows of the listing by COLUMN=VALUE, as lfw_lookalike=-
      weights: A known name or a checkpoint folder of weights_convert.
      width: Channels; by default the decoder's own.
      depth: ResRec's blocks or URec's levels; by default the decoder's own.
      learning_rate: Adam's; with the cosine schedule 2e-3 needs few epochs.
      schedule: constant, or cosine (5% warm-up, down to 1%).
      batch: Faces a step.
      epochs: Passes over the faces.
      flip: Mirror half of the pictures.
      seed: Of the weights, the order and the flips.
      limit: Use only the first so many faces.
      save_every: Steps between checkpoints.
      restart: Throw an earlier run in --out away.
    """
    system = advface_jax.load(weights)
    base = decoders.DecoderConfig.of(decoder)
    size = dataclasses.replace(
        base,
        width=base.width if width is None else width,
        depth=base.depth if depth is None else depth,
    )
    config = train.TrainConfig(learning_rate, schedule, batch, epochs, flip, seed)
    crops = data.read_faces(faces, listing=listing, where=_pairs(where), limit=limit)
    settings = {
        "decoder": dataclasses.asdict(size),
        "train": dataclasses.asdict(config),
        "role": role,
        "weights": system.card["source"],
        "weights_sha256": system.card["sha256"],
        "faces": Path(faces).name,
        "where": list(where),
        "faces_read": len(crops),
        "faces_skipped": len(crops.skipped),
        "identities": len(set(crops.identities)),
        "held_out": HELD_OUT,
    }
    run = Run(system, crops, size, config, settings, out, save_every)
    if not restart:
        run.resume()
    if run.step == run.total and (out / f"{decoder}-{role}.safetensors").exists():
        cli.console.print(f"{out} holds the finished decoder; --restart trains it anew")
        return
    run.to_the_end()
    run.write(decoder, role)


class Run:
    """One training run: its state, its history, and the folder that holds both."""

    def __init__(
        self,
        system: System,
        crops: data.Faces,
        size: decoders.DecoderConfig,
        config: train.TrainConfig,
        settings: dict[str, Any],
        out: Path,
        save_every: int,
    ):
        checks.positive(save_every=save_every)
        if len(crops) <= HELD_OUT:
            raise ValueError(f"got {len(crops)} faces; wanted more than the {HELD_OUT} held out")
        self.system, self.crops, self.config, self.settings = system, crops, config, settings
        self.out, self.save_every = out, save_every
        self.n = len(crops) - HELD_OUT
        self.per_epoch = train.steps_per_epoch(self.n, config)
        self.total = self.per_epoch * config.epochs
        self.trainer, self.state = train.start(size, config, self.n)
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []
        self.quality: list[dict[str, float]] = []

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
        self.state = jax.tree.unflatten(structure, [jax.numpy.asarray(leaf) for leaf in saved])
        self.step, self.seconds = card["step"], card["seconds"]
        self.losses, self.quality = card["losses"], card["quality"]
        cli.console.print(f"resuming at step {self.step:,} of {self.total:,}")

    def to_the_end(self) -> None:
        with cli.bar("faces") as bar:
            b = self.config.batch
            task = bar.add_task("training", total=self.total * b, completed=self.step * b, note="")
            since, at = time.monotonic(), self.seconds
            pending: list[jax.Array] = []
            while self.step < self.total:
                chosen = train.batch_indices(self.step, self.n, self.config)
                pixels = self.crops.batch(chosen)
                self.state, loss = train.train_step(
                    self.state, pixels, self.system.extractor, self.trainer
                )
                pending.append(loss)  # read later: reading now would wait for the step
                self.step += 1
                epoch_ends = self.step % self.per_epoch == 0
                if len(pending) == 10 or epoch_ends or self.step % self.save_every == 0:
                    self.losses += [float(x) for x in pending]
                    rate = (
                        len(pending) * b / max(time.monotonic() - since + at - self.seconds, 1e-9)
                    )
                    self.seconds = at + time.monotonic() - since
                    pending.clear()
                    note = f"L1 {np.mean(self.losses[-50:]):.4f}  {rate:.1f} faces/s"
                    bar.update(task, completed=self.step * b, note=note)
                if epoch_ends:
                    self.measure()
                    bar.console.print(
                        "epoch {epoch:.0f}: held-out SSIM {ssim:.3f}, PSNR {psnr:.2f} dB".format(
                            **self.quality[-1]
                        )
                    )
                if epoch_ends or self.step % self.save_every == 0:
                    self.save()

    def measure(self) -> None:
        """SSIM and PSNR of the held-out faces, with the decoder's own statistics."""
        pixels = self.crops.images[self.n :]
        decoder = train.finished(self.trainer, self.state)
        pictures = train.reconstruct(pixels, self.system.extractor, decoder)
        truth = pixels.astype(np.float32) / 255
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
        }
        checkpoint.save(self.out / "checkpoint", tree, card)

    def write(self, kind: str, role: str) -> None:
        """The decoder, its card and its loss curve."""
        card = {
            **self.settings,
            "steps": self.step,
            "loss": float(np.mean(self.losses[-100:])),
            "quality": self.quality[-1],
            "seconds": round(self.seconds),
            "command": cli.command("experiments.train_decoder"),
            **common.surroundings(),
        }
        path = self.out / f"{kind}-{role}.safetensors"
        write_decoder(path, train.finished(self.trainer, self.state), card)
        plots.training(self.losses, self.quality, self.per_epoch, self.out / "loss.png")
        row = {"method": f"{kind} ({role})", "epsilon": None, "acc": None, "srra": None}
        row |= {k: self.quality[-1][k] for k in ("ssim", "psnr", "mse")} | {"n": HELD_OUT}
        cells = [row["method"], *(f"{row[k]:.{d}f}" for k, d in DIGITS.items()), str(HELD_OUT)]
        common.write_results(
            self.out,
            "train_decoder",
            [row],
            command=card["command"],
            config=self.settings,
            seconds=self.seconds,
            notes={"loss": card["loss"], "quality": self.quality},
            text=common.markdown(("held-out faces", *DIGITS, "n"), [cells]),
        )
        cli.console.print(f"written: {path} and its card, train_decoder.json and .md, loss.png")


def _pairs(where: tuple[str, ...]) -> dict[str, str] | None:
    wrong = [w for w in where if "=" not in w]
    if wrong:
        raise ValueError(f"got --where {' '.join(wrong)}; wanted COLUMN=VALUE, as lfw_lookalike=-")
    return dict(w.split("=", 1) for w in where) or None


if __name__ == "__main__":
    cli.start(main, "experiments.train_decoder")
