"""The attacker who knows the defence: a decoder trained on protected features of public faces."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import cli, data, networks, sharding
from advface_jax.attacks import Attack, pictures
from advface_jax.models import decoders
from advface_jax.system import read_decoder, write_decoder
from advface_jax.training import step, train
from experiments.attack import joining
from experiments.attack.case_rows import slug
from experiments.attack.knowing import Known
from experiments.measure.decoders import digest
from experiments.train.decoder import DecoderRun, likeness
from experiments.train.run import Place

HELD_OUT = 16
SAVE_EVERY = 500  # steps: a checkpoint takes as long as some of them


@dataclasses.dataclass(frozen=True)
class Adaptive:
    """How the adaptive attacker trains; a ``Builder`` of its attack.

    Attributes:
      out: Folder for the decoders and their checkpoints, one for each defence and its settings.
      epochs: Passes over the protected public faces.
      start: From the paper's R, which knows unprotected features, or from scratch.
      kind: Of the decoder, transrec, resrec or urec, which starts as the shipped R of that kind;
        None for the paper's R.
      pairs: Of how many faces; None for all. They are repeated to as many steps.
      shadow: Whether the public faces are protected with the defender's S or the attacker's own,
        which is R.
      learning_rate: Adam's, with the cosine schedule.
    """

    out: Path
    epochs: int
    start: Literal["R", "scratch"] = "R"
    kind: str | None = None
    pairs: int | None = None
    shadow: Literal["defender", "own"] = "defender"
    learning_rate: float = 1e-3

    @property
    def name(self) -> str:
        different = [
            "from scratch" if self.start == "scratch" else None,
            self.kind,
            f"{self.pairs} pairs" if self.pairs else None,
            "own S" if self.shadow == "own" else None,
        ]
        return f"R', {', '.join(filter(None, different)) or 'adaptive'}"

    def __call__(self, known: Known) -> Attack | None:
        """R', trained on (what the defence stores of a public face, that face)."""
        ours = known if self.shadow == "defender" else known.with_own_shadow
        base = known.world.attacker
        if not known.protects or ours is None or not isinstance(base, decoders.Decoder):
            return None
        world, n = known.world, len(known.world.public) - HELD_OUT
        if self.kind == base.config.kind or n <= (self.pairs or 0):
            return None  # another attack is the same
        if self.kind:
            base = world.system.decoder(self.kind, "attacker")
        batch = min(world.batch, n)
        config = train.TrainConfig(
            self.learning_rate, "cosine", batch, self.epochs, flip=False, seed=world.seed
        )
        settings = {
            "defense": networks.digest(ours.case.defense),
            "source": joining.source_sum(ours.case.defense and ours.case.defense.method),
            "precision": str(getattr(jax.config, "jax_default_matmul_precision", None)),
            "epsilon": known.case.epsilon,
            "base": digest(base),
            "extractor": world.system.card["sha256"],
            "start": self.start,
            "pairs": self.pairs,
            "shadow": self.shadow,
            "train": dataclasses.asdict(config),
            "public": hashlib.sha256(world.public.images.tobytes()).hexdigest(),
        }
        told = json.dumps(settings, sort_keys=True).encode()
        run_of = f"{slug(self.name)}-{hashlib.sha256(told).hexdigest()[:12]}"
        place = self.out / slug(known.case.name) / run_of
        start = base if self.start == "R" else None
        chosen = np.resize(np.arange(min(self.pairs or n, n)), n)
        kept = Place(place, settings, save_every=SAVE_EVERY, measure_every=self.epochs)
        run = _Training(ours, chosen, config, base.config, start, kept)
        run.resume()
        if run.step < run.total:
            run.to_the_end(f"{self.name}, for {known.case.name}")
        file = run.out / "decoder.safetensors"
        if not file.exists():
            run.write_decoder(file)
        decoder, card = read_decoder(file)
        cost = {
            "pairs": len(set(chosen)),
            "epochs": self.epochs,
            "seconds": card["seconds"],
            "start": self.start,
            "held_out_ssim": round(card["quality"]["ssim"], 3),
        }
        return dataclasses.replace(pictures.decoded(self.name, decoder, ours.code), cost=cost)


class _Training(DecoderRun):
    """On features that were protected once, before the training."""

    SHOWN = "held-out SSIM {ssim:.3f}, PSNR {psnr:.2f} dB"

    def __init__(
        self,
        known: Known,
        chosen: np.ndarray,
        config: train.TrainConfig,
        size: decoders.AnyConfig,
        start: decoders.Decoder | None,
        place: Place,
    ):
        public, self.known, self.chosen = known.world.public, known, chosen
        crops, held = public.select(chosen), public.select(range(len(chosen), len(public)))
        super().__init__(crops, held, size, config, place, start)

    def advance(self, one: data.Batch) -> jax.Array:
        stored = sharding.split(self.known.stored[self.chosen[one.indices]], self.mesh)
        self.state, loss = train.train_step(
            self.state, one.values, train.Given(stored), self.trainer
        )
        return loss

    def judge(self) -> dict[str, float]:
        decoder = step.finished(self.trainer, self.state)
        held = jnp.asarray(self.known.stored[len(self.crops) :])
        pictures = np.asarray(train.reconstruct(self.held.images, train.Given(held), decoder))
        means = likeness(pictures, self.held.images)
        return {"epoch": self.step // self.per_epoch, **means}

    def write_decoder(self, file: Path) -> None:
        card = self.card("worst_case") | {"weights": None, "weights_sha256": None}
        write_decoder(file, step.finished(self.trainer, self.state), card)
        cli.console.print(f"written: {file} and its card")
