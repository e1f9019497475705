"""A long bulk protection: memory from beginning to end, rate, and whether the device waits.

    python -m experiments.long_run -o FOLDER --faces 100000
    python -m experiments.long_run -o FOLDER --faces 512 --weights facenet-512-q8 --workers 0 2

Writes long_run.json and long_run.md into --out. Without --weights the networks are trivial and a
feature has 4 kB: what is tried is everything around them.
"""

import dataclasses
import io
import os
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from PIL import Image

from advface_jax import checks, cli, data
from advface_jax.bulk import engine
from advface_jax.bulk.job import Job, Settings
from advface_jax.protect import PAPER
from experiments.measure import table
from experiments.measure.results_file import markdown, write_results

TINY = "experiments.fault.small:tiny"
DRAWN = 200  # different faces; the others are these again, under names of their own
TABLE = True  # --json and --html
PARTS = 10  # of a run: memory is told at the end of each


def main(
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("results/long_run"),
    faces: int = 100_000,
    weights: str = TINY,
    steps: int = 1,
    batch: int = 16,
    workers: tuple[int, ...] = (2,),
    shard_size: int = 4096,
) -> None:
    """Protect many faces in this process, once for each number of workers.

    The faces are 200 drawn ones, as JPEG in one zip, each of them many times: memory and rate do
    not depend on what they show.

    Args:
      out: Folder of the faces, the sets and the results; the sets are removed.
      faces: How many.
      weights: The networks: trivial ones, or a name or folder as in the other commands.
      steps: AdvFace's.
      batch: Faces protected together.
      workers: Threads that read ahead, one run each.
      shard_size: Faces a shard.
    """
    checks.positive(faces=faces, steps=steps, batch=batch)
    checks.between(batch, 1_000_000, **{"shard-size": shard_size})
    for count in workers:
        checks.between(0, 1000, workers=count)
    cli.folder(out)
    source = out / f"faces-{faces}.zip"
    if not source.exists():
        _draw(source, faces)
    rows: list[dict[str, Any]] = []
    for count in workers:
        config = dataclasses.replace(PAPER, steps=steps)
        settings = Settings(
            str(source), out / "set", weights=weights, config=config, batch=batch, workers=count,
            shard_size=shard_size - shard_size % batch, seed=0,
        )  # fmt: skip
        shutil.rmtree(settings.out, ignore_errors=True)
        job = Job(settings)
        began = time.monotonic()
        with memory_of(faces) as (progress, megabytes):
            ended = engine.protect(job, progress)
        found = data.open_features(settings.out)
        found.check()
        size = sum(path.stat().st_size for path in settings.out.iterdir())
        rows.append(
            {
                "workers": count,
                "faces": len(found),
                "seconds": time.monotonic() - began,
                "faces_per_s": ended.items / ended.seconds,
                "waiting": ended.share,
                "rss_mb": megabytes,
                "set_mb": size / 1e6,
                "devices": len(job.devices),
            }
        )
        shutil.rmtree(settings.out)
        parts = ", ".join(f"{one:,.0f}" for one in megabytes)
        cli.console.print(
            f"{count} workers: {len(found):,} faces, {rows[-1]['faces_per_s']:,.1f}/s, the devices "
            f"waited {ended.share:.1%}; MB of memory by tenths: {parts}",
            highlight=False,
            soft_wrap=True,
        )
    asked = {"weights": weights, "steps": steps, "batch": batch, "shard_size": shard_size}
    command = cli.command("experiments.long_run")
    head = [
        "workers",
        "faces",
        "faces/s",
        "waiting %",
        *(f"MB, tenth {i + 1}" for i in range(PARTS)),
    ]
    told = markdown(head, [_cells(r) for r in rows], left=0)
    seconds = sum(r["seconds"] for r in rows)
    about: dict[str, Any] = {"command": command, "config": asked, "seconds": seconds, "text": told}
    write_results(out, "long_run", rows, **about, settings=asked)
    table.write_page(out, "long_run", "A long run", told, command, {"config": asked})
    table.answer(out, "long_run", told)


def _cells(r: dict[str, Any]) -> list[str]:
    first = [f"{r['workers']}", f"{r['faces']:,}", f"{r['faces_per_s']:.1f}"]
    return [*first, f"{100 * r['waiting']:.1f}", *(f"{one:,.0f}" for one in r["rss_mb"])]


class memory_of:  # noqa: N801 a context manager
    """Resident MB of this process: the largest in each tenth of a run."""

    def __init__(self, total: int):
        self.total, self.most, self.done = total, [0.0] * PARTS, 0
        self.ended = threading.Event()
        self.watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> tuple[Callable[[int], None], list[float]]:
        self.watcher.start()
        return self._progress, self.most

    def __exit__(self, *_: Any) -> None:
        self.ended.set()
        self.watcher.join()

    def _progress(self, done: int) -> None:
        self.done = done

    def _watch(self) -> None:
        page = os.sysconf("SC_PAGE_SIZE")
        while not self.ended.wait(0.05):
            part = min(PARTS - 1, PARTS * self.done // self.total)
            now = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * page / 1e6
            self.most[part] = max(self.most[part], now)


def _draw(file: Path, faces: int) -> None:
    drawn = data.synthetic_faces(DRAWN // 2, 2, seed=5)
    encoded = []
    for face in np.asarray(drawn.images):
        made = io.BytesIO()
        Image.fromarray(face).save(made, "JPEG", quality=90)
        encoded.append(made.getvalue())
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name("." + file.name)
    with zipfile.ZipFile(part, "w") as archive:
        for i in range(faces):
            archive.writestr(f"p{i // 4:06d}/{i:07d}.jpg", encoded[i % DRAWN])
    part.rename(file)


if __name__ == "__main__":
    cli.start(main, "experiments.long_run")
