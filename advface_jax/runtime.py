"""How a process of ours runs: its devices, its memory, and the streams that it writes to."""

import codecs
import contextlib
import ctypes
import io
import os
import sys
from typing import IO

import jax

from advface_jax import sharding

# What stands for our symbols where a terminal or a file cannot have them.
PLAIN = {
    **{"ε": "eps", "α": "alpha", "σ": "sigma", "Ψ": "Psi", "ρ": "rho", "∇": "grad", "∞": "inf"},
    **{"×": "x", "…": "...", "·": "*", "–": "-", "−": "-", "±": "+-", "≥": ">=", "≤": "<="},
    **{"‖": "||", "₁": "1", "²": "2", "→": "->", "←": "<-", "↑": "^", "↓": "v", "§": "section "},
}


def prepare_process() -> None:
    """Set up devices and memory for XLA:CPU, and what is printed; call it before all else of JAX.

    Accelerators are not affected.
    """
    _cores_as_devices()
    _keep_memory()
    _print_in_any_encoding()


def flush() -> None:
    """Write what is left in stdout and stderr; drop it where the reader has gone (``| head``)."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            drop(stream)
        except (AttributeError, OSError, ValueError):  # no stream, a full disk, a closed one
            pass


def drop(stream: IO[str]) -> None:
    """Let nothing that is written to ``stream`` go anywhere from now on."""
    with contextlib.suppress(AttributeError, OSError):  # a stream without a file
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)


def _print_in_any_encoding() -> None:
    """Let a stream of another encoding than UTF-8 have ``PLAIN`` words instead of an error.

    A stream that was closed before the process began is one that drops everything.
    """
    codecs.register_error("plain", _plain)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    wrong = error.object[error.start : error.end]
    words = (PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in wrong)
    return "".join(words), error.end


def _cores_as_devices() -> None:
    """Make each processor core a JAX device.

    XLA:CPU (jax 0.10) computes most convolutions on one core, however many there are; a batch
    split across devices uses them all. A number set by the user (JAX_NUM_CPU_DEVICES, XLA_FLAGS)
    stands, and so do devices that JAX has already initialised.
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if not told and jax.config.jax_num_cpu_devices < 0:  # type: ignore[attr-defined]
        with contextlib.suppress(RuntimeError):  # what JAX raises when it is too late
            jax.config.update("jax_num_cpu_devices", sharding.cores())


def _keep_memory() -> None:
    """Let glibc keep up to 2 GB of freed memory (other C libraries have no such switch).

    A compiled program frees its temporary memory with each call. Returned to the system, every
    page is allocated and zeroed anew: a quarter of a training step's time on a CPU.
    """
    top_pad, trim_threshold, mmap_threshold = -2, -1, -3  # of malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def absent_backend() -> str | None:
    """Why JAX has no backend in this process, and what to set; None where it has one."""
    try:
        jax.devices()
    except Exception as error:  # RuntimeError, AssertionError and more, by platform and version
        name = jax.config.jax_platforms or "of its own choice"  # type: ignore[attr-defined]
        reason = (str(error).strip() or "no reason given").splitlines()[0][:200]
        return (
            f"JAX cannot start its backend ({name}: {type(error).__name__}: {reason}). Unset "
            "JAX_PLATFORMS (or jax_platforms in jax.config) and JAX takes what this machine has, "
            "or set it to cpu; an accelerator needs its plugin (jax[cuda13], jax[tpu]) and driver"
        )
    return None
