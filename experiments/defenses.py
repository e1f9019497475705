"""The paper's Table 1 and Fig. 5: what a decoder sees, and recognition keeps, by defence.

    python -m experiments.defenses                  # demo: faces of nobody, no data needed
    python -m experiments.defenses --preset paper   # LFW's official pairs, beside the paper

Writes defenses.json, defenses.md and defenses.png into --out.
"""

import dataclasses
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import ProtectConfig, checks, cli, defenses
from advface_jax.defenses.defense import EPSILON
from experiments.measure import channels as channel_rows
from experiments.measure import decoders as measure_decoders
from experiments.measure import paper, plots, results_file
from experiments.measure import sample as flags
from experiments.measure import table as measure_table
from experiments.measure.judging import discard, of_features
from experiments.measure.table_rows import floor, row

METHODS = ("pgd", "fgsm", "mifgsm")
LABELS = {
    "Laplace": "Laplace noise (no DP guarantee)",  # wherever it is printed
    "AdvFace": "AdvFace (PGD)",
}
NOISE = (
    "Random: two readings of the paper's one row: kept within ε in total (ball), or each step "
    "within ε (walk). Laplace noise has scale ε; no sensitivity is known, so it is a noise "
    "baseline and no guarantee of differential privacy."
)
CHANNELS = (
    "DuetFace, PartialFace and DCTDP store channels of the image, and R is a decoder of those. "
    "DuetFace's recogniser was distilled here from a FaceNet and is not the published one, which "
    "was trained on millions of faces; the others have none. Solved: the attacker is linear "
    "algebra, without any training, and guesses three numbers, the mean colour of public faces."
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Each:
    """Every defence at one ε, by the same keys (an ``evaluation.Store``): `ball` and `walk` thus
    take the same steps, and differ by the projection alone."""

    defenses: tuple[defenses.Defense, ...]
    epsilon: jax.Array
    precision: str = dataclasses.field(metadata={"static": True})

    def __call__(self, z: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        client = z.astype(self.precision)
        stored = [d(client, key=keys, epsilon=self.epsilon, mask=mask) for d in self.defenses]
        return jnp.stack(stored)  # (c, b, 77, 77, 64)


def main(
    sample: flags.OfSample,
    ascent: flags.OfAscent,
    shadow: str = "resrec",
    attacker: str = "resrec",
    duetface: Path | None = None,
    duetface_attacker: Path | None = None,
    channels: tuple[Path, ...] = (),
    epsilon: float = EPSILON,
) -> None:
    """Compare the defences of a feature: reconstruction quality, accuracy, replay.

    Unprotected; random noise within ε in total (ball) and by steps (walk); Laplace noise, which
    guarantees no differential privacy; DuetFace, with networks of its own; AdvFace by PGD, FGSM and
    MI-FGSM; and the mean face, which is an attacker's picture without any feature. The features of
    every face are defended, the attacker's decoder R turns them back into pictures (SSIM, PSNR, MSE
    against the face), the recogniser compares them in pairs (ACC), and R's pictures are shown to
    the recogniser (SRRA: accepted as another image of the same person; "same image": as the very
    image). The attacker here is the paper's: R was trained on unprotected features, DuetFace's on
    its channels.

    Stopped? The same command resumes after the last finished batch.

    Args:
      shadow: AdvFace's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      attacker: The attacker's R: the same choices.
      duetface: Folder that experiments.train_duetface left; by default the shipped recogniser.
      duetface_attacker: DuetFace's R, a file of train_decoder --defense duetface; by default the
        shipped one.
      channels: Further decoders, files of train_decoder --defense partialface or dctdp; each adds
        a row of reconstruction alone, for no recogniser reads those channels.
      epsilon: The bound of every defence, in units of the feature; Laplace's scale.
    """
    began = time.monotonic()
    system = advface_jax.load(sample.weights)
    config = ascent.config()
    checked = checks.epsilon(epsilon)
    crops, over, origin = sample.read()
    models = measure_decoders.models(system, shadow, attacker)
    seen = measure_decoders.seen_in_training(shadow, attacker, crops, sample.on_leak)
    compared = _defenses(models, config)
    apart = channel_rows.read_duetface(system, duetface, duetface_attacker)
    others = [] if isinstance(apart, str) else [apart]
    others += [channel_rows.read_channels(file) for file in channels]
    for networks in others:
        seen |= channel_rows.seen_in_training(networks, crops, sample.on_leak)
    settings = {
        "experiment": "defenses",
        **origin,
        **measure_decoders.provenance(system, models, shadow, attacker),
        "defenses": [d.name for d in compared],
        "epsilon": epsilon,
        **{k: v for k, v in dataclasses.asdict(config).items() if k != "method"},
        "batch": sample.batch,
        "precision": ascent.precision,
        "versions": results_file.surroundings()["versions"],
    }
    store = Each(compared, checked, ascent.precision)
    subject = of_features(system.network, store, [models.attacker])
    how = {**sample.how, "settings": settings}
    with measure_table.exactly(ascent.precision):
        judged, pictures, earlier, rate, folder = measure_table.measure(crops, subject, **how)
        told = {k: settings[k] for k in ("set", "shadow", "attacker")}
        rows = [row("Unprotected", None, judged, 0, over, told=told)]
        rows += [
            row(d.name, epsilon, judged, i, over, told=told) for i, d in enumerate(compared, 1)
        ]
        of_channels = [
            channel_rows.measure(networks, crops, over, told=told, **how) for networks in others
        ]
        shots, at = [*pictures[:, 0]], _after("Laplace", rows)  # the paper's order
        rows[at:at] = [r for found in of_channels for r in found.rows]
        shots[at:at] = [shot for found in of_channels for shot in found.pictures]
        if isinstance(apart, str):
            rows.insert(at, _not_measured(apart) | told)
        rows.append(floor(crops, judged, subject.replay, over, told=told))

    seconds = earlier + sum(f.seconds for f in of_channels) + time.monotonic() - began
    as_published = sample.preset == "paper" and config == ProtectConfig()

    def beside(r: results_file.Row) -> dict[str, float]:
        kinds = models.shadow.config.kind, models.attacker.config.kind
        return (
            paper.beside(r["method"], r["epsilon"], *kinds, set=sample.set) if as_published else {}
        )

    table = measure_table.write(
        sample.out,
        "defenses",
        f"Defences of a feature at ε = {epsilon:g}",
        rows,
        [_label(r) for r in rows],
        [beside(r) for r in rows],
        settings=settings | {"channels": [found.settings for found in of_channels]},
        notes={
            "paper": {r["method"]: beside(r) for r in rows if beside(r)},
            "seen_in_training": seen,  # null: no list of whom the decoder saw
            "faces_per_s": round(1 / (1 / rate + sum(1 / f.rate for f in of_channels)), 3),
        },
        seconds=seconds,
        remarks=(NOISE, *([CHANNELS] if of_channels else [])),
    )
    shown = measure_table.distinct(crops.identities[: len(shots[0])])
    mean = np.rint(crops.images.mean(0)).astype(np.uint8)
    columns = [*(shot[shown] for shot in shots), np.broadcast_to(mean, (len(shown), *mean.shape))]
    names = [_label(r).replace(" (", "\n(") for r in rows[1:-1] if "not_measured" not in r]
    titles = ["unprotected", *names, "mean face"]
    plots.reconstructions(
        crops.images[shown], np.stack(columns), titles, sample.out / "defenses.png"
    )
    measure_table.show(table, sample.out, ("defenses.md", "defenses.json", "defenses.png"))
    discard(folder, *(f.folder for f in of_channels))


def _defenses(
    models: measure_decoders.Models, config: ProtectConfig
) -> tuple[defenses.Defense, ...]:
    """The rows that a feature's defence gives, with the paper's one ``config`` by every method."""
    networks: dict[str, Any] = {"extractor": models.network.extractor, "shadow": models.shadow}
    return (
        defenses.ball(config.steps),
        defenses.walk(config.steps),
        defenses.laplace(),
        *(
            defenses.advface(**networks, config=dataclasses.replace(config, method=method))
            for method in METHODS
        ),
    )


def _not_measured(why: str) -> results_file.Row:
    numbers = dict.fromkeys(("epsilon", "ssim", "psnr", "mse", "acc", "srra"))
    return {"method": "DuetFace", **numbers, "n": 0, "not_measured": why}


def _after(method: str, rows: list[results_file.Row]) -> int:
    return 1 + [r["method"] for r in rows].index(method)


def _label(r: results_file.Row) -> str:
    method = str(r["method"])
    label = LABELS.get(method, method)
    return f"{label}: not measured: {r['not_measured']}" if "not_measured" in r else label


if __name__ == "__main__":
    cli.start(main, "experiments.defenses")
