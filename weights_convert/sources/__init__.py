"""Readers of weight files: each turns one format into arrays by the file's own names.

Each raises ``BadFile`` for a file of another kind, without weights, or damaged, and takes its
limits from ``advface_jax.untrusted``.
"""

import contextlib
import struct
import zlib
from collections.abc import Iterator
from zipfile import BadZipFile

from advface_jax.untrusted import BadFile, Room

__all__ = ["BadFile", "Refused", "Room", "explained"]

_DAMAGED = (ValueError, IndexError, EOFError, OverflowError, struct.error, BadZipFile, zlib.error)


class Refused(BadFile):
    """A sound file that holds what is not read; it says so, and what to do."""


@contextlib.contextmanager
def explained(label: object, form: str, remedy: str) -> Iterator[None]:
    """Turn what a reader raises on a damaged or foreign file into a ``BadFile`` for users."""
    try:
        yield
    except Refused as error:
        raise BadFile(f"{label}: {error}"[:_LONGEST]) from error
    except _DAMAGED as error:
        reason = error if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        reason = f"{reason}"[:_LONGEST]
        raise BadFile(f"{label}: not {form}, or a damaged one ({reason}); {remedy}") from error


_LONGEST = 1000  # characters of what a file's own names put into a message
