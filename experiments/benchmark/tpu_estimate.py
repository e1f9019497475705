"""The cost of ``protect`` on TPUs by their compiler's estimate, without a TPU.

libtpu (extra ``tpu``) compiles for a named topology on any Linux machine and notes the estimated
cycles of each instruction. Their sum over the body of the loop is one iteration. The estimate is
the same at every run; it compares formulations of one computation and measures no chip.
"""

import importlib.util
import inspect
import math
import os
import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from advface_jax import ProtectConfig
from advface_jax.models import decoders, facenet
from advface_jax.models.fast import packed_decoders
from advface_jax.protect import _protect, ascent
from experiments.benchmark import roofline
from experiments.benchmark.roofline import as_on_a_tpu
from experiments.measure.results_file import Row, markdown

CLOCKS = {
    "v4": (1.05, "275 TFLOP/s = 2 cores × 4 units × 128² × 2 × clock"),
    "v5e": (1.5, "197 TFLOP/s = 4 units × 128² × 2 × clock; jax-ml.github.io/scaling-book"),
    "v5p": (1.75, "459 TFLOP/s = 2 cores × 4 units × 128² × 2 × clock"),
    "v6e": (1.75, "an assumption: half of what 918 TFLOP/s and 2 units of 256² would need"),
}
"""GHz, to convert cycles into seconds, and their source; peak FLOP/s and matrix units are Google's
published ones (docs.cloud.google.com/tpu/docs)."""

PEAKS = {
    "v4": (275e12, 1228e9),
    "v5e": (197e12, 819e9),
    "v5p": (459e12, 2765e9),
    "v6e": (918e12, 1640e9),
}
"""Of a chip, as published there: FLOP/s in bfloat16, and bytes/s of its memory."""

SURROUNDINGS = {
    "TPU_SKIP_MDS_QUERY": "1",  # there is no TPU with metadata
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # other processes may compile at the same time
}


def devices(topology: str) -> Sequence[Any]:
    """The devices of a topology such as "v5e:1x1", "v5e:2x2", "v6e:2x2" or "v5p:2x2x1". ValueError
    without libtpu, or for a topology it does not have."""
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"got --aot {topology} without libtpu, the TPU's compiler; wanted it installed: "
            "pip install 'jax[tpu]' (Linux; no TPU is needed)"
        )
    chip, _, shape = topology.partition(":")
    if chip not in CLOCKS or not re.fullmatch(r"\d+(x\d+){1,2}", shape):
        raise ValueError(
            f"got topology {topology!r}; wanted a chip ({', '.join(CLOCKS)}) and how many of them, "
            "as v5e:1x1, v5e:2x2 or v5p:2x2x1"
        )
    for name, value in SURROUNDINGS.items():
        os.environ.setdefault(name, value)
    sides = [int(side) for side in shape.split("x")]
    few = math.prod(sides) < 4  # fewer than the four chips of a host
    options = {"chips_per_host_bounds": (*sides, *[1] * (3 - len(sides)))} if few else {}
    try:
        return topologies.get_topology_desc(topology, "tpu", **options).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"got topology {topology!r}, which libtpu refuses ({str(error)[:200]}); wanted one "
            "that exists, as v5e:1x1, v5e:2x2, v6e:2x2 or v5p:2x2x1"
        ) from None


def cycles(compiled: str) -> tuple[int, int]:
    """The compiler's estimates of one iteration, and of everything that runs once: sums of
    ``estimated_cycles`` over the text of an optimised HLO module. The loop with the largest sum is
    that of the iterations; any other counts once. ValueError where no loop has an estimate."""
    found: dict[str, int] = {}
    name = ""
    for line in compiled.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{$", line):
            name = opened[1]
        for estimate in re.findall(r'"estimated_cycles":"(\d+)"', line):
            found[name] = found.get(name, 0) + int(estimate)
    bodies = set(re.findall(r" while\(.*body=%?([\w.\-]+)", compiled)) & found.keys()
    if not bodies:
        raise ValueError(
            "got a compiled program without a loop of estimated cycles; wanted one: this version "
            "of the compiler writes none, or in another form"
        )
    iteration = max(found[body] for body in bodies)
    return iteration, sum(found.values()) - iteration


def collectives(compiled: str) -> dict[str, int]:
    """The collective operations in a compiled program: how many of each name."""
    names = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    return dict(Counter(re.findall(rf" ({names})(?:-start)?\(", compiled)))


def row(
    topology: str,
    config: decoders.DecoderConfig,
    batch: int,
    *,
    dtype: str,
    steps: int,
    formulation: Literal["plain", "packed", "subpixel"],
) -> Row:
    """Compile ``protect`` for ``topology``, its batch shared by all devices: one row. ValueError as
    ``devices``, and for a batch that the devices cannot share."""
    chips = devices(topology)
    if batch % len(chips):
        raise ValueError(
            f"got a batch of {batch} for the {len(chips)} devices of {topology}; wanted a multiple"
        )
    mesh = Mesh(np.asarray(chips), ("faces",))
    everywhere, shared = (NamedSharding(mesh, PartitionSpec(*p)) for p in ((), ("faces",)))

    shadow = decoders.decoder(config, rngs=nnx.Rngs(0))
    work = roofline.iteration(shadow, dtype)
    extractor = nnx.eval_shape(lambda: facenet.Extractor(rngs=nnx.Rngs(0)))
    shadow, extractor = _shapes((shadow, extractor), everywhere)
    z = jax.ShapeDtypeStruct((batch, *facenet.FEATURE_SHAPE), dtype, sharding=shared)
    epsilon = jax.ShapeDtypeStruct((), jnp.float32, sharding=everywhere)
    settings = ProtectConfig(steps=steps, formulation=formulation)

    began = time.perf_counter()
    # Not protect's own jit, which would keep for a CPU what is traced here as for a TPU.
    plain_protect = inspect.unwrap(_protect)
    traced_anew = jax.jit(lambda *given: plain_protect(*given, settings))
    with as_on_a_tpu():
        program = traced_anew.lower(z, epsilon, None, extractor, shadow).compile()
    seconds = time.perf_counter() - began
    text, memory = program.as_text() or "", program.memory_analysis()
    chip = topology.partition(":")[0]
    (iteration, once), (ghz, _) = cycles(text), CLOCKS[chip]
    least = work.least_seconds(*PEAKS[chip]) * batch / len(chips)
    return {
        "impl": f"jax-{formulation}",
        "decoder": config.kind,
        "width": config.width,
        "depth": config.depth,
        "batch": batch,
        "steps": steps,
        "dtype": dtype,
        "device": topology,
        "devices": len(chips),
        "formulation": formulation,
        "cycles_per_iteration": iteration,
        "cycles_once": once,
        "clock_ghz": ghz,
        "faces_per_s": batch * ghz * 1e9 / (once + steps * iteration),
        "roofline_share": least * ghz * 1e9 / iteration,
        "bound_by": work.bound(*PEAKS[chip]),
        "gflop_per_iteration": flops(shadow, z, formulation) / 1e9,
        "temporary_mb": getattr(memory, "temp_size_in_bytes", 0) / 1e6,
        "arguments_mb": getattr(memory, "argument_size_in_bytes", 0) / 1e6,
        "collectives": collectives(text),
        "compile_s": seconds,
    }


def flops(shadow, z: jax.ShapeDtypeStruct, formulation: packed_decoders.Formulation) -> float:
    """Floating-point operations of one gradient of the whole batch in that formulation, with the
    zeros of packed kernels."""

    def gradient(shadow, z):
        form = packed_decoders.form(shadow, formulation, z.dtype)
        q = form.pack(z)
        shapes = jax.eval_shape(lambda q: form.decode(q, "batch"), q)
        x_tilde = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes)
        return ascent(form.decode, x_tilde, "batch", None)(q)

    with as_on_a_tpu():
        analysis = jax.jit(gradient).lower(*_shapes((shadow, z))).cost_analysis() or {}
    return float(analysis.get("flops", math.nan))


def _shapes(tree: Any, sharding: NamedSharding | None = None) -> Any:
    return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding), tree)


def table(made: Sequence[Row]) -> str:
    """The rows in Markdown, and under them the clock that each chip's faces/s assume."""

    def case(r: Row) -> tuple:
        return tuple(r[k] for k in ("decoder", "width", "depth", "batch", "dtype", "device"))

    def cells(r: Row) -> list[str]:
        share = r["cycles_per_iteration"] / plain[case(r)] if case(r) in plain else None
        return [
            f"{r['decoder']} w{r['width']} d{r['depth']}",
            *(str(r[k]) for k in ("device", "batch", "dtype", "formulation")),
            f"{r['cycles_per_iteration']:,}",
            "–" if share is None else f"{share:.2f}",
            f"{100 * r['roofline_share']:.0f} ({r['bound_by']})",
            f"{r['faces_per_s']:,.0f}",
            f"{r['gflop_per_iteration']:.2f}",
            f"{r['temporary_mb']:.1f}",
            ", ".join(f"{n} {name}" for name, n in r["collectives"].items()) or "none",
        ]

    plain = {case(r): r["cycles_per_iteration"] for r in made if r["formulation"] == "plain"}
    header = "decoder, device, batch, dtype, formulation, cycles an iteration, of plain, "
    header += (
        "% of the roofline, faces/s (estimated), GFLOP an iteration, temporary MB, collectives"
    )
    chips = dict.fromkeys(r["device"].partition(":")[0] for r in made)
    clocks = "; ".join(f"{c} {CLOCKS[c][0]} GHz ({CLOCKS[c][1]})" for c in chips)
    return (
        markdown(header.split(", "), [cells(r) for r in made])
        + f"\n\nThe compiler's estimates (libtpu), nothing was run. Faces/s assume: {clocks}. The "
        "roofline is of the chip's published peaks, and of the bytes and FLOPs that one iteration "
        "needs at least."
    )
