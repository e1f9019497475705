"""Train DuetFace's client/server recogniser, by distillation from the FaceNet behind it.

    python -m experiments.train_duetface --faces celeba_A_shadow_160.zip \\
        --listing celeba_A_shadow_160.tsv --where lfw_lookalike=- --out runs/duetface

Writes duetface.safetensors with its card (.json) and the fingerprints of the people it saw
(.identities), and train_duetface.json and .md into --out, and a checkpoint after every epoch and
every --save-every steps: the same command resumes it.
"""

import dataclasses
from typing import Annotated

from tyro.conf import OmitArgPrefixes

import advface_jax
from advface_jax import checks, cli
from advface_jax.models.duetface import DuetFaceConfig
from advface_jax.training.duetface import DistillConfig
from experiments.measure.decoders import of_system
from experiments.train.duetface import PEOPLE, DuetFaceTraining, hold_out
from experiments.train.faces import OfTraining, names_sum
from experiments.train.run import Place

TABLE = True  # written by what it calls: --json and --html are for it, too


def main(
    out: cli.Out,
    chosen: OfTraining,
    config: Annotated[DistillConfig, OmitArgPrefixes],
    weights: str = "facenet-512-q8",
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
      chosen: The faces that it learns from.
      config: How it is trained.
      weights: The FaceNet: a known name or a checkpoint folder of weights_convert.
      save_every: Steps between checkpoints.
      restart: Throw an earlier run in --out away.
    """
    checks.positive(save_every=save_every)
    cli.folder(out)
    chosen.check()
    cli.loading(weights)
    system = advface_jax.load(weights)
    crops = chosen.open("memory")
    training, held = hold_out(crops)
    settings = {
        "duetface": dataclasses.asdict(DuetFaceConfig()),
        "train": dataclasses.asdict(config),
        **of_system(system),
        **chosen.settings(crops),
        "names_sha256": names_sum(crops),
        "identities": len(set(crops.identities)),
        "held_out_people": PEOPLE,
        "held_out_faces": len(held),
    }
    run = DuetFaceTraining(system.network, training, held, config, Place(out, settings, save_every))
    if not restart:
        run.resume()
    if not run.is_finished("recogniser", "duetface.safetensors", "train_duetface.json"):
        run.to_the_end()
        run.write()


if __name__ == "__main__":
    cli.start(main, "experiments.train_duetface")
