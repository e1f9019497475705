"""The paper's Table 2: how well faces are still recognised, by defence.

    python -m experiments.accuracy                              # demo: synthetic faces
    python -m experiments.accuracy --preset paper               # LFW's official pairs
    python -m experiments.accuracy --preset paper --offline FOLDER --duetface FOLDER

Writes accuracy.json and accuracy.md into --out.
"""

import dataclasses
import time
from pathlib import Path

import numpy as np

import advface_jax
from advface_jax import checks, cli, data, defenses, metrics
from advface_jax.defenses.defense import EPSILON
from advface_jax.models import state
from advface_jax.models.facenet import InceptionResNetV1
from experiments.measure import channels, decoders, inputs, judging
from experiments.measure.inputs import Inputs
from experiments.measure.intervals import bootstrap
from experiments.measure.judging import Judged, Servers, Subject
from experiments.measure.results_file import Row, surroundings
from experiments.measure.sample import Ascent, OfAscent, OfSample, Sample
from experiments.measure.subjects import Each, of_duetface
from experiments.measure.table import LAPLACE, NOISE, Spent, Table, publish, setting
from experiments.measure.table_rows import not_measured, row, verdicts

OFFLINE, DUETFACE = "AdvFace (offline)", "DuetFace"
LABELS = {"Laplace": LAPLACE, "AdvFace": "AdvFace online", OFFLINE: "AdvFace offline"}
HEADER = ("", "ACC %", "95 %", "deviation of folds", "lost, points", "95 %", "paper", "lost")
TRAINED = ("training", "steps", "command", "date")  # of DuetFace's card
BY_OFFLINE = " (Ψ retrained on protected features)"
WITHOUT_OFFLINE = "give --offline FOLDER (python -m experiments.finetune --features …)"
EXPLAINED = (
    "ACC over folds, each judged by the threshold of the others. Lost: how far below the "
    "unprotected features. 95 %: bootstrap over the pairs, of the loss over the same pairs of "
    "both; it covers neither seeds of S nor of a training. Both images of a pair are protected "
    "unless the row says otherwise. Accuracy says nothing about privacy: experiments.defenses "
    "attacks."
)


def main(
    sample: OfSample,
    ascent: OfAscent,
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
    checks.bound(epsilon)
    ascent.config()
    cli.present(offline=offline, duetface=duetface)
    system, given = sample.open(shadow)
    retrained = None if offline is None else advface_jax.load(offline)
    people = offline and offline / "weights.identities"
    done = table(system, given, sample, ascent, retrained, people, duetface, shadow, epsilon)
    publish(done, sample.out)


def table(
    system: advface_jax.System,
    given: Inputs,
    sample: Sample,
    ascent: Ascent,
    retrained: advface_jax.System | None = None,
    people: Path | None = None,
    duetface: Path | None = None,
    shadow: str = "resrec",
    epsilon: float = EPSILON,
) -> Table:
    """A row for each defence; arguments as for ``main``, but for those of the offline mode.

    Args:
      retrained: The system whose Ψ was retrained on protected features.
      people: The list of identities of that training.

    Raises:
      ValueError: ``retrained`` has another E than ``system``, or as for the flags.
    """
    began = time.monotonic()
    crops, over, origin = given
    config = ascent.config()
    checked = checks.epsilon(epsilon)
    decoder = decoders.decoder(system, shadow, "shadow")
    lists = {"shadow": decoders.identities(system, shadow, "shadow")}
    if retrained:
        _same_extractor(retrained, system)
    if people:
        lists[OFFLINE] = people
    recogniser, of_card, missing = None, None, {}
    try:
        recogniser, card, file = channels.read_recogniser(system, duetface)
        lists[DUETFACE] = file.with_suffix(".identities")
        of_card = {k: card[k] for k in TRAINED} | {"sha256": decoders.digest(recogniser.duetface)}
    except channels.NotMeasured as reason:
        missing = not_measured(DUETFACE, str(reason))
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
        **decoders.of_system(system),
        "shadow": Path(shadow).stem,
        "shadow_sha256": decoders.digest(decoder),
        "offline": retrained and {k: retrained.card[k] for k in ("source", "sha256")},
        "duetface": of_card,
        "defenses": [d.name for d in compared],
        "epsilon": epsilon,
        **dataclasses.asdict(config),
        "batch": sample.batch,
        "precision": ascent.precision,
        "versions": surroundings()["versions"],
    }
    networks = (system.network, *([retrained.network] if retrained else []))
    store = Each(compared, checked, ascent.precision)
    servers = Servers(tuple(network.server for network in networks))
    subject = Subject(system.extractor, store, (), servers, system.network)
    with judging.exactly(ascent.precision):
        measured = [judging.measure(crops, subject, settings=settings, **sample.how)]
        if recogniser:
            apart = {**settings, "of": DUETFACE}
            measured.append(
                judging.measure(crops, of_duetface(recogniser), settings=apart, **sample.how)
            )
    online, *others = _apart(measured[0].judged, networks)
    tell = {"set": origin["set"], "shadow": settings["shadow"]}
    bare, weigh = _right(online.stored[0], online.stored[0], over)

    def line(
        method: str,
        judged: Judged,
        condition: int = 0,
        enrolled_only: bool = False,
        unprotected: int | None = 0,
    ) -> Row:
        probes = judged.stored[0 if enrolled_only else condition]
        lost = bare - _right(judged.stored[condition], probes, over)[0]
        extra = {**tell, "drop": float(lost @ weigh), "drop_ci": bootstrap(lost, over.fold, weigh)}
        at = epsilon if condition else None
        return row(method, at, judged, condition, over, 0, enrolled_only, unprotected, extra)

    names = [d.name for d in compared]
    last = len(names)  # AdvFace
    rows = [line(name, online, i) for i, name in enumerate(["Unprotected", *names])]
    if recogniser:
        missing = line(DUETFACE, measured[1].judged, unprotected=None)
    rows.insert(last, missing | tell)  # the paper's order
    rows.append(line("AdvFace", online, last, enrolled_only=True))
    if others:
        rows.append(line(OFFLINE, others[0], last))
        rows.append(line(f"Unprotected{BY_OFFLINE}", others[0]))
    else:
        rows.append(not_measured(OFFLINE, WITHOUT_OFFLINE) | tell)

    def beside(r: Row) -> dict[str, float]:
        if r.get("enrolled_only"):
            return {}
        at = r | {"epsilon": epsilon} if "not_measured" in r else r
        return sample.beside(at, (decoder.config.kind, "resrec"), config)

    ends = [
        f", offline {retrained.card['source']}" if retrained else "",
        f"; DuetFace {of_card['training']}." if of_card else ".",
    ]
    return Table(
        "accuracy",
        f"Recognition at ε = {epsilon:g}",
        rows,
        HEADER,
        [_cells(r, beside(r), beside(rows[0])) for r in rows],
        settings,
        notes={
            "paper": {_label(r): beside(r).get("acc") for r in rows if beside(r)},
            "seen_in_training": seen,  # null: the network has no list of its people
            "faces_per_s": round(measured[0].rate, 3),
        },
        spent=Spent(sum(m.earlier for m in measured), time.monotonic() - began),
        remarks=(EXPLAINED, NOISE, setting(settings, rows[0]).removesuffix(".") + "".join(ends)),
        kept=[m.folder for m in measured],
        caption="Recognition under each defence",
        narrow=(0, 1, 4, 5, 6, 7),
    )


def _right(
    stored: np.ndarray, probes: np.ndarray, pairs: data.Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """``table_rows.verdicts`` of embeddings (n,e)."""
    distances = metrics.squared_distance(stored[pairs.left], probes[pairs.right])
    verified = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold)
    return verdicts(distances, verified, pairs)


def _same_extractor(other: advface_jax.System, system: advface_jax.System) -> None:
    """ValueError unless a fine-tuned system's E is the one whose features are protected."""
    ours, theirs = (state.flatten(s.network.extractor) for s in (system, other))
    if ours.keys() != theirs.keys() or any(
        not np.allclose(ours[k], theirs[k], rtol=1e-4, atol=1e-5) for k in ours
    ):
        raise ValueError(
            f"{other.card['source']} holds a network with another E than {system.card['source']}: "
            "its features are not those that are protected here; offline mode retrains Ψ alone"
        )


def _apart(judged: Judged, networks: tuple[InceptionResNetV1, ...]) -> list[Judged]:
    """What each of the networks, side by side, makes of what is stored."""
    ends = np.cumsum([network.config.embedding_size for network in networks])
    return [judged._replace(stored=s) for s in np.split(judged.stored, ends[:-1], axis=-1)]


def _label(r: Row) -> str:
    """A row's name as it is printed."""
    name = LABELS.get(r["method"], str(r["method"]))
    return name + (", only the enrolled image protected" if r.get("enrolled_only") else "")


def _cells(r: Row, theirs: dict[str, float], bare: dict[str, float]) -> list[str]:
    """A row under ``HEADER``; theirs, bare: the paper's numbers for it and for Unprotected."""

    def points(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.2f}"

    def interval(name: str) -> str:
        return " to ".join(points(x) for x in r.get(name) or ()) or "–"

    extra = f": not measured: {r['not_measured']}" if "not_measured" in r else ""
    lost = bare["acc"] - theirs["acc"] if theirs and bare else None
    return [
        _label(r) + extra,
        points(r["acc"]),
        interval("acc_ci"),
        points(r.get("acc_std_of_folds")),
        points(r.get("drop")),
        interval("drop_ci"),
        points(theirs.get("acc")),
        points(lost),
    ]


if __name__ == "__main__":
    cli.start(main, "experiments.accuracy")
