"""Which noise gives the paper's Random row: SSIM .90 and 22.8 dB at once, against four noises.

    python -m experiments.random_row                  # demo: synthetic faces, no data needed
    python -m experiments.random_row --preset paper   # LFW's official pairs, beside the paper

Writes random_row.json, random_row.md and random_row.png into --out.
"""

import dataclasses
import functools
import math
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import lax

import advface_jax
from advface_jax import cli
from experiments import plots
from experiments.measure import decoders, inputs, judging, paper
from experiments.measure.inputs import Inputs
from experiments.measure.results_file import Row, markdown, surroundings
from experiments.measure.sample import OfSample, Sample
from experiments.measure.table import HOW_TO_READ, Spent, Table, printed, publish
from experiments.measure.table import sample as of_sample
from experiments.measure.table_rows import floor, row

# name: (noise of strength 1 from a key, how strength s stands in a table: {0} is s, {1} 2s)
NOISES = {
    "uniform": (
        lambda key, shape: jax.random.uniform(key, shape, minval=-1.0),
        "uniform in ±{0:g}",
    ),
    "gaussian": (jax.random.normal, "Gaussian, σ = {0:g}"),
    "shift": (lambda key, shape: jnp.ones(shape), "all + {0:g}"),
    "one_sided": (lambda key, shape: 2 * jax.random.uniform(key, shape), "uniform in [0, {1:g}]"),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noisy:
    """z and noise, each kind at its strengths (a ``judging.Store``); a face draws the same
    numbers at every strength of a kind."""

    strengths: tuple[jax.Array, ...]
    kinds: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    def __call__(self, z: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        stored = []
        for kind, strengths in zip(self.kinds, self.strengths, strict=True):
            draw = NOISES[kind][0]
            noise = jax.vmap(lambda key, draw=draw: draw(key, z.shape[1:]))(keys)
            stored.append(lax.map(lambda s, noise=noise: z + s * noise, strengths))
        return jnp.concatenate(stored)  # (c, b, 77, 77, 64)


def main(
    sample: OfSample,
    attacker: str = "resrec",
    uniform: tuple[float, ...] = (0.2, 0.5, 0.8, 1.2),
    gaussian: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7),
    shift: tuple[float, ...] = (0.1, 0.2, 0.26, 0.32),
    one_sided: tuple[float, ...] = (0.1, 0.2, 0.26, 0.32),
) -> None:
    """Ask which noise gives the paper's Random row: SSIM .90 and PSNR 22.81 dB at once.

    White noise averages out in R, fine structure goes before brightness does; a shift of every
    element to one side moves brightness and leaves structure. The paper says 40 iterations with
    the bound 0.2: drawn from [0, 0.2) instead of [-0.2, 0.2) and kept within 0.2 in total, they
    end as a shift of all elements by 0.2. A shift is no defence; it is here to explain a number.

    Stopped? The same command resumes after the last finished batch.

    Args:
      attacker: The attacker's R: transrec, resrec, urec, or a .safetensors file of train_decoder.
      uniform: Bounds ε of noise that is uniform in ±ε, in units of the feature.
      gaussian: Standard deviations of Gaussian noise.
      shift: What is added to every element.
      one_sided: Means s of noise that is uniform in [0, 2s].
    """
    asked = {"uniform": uniform, "gaussian": gaussian, "shift": shift, "one_sided": one_sided}
    swept = _checked(asked)
    system, given = sample.open(attacker)
    publish(table(system, given, sample, swept, attacker), sample.out)


def table(
    system: advface_jax.System,
    given: Inputs,
    sample: Sample,
    noises: Mapping[str, tuple[float, ...]],
    attacker: str = "resrec",
) -> Table:
    """A row for each strength of each noise (a key of ``NOISES``); the rest as for ``main``."""
    began = time.monotonic()
    crops, over, origin = given
    swept = _checked(noises)
    decoder = decoders.decoder(system, attacker, "attacker")
    lists = {"attacker": decoders.identities(system, attacker, "attacker")}
    seen = inputs.seen_in_training(lists, crops, sample.on_leak)
    settings = {
        "experiment": "random_row",
        **origin,
        **decoders.of_system(system),
        "attacker": Path(attacker).stem,
        "attacker_sha256": decoders.digest(decoder),
        "noises": {kind: list(values) for kind, values in swept.items()},
        "batch": sample.batch,
        "versions": surroundings()["versions"],
    }
    store = Noisy(tuple(jnp.asarray(v, jnp.float32) for v in swept.values()), tuple(swept))
    subject = judging.of_features(system.network, store, [decoder])
    with judging.exactly("float32"):
        judged, _, earlier, _, folder = judging.measure(
            crops, subject, settings=settings, **sample.how
        )
        extra = {k: settings[k] for k in ("set", "attacker")}
        rows = [row("Unprotected", None, judged, 0, over, extra=extra)]
        for kind, values in swept.items():
            for strength in values:
                at = {**extra, "noise": kind, "strength": strength}
                label = _label(kind, strength)
                rows.append(row(label, None, judged, len(rows), over, extra=at))
        rows.append(floor(crops, judged, subject, over, extra=extra))
    goal = paper.of("Random", sample.set)
    theirs = {name: paper.of(name, sample.set) for name in ("Random", "DP")}
    theirs = theirs if sample.preset == "paper" else {}
    reached = {kind: crossing(rows, kind, goal["psnr"]) for kind in swept}
    labels = [*(r["method"] for r in rows), *(f"  {name} in the paper" for name in theirs)]
    shown = [*rows, *theirs.values()]
    return Table(
        "random_row",
        "Which noise gives the paper's Random row",
        rows,
        *printed(labels, shown, [{} for _ in shown]),
        settings,
        notes={
            "paper": theirs,
            "at_the_paper_s_psnr": {"psnr": goal["psnr"], **reached},  # null: not reached
            "seen_in_training": seen,  # null: the decoder has no list of its people
        },
        spent=Spent(earlier, time.monotonic() - began),
        remarks=(
            f"Where each noise takes R's picture down to the paper's {goal['psnr']:g} dB "
            "(interpolated between the strengths above):",
            _crossings(reached, goal),
            "White noise (uniform, Gaussian) is even in both directions; the others go one way. "
            "Uniform draws from [0, 0.2) in 40 iterations, kept within 0.2 in total, are the shift "
            "by 0.2.",
            HOW_TO_READ,
            f"R {settings['attacker']}, {of_sample(settings, rows[0])}",
        ),
        pictures={"random_row.png": functools.partial(plots.noises, rows, theirs=theirs)},
        kept=(folder,),
    )


def crossing(rows: list[Row], kind: str, psnr: float) -> dict[str, float] | None:
    """The strength at which a noise first takes R's picture down to ``psnr``, with SSIM and ACC
    there, each linear in PSNR between two measured strengths; None if none does."""
    first = {**rows[0], "strength": 0.0}
    curve = [first, *sorted((r for r in rows if r.get("noise") == kind), key=_strength)]
    for before, after in zip(curve, curve[1:], strict=False):
        if before["psnr"] >= psnr >= after["psnr"] and before["psnr"] > after["psnr"]:
            share = (before["psnr"] - psnr) / (before["psnr"] - after["psnr"])
            keys = ("strength", "ssim", "acc")
            return {k: round(before[k] + share * (after[k] - before[k]), 4) for k in keys}
    return None


def _strength(r: Row) -> float:
    return r["strength"]


def _checked(noises: Mapping[str, tuple[float, ...]]) -> dict[str, tuple[float, ...]]:
    """Those with a strength. ValueError for a bad one, and if there is none."""
    for kind, values in noises.items():
        if bad := [v for v in values if not 0 < v < math.inf]:
            flag = kind.replace("_", "-")
            raise ValueError(f"got --{flag} {bad[0]}; wanted positive, finite numbers")
    if not any(noises.values()):
        raise ValueError("got no strength of any noise; wanted one or more, as --shift 0.2 0.26")
    return {kind: values for kind, values in noises.items() if values}


def _label(kind: str, strength: float) -> str:
    return NOISES[kind][1].format(strength, 2 * strength)


def _crossings(reached: Mapping[str, dict[str, float] | None], goal: Mapping[str, float]) -> str:
    found = []
    for kind, at in reached.items():
        numbers = [f"{at['ssim']:.3f}", f"{100 * at['acc']:.2f}"] if at else ["–", "–"]
        found.append([_label(kind, at["strength"]) if at else f"{kind}: not reached", *numbers])
    found.append(["Random in the paper", f"{goal['ssim']:.3f}", f"{100 * goal['acc']:.2f}"])
    return markdown((f"at {goal['psnr']:g} dB", "SSIM", "ACC %"), found)


if __name__ == "__main__":
    cli.start(main, "experiments.random_row")
