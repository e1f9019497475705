"""The service under load on this machine: requests held, latency, twice as many, and kills.

    python -m experiments.service_load -o FOLDER
    python -m experiments.service_load -o FOLDER --rates 4 8 --seconds 60 --enrolled 100

It starts ``python -m advface_jax serve`` with a new store in --out, enrols drawn faces, asks who
they are, and writes service_load.json and service_load.md into --out. Each request is sent at its
time, whether or not earlier ones are answered. Clients and service share the machine: let nothing
else run on it.
"""

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from advface_jax import checks, cli, data, system
from experiments.fault.serving import Sent, Service, kills
from experiments.measure.results_file import Row, write_results

ALONE = 20  # requests one after the other, whose time says what may be held
SHARE = 0.8  # of that many a second: the first rate that is tried
LOWER = 0.75  # the next one, if that was not held
TRIES = 6


def main(
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("results/service_load"),
    enrolled: int = 10,
    seconds: float = 30.0,
    rates: tuple[float, ...] = (),
    kill: int = 3,
    weights: str = "facenet-512-q8",
) -> None:
    """Start the service, enrol drawn faces, and identify at fixed rates.

    Args:
      out: Folder of the results; the store in it is removed.
      enrolled: How many faces are enrolled.
      seconds: How long each rate is sent.
      rates: Requests a second. Without: one that is held with nothing refused, and twice that.
      kill: How often it is killed under enrolments and started again, at the end.
      weights: A known name, a checkpoint folder of weights_convert, or module:function.
    """
    checks.positive(enrolled=enrolled)
    checks.above_zero(seconds=seconds, **{f"rates[{i}]": rate for i, rate in enumerate(rates)})
    cli.folder(out)
    faces = np.asarray(data.synthetic_faces(enrolled, 1, seed=7).images)
    extractor = system.load(weights).extractor
    bodies = {
        "picture": ("image/png", [_png(face) for face in faces]),
        "feature": (
            "application/octet-stream",
            [np.asarray(extractor(x[None] / np.float32(255)), "<f4").tobytes() for x in faces],
        ),
    }
    started, load_before = time.monotonic(), os.getloadavg()[0]
    with Service(out / "store", "--weights", weights) as service:
        notes: dict[str, Any] = {"start": service.told, "load_before": load_before}
        before, told = service.cpu(), {}
        for i, picture in enumerate(bodies["picture"][1]):
            sent = service.enrol(picture, f"face {i}")
            if sent.status == 201:  # or no decoy stands for this face
                told[json.loads(sent.answer)["enrolment"]["id"]] = picture
        if not told:
            raise ValueError(f"got no enrolment of {enrolled}: {sent.status} {sent.answer[:200]}")
        notes["enrol_cpu_s"] = (service.cpu() - before) / enrolled
        notes["enrolled"] = len(told)
        rows: list[Row] = []
        for body, given in bodies.items():
            before, began = service.cpu(), time.monotonic()
            for i in range(ALONE):
                service.ask("/api/identify", given[0], given[1][i % enrolled])
            alone = (time.monotonic() - began) / ALONE
            notes[f"{body}_alone_ms"] = 1000 * alone
            notes[f"{body}_alone_cpu_ms"] = 1000 * (service.cpu() - before) / ALONE
            for row in _rows(service, body, given, rates, seconds, SHARE / alone):
                rows.append(row)
                cli.answer.print(_line(row), highlight=False, soft_wrap=True)
        notes |= {"memory_mb": service.megabytes(), "load_after": os.getloadavg()[0]}
        notes["kills"] = kills(service, told, kill)
        for one in notes["kills"]:
            cli.answer.print(one, highlight=False, soft_wrap=True)
    asked = {"enrolled": enrolled, "seconds": seconds, "weights": weights}
    told = "\n".join(f"* {line}" for line in (*map(_line, rows), *notes["kills"]))
    command, spent = cli.command("experiments.service_load"), time.monotonic() - started
    about: dict[str, Any] = {"command": command, "config": asked, "seconds": spent, "text": told}
    write_results(out, "service_load", rows, **about, notes=notes, settings=asked)


def _rows(
    service: Service,
    body: str,
    given: tuple[str, list[bytes]],
    rates: tuple[float, ...],
    seconds: float,
    first: float,
) -> Iterator[Row]:
    """A row for each of ``rates``, or for those tried until one is held, and for twice that one."""
    for rate in rates:
        yield at_rate(service, body, given, rate, seconds)
    rate = max(0.1, round(first, 1))
    for _ in range(0 if rates else TRIES):
        row = at_rate(service, body, given, rate, seconds)
        yield row
        if row["held"]:
            yield at_rate(service, body, given, 2 * rate, seconds)
            return
        rate = max(0.1, round(LOWER * rate, 1))


def at_rate(
    service: Service, body: str, given: tuple[str, list[bytes]], rate: float, seconds: float
) -> Row:
    """Identify ``rate`` times a second for ``seconds``, each request in a thread of its own."""
    kind, contents = given
    count, sent = max(1, round(rate * seconds)), []
    before, began = service.cpu(), time.monotonic()

    def one(i: int) -> None:
        sent.append(service.ask("/api/identify", kind, contents[i % len(contents)]))

    threads = []
    for i in range(count):
        time.sleep(max(0.0, began + i / rate - time.monotonic()))
        threads.append(threading.Thread(target=one, args=(i,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    took, used = time.monotonic() - began, service.cpu() - before
    return {"body": body, "sent_per_s": rate, "cpu_s": used, **summary(sent, took)}


def summary(sent: list[Sent], seconds: float) -> Row:
    """What became of requests: counts, and latency in milliseconds of those answered."""
    answered = [one.seconds for one in sent if one.status == 200]
    refused = [one.seconds for one in sent if one.status in (429, 503)]

    def ms(times: list[float], share: float) -> float | None:
        return 1000 * float(np.quantile(times, share)) if times else None

    return {
        "sent": len(sent),
        "answered": len(answered),
        "refused": len(refused),
        "failed": len(sent) - len(answered) - len(refused),
        "held": len(answered) == len(sent),
        "answered_per_s": len(answered) / seconds,
        "p50_ms": ms(answered, 0.5),
        "p95_ms": ms(answered, 0.95),
        "most_ms": ms(answered, 1),
        "refused_p50_ms": ms(refused, 0.5),
    }


def _line(row: Row) -> str:
    names = ("p50", "p95") if row["answered"] else ()
    times = "".join(f", {name} {row[f'{name}_ms']:,.0f} ms" for name in names)
    return (
        f"{row['body']}: {row['sent_per_s']:g} a second sent, {row['answered_per_s']:.1f} answered"
        f"{times}; of {row['sent']} refused {row['refused']}, failed {row['failed']}"
    )


def _png(face: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(face).save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    cli.start(main, "experiments.service_load")
