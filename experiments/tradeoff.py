"""The paper's main result (Fig. 3, Fig. 4): what ε buys in privacy and costs in accuracy.

    python -m experiments.tradeoff                  # demo: faces of nobody, no data needed
    python -m experiments.tradeoff --preset paper   # LFW's official pairs, beside the paper

Writes tradeoff.json, tradeoff.md, tradeoff.png and reconstructions.png into --out.
"""

import dataclasses
import time
from typing import Any, Literal

import jax

import advface_jax
from advface_jax import ProtectConfig, checks, cli, protect_sweep
from advface_jax.models.decoders import Decoder
from experiments.measure import decoders, paper, plots, results_file
from experiments.measure import sample as flags
from experiments.measure import table as measure_table
from experiments.measure.judging import discard, of_features
from experiments.measure.table_rows import floor, row

EPSILONS = (0.0, 0.05, 0.10, 0.15, 0.20, 0.25, 0.30)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sweep:
    """AdvFace at every ε, with one shadow round trip (an ``evaluation.Store``)."""

    epsilons: jax.Array
    extractor: Any
    shadow: Decoder
    config: ProtectConfig = dataclasses.field(metadata={"static": True})
    precision: str = dataclasses.field(metadata={"static": True})

    def __call__(self, z: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        return protect_sweep(
            z.astype(self.precision),
            self.epsilons,
            extractor=self.extractor,
            shadow=self.shadow,
            config=self.config,
            mask=mask,
        )


def main(
    sample: flags.OfSample,
    ascent: flags.OfAscent,
    shadow: str = "resrec",
    attacker: str = "resrec",
    epsilons: tuple[float, ...] = EPSILONS,
    method: Literal["pgd", "fgsm", "mifgsm"] = ProtectConfig.method,
) -> None:
    """Sweep the bound ε of AdvFace: reconstruction quality, accuracy, replay.

    For each ε the features of every face are protected, the attacker's decoder R turns them back
    into pictures (SSIM, PSNR, MSE against the face), the recogniser compares them in pairs (ACC,
    ten folds where the people suffice), and R's pictures are shown to the recogniser (SRRA:
    accepted as another image of the same person; "same image": as the very image). The attacker
    here is the paper's: it does not know of the protection. One that does undoes it; see the
    README.

    Stopped? The same command resumes after the last finished batch.

    Args:
      shadow: The server's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      attacker: The attacker's R: the same choices.
      epsilons: The bounds, in units of the feature.
      method: pgd (the paper), fgsm (one step of size ε) or mifgsm.
    """
    began = time.monotonic()
    system = advface_jax.load(sample.weights)
    config = ascent.config(method)
    bounds = checks.epsilons(epsilons)
    crops, over, origin = sample.read()
    models = decoders.models(system, shadow, attacker)
    seen = decoders.seen_in_training(shadow, attacker, crops, sample.on_leak)
    settings = {
        **origin,
        **decoders.provenance(system, models, shadow, attacker),
        "epsilons": list(epsilons),
        **dataclasses.asdict(config),
        "batch": sample.batch,
        "precision": ascent.precision,
        "versions": results_file.surroundings()["versions"],
    }
    store = Sweep(bounds, system.extractor, models.shadow, config, ascent.precision)
    subject = of_features(system.network, store, [models.attacker])
    with measure_table.exactly(ascent.precision):
        judged, pictures, earlier, rate, folder = measure_table.measure(
            crops, subject, settings=settings, **sample.how
        )
        told = {k: settings[k] for k in ("set", "shadow", "attacker")}
        rows = [row("Unprotected", None, judged, 0, over, told=told)]
        rows += [row("AdvFace", e, judged, i, over, told=told) for i, e in enumerate(epsilons, 1)]
        rows.append(floor(crops, judged, subject.replay, over, told=told))

    seconds = earlier + time.monotonic() - began
    as_published = sample.preset == "paper" and config == ProtectConfig()

    def beside(r: results_file.Row) -> dict[str, float]:
        kinds = models.shadow.config.kind, models.attacker.config.kind
        return (
            paper.beside(r["method"], r["epsilon"], *kinds, set=sample.set) if as_published else {}
        )

    table = measure_table.write(
        sample.out,
        "tradeoff",
        "ε against reconstruction, accuracy and replay",
        rows,
        [_label(r) for r in rows],
        [beside(r) for r in rows],
        settings=settings,
        notes={
            "paper": {_label(r): beside(r) for r in rows if beside(r)},
            "seen_in_training": seen,  # null: no list of whom the decoder saw
            "faces_per_s": round(rate, 3),
        },
        seconds=seconds,
    )
    plots.tradeoff(rows, sample.out / "tradeoff.png", [beside(r) for r in rows])
    shown = measure_table.distinct(crops.identities[: pictures.shape[2]])
    titles = ["unprotected", *(f"ε = {e:g}" for e in epsilons)]
    plots.reconstructions(
        crops.images[shown], pictures[:, 0, shown], titles, sample.out / "reconstructions.png"
    )
    files = ("tradeoff.md", "tradeoff.json", "tradeoff.png", "reconstructions.png")
    measure_table.show(table, sample.out, files)
    discard(folder)


def _label(r: results_file.Row) -> str:
    return r["method"] if r["epsilon"] is None else f"{r['method']} ε = {r['epsilon']:.2f}"


if __name__ == "__main__":
    cli.start(main, "experiments.tradeoff")
