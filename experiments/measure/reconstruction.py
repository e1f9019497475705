"""What tables of reconstructions share: S and R from the flags, the bar, the rows as text."""

import contextlib
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from rich.table import Table

import advface_jax
from advface_jax import cli
from advface_jax.data import Faces, leaks
from advface_jax.models import decoders, state
from advface_jax.models.facenet import InceptionResNetV1
from advface_jax.system import ASSETS, Role
from experiments.measure import inputs, results_file
from experiments.measure.judging import Measured, Subject, judge
from experiments.measure.results_file import Row

SHOWN = ("ssim", "psnr", "mse", "acc", "srra", "srra_same_image")
HEADER = ("", "SSIM", "PSNR", "MSE", "ACC %", "SRRA %", "same image %")
KIND_NAMES = {"transrec": "TransRec", "resrec": "ResRec", "urec": "URec"}
MEASURES = (
    "SSIM, PSNR and MSE compare R's picture with the face. SRRA: R's picture of one image accepted "
    "as another image of the same person, at the threshold of the row's own pairs; same image: as "
    "the image itself."
)
FLOOR = (
    "The mean of these faces stands for what an attacker has without any feature (theirs, of other "
    "faces, is a little further off): an SSIM below its own is a wrecked picture, which is not yet "
    "privacy. The attacker here does not know of the protection."
)


class Models(NamedTuple):
    """Ψ(E(·)), the server's S, the attacker's R."""

    network: InceptionResNetV1
    shadow: decoders.Decoder
    attacker: decoders.Decoder


def models(system: advface_jax.System, shadow: str, attacker: str) -> Models:
    """The networks, with S and R by kind or by file. Errors as for ``System.decoder``."""
    return Models(
        system.network, decoder(system, shadow, "shadow"), decoder(system, attacker, "attacker")
    )


class Trained(NamedTuple):
    """A decoder with what is known of its training."""

    decoder: decoders.Decoder
    role: Role
    file: Path
    seed: int | None  # of its training, where the card says it
    name: str  # as it stands in a table: its kind, and what tells it from its like

    @property
    def kind(self) -> str:
        return self.decoder.config.kind

    def told(self) -> dict[str, Any]:
        """For the settings of a results file."""
        return {
            "name": self.name,
            "kind": self.kind,
            "seed": self.seed,
            "file": self.file.name,
            "sha256": digest(self.decoder),
        }


def trained(system: advface_jax.System, sources: Sequence[str], role: Role) -> tuple[Trained, ...]:
    """Several decoders of one role, by kind or by file, under names that differ.

    Raises:
      ValueError: no source, one that comes twice, or as for ``System.decoder``.
    """
    if not sources:
        raise ValueError(f"got no {role}; wanted at least one: a kind or a .safetensors file")
    found = []
    for source in sources:
        one, path = decoder(system, source, role), file(source, role)
        seed = json.loads(path.with_suffix(".json").read_text()).get("train", {}).get("seed")
        found.append(Trained(one, role, path, seed, KIND_NAMES[one.config.kind]))
    sums = [digest(one.decoder) for one in found]
    if twice := [s for s, d in zip(sources, sums, strict=True) if sums.count(d) > 1]:
        raise ValueError(
            f"got {', '.join(twice)} for {role}s, which are one decoder; wanted others"
        )
    tells = (
        lambda one: f"seed {one.seed}",
        lambda one: one.file.absolute().parent.name,
        lambda one: one.file.stem,
    )
    for tell in tells:
        names = [one.name for one in found]
        found = [
            one._replace(name=f"{one.name}, {tell(one)}") if names.count(one.name) > 1 else one
            for one in found
        ]
    return tuple(found)


def provenance(
    system: advface_jax.System, models: Models, shadow: str, attacker: str
) -> dict[str, Any]:
    """What tells these networks from others, for the settings of a results file."""
    return {
        "weights": system.card["source"],
        "weights_sha256": system.card["sha256"],
        "shadow": Path(shadow).stem,
        "shadow_sha256": digest(models.shadow),
        "attacker": Path(attacker).stem,
        "attacker_sha256": digest(models.attacker),
    }


def seen_in_training(
    shadow: str, attacker: str, crops: Faces, on_leak: leaks.OnLeak
) -> dict[str, dict[str, int] | None]:
    """``inputs.seen_in_training`` by the lists beside the two decoders."""
    lists = {
        "shadow": file(shadow, "shadow").with_suffix(".identities"),
        "attacker": file(attacker, "attacker").with_suffix(".identities"),
    }
    return inputs.seen_in_training(lists, crops, on_leak)


@contextlib.contextmanager
def exactly(precision: str):
    """In float32 no matrix product is rounded on its way: accelerators would, by default."""
    exact = jax.default_matmul_precision("highest") if precision == "float32" else None
    with exact or contextlib.nullcontext():
        yield


def measure(faces: Faces, subject: Subject, **how: Any) -> Measured:
    """``evaluation.judge`` under a bar, ``how`` being its own keywords; but ``seconds`` are those
    that earlier sittings spent."""
    at = time.monotonic()
    with cli.bar("faces") as bar:
        task = bar.add_task("protect, attack, recognise", total=len(faces), note="compiling")

        def progress(n: int) -> None:
            bar.update(task, advance=n)
            rate = (bar.tasks[0].completed) / max(bar.tasks[0].elapsed or 0, 1e-9)
            bar.update(task, note=f"{rate:.2f} faces/s")

        measured = judge(faces, subject, progress=progress, **how)
    return measured._replace(seconds=measured.seconds - (time.monotonic() - at))


def distinct(identities: tuple[str, ...], most: int = 6) -> list[int]:
    """The first face of each of the first identities."""
    first = {identity: i for i, identity in reversed(list(enumerate(identities)))}
    return sorted(first.values())[:most]


def cells(label: str, ours: Row, theirs: Mapping[str, float]) -> list[list[str]]:
    """A row as text under ``HEADER``, and the paper's below it where it has one."""

    def line(label: str, numbers: Mapping[str, Any]) -> list[str]:
        cells = [label]
        for key in SHOWN:
            scale = 100 if key.startswith(("acc", "srra")) else 1
            digits = {"ssim": 3, "mse": 4}.get(key, 2)
            value = numbers.get(key)
            cells.append("–" if value is None else f"{scale * value:.{digits}f}")
        return cells

    return [line(label, ours), *([line("  in the paper", theirs)] if theirs else [])]


def write(
    out: Path,
    name: str,
    title: str,
    rows: Sequence[Row],
    labels: Sequence[str],
    theirs: Sequence[Mapping[str, float]],
    *,
    settings: Mapping[str, Any],
    notes: Mapping[str, Any],
    seconds: float,
    before: Sequence[str] = (),
    remarks: Sequence[str] = (),
) -> list[list[str]]:
    """``NAME.json`` and ``NAME.md``: each row under its label, the paper's numbers for it below.

    before, remarks: paragraphs before and after the table. Returns the table, for ``show``.
    """
    table = [
        line
        for label, ours, numbers in zip(labels, rows, theirs, strict=True)
        for line in cells(label, ours, numbers)
    ]
    command, where = cli.command(f"experiments.{name}"), results_file.surroundings()
    paragraphs = [
        f"# {title}",
        *before,
        results_file.markdown(HEADER, table),
        f"{MEASURES} {FLOOR}",
        *remarks,
        _setting(settings, rows[0]),
        f"`{command}`\n{where['hardware']}, jax {where['versions']['jax']}, "
        f"{seconds / 60:.1f} min, {where['date']}.",
    ]
    results_file.write_results(
        out,
        name,
        rows,
        command=command,
        config=settings,
        seconds=seconds,
        notes=notes,
        text="\n\n".join(paragraphs),
    )
    return table


def _setting(settings: Mapping[str, Any], first: Row) -> str:
    alpha = "ε/10" if settings["alpha"] is None else f"{settings['alpha']:g}"
    method = f"{settings['method']}, " if "method" in settings else ""
    start = " around z" if settings.get("start") == "z" else ""
    return (
        f"S {_named(settings, 'shadow')}, R {_named(settings, 'attacker')}, {settings['steps']} "
        f"steps, {method}α = {alpha}, bound {settings['bound']}{start}, batches of "
        f"{settings['batch']} ({settings['statistics']} statistics), {settings['precision']}, seed "
        f"{settings['seed']}; {first['n']:,} faces, {first['pairs']:,} pairs in "
        f"{settings['folds']} folds ({settings['faces']}); weights {settings['weights']}."
    )


def _named(settings: Mapping[str, Any], role: Role) -> str:
    """The one decoder of that role, or all of them."""
    return settings.get(role) or "; ".join(d["name"] for d in settings[f"{role}s"])


def show(table: list[list[str]], out: Path, files: tuple[str, ...]) -> None:
    """The table to the terminal, and which files were written."""
    shown = Table(title="R's pictures of protected features; recognition; replay")
    for i, name in enumerate(HEADER):
        shown.add_column(name, justify="right" if i else "left")
    for row in table:
        shown.add_row(*row, style="dim" if row[0].startswith(" ") else None)
    cli.answer.print(shown)
    cli.console.print("written: " + ", ".join(str(out / f) for f in files))


def decoder(system: advface_jax.System, source: str, role: Role) -> decoders.Decoder:
    """One decoder, by kind or by file. Errors as for ``System.decoder`` and ``read_decoder``."""
    if source in decoders.KINDS:
        return system.decoder(source, role)
    return system.read_decoder(source)


def file(source: str, role: Role) -> Path:
    """Where that decoder lies."""
    return ASSETS / f"{source}-{role}.safetensors" if source in decoders.KINDS else Path(source)


def digest(network: nnx.Module) -> str:
    """What tells two networks of one name apart, as decoders."""
    arrays = state.flatten(network)
    return hashlib.sha256(
        b"".join(np.asarray(arrays[k]).tobytes() for k in sorted(arrays))
    ).hexdigest()
