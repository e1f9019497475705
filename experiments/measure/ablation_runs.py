"""What the ablations compute: many protections as one store, and diagnoses."""

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import advface_jax
from advface_jax import ProtectConfig, pgd, protect, shadow_round_trip
from advface_jax.data import Faces, Pairs
from advface_jax.models.decoders import Decoder
from advface_jax.models.layers import Statistics
from advface_jax.protect import ascent
from advface_jax.system import Role
from experiments.measure import decoders, judging
from experiments.measure.ablation_conditions import Condition, Run
from experiments.measure.judging import of_features
from experiments.measure.results_file import Row
from experiments.measure.subjects import Clipping, static
from experiments.measure.table_rows import floor, row

Decoders = Mapping[tuple[str, Role], Decoder]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Protections:
    """All protections of a run (a ``judging.Store``)."""

    extractor: Any
    shadows: tuple[Decoder, ...]  # a family's each
    epsilons: tuple[jax.Array, ...]
    configs: tuple[ProtectConfig, ...] = static()
    steps: tuple[tuple[int, ...], ...] = static()

    def __call__(self, z: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        parts = zip(self.shadows, self.epsilons, self.configs, self.steps, strict=True)
        return jnp.concatenate([snapshots(z, mask, self.extractor, *part) for part in parts])


def snapshots(
    z: jax.Array,
    mask: jax.Array,
    extractor: Any,
    shadow: Decoder,
    epsilon: jax.Array,
    config: ProtectConfig,
    steps: tuple[int, ...],
) -> jax.Array:
    """z' after each of the ``steps``, 0 being z~, from one ascent of the largest: (n, b, *z)."""
    networks = {"extractor": extractor, "shadow": shadow}
    if steps == (config.steps,):
        return protect(z, **networks, epsilon=epsilon, config=config, mask=mask)[None]
    if (config.method, config.bound, config.start) != ("pgd", "total", "z_tilde"):
        raise ValueError(
            f"got steps {steps} with {config}; wanted one number of them: only the paper's ascent "
            "can be continued from where it was"
        )
    x_tilde, z_tilde = shadow_round_trip(z, **networks, statistics=config.statistics, mask=mask)
    stride = math.gcd(*steps)
    if not stride:
        return z_tilde[None]
    uphill = ascent(shadow, x_tilde, config.statistics, mask)
    some = dataclasses.replace(config, steps=stride)

    def further(q: jax.Array, _: None):
        q = pgd(uphill, z_tilde, epsilon, some, start=q)
        return q, q

    _, ends = lax.scan(further, z_tilde, None, max(steps) // stride)
    return jnp.concatenate([z_tilde[None], ends])[np.array(steps) // stride]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Two numbers for each stored feature z', by condition and face, without an attacker.

    ‖S(z') - x~‖₁ per pixel and channel, which is what the ascent maximises (S with the condition's
    own statistics); and the share of negative elements of z'.
    """

    shadows: tuple[Decoder, ...]
    statistics: tuple[Statistics, ...] = static()

    NAMES = ("shadow_l1", "negative_share")

    def __call__(self, z: jax.Array, stored: jax.Array, mask: jax.Array) -> jax.Array:
        found = []
        for q, shadow, statistics in zip(stored, self.shadows, self.statistics, strict=True):
            moved = jnp.abs(shadow(q, statistics, mask) - shadow(z, statistics, mask))
            found.append(jnp.stack([moved.mean((1, 2, 3)), (q < 0).mean((1, 2, 3))]))
        return jnp.stack(found)  # (c, 2, b)


def feature_scale(extractor: Any, faces: Faces, batch: int = 16) -> dict[str, Any]:
    """Mean and standard deviation of z over all faces, places and channels; the deviations of its
    channels from the least to the largest; its share of zeros."""
    sums = jax.jit(
        lambda extractor, x: (lambda z: (z.sum((0, 1, 2)), (z * z).sum((0, 1, 2)), (z == 0).sum()))(
            extractor(x)
        )
    )
    total = [np.zeros(64), np.zeros(64), np.zeros(())]
    for start in range(0, len(faces), batch):
        images = (faces.images[start : start + batch] / 255).astype(np.float32)
        for whole, part in zip(total, sums(extractor, images), strict=True):
            whole += np.asarray(part, np.float64)
    n = len(faces) * 77 * 77
    mean, square, zeros = total[0] / n, total[1] / n, float(total[2]) / (64 * n)
    channels = np.sqrt(square - mean**2)
    return {
        "mean": float(mean.mean()),
        "deviation": float(np.sqrt(square.mean() - mean.mean() ** 2)),
        "deviation_of_channels": [float(channels.min()), float(channels.max())],
        "zeros": zeros,
    }


def read_decoders(system: advface_jax.System, rows: Sequence[Condition]) -> Decoders:
    """The S and R of all rows, each once."""
    asked = [(c.shadow, "shadow") for c in rows] + [(c.attacker, "attacker") for c in rows]
    return {  # type: ignore[return-value]
        (source, role): decoders.decoder(system, source, role)  # type: ignore[arg-type]
        for source, role in dict.fromkeys(asked)
    }


def settings_of(used: Decoders, c: Condition) -> dict[str, Any]:
    """The settings of a condition's row, beside the faces and the recogniser."""
    return {
        **dataclasses.asdict(c.config),
        "steps": c.steps,
        "epsilon": c.epsilon,
        "batch": c.batch,
        "shadow": Path(c.shadow).stem,
        "shadow_sha256": decoders.digest(used[c.shadow, "shadow"]),
        "attacker": Path(c.attacker).stem,
        "attacker_sha256": decoders.digest(used[c.attacker, "attacker"]),
        "clip": c.clip,
        "enrolled_only": c.enrolled_only,
    }


def names(c: Condition) -> dict[str, str]:
    """What a row is called: AdvFace alone is the default's."""
    method = "Unprotected" if c.epsilon is None else "AdvFace"
    method += "" if c.part == "default" else f" ({c.label})"
    return {"ablation": c.part, "condition": c.label, "method": method}


def measure(
    run: Run,
    system: advface_jax.System,
    used: Decoders,
    crops: Faces,
    over: Pairs,
    settings: Mapping[str, Any],
    keep: Path,
    seed: int,
) -> tuple[dict[Condition, Row], Path]:
    """The rows of a run, and the folder in ``keep`` that holds its finished batches."""
    shadows = tuple(used[f.shadow, "shadow"] for f in run.families)
    store = Protections(
        system.extractor,
        shadows,
        tuple(jnp.float32(f.epsilon) for f in run.families),
        tuple(f.config for f in run.families),
        tuple(f.steps for f in run.families),
    )
    attackers = [used[source, "attacker"] for source, _ in run.attackers]
    subject = of_features(
        system.network,
        store,
        [Clipping(r) if clip else r for r, (_, clip) in zip(attackers, run.attackers, strict=True)],
    )
    each = [0, *(i for i, f in enumerate(run.families) for _ in f.steps)]  # unprotected first
    diagnosis = Diagnosis(
        tuple(shadows[i] for i in each), tuple(run.families[i].config.statistics for i in each)
    )
    subject = dataclasses.replace(subject, diagnose=diagnosis)
    mine = {**settings, "rows": [settings_of(used, c) for c in run.rows]}
    began = time.monotonic()
    measured = judging.measure(crops, subject, batch=run.batch, seed=seed, keep=keep, settings=mine)
    seconds = (measured.earlier + time.monotonic() - began) / len(run.rows)
    judged = measured.judged
    lines: dict[Condition, Row] = {}
    for c in run.rows:
        condition, attacker = run.place(c)
        notes = {"set": settings["set"], **names(c), **settings_of(used, c), "seconds": seconds}
        notes["left_over"] = len(crops) % c.batch  # of the last batch; 0: it was full
        notes |= {
            name: float(values.mean())
            for name, values in zip(Diagnosis.NAMES, judged.diagnosed[condition], strict=True)
        }
        for known in ("method", "epsilon", "enrolled_only"):  # by the row's own names
            notes.pop(known)
        bound = c.epsilon if c.steps or c.epsilon is None else 0.0  # z~ lies within any
        method = names(c)["method"]
        one_side = c.enrolled_only
        lines[c] = row(method, bound, judged, condition, over, attacker, one_side, extra=notes)
        if c.epsilon is None:
            notes = {"set": settings["set"], "ablation": c.part, "condition": "Mean face (floor)"}
            lines[c]["floor"] = floor(crops, judged, subject, over, extra=notes)
    return lines, measured.folder
