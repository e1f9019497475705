"""How many faces fit into a device's memory at once, by the compiler's estimate.

The memory of ``protect`` grows linearly with its batch, so two small programs, compiled and not
run, give it for any size. Nothing here allocates.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import numpy as np

from advface_jax import checks
from advface_jax.protect import PAPER, Decoder, Extractor, LinenPair, ProtectConfig, lowered

SHARE = 0.8
"""Of the free memory; the rest is for what the compiler does not count (libraries' scratch)."""
PROBES = (2, 4)  # one face alone is laid out differently


class Footprint(NamedTuple):
    """Bytes of a program on a device: with b faces fixed + b · per_face."""

    fixed: float
    per_face: float

    def of(self, batch: int) -> float:
        return self.fixed + batch * self.per_face

    def fitting(self, room: float) -> int:
        """The most faces within ``room`` bytes; may be 0."""
        return max(0, int((room - self.fixed) // self.per_face))


def needed(program: jax.stages.Compiled) -> int | None:
    """Bytes on each device while a program runs: temporaries, arguments and results; None if the
    compiler gives no estimate."""
    found = program.memory_analysis()
    if found is None:
        return None
    parts = found.temp_size_in_bytes, found.argument_size_in_bytes, found.output_size_in_bytes
    return sum(parts) - found.alias_size_in_bytes


def footprint(
    *,
    extractor: Extractor | LinenPair,
    shadow: Decoder | LinenPair,
    config: ProtectConfig = PAPER,
    n_epsilon: int = 1,
    dtype: str = "float32",
    shape: tuple[int, ...] | None = None,
) -> Footprint:
    """The memory of ``protect`` (``protect_sweep`` for several ε) on a device, from two programs
    compiled for a few faces.

    Args:
      extractor, shadow, config: as for ``protect``.
      n_epsilon: the number of ε at once.
      dtype: of z.
      shape: of one z; this package's decoders state it themselves (``Decoder.takes``).

    Raises:
      ValueError: n_epsilon is not 1 or more, z's shape is unknown, or the compiler gives no
        estimate.

    Example:
      >>> from advface_jax import memory
      >>> E, S = (lambda x: 2 * x), (lambda z: z / 2 + 0.01 * z**2)  # any networks
      >>> memory.footprint(extractor=E, shadow=S, shape=(100, 100)).per_face > 40_000  # bytes
      True
    """
    checks.positive(n_epsilon=n_epsilon)
    shape = shape or getattr(shadow, "takes", None)
    if shape is None:
        raise ValueError(
            f"got a decoder of type {type(shadow).__name__}, which does not state the shape of z; "
            "wanted shape=z.shape[1:]"
        )
    epsilon = np.zeros(() if n_epsilon == 1 else n_epsilon)
    program = functools.partial(lowered, extractor=extractor, shadow=shadow, config=config)
    return of_program(lambda z: program(z, epsilon), shape, dtype)


def of_program(
    program: Callable[[jax.ShapeDtypeStruct], jax.stages.Lowered],
    shape: tuple[int, ...],
    dtype: str = "float32",
) -> Footprint:
    """The memory of any program of a batch z (b, *shape), as ``decoy.lowered`` gives it; as for
    ``footprint``."""
    sizes = []
    for batch in PROBES:
        size = needed(program(jax.ShapeDtypeStruct((batch, *shape), dtype)).compile())
        if size is None:
            raise ValueError(
                f"the compiler for {jax.default_backend()} does not report a program's memory: "
                "choose the batch by hand"
            )
        sizes.append(size)
    (few, many), (small, large) = PROBES, sizes
    per_face = (large - small) / (many - few)
    return Footprint(small - few * per_face, per_face)


def available(device: Any = None) -> int | None:
    """Free bytes on a device (by default the first), None if unknown.

    For a CPU, the machine's free memory, or what is left of the limits of this process's group (a
    container's or a batch system's, by cgroups).

    Example:
      >>> from advface_jax import memory
      >>> free = memory.available()  # bytes, None where it is unknown
    """
    device = device or jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if device.platform != "cpu":
        return None
    found = [room for room in (_free(), _left_in_group()) if room is not None]
    return min(found) if found else None


def _free() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        # Not MemFree: pages that cache files are available too.
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvail"))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2  # use is unknown
    return None


def _left_in_group(
    root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """What is left of the limits of this process's group, of a container or a batch system, and of
    all groups above it; None without a limit."""
    lines = ["0::/"]
    with contextlib.suppress(OSError, ValueError):
        lines = own.read_text(encoding="utf-8").splitlines()
    found = []
    for line in lines:
        _, kinds, path = line.split(":", 2)
        if not kinds:  # cgroup v2
            top, limit, used = root, "memory.max", "memory.current"
        elif "memory" in kinds.split(","):  # v1
            top, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        group = PurePosixPath(path.lstrip("/"))  # in a container it may not be there, but the root
        for one in (group, *group.parents):
            with contextlib.suppress(OSError, ValueError):  # "max": none
                most, now = (
                    int((top / one / n).read_text(encoding="utf-8")) for n in (limit, used)
                )
                found.append(most - now)
    return min(found, default=None)


def largest_batch(
    *,
    extractor: Extractor | LinenPair,
    shadow: Decoder | LinenPair,
    config: ProtectConfig = PAPER,
    n_epsilon: int = 1,
    dtype: str = "float32",
    shape: tuple[int, ...] | None = None,
    devices: int = 1,
    room: float | None = None,
    most: int | None = None,
) -> int:
    """The largest batch of ``protect`` that fits: a multiple of ``devices``, which share it.

    Args:
      extractor, shadow, config, n_epsilon, dtype, shape: as for ``footprint``.
      room: bytes on each device; by default 0.8 of what is free now, which a CPU's devices share
        equally.
      most: an upper limit on the batch, of ``devices`` or more.

    Raises:
      ValueError: not one face fits on a device, its free memory is unknown, or ``most`` leaves a
        device without a face.

    Example:
      >>> from advface_jax import memory
      >>> E, S = (lambda x: 2 * x), (lambda z: z / 2 + 0.01 * z**2)
      >>> n = memory.largest_batch(extractor=E, shadow=S, shape=(100, 100), room=1e7, most=64)
      >>> 1 <= n <= 64
      True
    """
    checks.positive(devices=devices, **({} if most is None else {"most": most}))
    how: dict[str, Any] = {"config": config, "n_epsilon": n_epsilon, "dtype": dtype}
    size = footprint(extractor=extractor, shadow=shadow, shape=shape, **how)
    return fitting(size, devices=devices, room=room, most=most)


def fitting(
    size: Footprint, *, devices: int = 1, room: float | None = None, most: int | None = None
) -> int:
    """``largest_batch`` of a footprint that is known."""
    if most is not None and most < devices:
        raise ValueError(
            f"got most={most} for {devices} devices; wanted a face for each: give fewer devices"
        )
    room = _room(devices) if room is None else room
    batch = devices * size.fitting(room)
    if not batch:
        raise ValueError(
            f"not one face fits: it takes {_mb(size.of(1))} of a device, and there is room for "
            f"{_mb(room)}: free some memory, use a smaller decoder or fewer ε at once"
        )
    return batch if most is None else min(batch, most - most % devices)


def check(
    program: jax.stages.Compiled, batch: int, room: float | None = None, devices: int = 1
) -> None:
    """ValueError, before it runs, for a compiled program that will not fit: it says how many of
    its ``batch`` faces on each device would. ``room`` and ``devices`` are as for ``largest_batch``.
    A program passes if its size or the free memory is unknown."""
    if room is None:
        room = _room(devices) if available() is not None else 0
    size = needed(program)
    if size is None or not room or size <= room:
        return
    raise ValueError(
        f"got a batch of {batch} for a device: it takes {_mb(size)}, and there is room for "
        f"{_mb(room)}: at most about {int(batch * room / size)} fit"
    )


def _room(devices: int = 1) -> float:
    free = available()
    if free is None:
        raise ValueError("this device does not report its free memory: give room=…, in bytes")
    return SHARE * free / (devices if jax.default_backend() == "cpu" else 1)


def _mb(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"
