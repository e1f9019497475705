"""The paper's Table 1 and Fig. 5: what a decoder sees, and recognition keeps, by defence.

    python -m experiments.defenses                  # demo: synthetic faces, no data needed
    python -m experiments.defenses --preset paper   # LFW's official pairs, beside the paper

Writes defenses.json, defenses.md and defenses.png into --out.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import advface_jax
from advface_jax import checks, cli
from advface_jax.data import Faces
from advface_jax.defenses import Defense
from advface_jax.defenses.defense import EPSILON
from experiments import plots
from experiments.measure import channels as channel_rows
from experiments.measure import decoders, decoyed, inputs, judging
from experiments.measure.compared import of_features
from experiments.measure.inputs import Inputs
from experiments.measure.results_file import Row, surroundings
from experiments.measure.sample import Ascent, OfAscent, OfSample, Sample
from experiments.measure.subjects import Each
from experiments.measure.table import (
    HOW_TO_READ,
    LAPLACE,
    NOISE,
    Spent,
    Table,
    printed,
    publish,
    setting,
)
from experiments.measure.table_rows import floor, not_measured, row

LABELS = {"Laplace": LAPLACE, "AdvFace": "AdvFace (PGD)"}
CHANNELS = (
    "DuetFace, PartialFace and DCTDP store channels of the image, and R is a decoder of those. "
    "DuetFace's recogniser was distilled here from a FaceNet and is not the published one, which "
    "was trained on millions of faces; the others have none. Solved: the attacker is linear "
    "algebra, without any training, and guesses three numbers, the mean colour of public faces."
)
NO_DECOYS = "Decoys (docs/decoys.md) are not here: --sibling facenet-128 adds them."


def main(
    sample: OfSample,
    ascent: OfAscent,
    shadow: str = "resrec",
    attacker: str = "resrec",
    duetface: Path | None = None,
    duetface_attacker: Path | None = None,
    channels: tuple[Path, ...] = (),
    epsilon: float = EPSILON,
    sibling: str | None = None,
) -> None:
    """Compare the defences of a feature: reconstruction quality, accuracy, replay.

    Unprotected; random noise within ε in total (ball) and by steps (walk); Laplace noise, which
    guarantees no differential privacy; DuetFace, with networks of its own; AdvFace by PGD, FGSM and
    MI-FGSM; with --sibling this project's decoys, without and with a key; and the mean face, which
    is an attacker's picture without any feature. The features of every face are defended, the
    attacker's decoder R turns them back into pictures (SSIM, PSNR, MSE against the face), the
    recogniser compares them in pairs (ACC), and R's pictures are shown to the recogniser (SRRA:
    accepted as another image of the same person; "same image": as the same image). The attacker is
    the paper's: R was trained on unprotected features, DuetFace's on its channels.

    Stopped? The same command resumes after the last finished batch.

    Args:
      shadow: AdvFace's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      attacker: The attacker's R: the same choices.
      duetface: Folder that experiments.train_duetface left; by default the shipped recogniser.
      duetface_attacker: DuetFace's R, a file of train_decoder --defense duetface; by default the
        shipped one.
      channels: Further decoders, files of train_decoder --defense partialface or dctdp; each adds
        a row of reconstruction alone, since no recogniser reads those channels.
      epsilon: The bound of every defence, in units of the feature; Laplace's scale. Decoys have
        one and a half of it, which bounds the step away from somebody else.
      sibling: Adds this project's decoys: the public recogniser that their shadow recognisers are
        made of, such as facenet-128 (fetched at first use, 90 MB). A decoy costs many times what
        AdvFace does.
    """
    checks.bound(epsilon)
    ascent.config()
    cli.present(duetface=duetface, duetface_attacker=duetface_attacker)
    for file in channels:
        cli.present(channels=file)
    system, given = sample.open(shadow, attacker)
    networks = duetface, duetface_attacker, channels
    if sibling:
        cli.loading(sibling)
    other = advface_jax.load(sibling) if sibling else None
    others = shadow, attacker, *networks, epsilon, other
    publish(table(system, given, sample, ascent, *others), sample.out)


def table(
    system: advface_jax.System,
    given: Inputs,
    sample: Sample,
    ascent: Ascent,
    shadow: str = "resrec",
    attacker: str = "resrec",
    duetface: Path | None = None,
    duetface_attacker: Path | None = None,
    channels: Sequence[Path] = (),
    epsilon: float = EPSILON,
    other: advface_jax.System | None = None,
) -> Table:
    """A row for each defence; arguments as for ``main``. ``other`` is the public recogniser beside
    the system's; without it there are no decoys."""
    began = time.monotonic()
    crops, over, origin = given
    config = ascent.config()
    checked = checks.epsilon(epsilon)
    models = decoders.models(system, shadow, attacker)
    lists = decoders.lists(system, shadow, attacker)
    seen = inputs.seen_in_training(lists, crops, sample.on_leak)
    hidden = decoyed.pair(system, other, sample.seed) if other else ()
    compared = of_features(models, config)
    apart, missing = [], None
    try:
        apart.append(channel_rows.read_duetface(system, duetface, duetface_attacker))
    except channel_rows.NotMeasured as reason:
        missing = not_measured("DuetFace", str(reason))
    apart += [channel_rows.read_channels(file) for file in channels]
    for networks in apart:
        seen |= channel_rows.seen_in_training(networks, crops, sample.on_leak)
    settings = {
        "experiment": "defenses",
        **origin,
        **decoders.provenance(system, models, shadow, attacker),
        "defenses": [d.name for d in (*compared, *hidden)],
        **(decoyed.settings(other) if other else {}),
        "epsilon": epsilon,
        **{k: v for k, v in dataclasses.asdict(config).items() if k != "method"},
        "batch": sample.batch,
        "precision": ascent.precision,
        "versions": surroundings()["versions"],
    }
    subject = judging.of_features(
        system.network, Each(compared, checked, ascent.precision), [models.attacker]
    )
    how = {**sample.how, "settings": settings}
    extra = {k: settings[k] for k in ("set", "shadow", "attacker")}
    with judging.exactly(ascent.precision):
        measured = judging.measure(crops, subject, **how)
        judged = measured.judged
        rows = [row("Unprotected", None, judged, 0, over, extra=extra)]
        rows += [
            row(d.name, epsilon, judged, i, over, extra=extra) for i, d in enumerate(compared, 1)
        ]
        bound = decoyed.bound(epsilon)
        decoys = [_alone(d, bound, system, models, crops, ascent.precision, how) for d in hidden]
        rows += [
            row(d.name, bound, found.judged, 1, over, extra=extra)
            for d, found in zip(hidden, decoys, strict=True)
        ]
        of_channels = [
            channel_rows.measure(networks, crops, over, extra=extra, **how) for networks in apart
        ]
        last = floor(crops, judged, subject, over, extra=extra)

    shown = inputs.distinct(crops.identities[: measured.pictures.shape[2]])
    shots = [*_shots(measured, shown), *([*_shots(found, shown)][1] for found in decoys)]
    at = 1 + [r["method"] for r in rows].index("Laplace")  # the paper's order
    rows[at:at] = [r for found in of_channels for r in found.rows]
    shots[at:at] = [shot for found in of_channels for shot in _shots(found.measured, shown)]
    names = [_label(r).replace(" (", "\n(") for r in rows[1:]]
    if missing:
        rows.insert(at, missing | extra)
    rows.append(last)
    mean = np.rint(crops.images.mean(0)).astype(np.uint8)
    unknown = np.full(len(shown), np.nan)
    shots.append((np.stack([mean] * len(shown)), unknown, unknown))
    pictures, ssim, psnr = (np.stack(part) for part in zip(*shots, strict=True))
    beside = [sample.beside(r, models.kinds, config) for r in rows]
    everything = [measured, *decoys, *(found.measured for found in of_channels)]
    return Table(
        "defenses",
        f"Defences of a feature at ε = {epsilon:g}",
        rows,
        *printed([_label(r) for r in rows], rows, beside),
        settings | {"channels": [found.settings for found in of_channels]},
        notes={
            "paper": {r["method"]: b for r, b in zip(rows, beside, strict=True) if b},
            "seen_in_training": seen,  # null: the decoder has no list of its people
            "faces_per_s": round(1 / sum(1 / m.rate for m in everything), 3),
        },
        spent=Spent(sum(m.earlier for m in everything), time.monotonic() - began),
        remarks=(
            HOW_TO_READ,
            NOISE,
            *([CHANNELS] if of_channels else []),
            *([] if other else [NO_DECOYS]),
            setting(settings, rows[0]),
        ),
        pictures={
            "defenses.png": functools.partial(
                plots.reconstructions,
                crops.images[shown],
                pictures,
                ["unprotected", *names, "mean face"],
                ssim=ssim,
                psnr=psnr,
                title=f"What a decoder makes of each stored item, ε = {epsilon:g}",
            )
        },
        kept=[m.folder for m in everything],
    )


def _alone(
    defense: Defense,
    epsilon: float,
    system: advface_jax.System,
    models: decoders.Models,
    crops: Faces,
    precision: str,
    how: dict[str, Any],
) -> judging.Measured:
    """A defence alone, at another ε; its recogniser reads the undefended features, too."""
    subject = judging.of_features(
        system.network,
        Each((defense,), checks.epsilon(epsilon), precision),
        [models.attacker],
        private=defense.server(system.server),
    )
    return judging.measure(
        crops, subject, **how | {"settings": {**how["settings"], "alone": defense.name}}
    )


def _shots(measured: judging.Measured, shown: Sequence[int]):
    """Pictures (k,160,160,3), SSIM and PSNR (k,) of the shown faces, for each condition and
    attacker."""
    judged = measured.judged
    for pictures, ssim, psnr in zip(measured.pictures, judged.ssim, judged.psnr, strict=True):
        yield from zip(pictures[:, shown], ssim[:, shown], psnr[:, shown], strict=True)


def _label(r: Row) -> str:
    method = str(r["method"])
    label = LABELS.get(method, method)
    return f"{label}: not measured: {r['not_measured']}" if "not_measured" in r else label


if __name__ == "__main__":
    cli.start(main, "experiments.defenses")
