"""The paper's Table 2: how well faces are still recognised, by defence.

    python -m experiments.accuracy                              # demo: faces of nobody
    python -m experiments.accuracy --preset paper               # LFW's official pairs
    python -m experiments.accuracy --preset paper --offline FOLDER --duetface FOLDER

Writes accuracy.json and accuracy.md into --out.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import ProtectConfig, checks, cli, data, defenses, metrics
from advface_jax.defenses.defense import EPSILON
from advface_jax.models import state
from advface_jax.models.duetface import Recogniser
from advface_jax.models.facenet import InceptionResNetV1
from advface_jax.training.duetface import read_duetface
from experiments import accuracy_text
from experiments.defenses import Each
from experiments.measure import channels as channel_rows
from experiments.measure import decoders, inputs, paper, results_file
from experiments.measure import sample as flags
from experiments.measure import table as measure_table
from experiments.measure.duetface import of_duetface
from experiments.measure.intervals import bootstrap
from experiments.measure.judging import Judged, Subject, discard
from experiments.measure.table_rows import row, verdicts

OFFLINE, DUETFACE = accuracy_text.OFFLINE, "DuetFace"
TRAINED = ("training", "steps", "command", "date")  # of DuetFace's card
BY_OFFLINE = " (Ψ retrained on protected features)"
WANTS = {
    OFFLINE: "give --offline FOLDER (python -m experiments.finetune --features …)",
    DUETFACE: "give --duetface FOLDER (python -m experiments.train_duetface)",
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Servers:
    """Several Ψ over the same stored features, their embeddings side by side, (b, e1 + e2 + …)."""

    networks: tuple[InceptionResNetV1, ...]

    def __call__(self, stored: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.concatenate([network.server(stored) for network in self.networks], -1)


def main(
    sample: flags.OfSample,
    ascent: flags.OfAscent,
    offline: Path | None = None,
    duetface: Path | None = None,
    shadow: str = "resrec",
    epsilon: float = EPSILON,
) -> None:
    """Compare how well the recogniser tells people apart under each defence.

    Unprotected; random noise within ε in total (ball) and by steps (walk); Laplace noise, which
    guarantees no differential privacy; DuetFace; AdvFace online (Ψ as it is; both images of a pair
    protected, and the enrolled one only) and offline (Ψ retrained on protected features). Nothing
    is attacked here, so that all of a set's pairs can be measured; experiments.defenses attacks.

    "Lost" is how far ACC lies below that of the unprotected features, in points, with a bootstrap
    interval over the same pairs of both.

    Stopped? The same command resumes after the last finished batch.

    Args:
      offline: Folder that experiments.finetune left: Ψ retrained on protected features.
      duetface: Folder that experiments.train_duetface left; by default the shipped recogniser.
      shadow: AdvFace's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      epsilon: The bound of every defence, in units of the feature; Laplace's scale.
    """
    began = time.monotonic()
    system = advface_jax.load(sample.weights)
    config = ascent.config()
    checked = checks.epsilon(epsilon)
    retrained = None if offline is None else _retrained(offline, system)
    channels = _duetface(duetface, system)
    crops, over, origin = sample.read()
    decoder = decoders.decoder(system, shadow, "shadow")
    lists = {"shadow": decoders.file(shadow, "shadow").with_suffix(".identities")}
    lists |= {OFFLINE: offline / "weights.identities"} if offline else {}
    if channels:
        file = (duetface or channel_rows.SHIPPED) / channel_rows.RECOGNISER
        lists["DuetFace"] = file.with_suffix(".identities")
    seen = inputs.seen_in_training(lists, crops, sample.on_leak)
    compared = (
        defenses.ball(config.steps),
        defenses.walk(config.steps),
        defenses.laplace(),
        defenses.advface(extractor=system.extractor, shadow=decoder, config=config),
    )
    settings = {
        "experiment": "accuracy",
        **origin,
        "weights": system.card["source"],
        "weights_sha256": system.card["sha256"],
        "shadow": Path(shadow).stem,
        "shadow_sha256": decoders.digest(decoder),
        "offline": retrained and {k: retrained.card[k] for k in ("source", "sha256")},
        "duetface": channels
        and {
            **{k: channels[1][k] for k in TRAINED},
            "sha256": decoders.digest(channels[0].duetface),
        },
        "defenses": [d.name for d in compared],
        "epsilon": epsilon,
        **dataclasses.asdict(config),
        "batch": sample.batch,
        "precision": ascent.precision,
        "versions": results_file.surroundings()["versions"],
    }
    networks = (system.network, *([retrained.network] if retrained else []))
    store = Each(compared, checked, ascent.precision)
    subject = Subject(system.extractor, store, (), Servers(networks), system.network)
    with measure_table.exactly(ascent.precision):
        measured = measure_table.measure(crops, subject, settings=settings, **sample.how)
        duet = channels and measure_table.measure(
            crops, of_duetface(channels[0]), **sample.how, settings={**settings, "of": "DuetFace"}
        )
    online, *others = _apart(measured.judged, networks)
    tell = {"set": origin["set"], "shadow": settings["shadow"]}
    bare, weigh = _right(online.stored[0], online.stored[0], over)

    def line(
        method: str,
        judged: Judged,
        condition: int = 0,
        enrolled_only: bool = False,
        unprotected: int | None = 0,
    ) -> results_file.Row:
        probes = judged.stored[0 if enrolled_only else condition]
        lost = bare - _right(judged.stored[condition], probes, over)[0]
        told = {**tell, "drop": float(lost @ weigh), "drop_ci": bootstrap(lost, over.fold, weigh)}
        at = epsilon if condition else None
        return row(method, at, judged, condition, over, 0, enrolled_only, unprotected, told)

    names = [d.name for d in compared]
    advface = len(names)
    rows = [line(name, online, i) for i, name in enumerate(["Unprotected", *names])]
    duetted = line(DUETFACE, duet.judged, unprotected=None) if duet else _not_measured(DUETFACE)
    rows.insert(advface, duetted | tell)  # the paper's order
    rows.append(line("AdvFace", online, advface, enrolled_only=True))
    if others:
        rows.append(line(OFFLINE, others[0], advface))
        rows.append(line(f"Unprotected{BY_OFFLINE}", others[0]))
    else:
        rows.append(_not_measured(OFFLINE) | tell)

    earlier = measured.seconds + (duet.seconds if duet else 0)
    seconds = earlier + time.monotonic() - began
    as_published = sample.preset == "paper" and config == ProtectConfig()

    def beside(r: results_file.Row) -> dict[str, float]:
        if not as_published or r.get("enrolled_only"):
            return {}
        at = epsilon if "not_measured" in r else r["epsilon"]
        return paper.beside(r["method"], at, decoder.config.kind, "resrec", sample.set)

    table = [accuracy_text.cells(r, beside(r), beside(rows[0])) for r in rows]
    results_file.write_results(
        sample.out,
        "accuracy",
        rows,
        command=cli.command("experiments.accuracy"),
        config=settings,
        seconds=seconds,
        notes={
            "paper": {accuracy_text.label(r): beside(r).get("acc") for r in rows if beside(r)},
            "seen_in_training": seen,  # null: no list of whom the decoder saw
            "faces_per_s": round(measured.rate, 3),
        },
        text=accuracy_text.text(table, rows, settings, seconds),
    )
    accuracy_text.show(table, sample.out)
    discard(measured.folder, *([duet.folder] if duet else []))


def _right(
    stored: np.ndarray, probes: np.ndarray, pairs: data.Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """``rows.verdicts`` of embeddings (n,e)."""
    distances = metrics.squared_distance(stored[pairs.left], probes[pairs.right])
    verified = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold)
    return verdicts(distances, verified, pairs)


def _duetface(
    folder: Path | None, system: advface_jax.System
) -> tuple[Recogniser, dict[str, Any]] | None:
    """The recogniser and its card; None where none is shipped for these weights."""
    file = (folder or channel_rows.SHIPPED) / channel_rows.RECOGNISER
    if folder is None and not file.is_file():
        return None
    try:
        return read_duetface(file, system)
    except ValueError:
        if folder is None:  # the shipped one stands in front of other weights
            return None
        raise


def _retrained(folder: Path, system: advface_jax.System) -> advface_jax.System:
    """The system of a fine-tuned Ψ; its E must be the one whose features are protected."""
    other = advface_jax.load(folder)
    ours, theirs = (state.flatten(s.network.extractor) for s in (system, other))
    if ours.keys() != theirs.keys() or any(
        not np.allclose(ours[k], theirs[k], rtol=1e-4, atol=1e-5) for k in ours
    ):
        raise ValueError(
            f"{folder} holds a network with another E than {system.card['source']}: its features "
            "are not those that are protected here; offline mode retrains Ψ alone"
        )
    return other


def _apart(judged: Judged, networks: tuple[InceptionResNetV1, ...]) -> list[Judged]:
    """What each of the networks of `Servers` makes of what is stored."""
    ends = np.cumsum([network.config.embedding_size for network in networks])
    return [judged._replace(stored=s) for s in np.split(judged.stored, ends[:-1], axis=-1)]


def _not_measured(method: str) -> results_file.Row:
    empty = dict.fromkeys(("epsilon", "ssim", "psnr", "mse", "acc", "srra"))
    return {"method": method, **empty, "n": 0, "not_measured": WANTS[method]}


if __name__ == "__main__":
    cli.start(main, "experiments.accuracy")
