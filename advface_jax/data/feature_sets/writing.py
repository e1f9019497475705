"""Protected features written to be shared (paper, section 4.4): resumable, in whole shards.

By default a set leaves out what identifies people: the names of files (they name people, or places
in a public data set), the order of the data set (a record's place would name its file), and the
words of the labels. Which records show one person stays: that is what labels are for.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from advface_jax.data.batches import batches
from advface_jax.data.faces import Faces
from advface_jax.data.feature_sets import reading
from advface_jax.data.feature_sets.reading import beside_shard, shard_file

Labels = Literal["none", "pseudonyms", "original"]


def write_features(
    folder: str | os.PathLike[str],
    faces: Faces,
    protect: Callable[[np.ndarray, np.ndarray], Any],
    *,
    card: Mapping[str, Any],
    batch: int = 16,
    dtype: reading.Dtype = "f32",
    labels: Labels = "pseudonyms",
    names: bool = False,
    seed: int | None = None,
    shard_size: int = 256,
    workers: int = 2,
    progress: Callable[[int], None] = lambda n: None,
) -> tuple[tuple[str, str], ...]:
    """Write the protected features of all faces; the same call resumes after the last whole shard.

    Args:
      folder: Of the set, new or begun by the same call.
      faces: In memory or lazy.
      protect: Pixels uint8 (b, 160, 160, 3) and a mask (b,), False for padding and unreadable
        faces, to z_adv (b, 77, 77, 64) in float32; b is always ``batch``.
      card: How protect was set, with the sums of its models: JSON, without names.
      batch: Faces protected together.
      dtype: "f32" keeps every bit, "bf16" rounds to 8 bits of mantissa at half the size.
      labels: "pseudonyms" are numbers, one a person; "original" the data set's own words; "none"
        nothing.
      names: Keep the files' names, and their order. Names reveal people.
      seed: Of the records' order; None draws it from the system's entropy and forgets it.
      shard_size: Records a shard, a multiple of ``batch``.
      workers: Threads that read faces ahead.
      progress: Called with how many faces are done, first with those of an earlier call.

    Returns:
      (name, reason) of the faces that this call could not read; the set only counts them.

    Raises:
      ValueError: a folder that holds something else, or sizes that do not fit.
    """
    module, _ = reading.array_record()
    folder = Path(folder)
    if batch < 1 or shard_size < 1 or shard_size % batch:
        raise ValueError(
            f"got shard_size={shard_size}, batch={batch}; wanted shards of whole batches, as "
            f"{16 * max(batch, 1)} and {max(batch, 1)}"
        )
    kept = {**card, "dtype": dtype, "labels": labels, "names": names, "seed": seed, "batch": batch}
    plan = _plan(folder, faces, kept, shard_size)
    if plan is None:
        progress(len(faces))
        return ()
    order = np.random.default_rng(plan["order"]).permutation(len(faces))
    chosen = faces if names else faces.select(order)
    told = _labels(chosen.identities, labels)
    total = -(-len(faces) // shard_size)
    done = 0
    while done < total and shard_file(folder, done).is_file():
        beside_shard(folder, done)  # whole, or an error
        done += 1
    progress(min(done * shard_size, len(faces)))
    refused: list[tuple[str, str]] = []
    per = shard_size // batch
    loaded = batches(chosen, batch=batch, start=done * per, workers=workers)
    for shard in range(done, total):
        file = shard_file(folder, shard)
        part = file.with_name(f".{file.name}.part")
        with _told(file):
            writer = module.ArrayRecordWriter(str(part), "group_size:1,zstd:1")
        rows: list[int] = []
        left_out = 0
        for one in islice(loaded, per):
            z = np.asarray(protect(one.values, one.mask))
            if z.shape != (batch, *reading.SHAPE):
                raise ValueError(f"protect made {z.shape}; wanted {(batch, *reading.SHAPE)}")
            with _told(file):
                for record in z[one.mask].astype(reading.dtype_of(dtype)):
                    writer.write(record.tobytes())
            rows += one.indices[one.mask].tolist()
            left_out += len(one.refused)
            refused += [(chosen.names[i], reason) for i, reason in one.refused]
            progress(min((one.step + 1) * batch, len(faces)))
        with _told(file):
            writer.close()
        beside = {
            "records": len(rows),
            "bytes": part.stat().st_size,
            "sha256": reading.file_sum(part),
            "left_out": left_out,
            "labels": None if told is None else [told[i] for i in rows],
            "names": [chosen.names[i] for i in rows] if names else None,
        }
        _write_json(file.with_suffix(".json"), beside)
        part.rename(file)  # last: a shard that carries its name is whole
    _finish(folder, kept, total, shard_size)
    return tuple(refused)


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    """array_record's RuntimeError, as of a full disk, as a ValueError that names the file."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(
            f"{file} cannot be written ({error}): make room; the same command resumes"
        ) from error


def _finish(folder: Path, kept: Mapping[str, Any], total: int, shard_size: int) -> None:
    """The card, with which the set is whole; the secret order goes."""
    shards = [beside_shard(folder, shard) for shard in range(total)]
    full = {
        "format": reading.FORMAT,
        **kept,
        "shape": list(reading.SHAPE),
        "records": sum(s["records"] for s in shards),
        "people": len({x for s in shards for x in s["labels"] or ()}) or None,
        "left_out": sum(s["left_out"] for s in shards),
        "shards": total,
        "shard_size": shard_size,
    }
    _write_json(folder / "card.json", full)
    (folder / reading.UNFINISHED).unlink()


def _plan(folder: Path, faces: Faces, kept: Mapping, shard_size: int) -> dict[str, Any] | None:
    """The plan of the folder's unfinished set, or a new one; None for a finished set."""
    listed = hashlib.sha256("\n".join((*faces.names, *faces.identities)).encode()).hexdigest()
    settings = json.loads(json.dumps({**kept, "shard_size": shard_size}))
    unfinished = folder / reading.UNFINISHED
    if (folder / "card.json").is_file():
        card = reading.read_card(folder)
        held = card.get("records", 0) + card.get("left_out", 0)
        if {k: card.get(k) for k in settings} == settings and held == len(faces):
            unfinished.unlink(missing_ok=True)  # a kill just before the end left it
            return None
        raise ValueError(f"{folder} holds another set of features: give another folder")
    if unfinished.is_file():
        plan = reading.read_json(unfinished)
        if plan.get("settings") != settings or plan.get("faces") != listed:
            raise ValueError(
                f"{folder} holds an unfinished set of other faces or settings: finish that one "
                "with its own command, or give another folder"
            )
        return plan
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} is there and holds something else: give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    order = secrets.randbits(128) if kept["seed"] is None else kept["seed"]
    plan = {"settings": settings, "faces": listed, "order": order}
    _write_json(unfinished, plan)
    unfinished.chmod(0o600)
    return plan


def _labels(identities: Sequence[str], labels: Labels) -> list[str] | None:
    if labels == "none":
        return None
    if labels == "original":
        return list(identities)
    number = {who: str(i) for i, who in enumerate(dict.fromkeys(identities))}
    return [number[who] for who in identities]


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    part.rename(path)
