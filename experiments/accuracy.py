"""The paper's Table 2: how well faces are still recognised, by defence.

    python -m experiments.accuracy                              # demo: faces of nobody
    python -m experiments.accuracy --preset paper               # LFW's official pairs
    python -m experiments.accuracy --preset paper --offline FOLDER --duetface FOLDER

Writes accuracy.json and accuracy.md into --out.
"""

import dataclasses
import shutil
import time
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from rich.table import Table

import advface_jax
from advface_jax import ProtectConfig, checks, cli, data, defenses, metrics
from advface_jax.data import leaks
from advface_jax.defenses.defense import EPSILON
from advface_jax.models import state
from advface_jax.models.facenet import InceptionResNetV1
from experiments import common, inputs, paper, reconstruction
from experiments.defenses import NOISE, Each
from experiments.evaluation import Judged, Subject, row, verdicts
from experiments.intervals import bootstrap

OFFLINE = "AdvFace (offline)"
BY_OFFLINE = " (Ψ retrained on protected features)"
LABELS = {
    "Laplace": "Laplace noise (no DP guarantee)",  # wherever it is printed
    "AdvFace": "AdvFace online",
    OFFLINE: "AdvFace offline",
}
WANTS = {
    OFFLINE: "give --offline FOLDER (python -m experiments.finetune --features …)",
    "DuetFace": "give --duetface FOLDER (python -m experiments.train_duetface)",
}
HEADER = ("", "ACC %", "95 %", "deviation of folds", "lost, points", "95 %", "paper", "lost")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Servers:
    """Several Ψ over the same stored features, their embeddings side by side, (b, e1 + e2 + …)."""

    networks: tuple[InceptionResNetV1, ...]

    def __call__(self, stored: jax.Array, images: jax.Array) -> jax.Array:
        return jnp.concatenate([network.server(stored) for network in self.networks], -1)


def main(
    preset: inputs.Preset = "demo",
    set: paper.Set = "lfw",
    out: Path = Path("results"),
    weights: str = "facenet-512-q8",
    offline: Path | None = None,
    faces: str | None = None,
    listing: Path | None = None,
    pairs: Path | None = None,
    shadow: str = "resrec",
    epsilon: float = EPSILON,
    steps: int = ProtectConfig.steps,
    alpha: float | None = ProtectConfig.alpha,
    bound: Literal["total", "step"] = ProtectConfig.bound,
    statistics: Literal["batch", "running", "example"] = ProtectConfig.statistics,
    batch: int = 16,
    limit: int | None = None,
    seed: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
    on_leak: leaks.OnLeak = "warn",
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
      preset: demo: 48 embedded faces of nobody. paper: the pairs of --set from --faces and
        --pairs, or from the folder that the variable ADVFACE_DATA names, the paper's numbers
        beside ours.
      set: lfw, cfp_fp or agedb_30, with --preset paper.
      out: Folder for the results.
      weights: facenet-512-q8 (fetched at first use, 17 MB), another known name, or a folder of
        weights_convert.
      offline: Folder that experiments.finetune left: Ψ retrained on protected features.
      faces: Folder or zip of 160×160 crops as identity/image.jpg, or 'synthetic'.
      listing: Tab-separated list of the faces, with columns file and identity.
      pairs: LFW's pairs.txt, a tab-separated list (fold, same, file1, file2), CFP's folder,
        AgeDB-30's .mat. Without it balanced pairs are drawn from the identities.
      shadow: AdvFace's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      epsilon: The bound of every defence, in units of the feature; Laplace's scale.
      steps: Iterations of PGD and the random noise.
      alpha: Step size of PGD, in units of the feature; None for ε/10.
      bound: total: ε bounds AdvFace's whole perturbation (Eq. 2). step: each step (Eq. 6).
      statistics: Whose statistics S's batch norm uses: of the batch (the paper), of its
        training (running), or of each face (example).
      batch: Faces protected together.
      limit: At most so many pairs, as many same as different from every fold, in the list's
        order.
      seed: Of the noise, and of the pairs that are drawn where none are given.
      precision: Of the defences; bfloat16 is for accelerators.
      on_leak: What to do when measured people were seen in training, as far as the list beside
        S (NAME.identities) tells: warn, or refuse.
    """
    began = time.monotonic()
    system = advface_jax.load(weights)
    config = ProtectConfig(steps, alpha, bound, statistics=statistics)
    checked = checks.epsilon(epsilon)
    retrained = None if offline is None else _retrained(offline, system)
    crops, over, origin = inputs.read(preset, faces, listing, pairs, limit, seed, set=set)
    models = reconstruction.models(system, shadow, shadow)
    seen = {"shadow": reconstruction.seen_in_training(shadow, shadow, crops, on_leak)["shadow"]}
    compared = (
        defenses.ball(config.steps),
        defenses.walk(config.steps),
        defenses.laplace(),
        defenses.advface(extractor=system.extractor, shadow=models.shadow, config=config),
    )
    told = reconstruction.provenance(system, models, shadow, shadow)
    settings = {
        "experiment": "accuracy",
        **origin,
        **{k: v for k, v in told.items() if not k.startswith("attacker")},
        "offline": retrained and {k: retrained.card[k] for k in ("source", "sha256")},
        "defenses": [d.name for d in compared],
        "epsilon": epsilon,
        **dataclasses.asdict(config),
        "batch": batch,
        "precision": precision,
        "versions": common.surroundings()["versions"],
    }
    networks = (system.network, *([retrained.network] if retrained else []))
    store = Each(compared, checked, precision)
    subject = Subject(system.extractor, store, (), Servers(networks), system.network)
    kept = out / ".batches-accuracy"  # its own: each experiment removes its batches at its end
    with reconstruction.exactly(precision):
        measured = reconstruction.measure(
            crops, subject, batch=batch, seed=seed, keep=kept, settings=settings
        )
    online, *others = _apart(measured.judged, networks)
    tell = {"set": origin["set"], "shadow": settings["shadow"]}
    bare, weigh = _right(online.stored[0], online.stored[0], over)

    def line(method: str, judged: Judged, condition: int, enrolled_only: bool = False):
        probes = judged.stored[0 if enrolled_only else condition]
        lost = bare - _right(judged.stored[condition], probes, over)[0]
        told = {**tell, "drop": float(lost @ weigh), "drop_ci": bootstrap(lost, over.fold, weigh)}
        at = epsilon if condition else None
        return row(method, at, judged, condition, over, enrolled_only=enrolled_only, told=told)

    names = [d.name for d in compared]
    rows = [line(name, online, i) for i, name in enumerate(["Unprotected", *names])]
    rows.insert(len(names), {**_not_measured("DuetFace"), **tell})
    rows.append(line("AdvFace", online, len(names), enrolled_only=True))
    if others:
        rows += [
            line(OFFLINE, others[0], len(names)),
            line(f"Unprotected{BY_OFFLINE}", others[0], 0),
        ]
    else:
        rows.append({**_not_measured(OFFLINE), **tell})

    seconds = measured.seconds + time.monotonic() - began
    as_published = preset == "paper" and config == ProtectConfig()

    def beside(r: common.Row) -> dict[str, float]:
        if not as_published or r.get("enrolled_only"):
            return {}
        at = epsilon if "not_measured" in r else r["epsilon"]
        return paper.beside(r["method"], at, models.shadow.config.kind, "resrec", set)

    table = [_cells(r, beside(r), beside(rows[0])) for r in rows]
    common.write_results(
        out,
        "accuracy",
        rows,
        command=cli.command("experiments.accuracy"),
        config=settings,
        seconds=seconds,
        notes={
            "paper": {label(r): beside(r).get("acc") for r in rows if beside(r)},
            "seen_in_training": seen,  # null: no list of whom the decoder saw
            "faces_per_s": round(measured.rate, 3),
        },
        text=_text(table, rows, settings, seconds),
    )
    _show(table, out)
    shutil.rmtree(kept)  # embeddings of every face: not for keeping


def _right(
    stored: np.ndarray, probes: np.ndarray, pairs: data.Pairs
) -> tuple[np.ndarray, np.ndarray]:
    """``evaluation.verdicts`` of embeddings (n,e)."""
    distances = metrics.squared_distance(stored[pairs.left], probes[pairs.right])
    verified = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold)
    return verdicts(distances, verified, pairs)


def label(r: common.Row) -> str:
    """A row's name as it is printed."""
    name = LABELS.get(r["method"], str(r["method"]))
    return name + (", only the enrolled image protected" if r.get("enrolled_only") else "")


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


def _not_measured(method: str) -> common.Row:
    empty = dict.fromkeys(("epsilon", "ssim", "psnr", "mse", "acc", "srra"))
    return {"method": method, **empty, "n": 0, "not_measured": WANTS[method]}


def _cells(r: common.Row, theirs: dict[str, float], bare: dict[str, float]) -> list[str]:
    def points(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.2f}"

    def interval(name: str) -> str:
        return " to ".join(points(x) for x in r.get(name) or ()) or "–"

    told = f": not measured: {r['not_measured']}" if "not_measured" in r else ""
    lost = bare["acc"] - theirs["acc"] if theirs and bare else None
    return [
        label(r) + told,
        points(r["acc"]),
        interval("acc_ci"),
        points(r.get("acc_std_of_folds")),
        points(r.get("drop")),
        interval("drop_ci"),
        points(theirs.get("acc")),
        points(lost),
    ]


def _show(table: list[list[str]], out: Path) -> None:
    shown = Table(title="Recognition under each defence")
    for name in (*HEADER[:2], *HEADER[4:]):  # for which a terminal is wide enough
        shown.add_column(name, justify="right" if name else "left")
    for name, *cells in table:
        shown.add_row(name.partition(": ")[0], cells[0], *cells[3:])
    cli.answer.print(shown)
    for name in (cells[0] for cells in table if ": " in cells[0]):
        cli.console.print(name, markup=False, soft_wrap=True)
    cli.console.print(f"written: {out / 'accuracy.md'}, {out / 'accuracy.json'}", soft_wrap=True)


def _text(
    table: list[list[str]], rows: list[common.Row], settings: dict[str, Any], seconds: float
) -> str:
    where = common.surroundings()
    alpha = "ε/10" if settings["alpha"] is None else f"{settings['alpha']:g}"
    return "\n\n".join(
        [
            f"# Recognition at ε = {settings['epsilon']:g}",
            common.markdown(HEADER, table),
            "ACC over folds, each judged by the threshold that the others choose. Lost: how far "
            "below the unprotected features. 95 %: bootstrap over the pairs, of the loss over the "
            "same pairs of both; neither seeds of S nor of a training are in it. Both images of a "
            "pair are protected where nothing else is said. Accuracy says nothing of privacy: "
            "experiments.defenses attacks.",
            NOISE,
            f"S {settings['shadow']}, {settings['steps']} steps, α = {alpha}, bound "
            f"{settings['bound']}, batches of {settings['batch']} ({settings['statistics']} "
            f"statistics), {settings['precision']}, seed {settings['seed']}; {rows[0]['n']:,} "
            f"faces, {rows[0]['pairs']:,} pairs in {settings['folds']} folds "
            f"({settings['faces']}); weights {settings['weights']}"
            + (f", offline {settings['offline']['source']}." if settings["offline"] else "."),
            f"`{cli.command('experiments.accuracy')}`\n{where['hardware']}, jax "
            f"{where['versions']['jax']}, {seconds / 60:.1f} min, {where['date']}.",
        ]
    )


if __name__ == "__main__":
    cli.start(main, "experiments.accuracy")
