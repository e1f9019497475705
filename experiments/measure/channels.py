"""The rows of defences that store an image's frequency channels: DuetFace, PartialFace, DCTDP.

Ψ cannot read channels, so that they are measured apart from the features: with a recogniser of
their own (DuetFace's, client and server together) or none (the row then has no ACC and no SRRA),
and against two attackers: a decoder trained on channels, as in the paper, and ``solve_channels``,
which is trained on nothing.
"""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import data, defenses
from advface_jax.attacks import solve_channels
from advface_jax.data import leaks
from advface_jax.defenses import channels
from advface_jax.models.decoders import AnyDecoder
from advface_jax.models.duetface import Recogniser
from advface_jax.system import ASSETS, read_decoder
from advface_jax.training import duetface
from experiments.measure import decoders as measure_decoders
from experiments.measure import inputs, results_file
from experiments.measure import table as measure_table
from experiments.measure.duetface import Images, of_duetface
from experiments.measure.judging import Subject
from experiments.measure.table_rows import row

SHIPPED = ASSETS.parent / "duetface"
RECOGNISER, DECODER = "duetface.safetensors", "channelrec-attacker.safetensors"
SOLVED = "solved"
NAMES = {"duetface": "DuetFace", "partialface": "PartialFace", "dctdp": "DCTDP"}
MEAN_COLOUR = (0.595, 0.441, 0.365)
"""R, G, B of CelebA B (3,158 faces, nobody in LFW): what the one who solves guesses."""
SOLVABLE = {"duetface": channels.SERVER_CHANNELS, "dctdp": channels.DCTDP_CHANNELS}
KEPT = ("method", "epsilon", "n", "pairs", "ssim", "psnr", "mse")  # of a row without recogniser


class Networks(NamedTuple):
    """One defence, its attacker's decoder, and its recogniser if there is one, with their files."""

    defense: str
    decoder: AnyDecoder
    recogniser: Recogniser | None
    files: tuple[Path, ...]


class Rows(NamedTuple):
    """What one defence adds to a table: rows, and of the first batch the pictures of each."""

    rows: list[results_file.Row]
    pictures: np.ndarray  # (rows, faces, 160, 160, 3) uint8
    settings: dict[str, Any]  # what tells these networks from others
    seconds: float  # of earlier sittings
    rate: float  # faces a second
    folder: Path  # the kept batches


def read_duetface(
    system: advface_jax.System, folder: Path | None, decoder: Path | None
) -> Networks | str:
    """DuetFace's networks, or why there are none.

    folder: what train_duetface left, None for the shipped recogniser. decoder: a file of
    ``train_decoder --defense duetface``, None for the shipped one.

    Raises:
      ValueError: a folder or a file was given and holds something else.
    """
    recognisers, decoders = (folder or SHIPPED) / RECOGNISER, decoder or SHIPPED / DECODER
    missing = [p for p, given in ((recognisers, folder), (decoders, decoder)) if not given]
    if not all(path.is_file() for path in missing):
        return "needs a recogniser (--duetface) and a decoder (--duetface-attacker) of its channels"
    try:
        recogniser, _ = duetface.read_duetface(recognisers, system)
    except ValueError:
        if folder is not None:
            raise
        return "needs a recogniser for these weights: give --duetface"
    read, _ = read_decoder(decoders, "duetface")
    return Networks("duetface", read, recogniser, (recognisers, decoders))


def read_channels(file: Path) -> Networks:
    """A decoder of any defence's channels, without a recogniser.

    Raises:
      ValueError: no such file, a damaged one, or a decoder of unprotected features.
    """
    decoder, card = read_decoder(file)
    name = card.get("defense", "none")
    if name not in NAMES:
        raise ValueError(
            f"{file} decodes unprotected features; wanted a decoder of frequency channels: train "
            "one with `python -m experiments.train_decoder --defense partialface …`"
        )
    return Networks(name, decoder, None, (file,))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stored:
    """What the defence stores, the one condition there is."""

    defense: defenses.Defense

    def __call__(self, images: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        return self.defense(images, key=keys, mask=mask)[None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solved:
    """The attacker who solves for the image, and guesses a mean colour for what is lost."""

    present: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def __call__(self, stored: jax.Array) -> jax.Array:
        return solve_channels(stored, self.present, MEAN_COLOUR)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Nobody:
    """The same embedding for everybody, where there is no recogniser."""

    def __call__(self, first: jax.Array, *_: jax.Array) -> jax.Array:
        return jnp.ones((first.shape[0], 1))


def subject(networks: Networks) -> Subject:
    """What is measured of one defence: its attackers are the decoder and, where it applies, the
    one who solves."""
    name, recogniser = networks.defense, networks.recogniser
    solver = [Solved(SOLVABLE[name])] if name in SOLVABLE else []
    attackers = (networks.decoder, *solver)
    if recogniser:
        return of_duetface(recogniser, attackers)
    stored = Stored(getattr(defenses, name)())
    return Subject(Images(), stored, attackers, Nobody(), Nobody(), unprotected=False)


def seen_in_training(
    networks: Networks, crops: data.Faces, on_leak: leaks.OnLeak
) -> dict[str, dict[str, int] | None]:
    """``inputs.seen_in_training`` by the lists beside the files."""
    lists = {f"{networks.defense}: {p.stem}": p.with_suffix(".identities") for p in networks.files}
    return inputs.seen_in_training(lists, crops, on_leak)


def measure(
    networks: Networks,
    crops: data.Faces,
    pairs: data.Pairs,
    *,
    batch: int,
    seed: int,
    keep: Path,
    settings: dict[str, Any],
    told: dict[str, Any],
) -> Rows:
    """The rows of one defence: by the trained decoder, then solved.

    settings: of the table that they join, so that a stopped run resumes under the same. told: what
    its rows are told too; ``attacker`` becomes their own, ``shadow`` none.
    """
    ours: dict[str, Any] = {
        "defense": networks.defense,
        "decoder_sha256": measure_decoders.digest(networks.decoder),
    }
    if networks.recogniser:
        ours["recogniser_sha256"] = measure_decoders.digest(networks.recogniser.duetface)
    measured = measure_table.measure(
        crops,
        subject(networks),
        batch=batch,
        seed=seed,
        keep=keep,
        settings={**settings, "channels": ours},
    )
    name, decoder = NAMES[networks.defense], networks.decoder.config
    attackers = {name: decoder.kind, f"{name} ({SOLVED})": "solve_channels"}
    rows = []
    for i, (method, attacker) in enumerate(attackers.items()):
        if i == len(measured.pictures[0]):
            break
        also = {**told, "shadow": None, "attacker": attacker}
        line = row(method, None, measured.judged, 0, pairs, i, unprotected=None, told=also)
        if not networks.recogniser:
            kept = {k: v for k, v in line.items() if k.removesuffix("_ci") in (*KEPT, *also)}
            line = {**kept, "acc": None, "srra": None}
        rows.append(line)
    return Rows(rows, measured.pictures[0], ours, measured.seconds, measured.rate, measured.folder)
