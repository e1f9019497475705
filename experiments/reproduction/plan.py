"""The steps behind RESULTS.md, in order: their commands, needs and results."""

import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.measure import evaluation_sets, paper
from experiments.measure.inputs import Preset

SHADOW, ATTACK = "celeba_A_shadow_160", "celeba_B_attack_160"
ROLES = ("shadow", "attacker")
SEEDS = (1, 2)  # of further S and R, beside the shipped ones of seed 0
WIDE = 32  # channels of the stronger S and R
CHANNELS = "duetface-attacker"
WORST_PAIRS = "700"  # of LFW: a thousand faces; all 7,701 under every attack take days on two cores
OFFLINE = "2"  # passes over A's features; the paper's 50 over CASIA-WebFace take days on two cores
# As the shipped decoders were trained, without people who resemble somebody in LFW.
EPOCHS = ("--learning-rate", "4e-3", "--schedule", "cosine", "--batch", "8")
STRANGERS = ("--where", "lfw_lookalike=-")


@dataclasses.dataclass(frozen=True)
class Step:
    """One command, of a unique name.

    Attributes:
      module: For ``python -m``, with a subcommand if it has one.
      words: The flags.
      result: A JSON file that exists when the step is done. If it has a ``command``, that must be
        this one.
      shows: Further fields of the file, for files without a command.
      needs: Earlier steps, by name; after a new result of theirs this one is out of date.
      data: Files that the user provides.
      set: The evaluation set that must be available.
      always: Run it at every call: it costs nothing.
    """

    name: str
    module: str
    words: tuple[str, ...]
    result: Path
    shows: tuple[tuple[str, Any], ...] = ()
    needs: tuple[str, ...] = ()
    data: tuple[Path, ...] = ()
    set: evaluation_sets.Set | None = None
    always: bool = False

    @property
    def command(self) -> str:
        return shlex.join(["python", "-m", *self.module.split(), *self.words])


def lacks(step: Step) -> str | None:
    """The data that a step lacks, in words; None if it can run."""
    if step.set and not evaluation_sets.available(step.set):
        return f"{evaluation_sets.TITLES[step.set]}'s data are not available"
    missing = ", ".join(path.name for path in step.data if not path.exists())
    return f"not available under ADVFACE_DATA: {missing}" if missing else None


def is_done(step: Step, after: tuple[Path, ...] = ()) -> bool:
    """Whether the result exists, was made by this command, and is not older than ``after``."""
    try:
        document = json.loads(step.result.read_text(encoding="utf-8"))
        made = step.result.stat().st_mtime
        newest = max((path.stat().st_mtime for path in after), default=0.0)
    except (OSError, ValueError):
        return False
    if step.always or not isinstance(document, dict) or made < newest:
        return False
    if "command" in document and not _same(step.command, document["command"]):
        return False
    return all(document.get(key) == value for key, value in step.shows)


def _same(one: str, other: str) -> bool:
    """Whether two commands are the same: equal flags in any order, except ``--out``, with equal
    values. A path equals its last name, because results keep only that of an absolute one."""
    ours, theirs = _flags(one), _flags(other)
    if len(ours) != len(theirs):
        return False
    pairs = zip(ours, theirs, strict=True)
    return all(a == b or Path(a).name == b or a == Path(b).name for a, b in pairs)


def _flags(command: str) -> list[str]:
    """The words, sorted by flag."""
    flag, groups = "", {}
    for word in shlex.split(command):
        flag = word if word.startswith("--") else flag
        groups.setdefault(flag, []).append(word)
    return [word for flag in sorted(groups) if flag != "--out" for word in groups[flag]]


def steps(preset: Preset, out: Path, limit: int | None) -> list[Step]:
    """The plan of a preset: for paper every table and figure on every set, available or not, with
    the trainings they need; for demo what can be measured on synthetic faces."""
    trained, sets = [], (None,)
    if preset == "paper":
        place = Path(os.environ.get("ADVFACE_DATA") or "ADVFACE_DATA")
        trained, sets = [*_decoders(out, place), *_recognisers(out, place, limit)], paper.SETS
    found = [step for name in sets for step in _measurements(out, preset, name, limit, trained)]
    to = out / "RESULTS.md"
    words = ("--results", str(out), "--to", str(to))
    return [*trained, *found, Step("report", "experiments.report", words, to, always=True)]


def _people(place: Path, name: str) -> tuple[tuple[str, ...], tuple[Path, ...]]:
    """The flags that read a training set, and its files."""
    faces, listing = place / "faces" / f"{name}.zip", place / "lists" / f"{name}.tsv"
    return ("--faces", str(faces), "--listing", str(listing), *STRANGERS), (faces, listing)


def _decoders(out: Path, place: Path) -> list[Step]:
    """S and R of other seeds, for the spread; wider ones, for the effect of a decoder's strength;
    and DuetFace's attacker."""
    found = []

    def train(name: str, role: str, *words: str) -> None:
        flags, files = _people(place, {"shadow": SHADOW, "attacker": ATTACK}[role])
        folder = out / "decoders" / name
        full = (*flags, "--role", role, *words, "--out", str(folder))
        result = folder / "train_decoder.json"
        found.append(Step(name, "experiments.train_decoder", full, result, data=files))

    for role in ROLES:
        sizes = [(f"resrec-{role}-{seed}", 16, seed) for seed in SEEDS]
        for name, width, seed in (*sizes, (f"resrec{WIDE}-{role}", WIDE, 0)):
            size = ("--decoder", "resrec", "--width", str(width), "--depth", "1")
            train(name, role, *size, *EPOCHS, "--epochs", "5", "--seed", str(seed))
    train(CHANNELS, "attacker", "--defense", "duetface", *EPOCHS, "--epochs", "3")
    return found


def _recognisers(out: Path, place: Path, limit: int | None) -> list[Step]:
    """The protected features of A, Ψ retrained on them, and DuetFace's networks."""
    flags, files = _people(place, SHADOW)
    zipped, *others = flags[1:]
    features = out / "features" / "celeba_A"

    def step(name: str, module: str, *words: str, needs: tuple[str, ...] = ()) -> Step:
        result = out / name / f"{module.rpartition('.')[2]}.json"
        words = (*words, "--out", str(out / name))
        return Step(name, module, words, result, needs=needs, data=files)

    read = ("--features", str(features))
    tested = ("--preset", "paper") if evaluation_sets.available("lfw") else ()
    tested += ("--limit", str(limit)) if limit else ()
    return [
        Step(
            "features",
            "advface_jax features",
            (zipped, *others, "--labels", "original", "--seed", "0", "-o", str(features)),
            features / "card.json",
            shows=(("epsilon", 0.2), ("steps", 40), ("labels", "original"), ("dtype", "bf16")),
            data=files,
        ),
        step("offline", "experiments.finetune", *read, "--epochs", OFFLINE, needs=("features",)),
        step("reuse", "experiments.reuse", *read, *flags, *tested, needs=("features",)),
        step("duetface", "experiments.train_duetface", *flags),
    ]


def _measurements(
    out: Path,
    preset: Preset,
    name: evaluation_sets.Set | None,
    limit: int | None,
    trained: list[Step],
) -> list[Step]:
    """Every table and figure on one set, with those ``trained`` networks whose data exist."""
    other = () if name in (None, "lfw") else ("--set", name)
    common = ("--preset", preset, *other, *(("--limit", str(limit)) if limit else ()))
    before = {None: "demo-", "lfw": ""}.get(name, f"{name}-")
    ready = {step.name: step.result.parent for step in trained if not lacks(step)}

    def step(
        kind: str,
        *words: str,
        title: str = "",
        needs: Sequence[str] = (),
        data: tuple[Path, ...] = (),
    ) -> Step:
        folder = out / (before + (title or kind.replace("_", "-")))
        module, result = f"experiments.{kind}", folder / f"{kind}.json"
        words = (*common, *words, "--out", str(folder))
        return Step(folder.name, module, words, result, needs=tuple(needs), data=data, set=name)

    def decoders(role: str, names: Sequence[str]) -> list[str]:
        return [str(ready[n] / f"resrec-{role}.safetensors") for n in names]

    recognisers = {n: ("--" + n, str(ready[n])) for n in ("offline", "duetface") if n in ready}
    attacked = ()
    if "duetface" in ready and CHANNELS in ready:
        file = ready[CHANNELS] / "channelrec-attacker.safetensors"
        attacked = (*recognisers["duetface"], "--duetface-attacker", str(file))
    read = [word for words in recognisers.values() for word in words]
    found = [
        step("tradeoff"),
        step("defenses", *attacked, needs=("duetface", CHANNELS) if attacked else ()),
        step("accuracy", *read, needs=tuple(recognisers)),
        step("transfer"),
    ]
    if name in (None, "lfw"):
        names = {role: [n for n in ready if n.startswith(f"resrec-{role}")] for role in ROLES}
        if all(names.values()):
            words = [w for r in ROLES for w in (f"--{r}s", "resrec", *decoders(r, names[r]))]
            needs = [n for some in names.values() for n in some]
            found.append(step("transfer", *words, title="spread", needs=needs))
        wide = {role: f"resrec{WIDE}-{role}" for role in ROLES if f"resrec{WIDE}-{role}" in ready}
        words = [w for role, n in wide.items() for w in (f"--{role}-files", *decoders(role, [n]))]
        found += [step("ablations", *words, needs=list(wide.values())), step("random_row")]
        place = Path(os.environ.get("ADVFACE_DATA") or "ADVFACE_DATA")
        others = _people(place, ATTACK)[1] if name else ()
        pairs = ("--limit", WORST_PAIRS) if name and not limit else ()
        found.append(step("worst_case", *pairs, data=others))
    return found
