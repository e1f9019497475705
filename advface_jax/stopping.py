"""SIGTERM, as of a preempted machine: a run ends at its next good moment, its work saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

STATUS = 128 + signal.SIGTERM


class Stopped(KeyboardInterrupt):
    """The process was asked to end (SIGTERM)."""


_asked = threading.Event()
_waiting = 0  # regions that look by themselves


def listen() -> None:
    """From now on SIGTERM raises ``Stopped``, or, in ``at_good_moments``, waits for ``check``."""
    with contextlib.suppress(ValueError):  # not the main thread: whoever has it decides
        signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(*_: Any) -> None:
    again = _asked.is_set()
    _asked.set()
    if again or not _waiting:
        raise Stopped


@contextlib.contextmanager
def at_good_moments() -> Iterator[None]:
    """In here a first SIGTERM raises nothing before the next ``check``; a second one does."""
    global _waiting
    _waiting += 1
    try:
        yield
    finally:
        _waiting -= 1


def asked() -> bool:
    """Whether a SIGTERM has come."""
    return _asked.is_set()


def check() -> None:
    """Raise ``Stopped`` if a SIGTERM has come: call it where nothing is half done."""
    if _asked.is_set():
        raise Stopped
