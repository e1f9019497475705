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

import numpy as np
from tyro.conf import OmitArgPrefixes

import advface_jax
from advface_jax import checks, cli
from advface_jax.attacks import Attack
from advface_jax.data import Faces
from advface_jax.decoy import DEFAULT, DEVIATION, DecoyConfig
from advface_jax.defenses import decoys as library
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
from experiments.decoy.readings import Embeddings, Measured
from experiments.decoy.rows import COLUMNS, HOW_TO_READ, NARROW, row
from experiments.measure import decoders, decoyed, inputs, judging
from experiments.measure.inputs import Inputs
from experiments.measure.results_file import Row, surroundings, write_whole
from experiments.measure.sample import OfSample, Sample
from experiments.measure.table import Spent, Table, printed, publish
from experiments.measure.table_rows import mean_face


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
    found = table(
        system,
        others,
        given,
        public,
        sample,
        cases,
        threshold=threshold,
        names=names,
        tuned=tuned,
        beside=beside,
        families=families,
        exact=exact,
        deviation=deviation,
    )
    publish(found, sample.out)
    (sample.out / PARTIAL).unlink(missing_ok=True)


PARTIAL = "decoys.partial.json"


def table(
    system: advface_jax.System,
    others: Sequence[advface_jax.System],
    given: Inputs,
    public: PublicFaces,
    sample: Sample,
    cases: list[Case],
    *,
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
    faces = _public(public, sample, n, names)
    seen = inputs.shared(faces, crops, sample.on_leak)
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
    done, left = _Done(settings, sample.out / PARTIAL), set()
    with judging.exactly("float32" if exact else "tf32"), cli.bar("faces") as bar:
        pictures, drawn = faces.images, decoyed.drawn(sample.seed)
        more = n, sample.seed, deviation
        world = decoy_cases.world(system, system.attacker, others, pictures, drawn, *more)
        readers = decoy_linkers.tuned(system, faces, sample.batch) if tuned else {}
        left |= {"Ψ tuned"} - set(readers) if tuned else set()
        bare = decoy_readings.known(world, images, sample.batch, readers)
        every = competitors.planned(system, world, cases, threshold)
        if beside:
            z = of_faces(system.extractor, faces, sample.batch)
            every += competitors.competitors(system, world, z, cases[0], threshold)
        task = bar.add_task("protect, attack, recognise", total=len(every) * len(images), note="")
        for one in every:
            label = one.case.label if one.case and one.name == "Decoy" else one.name
            bar.update(task, note=label)
            lap, linkers, undefended = time.monotonic(), dict(readers), dict(bare)
            if one.case and names and one.case in (cases[0], cases[0]._replace(key=True)):
                what = names, one.case.epsilon, sample.batch, sample.seed + 2
                new, few = decoy_linkers.stolen(world, others[0], one.defense, faces, *what)
                nobody = dataclasses.replace(world, shadows=(), outside={})
                of_new = decoy_readings.known(nobody, images, sample.batch, new, private=False)
                linkers, undefended, left = linkers | new, undefended | of_new, left | few
            advance = functools.partial(bar.update, task)
            how = sample.how | {"settings": settings, "progress": lambda k, f=advance: f(advance=k)}
            line, found = _measured_row(one, given, images, linkers, undefended, how)
            line["seconds"] = round(found.earlier + time.monotonic() - lap, 1)
            done.add(label, line, found)
            cli.console.print(f"{label}: " + _spoken(line), soft_wrap=True)
        for name in key_families.FAMILIES if families else ():
            how = sample.how | {"settings": settings}
            what = threshold, images, bare["recogniser"], crops.identities, over, how
            line, found = key_families.row(name, world, cases[0], *what)
            done.add(line["method"], line, found)
        _, alike = mean_face(images)
    rows, labels = done.rows, done.labels
    likeness = {k: float(alike[k].mean()) for k in ("ssim", "psnr")}
    rows.append({"method": "Mean face", "epsilon": None, **likeness, "n": len(images)})
    labels.append("Mean face")
    settings["cases"] = [case._asdict() for case in cases]
    header, lines = printed(labels, rows, [{}] * len(rows), COLUMNS)
    some = inputs.distinct(crops.identities[: sample.batch], 4)
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
        spent=Spent(sum(one.earlier for one in done.found), time.monotonic() - began),
        remarks=(HOW_TO_READ, _text(given, settings)),
        pictures={
            "decoys.png": functools.partial(_draw, crops.images, some, done.found),
            "front.png": functools.partial(decoy_front.draw, rows, labels),
        },
        kept=[one.folder for one in done.found if one.folder],
        caption="Recognition, R's pictures, and the identity that attackers read (TAR %)",
        narrow=[0, *(i for i, column in enumerate(COLUMNS, 1) if column.title in NARROW)],
    )


def _public(public: PublicFaces, sample: Sample, shadows: int, names: Sequence[int]) -> Faces:
    """The attackers' faces; ValueError where they are too few for all who are stitched on them."""
    needed = decoy_cases.STITCHED * (shadows + 2)
    many = public.public_faces or max(needed, *names, 0)
    faces = dataclasses.replace(public, public_faces=many).read(sample.preset)
    if len(faces) < needed:
        raise ValueError(
            f"got {len(faces)} public faces; wanted {needed} or more: {decoy_cases.STITCHED} for "
            f"each of {shadows} shadow recognisers, and as many other ones for each of two kinds "
            "of attackers' siblings"
        )
    if len(faces) < max(names, default=0):
        raise ValueError(
            f"got {len(faces)} public faces for --names {max(names)}; wanted as many or more"
        )
    return faces


def _measured_row(
    one: Competitor,
    given: Inputs,
    images: np.ndarray,
    linkers: dict[str, Attack],
    undefended: Embeddings,
    how: dict[str, Any],
) -> tuple[Row, Measured]:
    """One row, and what was read for it."""
    mine = how | {"settings": how["settings"] | {"row": one.name}}
    found = decoy_readings.measured(
        one.world, one.case, one.defense, images, epsilon=one.epsilon, linkers=linkers, **mine
    )
    people, threshold = given.faces.identities, how["settings"]["threshold"]
    named = one.name, one.case, one.epsilon
    return row(*named, found, undefended, people, given.pairs, threshold), found


def _text(given: Inputs, settings: dict[str, Any]) -> str:
    """What was measured, and how."""
    people = len(set(given.faces.identities))
    return (
        f"{len(given.faces):,} faces of {people:,} people, {len(given.pairs):,} pairs "
        f"({given.origin['faces']}); weights {settings['weights']}, siblings of "
        f"{', '.join(settings['siblings'])}, stitched from {decoy_cases.STITCHED} faces each; "
        f"threshold {settings['threshold']:g}, batches of {settings['batch']}, seed "
        f"{settings['seed']}."
    )


@dataclasses.dataclass
class _Done:
    """The rows so far, kept in ``file``, and what was read for each."""

    settings: dict[str, Any]
    file: Path
    rows: list[Row] = dataclasses.field(default_factory=list)
    labels: list[str] = dataclasses.field(default_factory=list)
    found: list[Measured] = dataclasses.field(default_factory=list)

    def add(self, label: str, line: Row, found: Measured) -> None:
        self.rows.append(line)
        self.labels.append(label)
        self.found.append(found)
        document = {"rows": self.rows, "config": self.settings}
        write_whole(self.file, json.dumps(document, indent=1, default=str) + "\n")


def _spoken(r: Row) -> str:
    """A finished row in one line: a long run that is stopped has said what it found."""
    named = [(column.title, column.text(r)) for column in COLUMNS]
    return ", ".join(f"{title} {text}" for title, text in named if text != "–")


def _draw(images: np.ndarray, chosen: list[int], found: list[Measured], path: Any) -> None:
    """Enrolled, R's picture of AdvFace, the decoy, R's picture of the decoy."""
    advface, base = found[1:3]
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
