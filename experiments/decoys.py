"""Decoys (docs/decoys.md): what ε, λ, steps and shadow recognisers buy, and who still reads.

    python -m experiments.decoys                             # demo: synthetic faces, no data needed
    python -m experiments.decoys --preset paper --limit 40   # LFW, siblings stitched on CelebA B

Writes decoys.json, decoys.md, decoys.png and front.png into --out.
"""

import dataclasses
import functools
import hashlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import jax.numpy as jnp
import numpy as np
from tyro.conf import OmitArgPrefixes

import advface_jax
from advface_jax import checks, cli, defenses
from advface_jax.decoy import DEFAULT, DEVIATION, DecoyConfig
from advface_jax.defenses import decoys as library
from advface_jax.defenses.defense import EPSILON
from experiments import plots
from experiments.attack.knowing import of_faces
from experiments.attack.public_faces import PublicFaces
from experiments.decoy import cases as decoy_cases
from experiments.decoy import competitors, key_families
from experiments.decoy import front as decoy_front
from experiments.decoy import linkers as decoy_linkers
from experiments.decoy import readings as decoy_readings
from experiments.decoy.cases import Case
from experiments.decoy.competitors import Competitor
from experiments.decoy.readings import Measured
from experiments.decoy.rows import COLUMNS, HOW_TO_READ, NARROW, floor, row
from experiments.measure import decoders, decoyed, inputs, judging
from experiments.measure.inputs import Inputs
from experiments.measure.results_file import Row, surroundings, write_whole
from experiments.measure.sample import OfSample, Sample
from experiments.measure.table import Spent, Table, printed, publish


def main(
    sample: OfSample,
    public: Annotated[PublicFaces, OmitArgPrefixes],
    sibling: tuple[str, ...] = ("facenet-128",),
    epsilons: tuple[float, ...] = (library.EPSILON, 0.2, 0.4),
    lambdas: tuple[float, ...] = (DEFAULT.weight, 0.3),
    steps: tuple[int, ...] = (DEFAULT.steps, 24),
    shadows: tuple[int, ...] = (1, 0, 2),
    parts: tuple[int, ...] = (library.PARTS, 1),
    base: str = "",
    also: tuple[str, ...] = (),
    threshold: float = DecoyConfig.threshold,
    key: bool = True,
    deviation: float = DEVIATION,
    names: tuple[int, ...] = (),
    tuned: bool = False,
    beside: bool = False,
    families: bool = False,
    exact: bool = True,
) -> None:
    """Decoys at one base setting, each setting changed alone, and the base with a key.

    Each list begins with the base's value. Stopped? The same command resumes after the last
    finished batch; finished rows stand in decoys.partial.json.

    Args:
      sibling: Public recognisers, not the server's, that are stitched onto the features; the first
        one is also what the shadow recognisers are made of.
      epsilons: The bound on the nudge, in units of the feature.
      lambdas: λ, the weight of every shadow recogniser.
      steps: The most steps.
      shadows: How many shadow recognisers are in the objective.
      parts: How many drawn faces a decoy is mixed from.
      base: Changes of the base, as for --also.
      also: Further cases, as changes of the base: epsilon=0.25,steps=48 (names: weight, shadows,
        parts, key, step, momentum, evenness).
      threshold: The cosine at which a face is done, and below which it is refused.
      key: Also measure the base with a secret pattern.
      deviation: Of that pattern and of the attackers' own.
      names: Attack the base by linkers that learnt from so many stolen items with names; public
        faces stand in for other people of the same system.
      tuned: Also read by Ψ trained further on named public faces.
      beside: Also other ways to the same end: min-max AdvFace, an ensemble with transforms, few
        noisy dimensions, synthesis from one public start.
      families: Also other kinds of secret change of z than a white pattern.
      exact: Round no product on its way; --no-exact is faster on accelerators.
    """
    axes = {"epsilon": epsilons, "weight": lambdas, "steps": steps, "shadows": shadows}
    cases = decoy_cases.checked(key, threshold, base, also, parts=parts, **axes)
    public.check()
    checks.above_zero(deviation=deviation)
    checks.positive(**{f"names[{i}]": n for i, n in enumerate(names)})
    system, given = sample.open()
    cli.loading(*sibling)
    others = [advface_jax.load(one) for one in sibling]
    decoyed.check(system, *others)
    how = threshold, names, tuned, beside, families, exact, deviation
    publish(table(system, others, given, public, sample, cases, *how), sample.out)
    (sample.out / PARTIAL).unlink(missing_ok=True)


PARTIAL = "decoys.partial.json"


def table(
    system: advface_jax.System,
    others: Sequence[advface_jax.System],
    given: Inputs,
    public: PublicFaces,
    sample: Sample,
    cases: list[Case],
    threshold: float = DecoyConfig.threshold,
    names: Sequence[int] = (),
    tuned: bool = False,
    beside: bool = False,
    families: bool = False,
    exact: bool = True,
    deviation: float = DEVIATION,
) -> Table:
    """A row for each case, after those of no defence and of AdvFace; ``others`` are the public
    recognisers, the rest as for ``main``."""
    began = time.monotonic()
    crops, over, origin = given
    images = crops.batch(np.arange(len(crops)))
    n = max(1, *(case.shadows for case in cases))
    count = max(decoy_cases.STITCHED * (n + 2), *names, 0)
    faces = dataclasses.replace(public, public_faces=public.public_faces or count)
    faces = faces.read(sample.preset)
    if len(faces) < (needed := decoy_cases.STITCHED * (n + 2)):
        raise ValueError(
            f"got {len(faces)} public faces; wanted {needed} or more: {decoy_cases.STITCHED} for "
            f"each of {n} shadow recognisers, and as many other ones for each of two kinds of "
            "attackers' siblings"
        )
    if len(faces) < max(names, default=0):
        raise ValueError(
            f"got {len(faces)} public faces for --names {max(names)}; wanted as many or more"
        )
    seen = inputs.shared(faces, crops, sample.on_leak)
    advface = defenses.advface(extractor=system.extractor, shadow=system.shadow)
    settings = {
        "experiment": "decoys",
        **origin,
        **decoders.of_system(system),
        "sibling": others[0].card["source"],
        "siblings": [one.card["source"] for one in others],
        "siblings_sha256": [one.card["sha256"] for one in others],
        "public_sha256": hashlib.sha256(faces.images.tobytes()).hexdigest(),
        "threshold": threshold,
        "public_faces": len(faces),
        "shadows": n,  # of which the cases use some
        "tuned": tuned,
        "names": list(names),
        "batch": sample.batch,
        "seed": sample.seed,
        "exact": exact,
        "deviation": deviation,
        "versions": surroundings()["versions"],
    }
    rows, labels, shown, left, kept, earlier = [], [], {}, set(), [], 0.0
    with judging.exactly("float32" if exact else "tf32"), cli.bar("faces") as bar:
        world = decoy_cases.world(
            system,
            system.attacker,
            others,
            faces.images,
            decoyed.drawn(sample.seed),
            n,
            sample.seed,
            deviation,
        )
        readers = decoy_linkers.tuned(system, faces, sample.batch) if tuned else {}
        left |= {"Ψ tuned"} - set(readers) if tuned else set()
        bare = decoy_readings.known(world, images, sample.batch, readers)
        every = [
            Competitor("Unprotected", defenses.none(), None, world),
            Competitor("AdvFace", advface, EPSILON, world),
            *(
                Competitor("Decoy", world.defense(case, threshold), case.epsilon, world, case)
                for case in cases
            ),
        ]
        if beside:
            z = of_faces(system.extractor, faces, sample.batch)
            every += competitors.competitors(system, world, z, cases[0], threshold)
        task = bar.add_task("protect, attack, recognise", total=len(every) * len(images), note="")
        for name, defense, epsilon, theirs, case in every:
            label = case.label if case and name == "Decoy" else name
            bar.update(task, note=label)
            lap, linkers, undefended = time.monotonic(), dict(readers), dict(bare)
            if case and names and case in (cases[0], cases[0]._replace(key=True)):
                how = names, case.epsilon, sample.batch, sample.seed + 2
                learnt, few = decoy_linkers.stolen(world, others[0], defense, faces, *how)
                linkers |= learnt
                left |= few
                nobody = dataclasses.replace(world, shadows=(), outside={})
                new = {k: v for k, v in linkers.items() if k not in bare}
                undefended |= decoy_readings.known(nobody, images, sample.batch, new, private=False)
            found = decoy_readings.measured(
                theirs,
                case,
                defense,
                images,
                epsilon=epsilon,
                linkers=linkers,
                settings=settings | {"row": name},
                progress=lambda k: bar.update(task, advance=k),
                **sample.how,
            )
            line = row(name, case, epsilon, found, undefended, crops.identities, over, threshold)
            rows.append(line | {"seconds": round(found.earlier + time.monotonic() - lap, 1)})
            labels.append(label)
            shown[label] = found
            kept.append(found.folder)
            earlier += found.earlier
            cli.console.print(f"{label}: " + _spoken(rows[-1]), soft_wrap=True)
            _keep(rows, settings, sample.out / PARTIAL)
        for name in key_families.FAMILIES if families else ():
            how = sample.how | {"settings": settings}
            what = threshold, images, bare["recogniser"], crops.identities, over, how
            line, found = key_families.row(name, world, cases[0], *what)
            rows.append(line)
            kept.append(found.folder)
            earlier += found.earlier
            labels.append(rows[-1]["method"])
            _keep(rows, settings, sample.out / PARTIAL)
        mean = jnp.asarray(images.mean(0, dtype=np.float64) / 255, jnp.float32)
        likeness = floor(mean, images, sample.batch)
        rows.append({"method": "Mean face", "epsilon": None, **likeness, "n": len(images)})
        labels.append("Mean face")
    settings["cases"] = [case._asdict() for case in cases]
    header, lines = printed(labels, rows, [{}] * len(rows), COLUMNS)
    return Table(
        "decoys",
        "Decoys: who reads what is stored",
        rows,
        header,
        lines,
        settings,
        notes={
            "seen_in_training": {"attackers' faces": seen},
            **({"left_out, too few items of one person": sorted(left)} if left else {}),
        },
        spent=Spent(earlier, time.monotonic() - began),
        remarks=(
            HOW_TO_READ,
            f"{len(images):,} faces of {len(set(crops.identities)):,} people, {len(over):,} pairs "
            f"({origin['faces']}); weights {settings['weights']}, siblings of "
            f"{', '.join(settings['siblings'])}, stitched from {decoy_cases.STITCHED} faces each; "
            f"threshold {threshold:g}, batches of {sample.batch}, seed {sample.seed}.",
        ),
        pictures={
            "decoys.png": functools.partial(
                _draw, crops.images, inputs.distinct(crops.identities[: sample.batch], 4), shown
            ),
            "front.png": functools.partial(decoy_front.draw, rows, labels),
        },
        kept=kept,
        caption="Recognition, R's pictures, and the identity that attackers read (TAR %)",
        narrow=[0, *(i for i, column in enumerate(COLUMNS, 1) if column.title in NARROW)],
    )


def _keep(rows: Sequence[Row], settings: dict[str, Any], file: Path) -> None:
    document = {"rows": list(rows), "config": settings}
    write_whole(file, json.dumps(document, indent=1, default=str) + "\n")


def _spoken(r: Row) -> str:
    """A finished row in one line: a long run that is stopped has said what it found."""
    named = [(column.title, column.text(r)) for column in COLUMNS]
    return ", ".join(f"{title} {text}" for title, text in named if text != "–")


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
        ["R of AdvFace", "the decoy", "R of what is stored"],
        path,
        ssim=ssim,
        title="A thief's picture of what is stored",
        footer="SSIM with the original. It does not tell who is recognised:\n"
        "AdvFace leaves the person visible, a decoy shows somebody else.",
    )


if __name__ == "__main__":
    cli.start(main, "experiments.decoys")
