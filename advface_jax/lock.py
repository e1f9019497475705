"""One writer a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

fcntl: Any
try:
    import fcntl
except ImportError:  # Windows: no lock is better than no program
    fcntl = None

NAME = ".writing"


@contextlib.contextmanager
def only_writer(folder: str | os.PathLike[str]) -> Iterator[None]:
    """Hold ``folder``, made if need be, against every other process that asks for it like this.

    The system releases the lock when the process ends, also by SIGKILL; the file that carries it is
    removed at a regular end. On a shared disk it holds between machines where the disk passes
    ``flock`` on (NFS since Linux 2.6.12 does).

    Raises:
      ValueError: another process holds it, or the disk has no locks.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if fcntl is None:
        yield
        return
    file = folder / NAME
    held = _locked(file)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.unlink()  # while it is locked: who waits for the old one sees that it is gone
        os.close(held)


def _locked(file: Path) -> int:
    while True:
        held = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = os.read(held, 32).decode("ascii", "replace").strip()
            os.close(held)
            raise ValueError(
                f"{file.parent} is being written by another process ({who or 'just begun'}): wait "
                "for its end, or give another folder"
            ) from None
        except OSError as error:
            os.close(held)
            raise ValueError(
                f"{file} cannot be locked ({error.strerror}): give a folder on a disk that passes "
                "flock on"
            ) from error
        with contextlib.suppress(FileNotFoundError):
            if os.stat(file).st_ino == os.fstat(held).st_ino:
                with contextlib.suppress(OSError):  # a full disk: the number is for messages only
                    os.ftruncate(held, 0)
                    os.write(held, str(os.getpid()).encode())
                return held
        os.close(held)  # its holder removed it between our two calls
