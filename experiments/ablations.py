"""What the paper leaves open, a row each: every ablation changes one thing of its settings.

    python -m experiments.ablations                  # demo: synthetic faces, no data needed
    python -m experiments.ablations --preset paper   # LFW's official pairs

Writes ablations.json, ablations.md and ablations.png into --out.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import advface_jax
from advface_jax import ProtectConfig, checks, cli, sharding
from advface_jax.defenses.defense import EPSILON
from experiments import plots
from experiments.measure import decoders, inputs, judging
from experiments.measure.ablation_conditions import (
    PARTS,
    Condition,
    Part,
    conditions,
    default,
    runs,
    title,
)
from experiments.measure.ablation_runs import (
    feature_scale,
    measure,
    names,
    read_decoders,
    settings_of,
)
from experiments.measure.inputs import Inputs
from experiments.measure.kept import discard
from experiments.measure.results_file import Row, surroundings, write_whole
from experiments.measure.sample import OfSample, Sample
from experiments.measure.table import COLUMNS, HOW_TO_READ, Column, Spent, Table, printed, publish
from experiments.measure.table import sample as of_sample

MORE = (
    *COLUMNS,
    Column("cos to Ψ(z)", "cosine_to_unprotected", 1, 3),
    Column("z' < 0 %", "negative_share", 100, 1),
    Column("S moved", "shadow_l1", 1, 3),
)


def main(
    sample: OfSample,
    shadow: str = "resrec",
    attacker: str = "resrec",
    only: tuple[Part, ...] = PARTS,
    epsilon: float = EPSILON,
    steps: int = ProtectConfig.steps,
    statistics: Literal["batch", "running", "example"] = ProtectConfig.statistics,
    iterations: tuple[int, ...] = (10, 20, 40, 80),
    batches: tuple[int, ...] = (1, 8, 32, 128),
    scales: tuple[float, ...] = (0.3,),
    shadow_files: tuple[str, ...] = (),
    attacker_files: tuple[str, ...] = (),
) -> None:
    """Change one thing of the paper's settings at a time: what does it do to the pictures?

    alpha: steps of ε/10 instead of ε. bound: ε bounds each step. statistics: whose S's batch norm
    uses. batch: faces protected together. start: the ball around z instead of z~. steps. pairs:
    only the enrolled image of a pair is protected. clip: the attacker takes negative elements for
    0. method: FGSM, MI-FGSM. scale: other ε; the table's text has ε in standard deviations of the
    feature. decoder: other files for S and R, such as weaker ones or other seeds.

    Two more columns than other tables: how many elements of z' are negative, which no feature of
    E is; and how far S's own picture has moved from x~ (mean |S(z') - x~|, what the ascent
    maximises). The attacker here, but for clip, does not know of the protection.

    Stopped? The same command resumes after the last finished batch. Finished rows stay in --out
    (.ablations, numbers only): with other --only or --batches, they are not measured again.

    Args:
      shadow: The server's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      attacker: The attacker's R: the same choices.
      only: Which ablations; the default's rows stand at the top in any case.
      epsilon: The default's bound, in units of the feature.
      steps: The default's PGD iterations.
      statistics: The default's statistics of S's batch norm.
      iterations: Of the ablation steps.
      batches: Of the ablation batch. The last batch holds what is left over.
      scales: The bounds ε of the ablation scale.
      shadow_files: Of the ablation decoder: further S, kinds or .safetensors files.
      attacker_files: Further R.
    """
    checks.positive(steps=steps, batch=sample.batch)
    base = default(
        ProtectConfig(steps, statistics=statistics), epsilon, sample.batch, shadow, attacker
    )
    for n in iterations:
        checks.positive(iterations=n)
    for n in batches:
        checks.positive(batches=n)
    for bound in (epsilon, *scales):
        checks.bound(bound)
    wanted = conditions(
        base,
        only,
        steps=iterations,
        batches=batches,
        epsilons=scales,
        shadows=shadow_files,
        attackers=attacker_files,
    )
    system, given = sample.open(shadow, attacker, *shadow_files, *attacker_files)
    publish(table(system, given, sample, base, wanted, only), sample.out)


def table(
    system: advface_jax.System,
    given: Inputs,
    sample: Sample,
    base: Condition,
    wanted: Sequence[Condition],
    only: Sequence[Part] = PARTS,
) -> Table:
    """A row for each condition of ``wanted`` (of ``conditions(base, only, …)``).

    Finished rows stay in ``sample.out``, and are not measured again.
    """
    crops, over, origin = given
    for size in dict.fromkeys(c.batch for c in wanted):
        sharding.across(size)  # refuses a batch that the devices cannot share: now, not hours on
    used = read_decoders(system, wanted)
    lists = {
        f"{role} {title(source)}": decoders.identities(system, source, role)
        for source, role in used
    }
    seen = inputs.seen_in_training(lists, crops, sample.on_leak)
    settings = {
        "experiment": "ablations",
        **origin,
        **decoders.of_system(system),
        "versions": surroundings()["versions"],
    }
    measured = {**settings, "pairs_sha256": inputs.pairs_sum(over)}  # kept batches need no pairs
    kept = {
        c: sample.out / ".ablations" / f"{_key({**measured, **settings_of(used, c)})}.json"
        for c in wanted
    }
    with judging.exactly("float32"):
        for run in runs([c for c in wanted if not kept[c].is_file()]):
            found, batches = measure(
                run, system, used, crops, over, settings, sample.how["keep"], sample.seed
            )
            for c in run.rows:
                write_whole(kept[c], json.dumps(found[c]) + "\n")
            discard(batches)
        scale = feature_scale(system.extractor, crops)
    rows = [json.loads(kept[c].read_text(encoding="utf-8")) | names(c) for c in wanted]
    floors = [r.pop("floor") for r in rows if "floor" in r]
    rows.insert(3, floors[0])
    seconds = sum(r.pop("seconds", 0.0) for r in rows)
    kinds = used[base.shadow, "shadow"].config.kind, used[base.attacker, "attacker"].config.kind
    beside = [
        sample.beside(r, kinds, base.config) if r["ablation"] == "default" else {} for r in rows
    ]
    return Table(
        "ablations",
        "What the paper leaves open, one change at a time",
        rows,
        *printed([r["condition"] for r in rows], rows, beside, MORE),
        {**settings, **settings_of(used, base), "only": list(only)},
        notes={
            "paper": {r["condition"]: b for r, b in zip(rows, beside, strict=True) if b},
            "feature": scale,
            "seen_in_training": seen,  # null: the decoder has no list of its people
        },
        spent=Spent(seconds, 0.0),  # of all rows, in whichever sitting
        remarks=_remarks(rows, base, scale, settings),
        pictures={"ablations.png": functools.partial(plots.ablations, rows)},
        narrow=range(len(COLUMNS) + 1),
    )


def _key(settings: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _remarks(
    rows: Sequence[Row], base: Condition, scale: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[str]:
    spread = scale["deviation"]
    least, most = scale["deviation_of_channels"]
    bounds = dict.fromkeys(r["epsilon"] for r in rows if r["epsilon"])
    in_units = ", ".join(f"ε = {e:g} is {e / spread:.2f}" for e in bounds)
    ci = next(r for r in rows if r["condition"] == base.label)
    uneven = dict.fromkeys(
        f"{r['left_over']} in batches of {r['batch']}" for r in rows if r.get("left_over")
    )
    return [
        f"Default: {base.steps} steps, α = {base.config.alpha:g}, ε = {base.epsilon:g} in total, "
        f"start z~, S on {base.config.statistics} statistics, batches of {base.batch}, both images "
        f"of a pair, S {Path(base.shadow).stem}, R {Path(base.attacker).stem}. z' < 0: the "
        "share of negative elements. S moved: mean |S(z') − x~|, what the ascent maximises. "
        f"{HOW_TO_READ}",
        f"Intervals (95 %, bootstrap) of the default: SSIM {_interval(ci, 'ssim', 1, 3)}, PSNR "
        f"{_interval(ci, 'psnr', 1, 2)}, ACC {_interval(ci, 'acc', 100, 2)} %, SRRA "
        f"{_interval(ci, 'srra', 100, 2)} %; those of every row are in the JSON and the plot.",
        f"The feature: mean {scale['mean']:.3f}, standard deviation {spread:.3f} (of single "
        f"channels {least:.2f} to {most:.2f}), {100 * scale['zeros']:.0f} % zeros; in standard "
        f"deviations {in_units}.",
        *([f"The last batch held {', '.join(uneven)} faces."] if uneven else []),
        of_sample(settings, rows[0]),
    ]


def _interval(r: Row, key: str, scale: float, digits: int) -> str:
    return " to ".join(f"{scale * x:.{digits}f}" for x in r[f"{key}_ci"])


if __name__ == "__main__":
    cli.start(main, "experiments.ablations")
