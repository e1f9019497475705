"""The paper's Tables 3 and 4 and Fig. 6: AdvFace by one decoder against attackers with another.

    python -m experiments.transfer                  # demo: synthetic faces, no data needed
    python -m experiments.transfer --preset paper   # LFW's official pairs, beside the paper

With files of one kind, trained by other seeds, the same tables give the spread over seeds:

    python -m experiments.transfer --shadows resrec S1.safetensors --attackers resrec R1.safetensors

Writes transfer.json, transfer.md and transfer.png into --out.
"""

import dataclasses
import functools
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import numpy as np
import tyro

import advface_jax
from advface_jax import checks, cli, defenses
from advface_jax.defenses.defense import EPSILON
from advface_jax.models.decoders import KINDS
from experiments import plots
from experiments.measure import decoders, inputs, intervals, judging
from experiments.measure.decoders import Trained
from experiments.measure.inputs import Inputs
from experiments.measure.results_file import Row, markdown, surroundings
from experiments.measure.sample import Ascent, OfAscent, OfSample, Sample
from experiments.measure.subjects import Each
from experiments.measure.table import HOW_TO_READ, Spent, Table, printed, publish, setting
from experiments.measure.table_rows import floor, row

SPREAD = ("ssim", "psnr", "mse", "acc", "srra")
Theirs = Sequence[Mapping[str, float]]


def main(
    sample: OfSample,
    ascent: OfAscent,
    shadows: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--shadow"])] = KINDS,
    attackers: Annotated[tuple[str, ...], tyro.conf.arg(aliases=["--attacker"])] = KINDS,
    epsilon: float = EPSILON,
) -> None:
    """Protect by each shadow decoder, attack with each attacker: does AdvFace carry over?

    Every face is protected once by each shadow (S), and every attacker (R) turns the result back
    into a picture: SSIM, PSNR and MSE against the face, SRRA of the replayed picture. ACC does not
    depend on the attacker. The attackers are the paper's: they do not know of the protection.

    If all shadows are of one kind, and all attackers, they differ by the seeds of their training,
    and the spread over those is written, too.

    Stopped? The same command resumes after the last finished batch.

    Args:
      shadows: AdvFace's S: any of transrec, resrec, urec, and .safetensors files of train_decoder.
      attackers: The attackers' R: the same choices.
      epsilon: The bound, in units of the feature.
    """
    checks.bound(epsilon)
    ascent.config()
    system, given = sample.open(*shadows, *attackers)
    publish(table(system, given, sample, ascent, shadows, attackers, epsilon), sample.out)


def table(
    system: advface_jax.System,
    given: Inputs,
    sample: Sample,
    ascent: Ascent,
    shadows: Sequence[str] = KINDS,
    attackers: Sequence[str] = KINDS,
    epsilon: float = EPSILON,
) -> Table:
    """A row for each shadow and attacker; arguments as for ``main``."""
    began = time.monotonic()
    crops, over, origin = given
    config = ascent.config()
    checked = checks.epsilon(epsilon)
    protecting = decoders.trained(system, shadows, "shadow")
    attacking = decoders.trained(system, attackers, "attacker")
    lists = {
        f"{one.role} {one.name}": one.file.with_suffix(".identities")
        for one in (*protecting, *attacking)
    }
    seen = inputs.seen_in_training(lists, crops, sample.on_leak)
    settings = {
        "experiment": "transfer",
        **origin,
        **decoders.of_system(system),
        "shadows": [one.card() for one in protecting],
        "attackers": [one.card() for one in attacking],
        "epsilon": epsilon,
        **dataclasses.asdict(config),
        "batch": sample.batch,
        "precision": ascent.precision,
        "versions": surroundings()["versions"],
    }
    compared = tuple(
        defenses.advface(extractor=system.extractor, shadow=one.decoder, config=config)
        for one in protecting
    )
    store = Each(compared, checked, ascent.precision)
    subject = judging.of_features(system.network, store, [one.decoder for one in attacking])
    with judging.exactly(ascent.precision):
        judged, pictures, earlier, rate, folder = judging.measure(
            crops, subject, settings=settings, **sample.how
        )
        rows = [
            row("Unprotected", None, judged, 0, over, attacker=j, extra=_extra(origin, None, r))
            for j, r in enumerate(attacking)
        ]
        rows += [
            row("AdvFace", epsilon, judged, i, over, attacker=j, extra=_extra(origin, s, r))
            for i, s in enumerate(protecting, 1)
            for j, r in enumerate(attacking)
        ]
        rows.append(floor(crops, judged, subject, over, extra={"set": origin["set"]}))
    labels = [_label(r) for r in rows]
    beside = [
        sample.beside(r, (r.get("shadow") or "", r.get("attacker") or ""), config) for r in rows
    ]
    over_seeds = spread(rows, protecting, attacking)
    shown = inputs.distinct(crops.identities[: pictures.shape[2]])
    return Table(
        "transfer",
        f"AdvFace by one decoder against another, ε = {epsilon:g}",
        rows,
        *printed(labels, rows, beside),
        settings,
        notes={
            "paper": {label: b for label, b in zip(labels, beside, strict=True) if b},
            "seen_in_training": seen,  # null: the decoder has no list of its people
            "faces_per_s": round(rate, 3),
            **({"spread": over_seeds} if over_seeds else {}),
        },
        spent=Spent(earlier, time.monotonic() - began),
        before=[
            _accuracies(rows, beside),
            *(_grid(rows, metric, beside) for metric in ("ssim", "psnr")),
            *([_spread_text(over_seeds)] if over_seeds else []),
        ],
        remarks=(HOW_TO_READ, setting(settings, rows[0])),
        pictures={
            "transfer.png": functools.partial(
                plots.transfer,
                crops.images[shown],
                pictures[:, :, shown],
                [one.name for one in protecting],
                [one.name for one in attacking],
                ssim=judged.ssim[:, :, shown],
                psnr=judged.psnr[:, :, shown],
                title=f"What each decoder R makes of what is stored, ε = {epsilon:g}",
            )
        },
        kept=(folder,),
    )


def spread(
    rows: Sequence[Row], protecting: Sequence[Trained], attacking: Sequence[Trained]
) -> dict[str, Any] | None:
    """How the numbers vary with the training of S and R; None if kinds differ, or with one of each.

    For each metric the protected cells' mean, standard deviation and 95 % t-interval over the
    shadows, attackers averaged (``over_shadows``); over the attackers, shadows averaged
    (``over_attackers``); and over all cells, which share S and R, so that their interval is too
    narrow (``over_cells``). Unprotected: over the attackers; ACC has none.
    """
    kinds = [{one.kind for one in some} for some in (protecting, attacking)]
    if any(len(kind) > 1 for kind in kinds) or len(protecting) * len(attacking) == 1:
        return None
    found: dict[str, Any] = {
        "shadow": protecting[0].kind,
        "attacker": attacking[0].kind,
        "shadows": [one.name for one in protecting],
        "attackers": [one.name for one in attacking],
        "unprotected": {},
        "protected": {},
    }
    for metric in SPREAD:
        bare = np.array([r[metric] for r in rows if r["method"] == "Unprotected"])
        values = [r[metric] for r in rows if r["method"] == "AdvFace"]
        cells = np.array(values).reshape(len(protecting), len(attacking))
        bare, cells = (x[..., :1] if metric == "acc" else x for x in (bare, cells))
        found["unprotected"][metric] = {"over_attackers": intervals.spread(bare)}
        found["protected"][metric] = {
            "over_shadows": intervals.spread(cells.mean(1)),
            "over_attackers": intervals.spread(cells.mean(0)),
            "over_cells": intervals.spread(cells.ravel()),
        }
    return found


def _extra(origin: Mapping[str, Any], shadow: Trained | None, attacker: Trained) -> Row:
    """A row's entries on its set and decoders: their kinds, as in the paper, and names."""
    return {
        "set": origin["set"],
        **{"shadow": shadow and shadow.kind, "attacker": attacker.kind},
        **{"shadow_name": shadow and shadow.name, "attacker_name": attacker.name},
        **{"shadow_seed": shadow and shadow.seed, "attacker_seed": attacker.seed},
    }


def _label(r: Row) -> str:
    if not r.get("attacker"):
        return r["method"]
    return f"{r['shadow_name'] or r['method']} → {r['attacker_name']}"


def _accuracies(rows: Sequence[Row], beside: Theirs) -> str:
    """Table 3: ACC by shadow, each shadow's first row."""
    lines: dict[str, list[str]] = {}
    for r, theirs in zip(rows[:-1], beside, strict=False):
        low, high = (f"{100 * x:.2f}" for x in r["acc_ci"])
        name = r["shadow_name"] or r["method"]
        paper = f"{100 * theirs['acc']:.2f}" if "acc" in theirs else "–"
        lines.setdefault(name, [name, f"{100 * r['acc']:.2f}", f"{low} to {high}", paper])
    header = ("shadow", "ACC %", "95 % over pairs", "in the paper")
    return "Recognition (Table 3)\n\n" + markdown(header, list(lines.values()))


def _grid(rows: Sequence[Row], metric: str, beside: Theirs) -> str:
    """Table 4: shadows down, attackers across; the paper's number in parentheses."""
    digits = 3 if metric == "ssim" else 2
    lines: dict[str, list[str]] = {}
    for r, numbers in zip(rows[:-1], beside, strict=False):
        theirs = numbers.get(metric)
        cell = f"{r[metric]:.{digits}f}" + ("" if theirs is None else f" ({theirs:.2f})")
        lines.setdefault(r["shadow_name"] or r["method"], []).append(cell)
    names = list(dict.fromkeys(r["attacker_name"] for r in rows[:-1]))
    across = [f"mean face: {rows[-1][metric]:.{digits}f}", *("" for _ in names[1:])]
    table = [[name, *cells] for name, cells in lines.items()] + [["", *across]]
    title = (
        f"{metric.upper()}: shadows down, attackers across (the paper's in parentheses; Table 4)"
    )
    return f"{title}\n\n" + markdown(("", *names), table)


def _spread_text(found: Mapping[str, Any]) -> str:
    def cell(value: Mapping[str, Any], scale: int, digits: int) -> str:
        mean = f"{scale * value['mean']:.{digits}f}"
        if value["sd"] is None:
            return mean
        low, high = (f"{scale * x:.{digits}f}" for x in value["ci"])
        return f"{mean} ± {scale * value['sd']:.{digits}f} ({low} to {high})"

    lines = []
    for metric in SPREAD:
        form = {"ssim": (1, 3), "psnr": (1, 2), "mse": (1, 4)}.get(metric, (100, 2))
        protected = found["protected"][metric]
        lines.append(
            [
                metric.upper() + (" %" if form[0] == 100 else ""),
                cell(found["unprotected"][metric]["over_attackers"], *form),
                *(cell(protected[f"over_{by}"], *form) for by in ("shadows", "attackers", "cells")),
            ]
        )
    header = ("", "unprotected, over R", "over S (R averaged)", "over R (S averaged)", "all cells")
    n = len(found["shadows"]), len(found["attackers"])
    return (
        f"Spread over the seeds of {n[0]} S ({'; '.join(found['shadows'])}) and {n[1]} R "
        f"({'; '.join(found['attackers'])}): mean ± standard deviation (95 % t-interval; that of "
        "all cells, which share S and R, is too narrow)\n\n" + markdown(header, lines)
    )


if __name__ == "__main__":
    cli.start(main, "experiments.transfer")
