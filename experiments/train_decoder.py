"""Train a decoder on the features of a recogniser: S for the server, R for the attacker.

Or, with --defense, on what another defence stores of an image: DuetFace's, PartialFace's or
DCTDP's frequency channels.

    python -m experiments.train_decoder --decoder resrec --role shadow \\
        --faces celeba_A_shadow_160.zip --listing celeba_A_shadow_160.tsv \\
        --where lfw_lookalike=- --out runs/resrec-shadow

Writes DECODER-ROLE.safetensors with its card (.json) and the fingerprints of the people it saw
(.identities), and loss.png into --out, and a checkpoint after every epoch and every --save-every
steps: the same command resumes it, and gives what an unbroken run would have given.
"""

import dataclasses
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes

import advface_jax
from advface_jax import checks, cli, defenses
from advface_jax.models import channel_decoder, decoders
from advface_jax.system import Role
from advface_jax.training import train
from experiments.train.decoder import DecoderTraining
from experiments.train.faces import OfTraining, Read, in_memory, names_sum
from experiments.train.run import Place

HELD_OUT = 64  # faces at the end of the set, never trained on: their SSIM and PSNR are the report
OnImages = Literal["none", "duetface", "partialface", "dctdp"]
Kind = Literal["transrec", "resrec", "urec", "channelrec"]

TABLE = True  # written by what it calls: --json and --html are for it, too


def main(
    out: cli.Out,
    chosen: OfTraining,
    config: Annotated[train.TrainConfig, OmitArgPrefixes],
    decoder: Kind | None = None,
    defense: OnImages = "none",
    role: Role = "shadow",
    weights: str = "facenet-512-q8",
    width: int | None = None,
    depth: int | None = None,
    read: Read = "auto",
    workers: int = 2,
    save_every: int = 200,
    restart: bool = False,
) -> None:
    """Train a decoder to turn features, or what a defence stores, back into faces.

    The loss is L1 (paper, Eq. 1 and 3), the optimiser Adam. The last 64 faces are held out and
    their SSIM and PSNR reported after each epoch. Interrupt it at will: the same command resumes.

    Args:
      out: Folder for the decoder, its card, loss.png and the checkpoint.
      chosen: The faces that it learns from.
      config: How it is trained.
      decoder: transrec, resrec (the default) or urec, of features; channelrec, of the frequency
        channels that --defense stores.
      defense: Whose stored items are decoded: none (unprotected features of --weights); duetface,
        partialface, dctdp: the channels that leave the client, with fresh noise in every step.
      role: shadow (the server's S) or attacker (R): give them different people.
      weights: A known name or a checkpoint folder of weights_convert; of no use to --defense.
      width: Channels; by default the decoder's own.
      depth: ResRec's blocks, URec's or ChannelRec's levels; by default the decoder's own.
      read: memory decodes all faces first; disk decodes each when it is needed, ahead of its step;
        auto is disk from 10,000 faces.
      workers: Threads that read ahead from the disk.
      save_every: Steps between checkpoints.
      restart: Throw an earlier run in --out away.
    """
    checks.positive(save_every=save_every)
    cli.folder(out)
    chosen.check()
    front, origin, base = _front(defense, decoder, weights)
    asked = {"width": width, "depth": depth}
    size = dataclasses.replace(base, **{k: v for k, v in asked.items() if v is not None})
    crops = chosen.open(read)
    settings = {
        "decoder": dataclasses.asdict(size),
        "train": dataclasses.asdict(config),
        "role": role,
        **origin,
        **chosen.settings(crops),
        "names_sha256": names_sum(crops),
        "identities": len(set(crops.identities)),
        "held_out": HELD_OUT,
    }
    n = len(crops) - HELD_OUT
    if n < 1:
        raise ValueError(f"got {len(crops)} faces; wanted more than the {HELD_OUT} held out")
    training, held = crops.select(range(n)), crops.select(range(n, len(crops)))
    del crops  # in memory they are there twice
    ahead = 0 if in_memory(training) else workers
    place = Place(out, settings, save_every, workers=ahead)
    run = DecoderTraining(front, training, held, size, config, place)
    if not restart:
        run.resume()
    if not run.is_finished("decoder", f"{base.kind}-{role}.safetensors", "train_decoder.json"):
        run.to_the_end()
        run.write(base.kind, role)


def _front(
    defense: OnImages, decoder: Kind | None, weights: str
) -> tuple[train.Front, dict[str, Any], decoders.AnyConfig]:
    """What makes the decoder's input, its origin for the card, and the decoder's default size."""
    kind = decoder or ("resrec" if defense == "none" else "channelrec")
    if (kind == "channelrec") != (defense != "none"):
        wanted = "transrec, resrec or urec" if defense == "none" else "channelrec"
        raise ValueError(f"got --decoder {kind} with --defense {defense}; wanted {wanted}")
    if kind == "channelrec":
        front: defenses.Defense = getattr(defenses, defense)()
        origin = {"weights": None, "weights_sha256": None, "defense": defense}
        return front, origin, channel_decoder.ChannelDecoderConfig(front.stores[-1])  # type: ignore[index]
    cli.loading(weights)
    system = advface_jax.load(weights)
    origin = {"weights": system.card["source"], "weights_sha256": system.features_sha256}
    return system.extractor, origin, decoders.DecoderConfig.of(kind)


if __name__ == "__main__":
    cli.start(main, "experiments.train_decoder")
