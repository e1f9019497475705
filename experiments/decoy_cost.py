"""What a decoy costs beside AdvFace: milliseconds a face, and memory.

    python -m experiments.decoy_cost                # batches of 8
    python -m experiments.decoy_cost --batch auto   # as many as fit, 256 at most

Writes decoy_cost.json and decoy_cost.md into --out.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import ProtectConfig, checks, cli, decoy, defenses, memory, protect, protect_decoy
from advface_jax.decoy import DEFAULT, DEVIATION, DecoyConfig
from advface_jax.defenses import decoys
from experiments.measure import decoyed, judging
from experiments.measure.table import Column, Spent, Table, printed, publish

MOST = 256  # of --batch auto
ALL = ", all steps"
COLUMNS = (
    Column("batch", "batch", 1, 0),
    Column("steps at most", "steps", 1, 0),
    Column("ms a face", "ms", 1, 2),
    Column("× AdvFace", "times", 1, 2),
    Column("MB a face", "mb", 1, 1),
    Column("MB beside", "mb_fixed", 1, 0),
)


def main(
    batch: str = "8",
    repeats: int = 3,
    exact: bool = True,
    weights: str = "facenet-512-q8",
    sibling: str | None = None,
    out: cli.Out = Path("results"),
) -> None:
    """Time AdvFace (40 steps, the shipped ResRec) and decoys without and with a key, in turn.

    Once a face stops at the threshold, as in use, and once all take all steps: the most that a
    decoy costs. Drawn faces; medians, compiling left out; memory by the compiler's estimate.

    Args:
      batch: Faces protected together; auto: as many as fit into memory for the costliest, 256 at
        most.
      repeats: Timed runs of each.
      exact: Round no product on its way; --no-exact is faster on accelerators.
      weights: The recogniser, as for the other commands.
      sibling: The public recogniser that the shadow recognisers are made of, by default
        facenet-128, or facenet-512-q8 beside that. With the server's own a face does not come to
        the threshold, and all steps are timed alone.
      out: Folder for the results.
    """
    if batch != "auto" and not (batch.isdecimal() and int(batch)):
        raise ValueError(f"got --batch {batch}; wanted a number from 1, or auto")
    checks.positive(repeats=repeats)
    cli.folder(out)
    cli.loading(weights)
    system = advface_jax.load(weights)
    other = advface_jax.load(sibling or decoyed.other(weights))
    with judging.exactly("float32" if exact else "tf32"):
        publish(table(system, other, batch, repeats, exact), out)


def table(
    system: advface_jax.System, other: advface_jax.System, batch: str, repeats: int, exact: bool
) -> Table:
    """A row for each method; arguments as for ``main``."""
    began = time.monotonic()
    learnt = decoyed.drawn(0, decoyed.LEARNT)
    shadows = [decoyed.stitched(system, other, learnt, patch) for patch in decoyed.PATCHES]
    networks: dict[str, Any] = {"extractor": system.extractor, "shadow": system.shadow}
    readers: dict[str, Any] = {"recogniser": system.server, "shadows": shadows}
    shape = decoyed.features(system, learnt[:1]).shape[1:]
    pattern = DEVIATION * np.random.default_rng(0).normal(size=shape).astype(np.float32)
    sizes = {
        "AdvFace": memory.footprint(**networks, shape=shape),
        "Decoy": memory.of_program(lambda z: decoy.lowered(z, **readers), shape),
        "Decoy with a key": memory.of_program(
            lambda z: decoy.lowered(z, **readers, pattern=True), shape
        ),
    }
    largest = max(sizes.values(), key=lambda size: size.per_face)
    n = memory.fitting(largest, most=MOST) if batch == "auto" else int(batch)
    z = jnp.asarray(decoyed.features(system, decoyed.drawn(1, n)))
    faces = jnp.asarray(decoyed.drawn(2), jnp.float32) / 255
    mixing = defenses.decoy(**readers, extractor=system.extractor, faces=faces)
    d = decoys.start(mixing, jax.random.split(jax.random.key(0), n))
    calls: dict[str, Callable[[], Any]] = {"AdvFace": lambda: protect(z, **networks)}
    own = other.card["sha256"] == system.card["sha256"]
    for threshold, ending in ((DEFAULT.threshold, ""), (1.0, ALL))[own:]:
        config = DecoyConfig(threshold=threshold)
        both = functools.partial(protect_decoy, z, d, **readers, config=config)
        calls |= {f"Decoy{ending}": both}
        calls |= {f"Decoy with a key{ending}": functools.partial(both, pattern=pattern)}
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            lap = time.monotonic()
            jax.block_until_ready(call())
            if turn:  # the first one compiles
                spent[name].append(time.monotonic() - lap)
    usual = float(np.median(spent["AdvFace"]))
    rows = [
        {
            "method": name,
            "batch": n,
            "steps": ProtectConfig().steps if name == "AdvFace" else DEFAULT.steps,
            "ms": 1000 * float(np.median(laps)) / n,
            "times": float(np.median(laps)) / usual,
            "mb": sizes[name.removesuffix(ALL)].per_face / 1e6,
            "mb_fixed": sizes[name.removesuffix(ALL)].fixed / 1e6,
        }
        for name, laps in spent.items()
    ]
    header, lines = printed([*spent], rows, [{}] * len(rows), COLUMNS)
    settings = {
        "experiment": "decoy_cost",
        "weights": system.card["source"],
        "sibling": other.card["source"],
        "exact": exact,
        "repeats": repeats,
    }
    return Table(
        "decoy_cost",
        "What a decoy costs beside AdvFace",
        rows,
        header,
        lines,
        settings,
        notes={},
        spent=Spent(0.0, time.monotonic() - began),
        remarks=(
            f"Medians of {repeats} runs in turn; {len(shadows)} shadow recognisers. A face stops "
            f"at a cosine of {DEFAULT.threshold}, but for the rows with all steps.",
        ),
        pictures={},
        caption="Milliseconds and memory a face",
    )


if __name__ == "__main__":
    cli.start(main, "experiments.decoy_cost")
