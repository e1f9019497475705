"""How a process of ours runs: as many devices as a CPU has cores, and memory that it keeps."""

import contextlib
import ctypes
import os

import jax

from advface_jax import sharding


def prepare_process() -> None:
    """Set up devices and memory for XLA:CPU; call it before anything else of JAX.

    Accelerators are not affected.
    """
    _cores_as_devices()
    _keep_memory()


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
