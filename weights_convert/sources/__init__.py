"""Readers of weight files: each turns one format into arrays by the file's own names.

Each raises ValueError for a file of another kind, without weights, or damaged.
"""

import contextlib
import struct
import zipfile
import zlib
from collections.abc import Iterator

_DAMAGED = (
    *(ValueError, TypeError, IndexError, KeyError, AttributeError, EOFError, OverflowError),
    *(RuntimeError, OSError, struct.error, zipfile.BadZipFile, zlib.error),
)


@contextlib.contextmanager
def explained(label: object, form: str, remedy: str) -> Iterator[None]:
    """Turn what a reader raises on a damaged or foreign file into a ValueError for users."""
    try:
        yield
    except _DAMAGED as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{label}: not {form}, or a damaged one ({reason}); {remedy}") from error
