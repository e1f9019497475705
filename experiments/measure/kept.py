"""Items in batches of one size, and finished batches kept in files: a stopped run goes on there."""

import contextlib
import hashlib
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from advface_jax import lock

Arrays = dict[str, np.ndarray]


class Batch(NamedTuple):
    """Some of n items, filled up to one size."""

    start: int  # the first one's number
    real: int  # how many they are
    chosen: np.ndarray  # int (size,) their numbers; padding repeats them
    mask: np.ndarray  # float32 (size,) 1, and 0 for padding


def batches(n: int, size: int) -> Iterator[Batch]:
    """All of ``n`` items in their order, ``size`` at a time; the last batch is padded."""
    for start in range(0, n, size):
        real = min(size, n - start)
        chosen = np.resize(np.arange(start, start + real), size)
        yield Batch(start, real, chosen, (np.arange(size) < real).astype(np.float32))


class Kept(NamedTuple):
    """What was made of every batch, and how long it took."""

    parts: list[Arrays]
    seconds: list[float]  # of each batch, in whichever sitting
    earlier: float  # of them, those of earlier sittings


def kept(
    folder: Path,
    n: int,
    size: int,
    wanted: Sequence[str],
    make: Callable[[Batch], Arrays],
    progress: Callable[[Batch, Arrays], None] = lambda one, arrays: None,
    first: Sequence[str] = (),
) -> Kept:
    """What ``make`` makes of every batch of ``n`` items; what ``folder`` has is not made again.

    Args:
      folder: Where the batches are kept, one file each; ``folder_of`` names one for each run.
      n, size: How many items, and how many of them a batch has.
      wanted: The arrays that a file must have to count as finished; ``first``: those that the
        first batch must have, too.
      make: A batch to its arrays, without padding.
      progress: Called after each batch, in order, with its arrays.

    Raises:
      ValueError: Another process is at work in ``folder``: each would take the other's unfinished
        files.
    """
    found = Kept([], [], 0.0)
    with lock.only_writer(folder):
        for one in batches(n, size):
            file = folder / f"{one.start:06d}.npz"
            arrays = kept_arrays(file, wanted if one.start else (*wanted, *first))
            if arrays is None:
                began = time.monotonic()
                arrays = make(one)
                seconds = time.monotonic() - began
                keep_arrays(file, {**arrays, "seconds": np.array(seconds)})
            else:
                seconds = float(arrays.pop("seconds", 0.0))  # older runs of decoys kept none
                found = found._replace(earlier=found.earlier + seconds)
            found.parts.append(arrays)
            found.seconds.append(seconds)
            progress(one, arrays)
    return found


def folder_of(keep: Path, settings: Mapping[str, Any]) -> Path:
    """Where a run with these ``settings`` keeps its batches."""
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = keep / key
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def discard(*folders: Path) -> None:
    """Removes kept batches, which hold an embedding of every face; those of other runs stay."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)  # a second process may have come after the first
        with contextlib.suppress(OSError):  # other runs' batches lie there
            folder.parent.rmdir()


def keep_arrays(file: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes a finished batch, whole or not at all."""
    unfinished = file.with_suffix(".tmp.npz")
    np.savez(unfinished, **arrays)  # type: ignore[arg-type]
    unfinished.replace(file)


def kept_arrays(file: Path, wanted: Sequence[str]) -> Arrays | None:
    """A kept batch; None when it is missing, damaged or without one of ``wanted``: it is then
    measured again."""
    try:
        with file.open("rb") as opened, np.load(opened) as arrays:
            found = dict(arrays)
    # A damaged archive can name any compression or encryption.
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile):
        return None
    return found if found.keys() >= set(wanted) else None
