"""What the ablations compare: conditions one change away from the default, and how they are run.

Conditions that take the same batch and the same attackers share one compiled program, in which
those that differ by their number of steps share one ascent.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from advface_jax import ProtectConfig
from advface_jax.protect import STATISTICS

Part = Literal[
    "alpha",
    "bound",
    "statistics",
    "batch",
    "start",
    "steps",
    "pairs",
    "clip",
    "method",
    "scale",
    "decoder",
]
PARTS: tuple[Part, ...] = get_args(Part)


@dataclasses.dataclass(frozen=True)
class Condition:
    """One row of the table.

    Attributes:
      part: what it changes; "default" for the rows at the top, which change nothing.
      label: as it stands in the table.
      config: how z' is made; epsilon: within which bound, and None stores z unprotected.
      steps: how many; 0 stores z~.
      batch: faces protected together.
      shadow, attacker: S and R, by kind or file.
      clip: the attacker takes negative elements for 0, as no feature of E has any.
      enrolled_only: of a pair, only the left image is protected.
    """

    part: str
    label: str
    config: ProtectConfig
    epsilon: float | None
    steps: int
    batch: int
    shadow: str
    attacker: str
    clip: bool = False
    enrolled_only: bool = False


def default(
    config: ProtectConfig, epsilon: float, batch: int, shadow: str, attacker: str
) -> Condition:
    """What every ablation changes in one thing."""
    return Condition(
        "default", "AdvFace, default", config, epsilon, config.steps, batch, shadow, attacker
    )


def conditions(
    base: Condition,
    parts: Iterable[str] = PARTS,
    *,
    steps: Sequence[int] = (),
    batches: Sequence[int] = (),
    epsilons: Sequence[float] = (),
    shadows: Sequence[str] = (),
    attackers: Sequence[str] = (),
) -> list[Condition]:
    """The default rows, and those that change one thing of ``base``; what equals it is left out."""

    def change(part: str, label: str, **changes: Any) -> Condition:
        settings = {k: changes.pop(k) for k in list(changes) if hasattr(base.config, k)}
        steps = settings.get("steps", base.steps)
        config = dataclasses.replace(base.config, **settings)
        return dataclasses.replace(
            base, part=part, label=label, config=config, steps=steps, **changes
        )

    changed = [
        change("alpha", "α = ε/10", alpha=None),
        change("bound", "bound on each step", bound="step"),
        *(change("statistics", f"S on {s} statistics", statistics=s) for s in STATISTICS),
        *(change("batch", f"batches of {n}", batch=n) for n in batches),
        change("start", "start at z", start="z"),
        *(change("steps", f"{n} steps", steps=n) for n in steps),
        change("pairs", "enrolled image only", enrolled_only=True),
        change("clip", "attacker clips negatives", clip=True),
        change("method", "FGSM", method="fgsm"),
        change("method", "MI-FGSM", method="mifgsm"),
        *(change("scale", f"ε = {e:g}", epsilon=e) for e in epsilons),
        *(change("decoder", f"S = {title(s)}", shadow=s) for s in shadows),
        *(change("decoder", f"R = {title(r)}", attacker=r) for r in attackers),
    ]
    bare = dataclasses.replace(base, label="Unprotected", epsilon=None, steps=0)
    others = [
        dataclasses.replace(bare, part="decoder", label=f"Unprotected, R = {title(r)}", attacker=r)
        for r in attackers
        if r != base.attacker
    ]
    still = dataclasses.replace(base, label="ε = 0 (z~)", steps=0)
    new = [c for c in changed if _nameless(c) != _nameless(base)]
    wanted = [c for c in (*new, *others) if c.part in set(parts)]
    return [bare, still, base, *sorted(wanted, key=lambda c: PARTS.index(c.part))]  # type: ignore[arg-type]


def _nameless(c: Condition) -> Condition:
    return dataclasses.replace(c, part="", label="")


def title(source: str) -> str:
    """A decoder's file as the table calls it: two parts, for seeds may share the file's name."""
    return "/".join(Path(source).with_suffix("").parts[-2:])


class Family(NamedTuple):
    """Protections that differ by their number of steps alone."""

    config: ProtectConfig  # its steps are the most of them
    epsilon: float
    shadow: str
    steps: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Run:
    """What one compiled program measures: protections in batches of one size, before attackers."""

    batch: int
    families: tuple[Family, ...]
    attackers: tuple[tuple[str, bool], ...]  # (R, whether it clips)
    rows: tuple[Condition, ...]

    def place(self, c: Condition) -> tuple[int, int]:
        """Which of the run's conditions (0 is unprotected) and attackers a row is."""
        attacker = self.attackers.index((c.attacker, c.clip))
        if c.epsilon is None:
            return 0, attacker
        stored = [
            (dataclasses.replace(f.config, steps=1), f.epsilon, f.shadow, n)
            for f in self.families
            for n in f.steps
        ]
        return 1 + stored.index(_protection(c)), attacker


def runs(rows: Sequence[Condition]) -> list[Run]:
    """The rows, by what can be computed together: same batch, same attackers."""
    protected = [c for c in rows if c.epsilon is not None]
    attackers: dict[Any, list[tuple[str, bool]]] = {}
    for c in protected:
        attackers.setdefault((c.batch, _protection(c)), []).append((c.attacker, c.clip))
    together: dict[Any, list[Condition]] = {}
    for c in protected:
        seen = tuple(dict.fromkeys(attackers[c.batch, _protection(c)]))
        together.setdefault((c.batch, seen), []).append(c)
    for c in rows:
        if c.epsilon is None:  # every run has it: the first that has its attacker, or its own
            mine = c.attacker, c.clip
            key = next(((b, seen) for b, seen in together if mine in seen), (c.batch, (mine,)))
            together.setdefault(key, []).append(c)
    return [Run(b, _families(some), seen, tuple(some)) for (b, seen), some in together.items()]


def _protection(c: Condition) -> Any:
    return dataclasses.replace(c.config, steps=1), c.epsilon, c.shadow, c.steps


def _families(rows: Sequence[Condition]) -> tuple[Family, ...]:
    steps: dict[Any, set[int]] = {}
    protected = [c for c in rows if c.epsilon is not None]
    for c in protected or [dataclasses.replace(rows[0], epsilon=0.0)]:  # a store of nothing is none
        steps.setdefault(_protection(c)[:3], set()).add(c.steps)
    return tuple(
        Family(dataclasses.replace(config, steps=max(*n, 1)), epsilon, shadow, tuple(sorted(n)))
        for (config, epsilon, shadow), n in steps.items()
    )
