"""The cases of ``throughput``: calls of ``protect`` in turn, and the rows measured from them."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import ProtectConfig, memory, protect, protect_sweep, sharding
from advface_jax.models.decoders import Decoder
from advface_jax.protect import lowered
from experiments.benchmark import peer, roofline
from experiments.benchmark.timing import OURS, Entry, Sample, Spread, interleaved, marginal, timed
from experiments.measure.results_file import Row

Precision = Literal["default", "high", "highest"]
Formulation = Literal["auto", "plain", "packed", "subpixel"]
FEW = 5  # the run that is taken off has a fifth of the steps


@dataclasses.dataclass(frozen=True)
class Case:
    """Settings of one call to time: ``protect``, or for several ε ``protect_sweep``."""

    decoder: str
    batch: int
    steps: int
    dtype: str
    precision: Precision
    devices: int
    n_epsilon: int
    statistics: Literal["batch", "example"] = "batch"
    formulation: Formulation = "auto"

    @property
    def few(self) -> int:
        """Steps of the shorter run; 0 (no such run) for a single step."""
        return min(max(1, self.steps // FEW), self.steps - 1)

    def config(self, steps: int) -> ProtectConfig:
        return ProtectConfig(steps, statistics=self.statistics, formulation=self.formulation)


@dataclasses.dataclass(frozen=True)
class Bench:
    """Shared by all cases: the networks, ε, and z (n,77,77,64) of some faces."""

    system: advface_jax.System
    decoders: Mapping[str, Decoder]
    z: np.ndarray
    epsilon: float

    def features(self, case: Case) -> jax.Array:
        """z of the case's batch, from repeated faces."""
        z = np.resize(self.z, (case.batch, *self.z.shape[1:]))
        return jnp.asarray(z).astype(case.dtype)

    def prepare(self, case: Case, steps: int) -> tuple[Callable[[], jax.Array], dict[str, Any]]:
        """The call, compiled, and the compiler's figures. ValueError if memory is too small."""
        mesh = sharding.across(case.batch, jax.devices()[: case.devices])
        networks = {"extractor": self.system.extractor, "shadow": self.decoders[case.decoder]}
        arguments = {**sharding.replicate(networks, mesh), "config": case.config(steps)}
        z = sharding.split(self.features(case), mesh)
        several = case.n_epsilon > 1
        epsilon = np.full(case.n_epsilon if several else (), self.epsilon, np.float32)
        with multiplying(case.precision):
            began = time.perf_counter()
            program = lowered(z, epsilon, **arguments).compile()
            seconds = time.perf_counter() - began
        on_each = case.batch // case.devices
        memory.check(program, on_each, devices=case.devices)
        figures = program.memory_analysis()

        def call() -> jax.Array:
            with multiplying(case.precision):
                if several:
                    return protect_sweep(z, epsilon, **arguments)
                return protect(z, epsilon=epsilon, **arguments)

        return call, {
            "compile_s": seconds,
            "temp_mb_per_face": figures and figures.temp_size_in_bytes / on_each / 1e6,
            "program_mb": figures and (memory.needed(program) or 0) / 1e6,
        }


def multiplying(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Matrix products at that precision; "default" leaves JAX's own."""
    is_set = precision != "default"
    return jax.default_matmul_precision(precision) if is_set else contextlib.nullcontext()


def ours(bench: Bench, case: Case) -> Entry:
    calls, figures = {}, {}
    for steps in filter(None, (case.few, case.steps)):  # figures of the longer one are kept
        calls[steps], figures = bench.prepare(case, steps)
    return Entry(OURS, case, lambda steps: timed(calls[steps]), figures)


def theirs(bench: Bench, case: Case, variant: str, other: peer.Peer, folder: Path) -> Entry:
    """The torch side's. ValueError unless its first gradient equals ours."""
    file = folder / f"{abs(hash(case))}.npz"
    shadow = bench.decoders[case.decoder]
    if not file.exists():
        with multiplying("highest"):
            z = bench.features(case).astype(jnp.float32)
            peer.write(file, z, extractor=bench.system.extractor, shadow=shadow)
    how = {"variant": variant, "alpha": ProtectConfig.alpha, "epsilon": bench.epsilon}
    how |= {"kind": shadow.config.kind, "dtype": case.dtype, "precision": case.precision}
    return other.entry("protect", peer.NAMES[variant], case, file, **how)


def rows(bench: Bench, entries: Sequence[Entry], repeats: int) -> tuple[list[Row], dict[str, Any]]:
    """All entries in turn with the machine's ceilings: a row each, and notes on the roofline."""
    kinds = sorted({(e.case.dtype, e.case.precision) for e in entries})
    ceilings: dict[Any, roofline.Ceiling] = {"copy": roofline.copy()}
    for kind in kinds:
        with multiplying(kind[1]):
            ceilings[kind] = roofline.matmul(kind[0])

    def ceiling(kind: Any) -> Sample:
        with multiplying("default" if kind == "copy" else kind[1]):
            return timed(ceilings[kind].run)

    runs: dict[Any, Callable[[], Sample]] = {}
    work = {}
    for i, entry in enumerate(entries):
        case: Case = entry.case
        for steps in filter(None, (case.steps, case.few)):
            runs[i, steps] = functools.partial(warm, entry, steps)
        shadow = bench.decoders[case.decoder]
        work[case.decoder, case.dtype] = roofline.iteration(shadow, case.dtype)
    runs |= {kind: functools.partial(ceiling, kind) for kind in ceilings}
    found = interleaved(runs, repeats, "time")
    rates = {k: Spread.of([c.amount / s.wall for s in found[k]]) for k, c in ceilings.items()}
    made = []
    for i, entry in enumerate(entries):
        case = entry.case
        whole = iteration = found[i, case.steps]
        if case.few:
            iteration = marginal(whole, found[i, case.few], case.steps - case.few)
        speeds = rates[case.dtype, case.precision].median, rates["copy"].median
        its_work = work[case.decoder, case.dtype]
        made.append(row(entry, whole, iteration, its_work, *speeds, jax.devices()[0]))
    products = {" ".join(kind): rates[kind] for kind in kinds}
    counts = {}
    for (decoder, dtype), w in work.items():
        by_xla = roofline.counted(bench.decoders[decoder])
        counts[f"{decoder} {dtype}"] = {**w._asdict(), "flops_counted_by_xla": by_xla}
    ceiling_rates = {"matmul_flop_per_s": products, "copy_bytes_per_s": rates["copy"]}
    return made, {"ceilings": ceiling_rates, "work_of_an_iteration": counts}


def warm(entry: Entry, steps: int) -> Sample:
    """A run, timed after a short one that is not: after the turns of the others the caches are
    cold, and the first run takes several core-ms longer."""
    entry.run(entry.case.few or entry.case.steps)
    return entry.run(steps)


def row(
    entry: Entry,
    whole: Sequence[Sample],
    iteration: Sequence[Sample],
    work: roofline.Work,
    peak: float,
    copy: float,
    device: Any,
) -> Row:
    """A case's numbers. Those of an iteration are for one face and one ε, and None where noise
    exceeds the measured difference. ``peak``, ``copy``: a device's FLOP/s and bytes/s."""
    case = entry.case
    share = case.batch * case.n_epsilon  # what one iteration of the program does
    clock = Spread.of([1e3 * s.wall / share for s in iteration])
    core = Spread.of([1e3 * s.cpu / share for s in iteration])
    faces = Spread.of([case.batch / s.wall for s in whole])
    # A CPU divided into devices has the same ceilings.
    several = 1 if device.platform == "cpu" else case.devices
    peak, copy = several * peak, several * copy
    seconds = clock.median / 1e3 if clock.median > 0 else None
    return {
        "impl": entry.impl,
        **dataclasses.asdict(case),
        "device": device.device_kind,
        "n": len(whole),
        **faces.fields("faces_per_s"),
        **core.fields("core_ms_per_iteration_face", "core_ms"),
        **clock.fields("wall_ms_per_iteration_face", "wall_ms"),
        "iteration_from_steps": [case.few, case.steps] if case.few else None,
        "flop_per_s": seconds and work.flops / seconds,
        "bytes_per_s": seconds and work.bytes / seconds,
        "roofline_share": seconds and work.least_seconds(peak, copy) / seconds,
        "bound_by": work.bound(peak, copy),
        **entry.figures,
    }


def latency(bench: Bench, cases: Sequence[Case], runs: int) -> list[Row]:
    """The online mode: one face alone, S on its own statistics, from the call to the result."""
    calls = {case: bench.prepare(case, case.steps)[0] for case in cases}
    turns = {case: functools.partial(timed, call) for case, call in calls.items()}
    rows = []
    for case, samples in interleaved(turns, runs, "one face").items():
        p50, p95 = np.quantile([1e3 * s.wall for s in samples], (0.5, 0.95)).tolist()
        figures = {"device": jax.devices()[0].device_kind, "n": len(samples)}
        figures |= {"latency_ms_p50": p50, "latency_ms_p95": p95}
        rows.append({"impl": OURS, **dataclasses.asdict(case), **figures})
    return rows
