"""The training of a decoder: its steps, what is measured of it, the files that it leaves."""

import functools
from typing import Any

import jax
import numpy as np

from advface_jax import cli, data, metrics, sharding
from advface_jax.data import leaks
from advface_jax.data.batches import loading_rate
from advface_jax.models import decoders, facenet
from advface_jax.system import write_decoder
from advface_jax.training import step, train
from experiments import plots
from experiments.measure import table
from experiments.train.faces import in_memory
from experiments.train.run import Place, Run

MEASURES = ("ssim", "psnr", "mse")


def likeness(pictures: np.ndarray, faces: np.ndarray) -> dict[str, float]:
    """The mean SSIM, PSNR and MSE of pictures (n,160,160,3) in [0,1] with faces, uint8."""
    truth = faces.astype(np.float32) / 255
    return {k: float(getattr(metrics, k)(pictures, truth).mean()) for k in MEASURES}


class DecoderRun(Run):
    """A decoder in training to draw ``crops``, measured on the faces ``held`` out."""

    def __init__(
        self,
        crops: data.Faces,
        held: data.Faces,
        size: decoders.AnyConfig,
        config: train.TrainConfig,
        place: Place,
        decoder: decoders.AnyDecoder | None = None,
    ):
        """``decoder`` is where the training starts; None for a fresh one of ``size``."""
        self.crops, self.held = crops, held
        self.trainer, state = train.start(size, config, len(crops), decoder)
        per_epoch = step.steps_per_epoch(len(crops), config.batch)
        super().__init__(state, crops, config.batch, per_epoch, config.epochs, config.seed, place)

    def note(self) -> str:
        return f"L1 {np.mean(self.losses[-50:]):.4f}"


class DecoderTraining(DecoderRun):
    """On what ``front`` makes of each face, read as it is needed; kept in ``out``."""

    SHOWN = "epoch {epoch:.0f}: held-out SSIM {ssim:.3f}, PSNR {psnr:.2f} dB"

    def __init__(
        self,
        front: train.Front,
        crops: data.Faces,
        held: data.Faces,
        size: decoders.AnyConfig,
        config: train.TrainConfig,
        place: Place,
    ):
        super().__init__(crops, held, size, config, place)
        self.front = sharding.replicate(front, self.mesh)
        self.loading: dict[str, Any] = {}  # the rates of this sitting

    def advance(self, one: data.Batch) -> jax.Array:
        # A face that cannot be read is replaced by its neighbour in the batch.
        self.refused |= {self.crops.names[i]: reason for i, reason in one.refused}
        self.state, loss = train.train_step(self.state, one.values, self.front, self.trainer)
        return loss

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """The pixels of the faces held out, without those that cannot be read."""
        parts = []
        for one in data.batches(self.held, batch=16, workers=0):
            self.refused |= {self.held.names[i]: reason for i, reason in one.refused}
            parts.append(one.values[one.mask])
        return np.concatenate(parts)

    def to_the_end(self, title: str = "training") -> None:
        alone = loading_rate(self.batches())
        super().to_the_end(title)
        if self.rate:
            self.loading = {
                "read": "memory" if in_memory(self.crops) else "disk",
                "workers": self.place.workers,
                "loader_alone_faces_per_s": round(alone, 1),
                "training_faces_per_s": round(self.rate, 1),
                "share_of_time_waiting_for_faces": round(self.waiting, 5),
            }
            cli.console.print(
                "loading from {read}: {loader_alone_faces_per_s:,.0f} faces/s alone, training took "
                "{training_faces_per_s:,.1f} faces/s and waited for faces "
                "{share_of_time_waiting_for_faces:.2%} of the time".format(**self.loading)
            )

    def judge(self) -> dict[str, float]:
        """SSIM, PSNR and MSE of the held-out faces, with the decoder's own statistics."""
        decoder = step.finished(self.trainer, self.state)
        size = 64 if isinstance(self.front, facenet.Extractor) else 8  # of what is stored, 17 MB
        parts = []
        for at in range(0, len(self.held_out), size):
            pixels = self.held_out[at : at + size]
            parts.append(train.reconstruct(pixels, self.front, decoder, seed=at))
        means = likeness(np.concatenate(parts), self.held_out)
        return {"epoch": self.step // self.per_epoch, **means}

    def write(self, kind: str, role: str) -> None:
        """The decoder, its card and its loss curve."""
        card = self.card("train_decoder") | {"faces_refused": len(self.refused)}
        card["loss"] = float(np.mean(self.losses[-100:]))
        path = self.out / f"{kind}-{role}.safetensors"
        write_decoder(path, step.finished(self.trainer, self.state), card)
        leaks.write_identities(path.with_suffix(".identities"), self.crops.identities)
        draw = functools.partial(plots.training, self.losses, self.quality, self.per_epoch)
        row = {"method": f"{kind} ({role})", "epsilon": None, "acc": None, "srra": None}
        row |= {k: self.quality[-1][k] for k in MEASURES} | {"n": len(self.held_out)}
        columns = [*table.COLUMNS[: len(MEASURES)], table.Column("held-out faces", "n", digits=0)]
        notes = {"loss": card["loss"], "loading": self.loading, "refused": self.refused}
        more = {"notes": notes, "pictures": {"loss.png": draw}}
        self.publish("train_decoder", "A decoder in training", [row], columns, **more)
        self.show_refused("train_decoder.json")
        cli.console.print(f"written: {path} and its card")
