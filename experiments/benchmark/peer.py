"""PyTorch's side of a comparison: ``peer_torch`` in a Python of its own, run in turn with ours."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from advface_jax.models import facenet, state
from advface_jax.models.decoders import Decoder
from advface_jax.protect import ascent, shadow_round_trip
from experiments.benchmark.timing import Entry, Sample

Variant = Literal["eager", "compile", "step+channels_last", "tuned+channels_last"]
NAMES = {
    "eager": "torch eager",
    "compile": "torch.compile",
    "step+channels_last": "torch.compile of the iteration, channels_last",
    "tuned+channels_last": "torch.compile of the iteration, max-autotune, channels_last",
}
SCRIPT = Path(__file__).with_name("peer_torch.py")
SIGNS = {"float32": 0.99, "bfloat16": 0.95}
"""The least share of the first gradient's signs that must be equal. Not all are: where a residual
is near zero its last digit decides. Networks of other weights share half."""
ERROR = {"float32": 0.05, "bfloat16": 0.2}
"""The largest difference of the gradients, relative to the norm of ours."""

LIMITS = {"MMAP_THRESHOLD": 2**30, "TRIM_THRESHOLD": 2**31 - 1, "TOP_PAD": 2**28}
KEEP_MEMORY = {f"MALLOC_{name}_": str(limit) for name, limit in LIMITS.items()}
"""As ``cli`` sets for our own commands: PyTorch is faster with it, too."""


class Peer:
    """A running ``peer_torch``; ``about`` has its version and device."""

    def __init__(self, process: subprocess.Popen[str], log: Path):
        self._process, self._log = process, log
        self.about = self._answer()

    def ask(self, do: str, case: str, **fields: Any) -> dict[str, Any]:
        """One command and its answer. ValueError when the other side failed."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # it ended; its log says why
            print(json.dumps({"do": do, "case": case, **fields}), file=self._process.stdin)
            self._process.stdin.flush()
        return self._answer()

    def entry(self, do: str, impl: str, case: Any, file: Path, **fields: Any) -> Entry:
        """A case of ``file`` as an entry. ValueError unless its first gradient equals ours."""
        name = f"{file.stem} {impl}"
        figures = self.ask(do, name, file=str(file), **fields)
        refuse_disagreement(figures, case.dtype, f"{impl}, {do} {case.decoder}")

        def run(steps: int) -> Sample:
            found = self.ask("run", name, steps=steps)
            if do == "protect":
                figures["peak_mb"] = max(found["peak_bytes"] / 1e6, figures.get("peak_mb", 0))
            return Sample(found["wall"], found["cpu"])

        return Entry(impl, case, run, figures)

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ValueError(
                f"the torch side ended: {said[-1] if said else 'no message'}. It needs a Python "
                "with torch and numpy: `uv venv DIR; uv pip install --python DIR/bin/python torch "
                "numpy`, then --peer-python DIR/bin/python"
            )
        found = json.loads(line)
        if "error" in found:
            raise ValueError(f"the torch side failed: {found['error']}")
        return found


@contextlib.contextmanager
def start(python: Path | None) -> Iterator[tuple[Peer, Path]]:
    """A peer in that Python (by default this one), and a folder for the files it reads. ValueError
    for no such Python, or one without torch."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        command = [str(python or sys.executable), str(SCRIPT)]
        # Its own folder must stay off its path: our modules have names that others have, too.
        how: dict[str, Any] = {"env": {**os.environ, **KEEP_MEMORY, "PYTHONSAFEPATH": "1"}}
        how |= {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        try:
            with open(log, "w", encoding="utf-8") as errors:
                process = subprocess.Popen(command, stderr=errors, **how)
        except OSError as error:
            raise ValueError(f"cannot start --peer-python {python}: {error}") from error
        with process:  # closes its pipes and waits for its end
            try:
                yield Peer(process, log), Path(folder)
            finally:
                if process.stdin:
                    process.stdin.close()  # which ends it, and the compilers that it started
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


def write(path: Path, z: jax.Array, *, extractor: facenet.Extractor, shadow: Decoder) -> None:
    """z, the weights, and x~, z~ and the first gradient to check against, for the other side."""
    x_tilde, z_tilde = shadow_round_trip(z, extractor=extractor, shadow=shadow)
    gradient = _first_gradient(z_tilde, x_tilde, shadow)
    arrays = {"z": z, "x_tilde": x_tilde, "z_tilde": z_tilde, "gradient": gradient}
    write_arrays(path, extractor, state.flatten(shadow), **arrays)


def write_arrays(
    path: Path, extractor: facenet.Extractor, shadow: Mapping[str, Any], **arrays: Any
) -> None:
    """An .npz file of float32: both networks' weights, and further arrays. ValueError for an E that
    the other side does not have (other standardisation, separate batch norm)."""
    weights = state.flatten(extractor)
    if extractor.standardization != "fixed" or "conv2d_1a.conv.bias" not in weights:
        raise ValueError(
            "got --peer torch with weights of another E; wanted fixed standardisation and batch "
            "norm folded in; take --weights facenet-512-q8"
        )
    everything = {f"extractor.{name}": w for name, w in weights.items()}
    everything |= {f"shadow.{name}": w for name, w in shadow.items()} | arrays
    np.savez(path, **{k: np.asarray(v, np.float32) for k, v in everything.items()})  # type: ignore[arg-type]


@jax.jit
def _first_gradient(z_tilde: jax.Array, x_tilde: jax.Array, shadow: Decoder) -> jax.Array:
    return ascent(shadow, x_tilde, "batch", None)(z_tilde)


def refuse_disagreement(found: Mapping[str, float], dtype: str, name: str) -> None:
    """ValueError unless the other side's first gradient equals ours."""
    if found["equal_signs"] < SIGNS[dtype] or not found["gradient_error"] <= ERROR[dtype]:
        raise ValueError(
            f"{name} computes something else: {found['equal_signs']:.1%} of its first gradient's "
            f"signs are ours (wanted {SIGNS[dtype]:.0%}), and it is off by "
            f"{found['gradient_error']:.2g} (wanted {ERROR[dtype]:g}); it is not timed"
        )
