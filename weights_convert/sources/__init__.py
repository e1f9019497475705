"""Readers of weight files: each turns one format into arrays by the file's own names.

Each raises ValueError for a file of another kind, without weights, or damaged.
"""

import contextlib
import math
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence

LARGEST = 1 << 27
"""The most numbers that are read from one file: five times FaceNet's, so that a small file cannot
claim all the memory."""

_DAMAGED = (
    *(ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError),
    *(RuntimeError, OSError, struct.error, zipfile.BadZipFile, zlib.error),
)


class Refused(ValueError):
    """A sound file that holds what is not read; it says so, and what to do."""


@contextlib.contextmanager
def explained(label: object, form: str, remedy: str) -> Iterator[None]:
    """Turn what a reader raises on a damaged or foreign file into a ValueError for users."""
    try:
        yield
    except Refused as error:
        raise ValueError(f"{label}: {error}") from error
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno:
            raise  # no permission, a disk that fails: the file may be sound
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{label}: not {form}, or a damaged one ({reason}); {remedy}") from error


class Room:
    """How many numbers may still be read from a file."""

    def __init__(self) -> None:
        self.left = LARGEST

    def take(self, shape: Sequence[int]) -> int:
        """The size of an array that is about to be made."""
        size = math.prod(shape)
        if min(shape, default=0) < 0 or size > self.left:
            raise Refused(
                f"it claims more than {LARGEST:,} numbers (an array of shape "
                f"{str(tuple(shape))[:80]}), which is no FaceNet"
            )
        self.left -= size
        return size
