"""Enrolments in one SQLite file, each sealed with AES-GCM.

SQLite, since it is in Python itself, its transactions survive a killed process, and it overwrites
what is deleted (``secure_delete``). A vector database would keep an index of embeddings in the
clear; here they are in memory only, made anew from the stored items when a store is opened.

What lies in the file: a data key, sealed by the store's key; under the data key the settings, the
secret that decoys follow from, and for each enrolment its name and its item. In the clear are
random numbers of enrolments, their generations and sizes, and the audit log: time, event,
number, outcome.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax import sealing

APPLICATION, FORMAT = 0x41644661, 1
FILE = "enrolments.sqlite"
SCHEMA = """
create table kept (name text primary key, sealed blob not null);
create table enrolments (
    id text primary key, generation integer not null, about blob not null, item blob
);
create table audit (
    n integer primary key, time text not null, event text not null, id text, outcome text not null
);
"""


DAMAGED = "(damaged)"


class StoreError(ValueError):
    """A store that cannot be used, or was changed by somebody else."""


@dataclasses.dataclass(frozen=True)
class Enrolment:
    """Who is enrolled: ``id`` is random, ``generation`` counts decoys from 1, ``name`` is what the
    user called it; ``revoked`` if there is no item any more.

    A damaged record has generation 0 and the name ``DAMAGED``, and counts as revoked.
    """

    id: str
    generation: int
    name: str
    revoked: bool


class Store:
    """One open store. Safe from several threads; a second process is refused while it is open.

    Args:
      folder: its folder, made if it does not exist.
      key: the 32 bytes of ``sealing.read_key``.
      settings: of a new store, kept in it; an existing one must have the same.

    Attributes:
      secret: 32 random bytes, the store's own, from which decoys and a pattern follow.

    Raises:
      StoreError: another key, other settings, a damaged file or one of something else, a folder
        that is in use or others may read.
    """

    def __init__(
        self, folder: str | os.PathLike[str], key: bytes, settings: Mapping[str, Any]
    ) -> None:
        self.path = Path(folder) / FILE
        self._lock = threading.RLock()
        with _plainly(self.path):
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.path.parent.stat().st_mode & 0o077:
                raise StoreError(
                    f"got store {folder} that others may read; wanted your own: chmod 700 {folder}"
                )
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(
                self.path, timeout=0, isolation_level=None, check_same_thread=False
            )
            try:
                self._open(key, settings)
            except BaseException:
                self._db.close()
                raise

    def _open(self, key: bytes, settings: Mapping[str, Any]) -> None:
        db = self._db
        for line in (
            "locking_mode = exclusive",  # one service a store: the index in memory stays true
            "journal_mode = truncate",
            "synchronous = extra",
            "secure_delete = on",
            "temp_store = memory",
            "trusted_schema = off",
            "cell_size_check = on",
        ):
            db.execute(f"pragma {line}").fetchall()
        db.execute("begin exclusive")
        try:
            if not db.execute("select count(*) from sqlite_schema").fetchone()[0]:
                for line in SCHEMA.split(";")[:-1]:
                    db.execute(line)
                db.execute(f"pragma application_id = {APPLICATION}")
                db.execute(f"pragma user_version = {FORMAT}")
                self._data_key = secrets.token_bytes(sealing.KEY)
                self._keep("data key", self._data_key, key)
                self._keep("secret", secrets.token_bytes(sealing.KEY), self._data_key)
                self._keep("settings", json.dumps(settings).encode(), self._data_key)
            (application,), (version,) = (
                db.execute(f"pragma {name}").fetchone()
                for name in ("application_id", "user_version")
            )
            if application != APPLICATION:
                raise StoreError(f"got {self.path}, which is a database of something else")
            if version != FORMAT:
                raise StoreError(f"got {self.path} of format {version}; wanted {FORMAT}")
            try:
                self._data_key = self._kept("data key", key)
            except ValueError:
                raise StoreError(
                    f"got a key that does not open {self.path}; wanted the one that sealed it"
                ) from None
            self.secret = self._kept("secret", self._data_key)
            had = json.loads(self._kept("settings", self._data_key))
            if had != json.loads(json.dumps(settings)):
                differ = sorted(k for k in {*had, *settings} if had.get(k) != settings.get(k))
                raise StoreError(
                    f"got a store of other settings ({', '.join(differ)}); wanted "
                    + ", ".join(f"{k}={had.get(k)}" for k in differ)
                )
            db.execute("commit")
        except BaseException:
            if db.in_transaction:  # a full disk has ended it already
                db.execute("rollback")
            raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def enrolments(self) -> list[Enrolment]:
        """All of them, by id; one whose name does not open as a damaged record."""
        with self._lock, _plainly(self.path):
            rows = self._db.execute(
                "select id, generation, about, item is null from enrolments order by id"
            ).fetchall()
            return [self._enrolment(*row) for row in rows]

    def _enrolment(self, id: str, generation: int, about: bytes, revoked: int) -> Enrolment:
        try:
            name = self._unseal(about, id, generation, "name").decode()
        except StoreError:  # the others are to be answered still
            return Enrolment(str(id), 0, DAMAGED, True)
        return Enrolment(id, generation, name, bool(revoked))

    def sealed(self, id: str) -> bytes:
        """The item of an enrolment as it lies on the disk.

        Raises:
          KeyError: no such enrolment, or a revoked one.
        """
        with self._lock, _plainly(self.path):
            row = self._db.execute("select item from enrolments where id = ?", (id,)).fetchone()
        if row is None or row[0] is None:
            raise KeyError(id)
        return row[0]

    def item(self, id: str) -> np.ndarray:
        """What is stored of an enrolment, float32, one axis. KeyError as for ``sealed``."""
        with self._lock, _plainly(self.path):
            row = self._db.execute(
                "select generation from enrolments where id = ?", (id,)
            ).fetchone()
            item = self._unseal(self.sealed(id), id, row[0], "item")
        return np.frombuffer(item, "<f2").astype(np.float32)

    def put(self, enrolment: Enrolment, item: np.ndarray, event: str) -> None:
        """A new enrolment, or a new generation of one, whole or not at all; kept as float16."""
        id, generation = enrolment.id, enrolment.generation
        with self._change(event, id, "done"):  # which holds the lock: ``rotate`` changes the key
            about = self._seal(enrolment.name.encode(), id, generation, "name")
            sealed = self._seal(np.asarray(item, "<f2").tobytes(), id, generation, "item")
            self._db.execute(
                "insert or replace into enrolments values (?, ?, ?, ?)",
                (id, generation, about, sealed),
            )

    def revoke(self, id: str) -> None:
        """Erase what is stored of an enrolment; its name stays, to be enrolled anew. KeyError."""
        with self._change("revoke", id, "done"):
            done = self._db.execute("update enrolments set item = null where id = ?", (id,))
            if not done.rowcount:
                raise KeyError(id)

    def delete(self, id: str) -> None:
        """Erase an enrolment with its name. KeyError."""
        with self._change("delete", id, "done"):
            if not self._db.execute("delete from enrolments where id = ?", (id,)).rowcount:
                raise KeyError(id)

    def record(self, event: str, id: str | None, outcome: str) -> None:
        """A line of the audit log that changes nothing else."""
        with self._change(event, id, outcome):
            pass

    def audit(self) -> list[tuple[str, str, str | None, str]]:
        """The audit log: time (UTC), event, id, outcome."""
        with self._lock, _plainly(self.path):
            return self._db.execute("select time, event, id, outcome from audit").fetchall()

    def rotate(self, key: bytes) -> None:
        """Seal everything anew, by a new data key and ``key``, in one transaction."""
        with self._lock:
            old, new = self._data_key, secrets.token_bytes(sealing.KEY)
            try:
                with self._change("rotate", None, "done"):
                    for name in ("secret", "settings"):
                        self._keep(name, self._kept(name, old), new)
                    self._keep("data key", new, key)
                    ids = self._db.execute("select id, generation from enrolments").fetchall()
                    for id, generation in ids:
                        row = self._db.execute(
                            "select about, item from enrolments where id = ?", (id,)
                        ).fetchone()
                        again = []
                        for sealed, what in zip(row, ("name", "item"), strict=True):
                            self._data_key = old
                            plain = sealed and self._unseal(sealed, id, generation, what)
                            self._data_key = new
                            again.append(plain and self._seal(plain, id, generation, what))
                        self._db.execute(
                            "update enrolments set about = ?, item = ? where id = ?", (*again, id)
                        )
            except BaseException:
                self._data_key = old
                raise
            self._data_key = new

    @contextlib.contextmanager
    def _change(self, event: str, id: str | None, outcome: str) -> Iterator[None]:
        """A transaction with its line of the audit log."""
        with self._lock, _plainly(self.path):
            self._db.execute("begin immediate")
            try:
                yield
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                row = (now, event, id, outcome)
                self._db.execute(
                    "insert into audit (time, event, id, outcome) values (?, ?, ?, ?)", row
                )
                self._db.execute("commit")
            except BaseException:
                if self._db.in_transaction:  # a full disk has ended it already
                    self._db.execute("rollback")
                raise

    def _keep(self, name: str, data: bytes, key: bytes) -> None:
        sealed = sealing.seal(data, key, name.encode())
        self._db.execute("insert or replace into kept values (?, ?)", (name, sealed))

    def _kept(self, name: str, key: bytes) -> bytes:
        row = self._db.execute("select sealed from kept where name = ?", (name,)).fetchone()
        return sealing.unseal(row[0] if row else b"", key, name.encode())

    def _seal(self, data: bytes, id: str, generation: int, what: str) -> bytes:
        return sealing.seal(data, self._data_key, f"{id}/{generation}/{what}".encode())

    def _unseal(self, sealed: bytes, id: str, generation: int, what: str) -> bytes:
        try:
            return sealing.unseal(sealed, self._data_key, f"{id}/{generation}/{what}".encode())
        except ValueError:
            raise StoreError(
                f"got {self.path} with enrolment {id} changed by somebody; wanted it as it was: "
                "restore a backup, or delete it"
            ) from None


@contextlib.contextmanager
def _plainly(path: Path) -> Iterator[None]:
    """SQLite's errors as ValueErrors."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise StoreError(
                f"got {path}, which another process has open; wanted one service a store"
            ) from None
        raise StoreError(f"got {path}, which SQLite cannot use ({error})") from None
