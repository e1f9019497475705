"""The paper's main result (Fig. 3, Fig. 4): what ε buys in privacy and costs in accuracy.

    python -m experiments.tradeoff                  # demo: synthetic faces, no data needed
    python -m experiments.tradeoff --preset paper   # LFW's official pairs, beside the paper

Writes tradeoff.json, tradeoff.md, tradeoff.png and reconstructions.png into --out.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

import advface_jax
from advface_jax import ProtectConfig, checks, cli
from experiments import page, plots
from experiments.measure import decoders, inputs, judging
from experiments.measure.inputs import Inputs
from experiments.measure.results_file import Row, surroundings
from experiments.measure.sample import Ascent, OfAscent, OfSample, Sample
from experiments.measure.subjects import Sweep
from experiments.measure.table import HOW_TO_READ, Spent, Table, printed, publish, setting
from experiments.measure.table_rows import floor, row

EPSILONS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)


def main(
    sample: OfSample,
    ascent: OfAscent,
    shadow: str | None = None,
    attacker: str | None = None,
    epsilons: tuple[float, ...] = EPSILONS,
    method: Literal["pgd", "fgsm", "mifgsm"] = ProtectConfig.method,
) -> None:
    """Sweep the bound ε of AdvFace: reconstruction quality, accuracy, replay.

    For each ε the features of every face are protected, the attacker's decoder R turns them back
    into pictures (SSIM, PSNR, MSE against the face), the recogniser compares them in pairs (ACC,
    ten folds if there are people enough), and R's pictures are shown to the recogniser (SRRA:
    accepted as another image of the same person; "same image": as the same image). The attacker is
    the paper's, who does not know of the protection. AdvFace does not protect against an adaptive
    attacker: see the README.

    Stopped? The same command resumes after the last finished batch.

    Args:
      shadow: The server's S: transrec, resrec (the default), urec, or a .safetensors file of
        train_decoder. A system of your own (--weights module:function) has its own.
      attacker: The attacker's R: the same choices.
      epsilons: The bounds, in units of the feature.
      method: pgd (the paper), fgsm (one step of size ε) or mifgsm.
    """
    for epsilon in epsilons:
        checks.bound(epsilon)
    ascent.config(method)
    system, given = sample.open(shadow, attacker)
    how = (shadow, attacker, epsilons, method)
    publish(table(system, given, sample, ascent, *how, early=True), sample.out)


def table(
    system: advface_jax.System,
    given: Inputs,
    sample: Sample,
    ascent: Ascent,
    shadow: str | None = None,
    attacker: str | None = None,
    epsilons: tuple[float, ...] = EPSILONS,
    method: Literal["pgd", "fgsm", "mifgsm"] = ProtectConfig.method,
    early: bool = False,
) -> Table:
    """The sweep over ``epsilons``; arguments as for ``main``. ``early`` draws R's pictures of the
    first batch at once, for whoever waits."""
    began = time.monotonic()
    shadow, attacker = (source or system.kinds[0] for source in (shadow, attacker))
    crops, over, origin = given
    config = ascent.config(method)
    bounds = checks.epsilons(epsilons)
    models = decoders.models(system, shadow, attacker)
    lists = decoders.lists(system, shadow, attacker)
    seen = inputs.seen_in_training(lists, crops, sample.on_leak)
    settings = {
        **origin,
        **decoders.provenance(system, models, shadow, attacker),
        "epsilons": list(epsilons),
        **dataclasses.asdict(config),
        "batch": sample.batch,
        "precision": ascent.precision,
        "versions": surroundings()["versions"],
    }
    titles = ["unprotected", *(f"ε = {e:g}" for e in epsilons)]

    def strip(judged: judging.Judged, pictures: np.ndarray) -> dict[str, Callable[[Path], None]]:
        """The picture of some faces of the first batch, which holds them all."""
        shown = inputs.distinct(crops.identities[: pictures.shape[2]])
        picture = functools.partial(
            plots.reconstructions,
            crops.images[shown],
            pictures[:, 0, shown],
            titles,
            ssim=judged.ssim[:, 0, shown],
            psnr=judged.psnr[:, 0, shown],
            title="What the attacker's decoder R makes of each stored feature",
        )
        return {"reconstructions.png": picture}

    def first(judged: judging.Judged, pictures: np.ndarray) -> None:
        for file, write in strip(judged, pictures).items() if early else ():
            write(sample.out / file)
            cli.console.print(f"first picture: {sample.out / file}", soft_wrap=True)

    store = Sweep(bounds, system.extractor, models.shadow, config, ascent.precision)
    subject = judging.of_features(system.network, store, [models.attacker], system.image_size)
    with judging.exactly(ascent.precision):
        judged, pictures, earlier, rate, folder = judging.measure(
            crops, subject, settings=settings, first=first, **sample.how
        )
        extra = {k: settings[k] for k in ("set", "shadow", "attacker")}
        rows = [row("Unprotected", None, judged, 0, over, extra=extra)]
        rows += [row("AdvFace", e, judged, i, over, extra=extra) for i, e in enumerate(epsilons, 1)]
        rows.append(floor(crops, judged, subject, over, extra=extra))
    labels = [_label(r) for r in rows]
    beside = [sample.beside(r, models.kinds, config) for r in rows]
    shown = inputs.distinct(crops.identities[: pictures.shape[2]])
    return Table(
        "tradeoff",
        "ε against reconstruction, accuracy and replay",
        rows,
        *printed(labels, rows, beside),
        settings,
        notes={
            "paper": {label: b for label, b in zip(labels, beside, strict=True) if b},
            "seen_in_training": seen,  # null: the decoder has no list of its people
            "faces_per_s": round(rate, 3),
        },
        spent=Spent(earlier, time.monotonic() - began),
        remarks=(HOW_TO_READ, setting(settings, rows[0])),
        pictures={
            "tradeoff.png": functools.partial(plots.tradeoff, rows, theirs=beside),
            **strip(judged, pictures),
        },
        kept=(folder,),
        faces=page.Strip(
            titles, crops.images[shown], pictures[:, 0, shown], judged.ssim[:, 0, shown]
        )
        if origin.get("faces") == "synthetic"
        else None,
    )


def _label(r: Row) -> str:
    return r["method"] if r["epsilon"] is None else f"{r['method']} ε = {r['epsilon']:.2f}"


if __name__ == "__main__":
    cli.start(main, "experiments.tradeoff")
