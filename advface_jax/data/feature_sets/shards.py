"""One shard of a set, batch after batch; a stop keeps the batches that it has."""

from __future__ import annotations

import contextlib
import enum
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax.data.batches import Batch
from advface_jax.data.feature_sets import chunks, reading
from advface_jax.data.feature_sets.planning import Writing, cannot, write_json
from advface_jax.untrusted import read_json

_OPTIONS = "group_size:1,zstd:1"


class Fate(enum.IntEnum):
    """Of an item: whether its record is kept, or why not."""

    KEPT = 0
    NOT_FINITE = 1
    REFUSED = 2


REASONS = {
    Fate.NOT_FINITE: "the defence made NaN or infinite values of it",
    Fate.REFUSED: "its recogniser does not know the face in what the defence made of it",
}


class ShardWriter:
    """Writes a shard under another name, and renames it when it is whole.

    Attributes:
      saved: how many of its batches a stopped run has left; ``add`` goes on after them.
    """

    def __init__(self, writing: Writing, shard: int):
        self.writing, self.file = writing, reading.shard_file(writing.folder, shard)
        self.kept = self.file.with_name(f".{self.file.name}.saved")
        self.writer: Any = None
        self.part: Path | None = None
        state = self._read_saved()
        self.saved = self.batches = state.get("batches", 0)
        self.places: list[int] = state.get("places", [])
        self.left_out = state.get("left_out", 0)
        self.whole = True  # whether what is written ends with a whole batch
        self.steps = writing.steps(shard)

    def add(
        self, one: Batch, fates: np.ndarray, parts: Sequence[np.ndarray], last: bool
    ) -> list[tuple[str, str]]:
        """Write a batch's records, and with the last one the shard; what was left out, and why."""
        if not self.whole or one.step != self.steps[self.batches]:
            raise ValueError(f"{self.file} lacks a batch: the same command resumes")
        self.whole = False
        real = np.flatnonzero(one.mask).tolist()
        good = [i for i in real if fates[i] == Fate.KEPT]
        with as_value_error(self.file):
            writer = self.writer or self._open()
            for i in good:
                writer.write(b"".join(part[i].tobytes() for part in parts))
        places = one.indices.tolist()
        lost = [(places[i], REASONS[Fate(int(fates[i]))]) for i in real if fates[i] != Fate.KEPT]
        bad = [(self.writing.name(place), reason) for place, reason in (*one.refused, *lost)]
        self.places += [places[i] for i in good]
        self.left_out += len(bad)
        self.batches += 1
        self.whole = True
        if last:
            self._finish()
        return bad

    def save(self) -> None:
        """Keep what is written so far for the next run; nothing if even that fails."""
        with contextlib.suppress(RuntimeError, OSError, ValueError):
            if self.writer is None:
                raise ValueError
            part = self._close()
            if not self.whole:
                raise ValueError
            state = {"batches": self.batches, "places": self.places, "left_out": self.left_out}
            write_json(self._beside, state | {"sha256": reading.file_sum(part)})
            part.rename(self.kept)
        if self.part is not None:
            with contextlib.suppress(OSError):
                self.part.unlink(missing_ok=True)

    @property
    def _beside(self) -> Path:
        return self.kept.with_name(self.kept.name + ".json")

    def _read_saved(self) -> dict[str, Any]:
        """What a stopped run left of this shard; {} for nothing, or for what is not whole."""
        with contextlib.suppress(OSError, ValueError):
            state = read_json(self._beside)
            if state["sha256"] == reading.file_sum(self.kept):
                return state
        return {}

    def _open(self) -> Any:
        module, source = chunks.array_record()
        self.part = self.file.with_name(f".{self.file.name}.{secrets.token_hex(4)}.part")
        self.writer = module.ArrayRecordWriter(str(self.part), _OPTIONS)
        if self.saved:
            for record in source.ArrayRecordDataSource(str(self.kept)):
                self.writer.write(record)
        return self.writer

    def _close(self) -> Path:
        writer, self.writer = self.writer, None
        writer.close()
        assert self.part is not None
        with self.part.open("rb") as written:
            os.fsync(written.fileno())
        return self.part

    def _finish(self) -> None:
        with as_value_error(self.file):
            part = self._close()
            beside = {
                "records": len(self.places),
                "bytes": part.stat().st_size,
                "sha256": reading.file_sum(part),
                "left_out": self.left_out,
                "labels": self.writing.labels(self.places),
                "names": self.writing.names(self.places),
            }
            write_json(self.file.with_suffix(".json"), beside)
            part.rename(self.file)  # last: a shard that carries its name is whole
            for path in (self.kept, self._beside):
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def as_value_error(file: Path) -> Iterator[None]:
    """Errors of writing, array_record's RuntimeError too, as a ValueError that names the file."""
    try:
        yield
    except RuntimeError as error:
        raise ValueError(cannot(file, error)) from error
    except OSError as error:
        raise ValueError(cannot(file, error.strerror or error)) from error
