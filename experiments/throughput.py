"""How fast ``protect`` is here: faces a second, processor time, memory, share of the roofline.

    python -m experiments.throughput                              # about two minutes on two cores
    python -m experiments.throughput --batch 1 8 32 --peer torch --peer-python DIR/bin/python
    python -m experiments.throughput --aot v5e:1x1                # estimates for TPUs

Writes throughput.json, throughput.md, throughput.png and roofline.png into --out.
"""

import contextlib
import dataclasses
import importlib.metadata
import os
import time
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import advface_jax
from advface_jax import ProtectConfig, checks, cli, data, memory, sharding
from advface_jax.models.decoders import KINDS, DecoderConfig, check_sources
from advface_jax.system import read_decoder
from experiments.benchmark import cases, text, tpu_estimate
from experiments.benchmark import peer as peers
from experiments.benchmark import training as trainings
from experiments.benchmark.cases import Bench, Case, Formulation, Precision
from experiments.measure import decoders, results_file, table

MOST = 256  # of --batch auto, even if more would fit
TABLE = True  # --json and --html


def main(
    decoder: Annotated[
        tuple[str, ...], tyro.conf.arg(name="shadows", aliases=["--shadow", "--decoder"])
    ] = KINDS,
    batch: tuple[str, ...] | None = None,
    steps: tuple[int, ...] = (ProtectConfig.steps,),
    precision: tuple[Literal["float32", "bfloat16"] | Precision, ...] = (),
    matmul_precision: tuple[Precision, ...] = (),
    formulation: tuple[Formulation, ...] = ("auto",),
    devices: tuple[int, ...] | None = None,
    n_epsilon: tuple[int, ...] = (1,),
    epsilon: float = 0.2,
    repeats: int = 5,
    latency: int = 20,
    training: tuple[int, ...] = (),
    peer: Literal["torch"] | None = None,
    peer_python: Path | None = None,
    peer_variants: tuple[peers.Variant, ...] = ("eager", "compile", "step+channels_last"),
    profile: Path | None = None,
    aot: tuple[str, ...] = (),
    hosts: str | None = None,
    weights: str = "facenet-512-q8",
    out: cli.Out = Path("results"),
    dtype: tuple[Literal["float32", "bfloat16"], ...] = (),
) -> None:
    """Measure the speed of AdvFace's protection on this machine.

    Every combination of the lists below is timed: once to warm up, then all in turn, there and
    back, --repeats times; the table has medians and quartiles. An iteration's time is the
    difference between runs of all and of a fifth of the steps: the shadow round trip, done once a
    batch, is not in it. Faces/s are of the whole call. The share of the roofline compares it with
    this machine's own speed of multiplying and of copying, measured in the same turns.

    On a machine that others use, compare processor time (core-ms), not the clock, pinned to one
    core: `taskset -c 0 python -m experiments.throughput`. See docs/performance.md.

    Args:
      decoder: S: transrec, resrec, urec, or .safetensors files of train_decoder.
      batch: Faces protected together; auto: as many as fit into memory, 256 at most. By default 1
        and 8, with --aot 8.
      steps: PGD iterations.
      precision: float32 or bfloat16: of the features, and of all arithmetic but batch norm's
        statistics. By default float32, with --aot bfloat16. The other words are those of
        --matmul-precision, as older commands give them.
      matmul_precision: Of float32 products, as in jax.default_matmul_precision: accelerators round
        by default; with highest they do not. A CPU never does.
      formulation: How S is computed, as in ProtectConfig.formulation; auto is the fastest known,
        and with --aot plain and packed.
      devices: How many share the batch; each core of a CPU is one. By default all that can share it
        equally.
      n_epsilon: Bounds at once: 1 is protect, several are protect_sweep.
      epsilon: The bound, in units of the feature. Speed does not depend on it.
      repeats: Timed runs of each combination.
      latency: Runs of one face alone, on its own statistics (the online mode: p50 and p95); 0:
        none.
      training: Batches at which to time a step of training each decoder, too.
      peer: torch: the same work in PyTorch, in turn with ours, after a check that its first
        gradient equals ours. Of one device (or all of a CPU's cores) and one ε.
      peer_python: A Python with torch and numpy; by default this one.
      peer_variants: eager, compile (the network), step+channels_last (the whole iteration compiled,
        in that memory layout), tuned+channels_last (the same by max-autotune).
      profile: Folder for a trace of jax.profiler, from one more run of each combination.
      aot: TPUs, as v5e:1x1, v6e:2x2 or v5p:2x2x1: nothing is timed; their compiler (extra tpu, no
        TPU) estimates an iteration's cycles, of the decoders, batches, steps and precisions above.
      hosts: Several hosts share each batch; run the same command on each: auto on Cloud TPU pods,
        under Slurm, Open MPI and Kubernetes; else ADDRESS:PORT,COUNT,INDEX. The first writes the
        results. A batch that all devices cannot share is done by one device of each host.
      weights: E and the decoders by kind: facenet-512-q8 (fetched at first use, 17 MB), another
        known name, or a folder of weights_convert.
      out: Folder for the results.
      dtype: The older name of --precision.
    """
    began = time.monotonic()
    checks.positive(repeats=repeats, training=min(training, default=1))
    checks.between(0, 100_000, latency=latency)
    checks.positive(steps=min(steps, default=1), n_epsilon=min(n_epsilon, default=1))
    checks.bound(epsilon)
    if len({Path(d).stem for d in decoder}) < len(decoder):
        raise ValueError(f"got --shadows {' '.join(decoder)}; wanted each name once")
    check_sources(*decoder)
    cli.folder(out)
    older: Any = tuple(p for p in precision if p in get_args(Precision))
    kinds = tuple(p for p in precision if p not in older) or dtype
    products: tuple[Precision, ...] = matmul_precision or older or ("default",)
    if aot:
        forms = tuple(f for f in formulation if f != "auto") or ("plain", "packed")
        _ahead(aot, decoder, batch or ("8",), steps, kinds or ("bfloat16",), forms, out)
        return
    batch, kinds = batch or ("1", "8"), kinds or ("float32",)
    for size in set(batch) - {"auto"}:
        _number(size)
    if hosts is not None:
        if devices is not None or peer is not None or "auto" in batch:
            raise ValueError(
                "got --hosts with --devices, --peer or --batch auto; wanted none of them"
            )
        sharding.join(hosts)
        cli.console.quiet = not sharding.leads()  # one bar and one answer are enough
    if peer:  # two programs may share the device: ours must not allocate all of its memory
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if devices is not None and not 1 <= min(devices) <= max(devices) <= len(jax.devices()):
        given = " ".join(map(str, devices))
        raise ValueError(f"got --devices {given}; here are {len(jax.devices())}")
    cli.loading(weights)
    system = advface_jax.load(weights)
    shadows = {Path(d).stem: decoders.decoder(system, d, "shadow") for d in decoder}
    pictures = jnp.asarray(data.synthetic_faces(8, 1).images / 255, jnp.float32)
    z = np.asarray(jax.jit(lambda e, x: e(x))(system.extractor, pictures))
    bench = Bench(system, shadows, z, checks.epsilon(epsilon).item())
    lists = product(shadows, batch, steps, kinds, products, devices or (0,), n_epsilon)
    plain = [_sized(bench, size, Case(kind, 0, *how)) for kind, size, *how in lists]  # type: ignore[arg-type]
    chosen = [dataclasses.replace(c, formulation=f) for c in plain for f in formulation]

    with contextlib.ExitStack() as stack:
        entries = [cases.ours(bench, case) for case in _shown(chosen, "compile")]
        side = stack.enter_context(peers.start(peer_python)) if peer else None
        if side:
            on_a_cpu = jax.devices()[0].platform == "cpu"  # torch, too, takes all cores
            alike = [c for c in plain if c.n_epsilon == 1 and (on_a_cpu or c.devices == 1)]
            pairs = [*product(alike, peer_variants)]
            entries += [
                cases.theirs(bench, case, variant, *side)
                for case, variant in _shown(pairs, "torch: compile, compare")
            ]
        rows, notes = cases.rows(bench, entries, repeats)
        lessons = [
            entry
            for kind, size in _shown([*product(shadows, training)], "compile trainings")
            for entry in trainings.entries(bench, kind, size, peer_variants, side)
        ]
        trained = trainings.rows(lessons, repeats)
    if latency:
        alone = [Case(d, 1, steps[0], kinds[0], products[0], 1, 1, "example") for d in shadows]
        rows += cases.latency(bench, alone, latency)
    rows += trained
    if profile is not None:
        with jax.profiler.trace(str(profile)):
            for entry in entries[: len(chosen)]:
                entry.run(entry.case.steps)

    stats = jax.local_devices()[0].memory_stats() or {}
    notes["device_peak_mb_of_all"] = stats.get("peak_bytes_in_use", 0) / 1e6 or None
    notes["peer"] = side[0].about if side else {}
    if not sharding.leads():
        return
    config = {"epsilon": epsilon, "repeats": repeats, "latency": latency, "weights": weights}
    seconds = time.monotonic() - began
    told = text.text(rows, notes, cli.command("experiments.throughput"), seconds)
    _write(out, "throughput", rows, told, config, seconds=seconds, notes=notes)
    text.plots(rows, notes, out)
    cli.console.print(f"pictures: {out / 'throughput.png'}, {out / 'roofline.png'}", soft_wrap=True)


def _write(out: Path, name: str, rows, told: str, config: dict[str, Any], **more: Any) -> None:
    """``NAME.json`` and ``NAME.md``, which is shown, too; with --html a page."""
    command = cli.command("experiments.throughput")
    more |= {"command": command, "text": told}
    results_file.write_results(out, name, rows, config={**config, "seed": None}, **more)
    about = {"seconds": more["seconds"], "config": config}
    pages = table.write_page(out, name, "How fast protect is here", told, command, about)
    table.answer(out, name, told)
    files = (f"{name}.md", f"{name}.json", *pages)
    cli.console.print("written: " + ", ".join(str(out / f) for f in files), soft_wrap=True)


def _ahead(topologies, decoder, batch, steps, dtype, forms, out: Path) -> None:
    """The compiler's estimates for TPUs: throughput_aot.json and .md."""
    began = time.monotonic()
    configs = [
        DecoderConfig.of(d) if d in KINDS else read_decoder(d, "none")[0].config for d in decoder
    ]
    lists = topologies, configs, steps, map(_number, batch), dtype, forms
    rows = [
        tpu_estimate.row(topology, config, size, dtype=kind, steps=n, formulation=how)
        for topology, config, n, size, kind, how in _shown([*product(*lists)], "compile for TPUs")
    ]
    versions = f"jax {jax.__version__}, libtpu {importlib.metadata.version('libtpu')}"
    told = f"{tpu_estimate.table(rows)}\n\n`{cli.command('experiments.throughput')}`\n\n{versions}."
    seconds, config = time.monotonic() - began, {"topologies": list(topologies)}
    _write(out, "throughput_aot", rows, told, config, seconds=seconds)


def _number(size: str) -> int:
    if not size.isdecimal() or size == "0":
        raise ValueError(f"got --batch {size}; wanted numbers from 1, or auto (without --aot)")
    return int(size)


def _sized(bench: Bench, size: str, case: Case) -> Case:
    """The case with its batch, a number or "auto", and its devices (0: all that can share it)."""
    if size == "auto":
        case = dataclasses.replace(case, devices=case.devices or len(jax.devices()))
        fitting = memory.largest_batch(
            extractor=bench.system.extractor,
            shadow=bench.decoders[case.decoder],
            config=case.config(case.steps),
            n_epsilon=case.n_epsilon,
            dtype=case.dtype,
            devices=case.devices,
            most=MOST,
        )
        return dataclasses.replace(case, batch=fitting)
    batch = int(size)
    if case.devices and batch % case.devices:
        raise ValueError(f"got --batch {batch} for --devices {case.devices}; wanted a multiple")
    shared = case.devices or sharding.most(batch, len(jax.devices()))
    if jax.process_count() > 1 and shared < len(jax.devices()):
        shared = 1  # else some hosts would own none of them
    return dataclasses.replace(case, batch=batch, devices=shared)


def _shown(things: Sequence[Any], title: str) -> Iterator[Any]:
    """The things one by one, under a bar."""
    with cli.bar("cases") as bar:
        yield from bar.track(things, task_id=bar.add_task(title, total=len(things), note=""))


if __name__ == "__main__":
    cli.start(main, "experiments.throughput")
