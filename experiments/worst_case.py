"""What an attacker who thinks can read: every defence against every attack, and the worst of them.

    python -m experiments.worst_case                  # demo: synthetic faces, no data needed
    python -m experiments.worst_case --preset paper --limit 1200   # LFW, attackers on CelebA B
    python -m experiments.worst_case --defense my_work:defense --attack my_work:attack

Writes worst_case.json (a row for each defence and attack), worst_case.md (the worst of them),
leaderboard.md and worst_case.png into --out.
"""

import dataclasses
import functools
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes

import advface_jax
from advface_jax import checks, cli
from advface_jax.data import Pairs
from advface_jax.defenses.defense import EPSILON
from experiments.attack import attackers, case_rows, duetface_case, floors, frontier, joining
from experiments.attack import rows as worst
from experiments.attack.adaptive import HELD_OUT, Adaptive
from experiments.attack.attacking import Photographs, attacked
from experiments.attack.case_rows import Level
from experiments.attack.knowing import STITCHED, Against, Builder, Known, World, built
from experiments.attack.planned import Planned, plan
from experiments.attack.public_faces import PublicFaces
from experiments.attack.trained import full, on_template
from experiments.measure import decoders, decoyed, inputs, judging
from experiments.measure.inputs import Inputs
from experiments.measure.kept import discard
from experiments.measure.sample import Ascent, OfAscent, OfSample, Sample
from experiments.measure.table import Spent, Table, publish, setting

HOW_TO_READ = (
    "ACC: recognition, stored against stored and stored against an undefended photograph. Then the "
    "largest value over the attacks of this attacker: SSIM of a picture with the face; replay: a "
    "picture accepted by the server as another photograph of that person; TAR at a false accept "
    "rate of 1e-2 and rank 1: the person found among all photographs, read off the item itself or "
    "off a picture. Ψ is the server's recogniser; who has it, or stolen items with their names, "
    "can do what the others can, too, and has a line where that is more; so has who has stolen the "
    "key or the decoys. Ignorance and the "
    "template are floors: what a picture or a guess gives without any item, and with Ψ(z) and "
    "nothing else. Sealed: encrypted at rest, the reference against theft of the database alone."
)
EPOCHS = {"demo": 24, "paper": 20}
DEMO_PAIRS = 40
DEMO = ("Unprotected", "AdvFace", *floors.FLOORS)  # the whole in minutes on two cores


def main(
    sample: OfSample,
    ascent: OfAscent,
    public: Annotated[PublicFaces, OmitArgPrefixes],
    shadow: str = "resrec",
    attacker: str = "resrec",
    sibling: tuple[str, ...] = ("facenet-128",),
    epsilon: float = EPSILON,
    epochs: int | None = None,
    defense: tuple[str, ...] = (),
    attack: tuple[str, ...] = (),
    attackers: Level = "light",  # noqa: F811
    only: tuple[str, ...] = (),
) -> None:
    """Attack every defence with everything, and report the worst case beside its use.

    Attackers: the paper's R, also after a blur, a clip or a linear map back; R trained further on
    protected features of public faces (adaptive); public recognisers stitched onto features, also
    onto the amplified step from a start, guessed or stolen; Ψ itself, under keys of the attacker's
    own, and pictures from Ψ's embedding; the stolen key. Pictures are shown to the server (replay)
    and read by public recognisers. Beside the defences stand two floors, ignorance and the
    template, and features sealed with AES-GCM (pip install cryptography), with the key safe and
    with the key stolen.

    The demo takes 40 pairs and a few of the defences. Stopped? The same command resumes after the
    last finished batch, trainings at their last checkpoint. A measured defence stays in --out, in
    cases/, and the table shows all that lie there with the same settings: so several processes can
    measure one defence each.

    Args:
      public: The attackers' faces.
      shadow: AdvFace's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      attacker: The paper's R, and where the adaptive one starts: the same choices.
      sibling: Public recognisers, names or folders as --weights, other weights than those; the
        first one also reads pictures.
      epsilon: The bound of every defence, in units of the feature; Laplace's scale.
      epochs: Of the adaptive R over the public faces; by default 24 (demo) or 20 (paper), 0 for
        none.
      defense: Further defences, as MODULE:FUNCTION: a function of the system that returns a
        Defense.
      attack: Further attacks, likewise: a function of experiments.attack.knowing.Known that
        returns an Attack, or None where it does not apply.
      attackers: light, or full: also R' of other decoders, of 100 and 1,000 pairs, from scratch and
        with the attacker's own S, pixels by gradient, linkers trained on names, and pictures drawn
        for Ψ; minutes for each defence on a GPU.
      only: Defences to measure now, by their names in the table, as AdvFace; default: all (paper),
        or Unprotected, AdvFace, those of --defense and the floors (demo).
    """
    checks.bound(epsilon)
    ascent.config()
    public.check()
    checks.between(0, 100_000, epochs=epochs or 0)
    joined = [joining.function(one, "attack") for one in attack]
    for one in defense:
        joining.function(one, "defense")
    if sample.preset == "demo" and sample.limit is None:
        sample = dataclasses.replace(sample, limit=DEMO_PAIRS)
    system, given = sample.open(shadow, attacker)
    cli.loading(*sibling)
    others = tuple(advface_jax.load(one) for one in sibling)
    decoyed.check(system, *others)
    world = World(
        system,
        others,
        decoders.decoder(system, attacker, "attacker"),
        public.read(sample.preset),
        sample.batch,
        sample.seed,
    )
    passes = EPOCHS[sample.preset] if epochs is None else epochs
    more = (epsilon, passes, defense, joined, attackers, only)
    result = table(world, given, sample, ascent, shadow, attacker, *more)
    publish(result, sample.out)


def table(
    world: World,
    given: Inputs,
    sample: Sample,
    ascent: Ascent,
    shadow: str = "resrec",
    attacker: str = "resrec",
    epsilon: float = EPSILON,
    epochs: int = 0,
    joined_defenses: Sequence[str] = (),
    joined_attacks: Sequence[Builder] = (),
    level: Level = "light",
    only: Sequence[str] = (),
) -> Table:
    """A row for each defence and attack; arguments as for ``main``."""
    began = time.monotonic()
    crops, over, origin = given
    config = ascent.config()
    models = decoders.models(world.system, shadow, attacker)
    lists = decoders.lists(world.system, shadow, attacker)
    seen = inputs.seen_in_training(lists, crops, sample.on_leak)
    seen["attackers' faces"] = inputs.shared(world.public, crops, sample.on_leak)
    trained = sample.out / "attackers"
    adaptive = [Adaptive(trained, epochs)] if epochs else []
    if adaptive and len(world.public) < 2 * HELD_OUT:
        raise ValueError(
            f"got {len(world.public)} public faces; wanted {2 * HELD_OUT} or more, or --epochs 0"
        )
    more = full(trained, epochs) if level == "full" else []
    on_features = [*attackers.on_features(world), *adaptive, *more, *joined_attacks]
    how = joined_defenses, on_template(more)
    cases = plan(world, models, config, epsilon, sample.seed, on_features, *how)
    names = [one.name for one in cases]
    _check_names(names)
    missing = {}
    if not any(name.startswith("Sealed") for name in names):
        missing["sealed"] = "not measured: pip install cryptography"
    if duetface_case.NAME not in names:
        missing["duetface"] = "not measured: no recogniser is shipped for these weights"
    few = [*DEMO, *(one.name for one in cases if one.joined)]
    wanted = only or (few if sample.preset == "demo" else names)
    if wrong := [name for name in only if name not in names]:
        raise ValueError(f"got --only {wrong[0]!r}; wanted some of: {', '.join(names)}")
    settings = {
        "experiment": "worst_case",
        **origin,
        **decoders.provenance(world.system, models, shadow, attacker),
        "siblings": {str(s.card["source"]): s.card["sha256"] for s in world.siblings},
        "public_faces": len(world.public),
        "public_people": len(set(world.public.identities)),
        "public_sha256": hashlib.sha256(world.public.images.tobytes()).hexdigest(),
        "epsilon": epsilon,
        "epochs": epochs,
        "joined": {joining.label(one): joining.source_sum(one) for one in joined_attacks},
        "version": advface_jax.__version__,
        **{k: v for k, v in dataclasses.asdict(config).items() if k != "method"},
        "batch": sample.batch,
        "precision": ascent.precision,
    }
    rows, left, photographs, machines = [], [], Photographs(), {}
    earlier = 0.0
    with judging.exactly(ascent.precision), cli.bar("faces") as bar:
        for one in cases:
            light = [joining.label(build) for build in one.builders if build not in more]
            ours = {**settings, "attacks": light, **one.settings}
            file = case_rows.file(sample.out, one.name)
            if kept := case_rows.read(file, _of_pairs(ours, over), level):
                earlier += kept.seconds
            elif one.name in wanted:
                task = bar.add_task(one.name, total=len(crops), note="")
                advance = functools.partial(bar.update, task)
                how = photographs, ours, level, lambda n, f=advance: f(advance=n)
                kept = _measured(one, world, given, sample, *how)
            else:
                left.append(one.name)
                continue
            rows += kept.rows
            machines[one.name] = kept.hardware
    largest = worst.worst(rows)
    if left:
        missing["left_out"] = left
    return Table(
        "worst_case",
        f"The worst case of every defence at ε = {epsilon:g}",
        rows,
        worst.HEADER,
        worst.lines(rows, largest),
        settings,
        notes={"worst": largest, "seen_in_training": seen, "machines": machines, **missing},
        spent=Spent(earlier, time.monotonic() - began),
        remarks=(HOW_TO_READ, _attackers(world, epochs), setting(settings, rows[0])),
        pages={"leaderboard.md": worst.leaderboard(rows, largest, settings)},
        pictures={
            "worst_case.png": functools.partial(frontier.worst_case, rows, largest, settings)
        },
        caption="The worst case over all attacks",
    )


def _check_names(names: Sequence[str]) -> None:
    """ValueError for two defences that would share a line or a file."""
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(case_rows.slug(name), "")
        if other:
            raise ValueError(
                f"got two defences named {other!r} and {name!r}, whose files are one; wanted a "
                "name of its own for each: dataclasses.replace(defense, name=…)"
            )
        seen[case_rows.slug(name)] = name


def _of_pairs(settings: Mapping[str, Any], over: Pairs) -> dict[str, Any]:
    """What determines finished rows; kept batches need no pairs."""
    return {**settings, "pairs_sha256": inputs.pairs_sum(over)}


def _measured(
    planned: Planned,
    world: World,
    given: Inputs,
    sample: Sample,
    photographs: Photographs,
    settings: Mapping[str, Any],
    level: Level,
    progress: Callable[[int], None],
) -> case_rows.Kept:
    """The rows of one case, kept in their file."""
    began = time.monotonic()
    one, (crops, over, _) = planned.make(), given
    known = Known(world, one)
    attacks = [a for build in planned.builders if (a := built(build, known))]
    how = {**sample.how, "settings": settings, "progress": progress}
    found = attacked(one, attacks, world, crops, photographs, **how)
    people = crops.identities
    use = worst.use(found, people, over)
    reader = world.names[0]
    plain = [a.attack if isinstance(a, Against) else a for a in attacks]
    rows = [
        worst.row(one, a, r, found, use, people, over, reader)
        for a, r in zip(plain, found.reads, strict=True)
    ]
    if one.name == floors.FLOORS[0]:
        rows.append(worst.shuffled(one, found, use, people, over, sample.seed))
    seconds = found.earlier + time.monotonic() - began
    file = case_rows.file(sample.out, one.name)
    kept = case_rows.write(file, _of_pairs(settings, over), level, rows, seconds)
    discard(found.folder)
    return kept


def _attackers(world: World, epochs: int) -> str:
    trained = f"R' is R trained for {epochs} epochs on them, protected" if epochs else "no R' here"
    return (
        f"Attackers have {len(world.public):,} public faces of "
        f"{len(set(world.public.identities)):,} other people; {trained}; the stitch is learnt on "
        f"{min(STITCHED, len(world.public))} of them. LPIPS is not measured: it needs "
        "the weights of another network."
    )


if __name__ == "__main__":
    cli.start(main, "experiments.worst_case")
