"""The service in a process of its own, started, asked, killed and started again."""

from __future__ import annotations

import dataclasses
import http.client
import itertools
import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.measure.results_file import Row

PATIENCE = 120.0  # seconds that a client waits
PAUSE = 1.0, 8.0  # seconds from a start to a kill


@dataclasses.dataclass(frozen=True)
class Sent:
    """One request: its HTTP status (0: none came), how long that took, and the answer."""

    status: int
    seconds: float
    answer: bytes = b""


class Service:
    """``advface serve`` over a store of its own, which is removed at the end.

    Attributes:
      told: what it printed and when, in seconds from its last start.
    """

    def __init__(self, store: Path, *words: str) -> None:
        self.store, self.words = store, words
        self.key = secrets.token_hex(32)
        self.told: list[dict[str, Any]] = []

    def __enter__(self) -> Service:
        shutil.rmtree(self.store, ignore_errors=True)
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: Any) -> None:
        self.end(self.run.terminate)
        shutil.rmtree(self.store, ignore_errors=True)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        line = [sys.executable, "-m", "advface_jax", "serve", str(self.store), *self.words]
        began = time.monotonic()
        self.told = told = []
        self.run = run = subprocess.Popen(
            [*line, "--rate", "1000", "--port", str(self.port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "ADVFACE_KEY": self.key},
        )

        def listen() -> None:
            assert run.stdout is not None
            with run.stdout as lines:
                for said in lines:
                    told.append({**_now(began), "line": said.strip()})

        self.listener = threading.Thread(target=listen, daemon=True)
        self.listener.start()
        answers = False
        while self.run.poll() is None:
            health = self.ask("/api/health")
            if health.status == 200 and not answers:
                answers = True
                told.append({**_now(began), "line": "first answer", "cpu_s": self.cpu()})
            if health.status == 200 and json.loads(health.answer)["enrols"]:
                told.append({**_now(began), "line": "first enrolment", "cpu_s": self.cpu()})
                return
            time.sleep(0.1)
        self.listener.join()
        last = " ".join(one["line"] for one in told[-5:])
        raise ValueError(f"the service ended with {self.run.returncode}: {last}")

    def end(self, how: Callable[[], None]) -> None:
        """End it by ``run.terminate`` or ``run.kill``."""
        how()
        self.run.wait()
        self.listener.join()

    def ask(
        self,
        path: str,
        kind: str | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Sent:
        """GET, or POST a body of a kind; by a connection of its own."""
        began, status, answer = time.monotonic(), 0, b""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        given = {**(headers or {}), **({"Content-Type": kind} if kind else {})}
        try:
            connection.request("POST" if kind else "GET", path, body, given)
            response = connection.getresponse()
            answer, status = response.read(), response.status
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        return Sent(status, time.monotonic() - began, answer)

    def enrol(self, picture: bytes, name: str) -> Sent:
        return self.ask("/api/enrolments", "image/png", picture, {"Name": name})

    def cpu(self) -> float:
        """Seconds of a core that it took since its start."""
        text = Path(f"/proc/{self.run.pid}/stat").read_text(encoding="utf-8")
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def megabytes(self) -> float:
        pages = int(Path(f"/proc/{self.run.pid}/statm").read_text(encoding="utf-8").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _now(began: float) -> Row:
    return {"s": round(time.monotonic() - began, 1)}


def kills(service: Service, told: dict[str, bytes], rounds: int, seed: int = 0) -> list[Row]:
    """Kill it at random moments of enrolments one after the other, and start it again.

    Args:
      told: the pictures that are enrolled, by id; more of the same are enrolled, and added.

    Returns:
      A row a round: ``killed_after_s``, how many enrolments were ``told``, ``lost`` of those,
      ``untold`` but there (kept, and killed before the answer), of all rounds; and ``broken``:
      there, and not verified by their own picture.
    """
    rng, pictures, rows = random.Random(seed), [*told.values()], []
    for number in range(rounds):
        pause, ended = rng.uniform(*PAUSE), threading.Event()

        def enrolling(number: int = number, ended: threading.Event = ended) -> None:
            for i in itertools.count():
                picture = pictures[i % len(pictures)]
                sent = service.enrol(picture, f"{number}-{i}")
                if sent.status == 201:
                    told[json.loads(sent.answer)["enrolment"]["id"]] = picture
                elif ended.is_set():
                    return

        client = threading.Thread(target=enrolling)
        client.start()
        time.sleep(pause)
        ended.set()
        service.end(service.run.kill)
        client.join()
        service.start()
        there = {one["id"] for one in json.loads(service.ask("/api/enrolments").answer)}
        broken = 0
        for id in there:
            path = f"/api/enrolments/{id}/verify"
            sent = service.ask(path, "image/png", told.get(id, pictures[0]))
            answer = json.loads(sent.answer)
            broken += "accepted" not in answer or (id in told and not answer["accepted"])
        row = {"killed_after_s": pause, "told": len(told), "lost": len(told.keys() - there)}
        rows.append({**row, "untold": len(there - told.keys()), "broken": broken})
    return rows
