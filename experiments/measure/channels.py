"""The rows of defences that store an image's frequency channels: DuetFace, PartialFace, DCTDP.

Ψ cannot read channels, so they are measured apart from the features: with a recogniser of their
own (DuetFace's, client and server together) or none (the row then has no ACC and no SRRA), and
against two attackers: a decoder trained on channels, as in the paper, and ``solve_channels``,
which needs no training.
"""

from pathlib import Path
from typing import Any, NamedTuple

import advface_jax
from advface_jax import data, defenses
from advface_jax.data import leaks
from advface_jax.defenses import channels
from advface_jax.models.decoders import AnyDecoder
from advface_jax.models.duetface import Recogniser
from advface_jax.system import ASSETS, read_decoder
from advface_jax.training import duetface
from experiments.measure import inputs, judging
from experiments.measure.decoders import digest
from experiments.measure.judging import Measured, Subject
from experiments.measure.results_file import Row
from experiments.measure.subjects import Constant, Images, Solved, Stored, of_duetface
from experiments.measure.table_rows import row

SHIPPED = ASSETS.parent / "duetface"
RECOGNISER, DECODER = "duetface.safetensors", "channelrec-attacker.safetensors"
SOLVED = "solved"
NAMES = {"duetface": "DuetFace", "partialface": "PartialFace", "dctdp": "DCTDP"}
SOLVABLE = {"duetface": channels.SERVER_CHANNELS, "dctdp": channels.DCTDP_CHANNELS}
KEPT = ("method", "epsilon", "n", "pairs", "ssim", "psnr", "mse")  # of a row without recogniser


class Networks(NamedTuple):
    """One defence, its attacker's decoder, and its recogniser if there is one, with their files."""

    defense: str
    decoder: AnyDecoder
    recogniser: Recogniser | None
    files: tuple[Path, ...]


class Rows(NamedTuple):
    """What one defence adds to a table."""

    rows: list[Row]
    settings: dict[str, Any]  # which networks these are
    measured: Measured  # one condition, an attacker for each row


class NotMeasured(Exception):
    """Nobody named a network, and none is shipped for these weights: its row stays empty."""


def read_recogniser(
    system: advface_jax.System, folder: Path | None
) -> tuple[Recogniser, dict[str, Any], Path]:
    """DuetFace's recogniser, its card and its file.

    Args:
      system: Whose FaceNet it stands in front of.
      folder: What train_duetface left; None for the shipped one.

    Raises:
      NotMeasured: No folder is given, and none is shipped for these weights.
      ValueError: The folder holds something else.
    """
    file = (folder or SHIPPED) / RECOGNISER
    if folder is None and not file.is_file():
        raise NotMeasured("needs a recogniser: give --duetface FOLDER (experiments.train_duetface)")
    try:
        return *duetface.read_duetface(file, system), file
    except ValueError:
        if folder is not None:
            raise
    raise NotMeasured("needs a recogniser for these weights: give --duetface FOLDER")


def read_duetface(
    system: advface_jax.System, folder: Path | None, decoder: Path | None
) -> Networks:
    """DuetFace's networks.

    Args:
      system: Whose FaceNet the recogniser stands in front of.
      folder: What train_duetface left; None for the shipped recogniser.
      decoder: A file of ``train_decoder --defense duetface``; None for the shipped one.

    Raises:
      NotMeasured: One of them is not given, and none is shipped.
      ValueError: A folder or a file is given and holds something else.
    """
    recogniser, _, file = read_recogniser(system, folder)
    if decoder is None and not (SHIPPED / DECODER).is_file():
        raise NotMeasured("needs a decoder of its channels: give --duetface-attacker FILE")
    read, _ = read_decoder(decoder or SHIPPED / DECODER, "duetface")
    return Networks("duetface", read, recogniser, (file, decoder or SHIPPED / DECODER))


def read_channels(file: Path) -> Networks:
    """A decoder of any defence's channels, without a recogniser.

    Raises:
      ValueError: No such file, a damaged one, or a decoder of unprotected features.
    """
    decoder, card = read_decoder(file)
    name = card.get("defense", "none")
    if name not in NAMES:
        raise ValueError(
            f"{file} decodes unprotected features; wanted a decoder of frequency channels: train "
            "one with `python -m experiments.train_decoder --defense partialface …`"
        )
    return Networks(name, decoder, None, (file,))


def subject(networks: Networks) -> Subject:
    """One defence, attacked by the decoder and, where it applies, by solving."""
    name, recogniser = networks.defense, networks.recogniser
    solver = [Solved(SOLVABLE[name])] if name in SOLVABLE else []
    attackers = (networks.decoder, *solver)
    if recogniser:
        return of_duetface(recogniser, attackers)
    stored = Stored(getattr(defenses, name)())
    return Subject(Images(), stored, attackers, Constant(), Constant(), unprotected=False)


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
    extra: dict[str, Any],
) -> Rows:
    """The rows of one defence: by the trained decoder, then solved.

    Args:
      networks: Of the defence.
      crops, pairs: What is measured.
      batch, seed, keep: As for ``judging.judge``.
      settings: Of the table that the rows join, so that a stopped run resumes.
      extra: Further entries of each row; ``attacker`` becomes its own, ``shadow`` None.
    """
    ours: dict[str, Any] = {"defense": networks.defense, "decoder_sha256": digest(networks.decoder)}
    if networks.recogniser:
        ours["recogniser_sha256"] = digest(networks.recogniser.duetface)
    measured = judging.measure(
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
        also = {**extra, "shadow": None, "attacker": attacker}
        line = row(method, None, measured.judged, 0, pairs, i, unprotected=None, extra=also)
        if not networks.recogniser:
            kept = {k: v for k, v in line.items() if k.removesuffix("_ci") in (*KEPT, *also)}
            line = {**kept, "acc": None, "srra": None}
        rows.append(line)
    return Rows(rows, ours, measured)
