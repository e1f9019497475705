"""The attacker who knows the defence: a decoder trained on protected features of public faces."""

import dataclasses
import hashlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import cli, data, metrics, sharding
from advface_jax.attacks import Attack, pictures
from advface_jax.models import decoders
from advface_jax.system import read_decoder, write_decoder
from advface_jax.training import step, train
from experiments.measure.attackers import Known
from experiments.measure.decoders import digest
from experiments.train.decoder import MEASURES, DecoderTraining
from experiments.train.run import Place

HELD_OUT = 16


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """How the adaptive attacker trains; a ``Builder`` of its attack.

    Attributes:
      out: Folder for the decoders and their checkpoints, one for each defence.
      epochs: Passes over the protected public faces.
      start: From the paper's R, which knows unprotected features, or from scratch.
      learning_rate: Adam's, with the cosine schedule.
    """

    out: Path
    epochs: int
    start: str = "R"
    learning_rate: float = 1e-3

    def __call__(self, known: Known) -> Attack | None:
        """R', trained on (what the defence stores of a public face, that face)."""
        world, base = known.world, known.world.attacker
        if known.case.defense is None or not isinstance(base, decoders.Decoder):
            return None
        n = len(world.public) - HELD_OUT
        batch = min(world.batch, n)
        config = train.TrainConfig(
            self.learning_rate, "cosine", batch, self.epochs, flip=False, seed=world.seed
        )
        settings = {
            "defense": known.case.name,
            "epsilon": known.case.epsilon,
            "networks": _sum(known),
            "start": self.start,
            "train": dataclasses.asdict(config),
            "public": hashlib.sha256(world.public.images.tobytes()).hexdigest(),
        }
        name = re.sub(r"[^a-z0-9]+", "-", known.case.name.lower()).strip("-")
        place = Place(self.out / name, settings, save_every=50, measure_every=self.epochs)
        run = _Training(known, n, config, base if self.start == "R" else None, place)
        run.resume()
        if run.step < run.total:
            run.to_the_end(f"R' for {known.case.name}")
        file = run.out / "decoder.safetensors"
        if not file.exists():
            run.write_decoder(file)
        decoder, card = read_decoder(file)
        cost = {"pairs": n, "epochs": self.epochs, "seconds": card["seconds"], "start": self.start}
        cost["held_out_ssim"] = round(card["quality"]["ssim"], 3)
        found = pictures.decoded("R', adaptive", decoder, known.code)
        return dataclasses.replace(found, cost=cost)


def _sum(known: Known) -> str:
    parts = [digest(known.world.attacker), str(known.world.system.card["sha256"])]
    settings = known.case.defense and known.case.defense.settings
    return hashlib.sha256("\n".join([*parts, repr(settings)]).encode()).hexdigest()


class _Training(DecoderTraining):
    """On features that were protected once, before the training."""

    SHOWN = "held-out SSIM {ssim:.3f}, PSNR {psnr:.2f} dB"

    def __init__(
        self,
        known: Known,
        n: int,
        config: train.TrainConfig,
        start: decoders.Decoder | None,
        place: Place,
    ):
        public, self.known = known.world.public, known
        crops, held = public.select(range(n)), public.select(range(n, len(public)))
        size = known.world.attacker.config
        front = known.world.system.extractor  # not used: what it makes is protected already
        super().__init__(front, crops, held, size, config, place, start)

    def advance(self, one: data.Batch) -> jax.Array:
        stored = sharding.split(self.known.stored[one.indices], self.mesh)
        front = train.Given(stored)
        self.state, loss = train.train_step(self.state, one.values, front, self.trainer)
        return loss

    def judge(self) -> dict[str, float]:
        decoder = step.finished(self.trainer, self.state)
        held = jnp.asarray(self.known.stored[len(self.crops) :])
        pictures = np.asarray(train.reconstruct(self.held.images, train.Given(held), decoder))
        truth = self.held.images.astype(np.float32) / 255
        means = {k: float(getattr(metrics, k)(pictures, truth).mean()) for k in MEASURES}
        return {"epoch": self.step // self.per_epoch, **means}

    def write_decoder(self, file: Path) -> None:
        card = self.card("worst_case") | {"weights": None, "weights_sha256": None}
        write_decoder(file, step.finished(self.trainer, self.state), card)
        cli.console.print(f"written: {file} and its card")
