"""What ``throughput`` measures: calls of ``protect`` in turn, and the rows that they give."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import ProtectConfig, cli, memory, protect, protect_sweep, sharding
from advface_jax.models.decoders import Decoder
from advface_jax.protect import lowered
from experiments.benchmark import peer, roofline
from experiments.benchmark.timing import Sample, Spread, interleaved, marginal, timed
from experiments.measure import results_file

Precision = Literal["default", "high", "highest"]
OURS = "advface_jax"
FEW = 5  # the run that is taken off has a fifth of the steps


@dataclasses.dataclass(frozen=True)
class Case:
    """One thing to time: ``protect`` so, or for several ε ``protect_sweep``."""

    decoder: str
    batch: int
    steps: int
    dtype: str
    precision: Precision
    devices: int
    n_epsilon: int
    statistics: Literal["batch", "example"] = "batch"

    @property
    def few(self) -> int:
        """Steps of the shorter run; 0, which is none, where there is but one step."""
        return min(max(1, self.steps // FEW), self.steps - 1)

    def config(self, steps: int) -> ProtectConfig:
        return ProtectConfig(steps, statistics=self.statistics)


@dataclasses.dataclass(frozen=True)
class Bench:
    """What all cases share: the networks, and z (n,77,77,64) of some faces."""

    system: advface_jax.System
    decoders: Mapping[str, Decoder]
    z: np.ndarray
    epsilon: float

    def features(self, case: Case) -> jax.Array:
        """z of the case's batch, the faces repeated as often as it wants."""
        z = np.resize(self.z, (case.batch, *self.z.shape[1:]))
        return jnp.asarray(z).astype(case.dtype)

    def prepare(self, case: Case, steps: int) -> tuple[Callable[[], jax.Array], dict[str, Any]]:
        """The call, compiled, and what its compiler told. ValueError where it will not fit."""
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
        told = program.memory_analysis()

        def call() -> jax.Array:
            with multiplying(case.precision):
                if several:
                    return protect_sweep(z, epsilon, **arguments)
                return protect(z, epsilon=epsilon, **arguments)

        return call, {
            "compile_s": seconds,
            "temp_mb_per_face": told and told.temp_size_in_bytes / on_each / 1e6,
            "program_mb": told and (memory.needed(program) or 0) / 1e6,
        }


def multiplying(precision: Precision) -> contextlib.AbstractContextManager[Any]:
    """Products at that precision; "default" leaves JAX's own."""
    if precision == "default":
        return contextlib.nullcontext()
    return jax.default_matmul_precision(precision)


class Machine(NamedTuple):
    """Ceilings by (dtype, precision), FLOP/s, and of copying, bytes/s; of one device."""

    matmul: Mapping[tuple[str, str], Spread]
    copy: Spread


class Entry(NamedTuple):
    """Who does a case: a name, and how to run so many steps."""

    impl: str
    case: Case
    run: Callable[[int], Sample]
    told: dict[str, Any]


def ours(bench: Bench, case: Case) -> Entry:
    calls, told = {}, {}
    for steps in filter(None, (case.few, case.steps)):  # what the longer one told is kept
        calls[steps], told = bench.prepare(case, steps)
    return Entry(OURS, case, lambda steps: timed(calls[steps]), told)


def theirs(bench: Bench, case: Case, variant: str, other: peer.Peer, folder: Path) -> Entry:
    """The torch side's, once its first gradient was found to be ours.

    Raises:
      ValueError: it is not, or that side failed.
    """
    file = folder / f"{abs(hash(case))}.npz"
    if not file.exists():
        shadow = bench.decoders[case.decoder]
        with multiplying("highest"):
            z = bench.features(case).astype(jnp.float32)
            peer.write(file, z, extractor=bench.system.extractor, shadow=shadow)
    name = f"{file.stem} {variant}"
    told = other.ask(
        "load",
        name,
        file=str(file),
        kind=bench.decoders[case.decoder].config.kind,
        dtype=case.dtype,
        precision=case.precision,
        alpha=ProtectConfig.alpha,
        epsilon=bench.epsilon,
        variant=variant,
    )
    peer.refuse_disagreement(told, case.dtype, f"{peer.name(variant)}, {case.decoder}")

    def run(steps: int) -> Sample:
        sample, peak = other.run(name, steps)
        told["peak_mb"] = max(peak / 1e6, told.get("peak_mb", 0))
        return sample

    return Entry(peer.name(variant), case, run, told)


def measure(
    entries: Sequence[Entry], repeats: int
) -> tuple[list[list[Sample]], list[list[Sample]], Machine]:
    """Samples of each entry's whole runs, and of one iteration each, beside the machine's ceilings,
    all in turn."""
    kinds = sorted({(e.case.dtype, e.case.precision) for e in entries})
    ceilings: dict[Any, roofline.Ceiling] = {"copy": roofline.copy()}
    for kind in kinds:
        with multiplying(kind[1]):  # type: ignore[arg-type]
            ceilings[kind] = roofline.matmul(kind[0])

    def ceiling(kind: Any) -> Sample:
        with multiplying("default" if kind == "copy" else kind[1]):
            return timed(ceilings[kind].run)

    runs: dict[Any, Callable[[], Sample]] = {
        (i, steps): functools.partial(warm, entry, steps)
        for i, entry in enumerate(entries)
        for steps in filter(None, (entry.case.steps, entry.case.few))
    }
    runs |= {kind: functools.partial(ceiling, kind) for kind in ceilings}
    found = timed_under_a_bar(runs, repeats, "time")
    whole = [found[i, entry.case.steps] for i, entry in enumerate(entries)]
    iterations = [per_iteration(found, i, entry.case) for i, entry in enumerate(entries)]
    rates = {
        kind: Spread.of([made.amount / s.wall for s in found[kind]])
        for kind, made in ceilings.items()
    }
    return whole, iterations, Machine({kind: rates[kind] for kind in kinds}, rates["copy"])


def warm(entry: Entry, steps: int) -> Sample:
    """A run, timed after a short one that is not: the others' turns leave nothing of this program
    in the caches, and the first run after them takes several core-ms longer."""
    entry.run(entry.case.few or entry.case.steps)
    return entry.run(steps)


def timed_under_a_bar(
    runs: Mapping[Any, Callable[[], Sample]], repeats: int, title: str
) -> dict[Any, list[Sample]]:
    with cli.bar("runs") as bar:
        task = bar.add_task(title, total=len(runs) * (1 + repeats), note="")
        return interleaved(runs, repeats, lambda: bar.update(task, advance=1))


def per_iteration(found: Mapping[Any, list[Sample]], i: int, case: Case) -> list[Sample]:
    long = found[i, case.steps]
    if not case.few:  # of one step the whole run is all there is
        return long
    return marginal(long, found[i, case.few], case.steps - case.few)


def row(
    entry: Entry,
    whole: Sequence[Sample],
    iteration: Sequence[Sample],
    work: roofline.Work,
    machine: Machine,
    device: Any,
) -> results_file.Row:
    """A case's numbers. Those of an iteration are for one face and one ε, and None where noise was
    larger than what was measured."""
    case = entry.case
    share = case.batch * case.n_epsilon  # what one iteration of the program does
    clock = Spread.of([s.wall / share for s in iteration])
    core = Spread.of([s.cpu / share for s in iteration])
    faces = Spread.of([case.batch / s.wall for s in whole])
    # Devices that a CPU was cut into are no more of it.
    several = 1 if device.platform == "cpu" else case.devices
    peak = several * machine.matmul[case.dtype, case.precision].median
    copy = several * machine.copy.median
    seconds = clock.median if clock.median > 0 else None
    return {
        "impl": entry.impl,
        **dataclasses.asdict(case),
        "device": device.device_kind,
        "n": len(whole),
        "faces_per_s": faces.median,
        "faces_per_s_quartiles": [faces.low, faces.high],
        "core_ms_per_iteration_face": 1e3 * core.median,
        "core_ms_quartiles": [1e3 * core.low, 1e3 * core.high],
        "wall_ms_per_iteration_face": 1e3 * clock.median,
        "wall_ms_quartiles": [1e3 * clock.low, 1e3 * clock.high],
        "iteration_from_steps": [case.few, case.steps] if case.few else None,
        "flop_per_s": seconds and work.flops / seconds,
        "bytes_per_s": seconds and work.bytes / seconds,
        "roofline_share": seconds and work.least_seconds(peak, copy) / seconds,
        "bound_by": work.bound(peak, copy),
        **entry.told,
    }


def latency(bench: Bench, cases: Sequence[Case], runs: int) -> list[results_file.Row]:
    """The online mode: one face alone, S on its own statistics, from the call to the result."""
    calls = {case: bench.prepare(case, case.steps)[0] for case in cases}
    found = timed_under_a_bar(
        {case: functools.partial(timed, call) for case, call in calls.items()}, runs, "one face"
    )
    rows = []
    for case, samples in found.items():
        p50, p95 = np.quantile([1e3 * s.wall for s in samples], (0.5, 0.95))
        told = {"device": jax.devices()[0].device_kind, "n": len(samples)}
        milliseconds = {"latency_ms_p50": float(p50), "latency_ms_p95": float(p95)}
        rows.append({"impl": OURS, **dataclasses.asdict(case), **told, **milliseconds})
    return rows
