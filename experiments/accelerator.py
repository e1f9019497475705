"""Everything that must be known of one accelerator, in one command, without a network.

    python -m experiments.accelerator                     # about eight minutes
    python -m experiments.accelerator --quick             # a try of every step, on any machine

Writes each step's results into a folder of its own in --out, kernels.json, and accelerator.md.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from advface_jax import checks, cli
from experiments.benchmark import kernels

DECODERS = "transrec", "resrec", "urec"
# Arithmetic alone, and small: what does not read files, draw pages or start other processes.
TESTS = ("layers", "networks", "packed", "grouped", "gradient", "protect", "losses", "stitching")
# XLA's choices on a GPU, one at a time: memory layout of convolutions, who multiplies, in which
# order kernels are launched, and whether by CUDA's graphs.
FLAGS = {
    "nhwc": "--xla_gpu_force_conv_nhwc=true",
    "nchw": "--xla_gpu_force_conv_nchw=true",
    "no_triton": "--xla_gpu_enable_triton_gemm=false",
    "no_graphs": "--xla_gpu_enable_command_buffer=",
    "latency_hiding": "--xla_gpu_enable_latency_hiding_scheduler=true",
}


class Step(NamedTuple):
    """What ``python -m`` runs: its name here, module and arguments, the seconds it may take, and
    XLA's flags beside those of the environment."""

    name: str
    arguments: tuple[str, ...]
    seconds: float
    flags: str = ""


def main(
    out: cli.Out = Path("results/accelerator"),
    minutes: int = 8,
    quick: bool = False,
    only: tuple[str, ...] = (),
) -> None:
    """Measure parity, speed beside PyTorch, the slowest case's kernels, trainings and Table 1.

    Each step is a command of its own with a limit of time: one that fails or takes too long is
    named in accelerator.md, and the others go on. A finished step is skipped when the command is
    run again. The steps with real faces need ADVFACE_DATA, and take synthetic ones without.

    Args:
      out: Folder for the results.
      minutes: For all steps together; what does not fit is left out and named.
      quick: Small sizes, to try every step.
      only: Run only these steps.
    """
    checks.positive(minutes=minutes)
    for name in only:
        checks.choice(name, "--only", [step.name for step in steps(quick)])
    cli.folder(out)
    ends = time.monotonic() + 60 * minutes
    told: dict[str, str] = {}
    for step in steps(quick):
        if not only or step.name in only:
            told[step.name] = run(step, out / step.name, ends)
            cli.console.print(f"{step.name}: {told[step.name]}", soft_wrap=True)
    cards = out / "kernels.json"
    traces = sorted((out / "profile" / "trace").rglob("*.xplane.pb"))
    # The last one alone: a profile that failed and was run again leaves two.
    if traces and (found := kernels.table(traces[-1].parent)):
        cards.write_text(json.dumps(found, indent=2), encoding="utf-8")
    (out / "accelerator.md").write_text(page(out, told), encoding="utf-8")
    cli.console.print(f"written: {out / 'accelerator.md'}", soft_wrap=True)


def steps(quick: bool) -> list[Step]:
    """In order of importance. ``{out}`` is the step's folder."""
    preset = ("--preset", "paper" if os.environ.get("ADVFACE_DATA") else "demo")
    batch, count = ("2", "5") if quick else ("256", "10")
    shadows = ("--shadows", *(DECODERS[:1] if quick else DECODERS))
    slowest = ("--shadows", DECODERS[0] if quick else "urec")
    single = ("--matmul-precision", "default", "highest")
    half, peers = ("--dtype", "bfloat16"), ("--peer", "torch", "--peer-variants")
    forms = ("--formulation", "plain", "subpixel", "packed")

    def timed(name: str, seconds: float, *more: str) -> Step:
        usual = ("--steps", count, "--latency", "0", "--repeats", "3", "--out", "{out}")
        return Step(name, ("experiments.throughput", *usual, *more), seconds)

    def faces(name: str, command: str, seconds: float, pairs: str, size: str) -> Step:
        small = ("--limit", "20", "--batch", "8")
        more = small if quick else ("--limit", pairs, "--batch", size)
        return Step(name, (f"experiments.{command}", *preset, *more, "--out", "{out}"), seconds)

    at = (*shadows, "--batch", batch)
    alone = (*slowest, "--batch", batch, *half)
    # Of the recogniser that is packed: another one's network is the same.
    decoy = ("--batch", "2" if quick else "auto", "--sibling", "facenet-512-q8")
    tests = [f"tests/test_{name}.py" for name in (TESTS[:1] if quick else TESTS)]
    return [
        faces("parity", "benchmark.parity", 120, "200", "100"),
        timed("speed", 180, *at, *half, *peers, "eager", "step+channels_last"),
        timed("profile", 60, *alone, "--profile", "{out}/trace"),
        faces("table_1", "defenses", 120, "600", "128"),
        timed("forms", 120, *at, *half, *forms),
        timed("float32", 100, *at, *single, "--formulation", "plain", "packed"),
        timed("training", 90, *shadows, "--batch", "1", "--training", batch),
        timed("tuned", 150, *alone, *peers, "tuned+channels_last"),
        Step("decoy", ("experiments.decoy_cost", *decoy, "--out", "{out}"), 150),
        *(
            timed(f"batch_{n}", 90, *shadows, "--batch", "1" if quick else n, *half, *forms)
            for n in ("32", "128", "512", "8", "1")
        ),
        *(
            timed(f"flags_{name}", 40, *alone)._replace(flags=flags)
            for name, flags in FLAGS.items()
        ),
        Step("tests", ("pytest", "-q", "-m", "not slow", *tests), 150),
    ]


def run(step: Step, folder: Path, ends: float) -> str:
    """Runs a step unless it is done; how it went, in words."""
    arguments = [a.format(out=folder) for a in step.arguments]
    command = [sys.executable, "-m", *arguments]
    stamp, log = folder / "done.json", folder / "log.txt"
    done = [*command[1:], *step.flags.split()]
    if stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")) == done:
        return "done before"
    left = ends - time.monotonic()
    if left < min(30.0, step.seconds):
        return "left out: no time"
    folder.mkdir(parents=True, exist_ok=True)
    for old in (stamp, *folder.glob("*.md")):  # of an earlier try, maybe with other sizes
        old.unlink(missing_ok=True)
    began = time.monotonic()
    surroundings = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    if arguments[0] == "pytest":  # its equalities are those of float32 that is not rounded
        surroundings["JAX_DEFAULT_MATMUL_PRECISION"] = "highest"
    if step.flags:
        surroundings["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {step.flags}".strip()
    with log.open("w", encoding="utf-8") as file:
        how = {"stdout": file, "stderr": subprocess.STDOUT, "env": surroundings}
        # A group of its own: what the step has started must not slow the next one.
        process = subprocess.Popen(command, start_new_session=True, **how)
        try:
            code = process.wait(timeout=min(left, step.seconds))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if code is None:
            return f"stopped after {time.monotonic() - began:.0f} s: out of time (log.txt)"
    if code:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return f"failed: {' '.join(last)[:300]} (log.txt)"
    stamp.write_text(json.dumps(done), encoding="utf-8")
    return f"{time.monotonic() - began:.0f} s"


def page(out: Path, told: dict[str, str]) -> str:
    """One Markdown page: each step's own table under its name, and the kernels."""
    parts = ["# One accelerator"]
    for name, went in told.items():
        some = () if went.startswith("left out") else sorted((out / name).glob("*.md"))
        tables = [p.read_text(encoding="utf-8") for p in some]
        parts += [f"## {name}: {went}", *tables]
    if (out / "kernels.json").is_file():
        found = json.loads((out / "kernels.json").read_text(encoding="utf-8"))
        parts += ["## kernels of the slowest case", kernels.markdown(found)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    cli.start(main, "experiments.accelerator")
