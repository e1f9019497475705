"""Protected features written to be shared (paper, section 4.4): resumable, in whole shards.

By default a set leaves out what identifies people: the names of files (they name people, or places
in a public data set), the order of the data set (a record's place would name its file), and the
words of the labels. Which records show one person stays: that is what labels are for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax import lock
from advface_jax.data.batches import Batch
from advface_jax.data.faces import Faces
from advface_jax.data.feature_sets import encoding, planning, reading
from advface_jax.data.feature_sets.planning import Labels
from advface_jax.data.feature_sets.running import run
from advface_jax.data.feature_sets.shards import Fate


def write_features(
    folder: str | os.PathLike[str],
    faces: Faces,
    protect: Callable[[np.ndarray, np.ndarray], Any],
    *,
    card: Mapping[str, Any],
    batch: int = 16,
    dtype: encoding.Dtype = "f32",
    labels: Labels = "pseudonyms",
    names: bool = False,
    seed: int | None = None,
    shard_size: int = 256,
    workers: int = 2,
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[tuple[str, str], ...]:
    """Write the protected features of all faces; the same call resumes where it was stopped.

    Args:
      folder: Of the set, new or begun by the same call.
      faces: In memory or lazy.
      protect: Pixels uint8 (b, 160, 160, 3) and a mask (b,), False for padding and unreadable
        faces, to z_adv (b, 77, 77, 64) in float32; b is always ``batch``.
      card: How protect was set, with the sums of its models: JSON, without names.
      batch: Faces protected together.
      dtype: "f32" keeps every bit, "bf16" rounds to 8 bits of mantissa at half the size, "int8"
        has a scale for each channel of an item (``encoding.encode``), at a quarter.
      labels: "pseudonyms" are numbers, one a person; "original" the data set's own words; "none"
        nothing.
      names: Keep the files' names, and their order. Names reveal people.
      seed: Of the records' order, ≥ 0; None draws it from the system's entropy. It is a secret,
        with which anyone who has the faces could name the records: the finished set forgets it.
      shard_size: Records a shard, a multiple of ``batch``.
      workers: Threads that read faces ahead, ≥ 0.
      progress: Called with how many faces are done, first with those of an earlier call.

    Returns:
      (name, reason) of the faces that this call left out; the set only counts them.

    Raises:
      ValueError: a folder that holds something else, as a finished set of other faces or settings,
        or that another process writes; or numbers that do not fit.
    """

    def step(one: Batch, device: int) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        z = np.asarray(protect(one.values, one.mask))
        if z.shape != (batch, *reading.SHAPE):
            raise ValueError(f"protect made {z.shape}; wanted {(batch, *reading.SHAPE)}")
        finite = np.asarray(np.isfinite(z).all((1, 2, 3)))
        with np.errstate(invalid="ignore"):  # what is not finite is left out
            return np.where(finite, Fate.KEPT, Fate.NOT_FINITE), encoding.encode(z, dtype)

    settings = {**card, "dtype": dtype, "labels": labels, "names": names}
    settings |= {"seed": seed, "batch": batch}
    planning.check(batch, shard_size, seed, workers)
    planning.check_folder(Path(folder))
    with lock.only_writer(folder):
        planning.tidy(Path(folder))
        writing = planning.begin(Path(folder), faces, settings, shard_size)
        if writing is None:
            progress(len(faces))
            return ()
        wanted = writing.left()
        there = writing.without(wanted)
        ended = run(writing, step, wanted, workers=workers, there=there, progress=progress)
        planning.finish(writing)
    return ended.refused
