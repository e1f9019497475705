"""Decoys (docs/decoys.md): what ε, λ, steps and shadow recognisers buy, and who still reads.

    python -m experiments.decoys                             # demo: synthetic faces, no data needed
    python -m experiments.decoys --preset paper --limit 40   # LFW, siblings stitched on CelebA B

Writes decoys.json, decoys.md and decoys.png into --out.
"""

import dataclasses
import functools
import time
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from tyro.conf import OmitArgPrefixes

import advface_jax
from advface_jax import checks, cli, data, defenses, metrics
from advface_jax.decoy import DecoyConfig
from advface_jax.defenses.defense import EPSILON
from experiments import plots
from experiments.measure import decoders, decoy_cases, inputs, judging
from experiments.measure.decoy_cases import Case, Measured
from experiments.measure.inputs import Inputs
from experiments.measure.public_faces import PublicFaces
from experiments.measure.results_file import Row, surroundings
from experiments.measure.sample import OfSample, Sample
from experiments.measure.table import Column, Spent, Table, printed, publish

DRAWN = 32
"""Faces that decoys are mixed from: people whom no other part of the project draws."""
COLUMNS = (
    Column("ACC %", "acc", 100),
    Column("TAR %", "tar", 100, 1),
    Column("cos Ψ", "cosine", 1, 3),
    Column("refused", "refused", 1, 0),
    Column("SSIM", "ssim", 1, 3),
    Column("SSIM decoy", "ssim_decoy", 1, 3),
    Column("shadow", "tar_shadow", 100, 1),
    Column("sibling", "tar_sibling", 100, 1),
    Column("1×1", "tar_sibling, 1×1", 100, 1),
    *(Column(f"Ψ ± {share:g}", f"tar_Ψ ± {share:g}", 100, 1) for share in decoy_cases.NEAR),
    Column("estimated", "tar_estimated", 100, 1),
    Column("decoy known", "tar_known", 100, 1),
    Column("public Ψ", "tar_Ψ", 100, 1),
    Column("foreign keys", "tar_foreign", 100, 1),
    Column("less Ψ", "tar_less", 100, 1),
    Column("Ψ, decoy known", "tar_Ψ_known", 100, 1),
)
HOW_TO_READ = (
    "ACC, over the pairs: stored against an undefended photograph. TAR: the share of other "
    "photographs of the person accepted, at a false accept rate of 1e-2 over all faces (chance 1). "
    "TAR and cos Ψ are by the server's own recogniser, with a key by the private one; refused: "
    "faces below the threshold, which are counted in all else. SSIM: R's picture with the enrolled "
    "face, and with the decoy. The other columns are TAR of attackers. shadow: a sibling that may "
    "stand in the objective; sibling, 1×1: siblings that never do, stitched from other faces, the "
    "second by 1×1 patches; Ψ ± s: Ψ with noise on its kernels, nearer than anything public; "
    "estimated: the step away from E(R(stored)) amplified, best of two factors; decoy known: the "
    "step away from the true decoy amplified, best of three, read by the sibling, or by the public "
    "Ψ. Foreign keys: the mean over eight patterns of the attacker's; less Ψ: that less what the "
    "public Ψ reads. One seed; no interval."
)


def main(
    sample: OfSample,
    public: Annotated[PublicFaces, OmitArgPrefixes],
    sibling: str = "facenet-128",
    epsilons: tuple[float, ...] = (0.2, 0.1, 0.3),
    lambdas: tuple[float, ...] = (1.0, 0.3),
    steps: tuple[int, ...] = (24, 48),
    shadows: tuple[int, ...] = (1, 0, 2),
    parts: tuple[int, ...] = (2, 1),
    threshold: float = DecoyConfig.threshold,
    key: bool = True,
) -> None:
    """Decoys at one base setting, each setting changed alone, and the base with a key.

    Each list begins with the base's value. A run that is stopped starts again.

    Args:
      sibling: A public recogniser, not the server's, that is stitched onto the features.
      epsilons: The bound on the nudge, in units of the feature.
      lambdas: λ, the weight of every shadow recogniser.
      steps: The most steps.
      shadows: How many shadow recognisers are in the objective.
      parts: How many drawn faces a decoy is mixed from.
      threshold: The cosine at which a face is done, and below which it is refused.
      key: Also measure the base with a secret pattern.
    """
    axes = {"epsilon": epsilons, "weight": lambdas, "steps": steps, "shadows": shadows}
    cases = _checked(key, threshold, parts=parts, **axes)
    public.check()
    if sibling == sample.weights:
        raise ValueError(f"got --sibling {sibling}, the server's own; wanted another recogniser")
    system, given = sample.open()
    other = advface_jax.load(sibling)
    publish(table(system, other, given, public, sample, cases, threshold), sample.out)


def _checked(key: bool, threshold: float, **axes: tuple[Any, ...]) -> list[Case]:
    for name, values in axes.items():
        if not values:
            raise ValueError(f"got no value of {name}; wanted one or more, the base's first")
    for epsilon in axes["epsilon"]:
        checks.bound(epsilon)
    for n in axes["shadows"]:
        checks.between(0, 8, shadows=n)
    for n in axes["parts"]:
        checks.between(1, DRAWN, parts=n)
    order = ("epsilon", "weight", "steps", "shadows", "parts")
    cases = decoy_cases.one_at_a_time(key, **{name: axes[name] for name in order})
    for case in cases:
        DecoyConfig(steps=case.steps, weight=case.weight, threshold=threshold)
    return cases


def table(
    system: advface_jax.System,
    other: advface_jax.System,
    given: Inputs,
    public: PublicFaces,
    sample: Sample,
    cases: list[Case],
    threshold: float = DecoyConfig.threshold,
) -> Table:
    """A row for each case, after those of no defence and of AdvFace; ``other`` is the public
    recogniser, the rest as for ``main``."""
    began = time.monotonic()
    crops, over, origin = given
    images = crops.batch(np.arange(len(crops)))
    n = max(1, *(case.shadows for case in cases))
    count = decoy_cases.STITCHED * (n + 2)
    learnt = dataclasses.replace(public, public_faces=public.public_faces or count)
    learnt = learnt.read(sample.preset).images
    drawn = data.synthetic_faces(DRAWN, 1, seed=1000 + sample.seed).images
    attacker = system.attacker
    advface = defenses.advface(extractor=system.extractor, shadow=system.shadow)
    rows, labels, shown = [], [], {}
    how: dict[str, Any] = {"batch": sample.batch, "seed": sample.seed}
    with judging.exactly("float32"), cli.bar("faces") as bar:
        world = decoy_cases.world(
            system.network, attacker, other.network, learnt, drawn, n, sample.seed
        )
        bare = decoy_cases.known(world, images, sample.batch)
        every: list[tuple[str, Case | None, defenses.Defense, float | None]] = [
            ("Unprotected", None, defenses.none(), None),
            ("AdvFace", None, advface, EPSILON),
            *(("Decoy", case, world.defense(case, threshold), case.epsilon) for case in cases),
        ]
        task = bar.add_task("protect, attack, recognise", total=len(every) * len(images), note="")
        for name, case, defense, epsilon in every:
            label = name if case is None else case.label
            bar.update(task, note=label)
            lap = time.monotonic()
            found = decoy_cases.measured(
                world,
                case,
                defense,
                images,
                epsilon=epsilon,
                **how,
                progress=lambda k: bar.update(task, advance=k),
            )
            line = _row(name, case, epsilon, found, bare, given, threshold)
            rows.append(line | {"seconds": round(time.monotonic() - lap, 1)})
            labels.append(label)
            shown[label] = found
            cli.console.print(f"{label}: " + _spoken(rows[-1]), soft_wrap=True)
        mean = jnp.asarray(images.mean(0, dtype=np.float64) / 255, jnp.float32)
        floor = _floor(mean, images, sample.batch)
        rows.append({"method": "Mean face", "epsilon": None, **floor, "n": len(images)})
        labels.append("Mean face")
    settings = {
        "experiment": "decoys",
        **origin,
        **decoders.of_system(system),
        "sibling": other.card["source"],
        "cases": [case._asdict() for case in cases],
        "threshold": threshold,
        "public_faces": len(learnt),
        "batch": sample.batch,
        "versions": surroundings()["versions"],
    }
    header, lines = printed(labels, rows, [{}] * len(rows), COLUMNS)
    return Table(
        "decoys",
        "Decoys: who reads what is stored",
        rows,
        header,
        lines,
        settings,
        notes={},
        spent=Spent(0.0, time.monotonic() - began),
        remarks=(
            HOW_TO_READ,
            f"{len(images):,} faces of {len(set(crops.identities)):,} people, {len(over):,} pairs "
            f"({origin['faces']}); weights {settings['weights']}, siblings of "
            f"{settings['sibling']}, stitched from {decoy_cases.STITCHED} faces each; threshold "
            f"{threshold:g}, batches of {sample.batch}, seed {sample.seed}.",
        ),
        pictures={
            "decoys.png": functools.partial(
                _draw, crops.images, inputs.distinct(crops.identities[: sample.batch], 4), shown
            )
        },
        caption="Recognition, R's pictures, and the identity that attackers read (TAR %)",
        narrow=(0, 1, 2, 4, 5, 8, 12, 13),
    )


def _row(
    method: str,
    case: Case | None,
    epsilon: float | None,
    found: Measured,
    bare: decoy_cases.Embeddings,
    given: Inputs,
    threshold: float,
) -> Row:
    crops, over, _ = given
    private = bool(case and case.key)
    read = dict(found.read)
    foreign = [read.pop(name) for name in list(read) if name.startswith("foreign ")]
    line: Row = {
        "method": method + (" with a key" if private else ""),
        "epsilon": epsilon,
        **({} if case is None else {k: v for k, v in case._asdict().items() if k != "epsilon"}),
        "n": len(found.cosine),
        "pairs": len(over),
        "cosine": float(found.cosine.mean()),
        "cosine_worst": float(found.cosine.min()),
        "refused": None if case is None else int((found.cosine < threshold).sum()),
        **{name: float(values.mean()) for name, values in found.likeness.items()},
    }
    own = bare["private" if private else "recogniser"]
    distances = metrics.squared_distance(read["recogniser"][over.left], own[over.right])
    line["acc"] = metrics.ten_fold_accuracy(distances, over.same, over.fold).accuracy
    tars: dict[str, float | None] = {}
    firsts: dict[str, float] = {}

    def judge(name: str, seen: np.ndarray, known: np.ndarray) -> None:
        reading = metrics.identify(seen, known, crops.identities, (1e-2,))
        tars[name], firsts[name] = reading.tar(1e-2), float(np.nanmean(reading.first))

    for name, seen in read.items():
        kind = "recogniser" if name == "Ψ" or name.startswith("Ψ,") else name
        kind = "sibling" if name.startswith("decoy ") else kind
        judge(name, seen, own if name == "recogniser" else bare[kind])
    if foreign:
        mean = np.mean(foreign, 0)
        judge("foreign", _unit(mean), bare["recogniser"])
        judge("less", _unit(mean - read["Ψ"]), bare["recogniser"])
    line["tar"], line["rank1"] = tars.pop("recogniser"), firsts.pop("recogniser")
    line |= {f"tar_{name}": value for name, value in tars.items()}
    line |= {f"rank1_{name}": value for name, value in firsts.items()}
    best = (("estimated", "decoy est"), ("known", "decoy k"), ("Ψ_known", "Ψ, "))
    for name, starts in best:
        values = [v for k, v in tars.items() if k.startswith(starts) and v is not None]
        line[f"tar_{name}"] = max(values, default=None)
    return line


def _spoken(r: Row) -> str:
    """A finished row in one line: a long run that is stopped has said what it found."""
    named = [(column.title, column.text(r)) for column in COLUMNS]
    return ", ".join(f"{title} {text}" for title, text in named if text != "–")


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)


def _floor(mean: jax.Array, images: np.ndarray, batch: int) -> dict[str, float]:
    """The likeness of the mean face with every face."""
    found = {"ssim": [], "psnr": []}
    for start in range(0, len(images), batch):
        x = jnp.asarray(images[start : start + batch], jnp.float32) / 255
        guess = jnp.broadcast_to(mean, x.shape)
        for name, values in found.items():
            values += getattr(metrics, name)(guess, x).tolist()
    return {name: float(np.mean(values)) for name, values in found.items()}


def _draw(images: np.ndarray, chosen: list[int], found: dict[str, Measured], path: Any) -> None:
    """Enrolled, R's picture of AdvFace, the decoy, R's picture of the decoy."""
    advface, base = list(found.values())[1:3]
    assert base.decoys is not None
    columns = np.stack([advface.pictures, base.decoys, base.pictures])[:, chosen]
    ssim = np.full(columns.shape[:2], np.nan)
    ssim[0] = advface.likeness["ssim"][chosen]
    ssim[2] = base.likeness["ssim"][chosen]
    plots.reconstructions(
        images[chosen],
        columns,
        ["R of AdvFace", "the decoy", "R of the decoy"],
        path,
        ssim=ssim,
        title="A thief's picture of what is stored",
    )


if __name__ == "__main__":
    cli.start(main, "experiments.decoys")
