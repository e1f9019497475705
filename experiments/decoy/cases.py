"""What the sweep of decoys compares: settings, and the networks of defender and attackers."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import System, attacks, checks, defenses
from advface_jax.decoy import DEFAULT, DEVIATION, DecoyConfig
from advface_jax.defenses import Defense
from advface_jax.models import sface
from experiments.measure import decoyed
from experiments.measure.compared import called

STITCHED = 60
"""Faces that one sibling learns from."""
UNLIKE = (1, 5)
"""Patches through which further attackers' siblings see z."""
NEAR = (0.2, 0.4)
"""Noise on every kernel of Ψ, in its deviation: siblings much nearer than another network."""


class Case(NamedTuple):
    """One setting of the defence."""

    epsilon: float
    weight: float
    steps: int
    shadows: int
    parts: int
    key: bool = False
    step: float = DEFAULT.step
    momentum: float = DEFAULT.momentum
    evenness: float = DEFAULT.evenness

    @property
    def label(self) -> str:
        key = ", key" if self.key else ""
        more = [
            f", {name} {getattr(self, name):g}"
            for name, usual in self._field_defaults.items()
            if name != "key" and getattr(self, name) != usual
        ]
        return (
            f"ε = {self.epsilon:g}, λ = {self.weight:g}, {self.steps} steps, "
            f"{self.shadows} shadows, {self.parts} faces{''.join(more)}{key}"
        )

    def changed(self, text: str) -> "Case":
        """With other values, as in "epsilon=0.25,steps=48"; ValueError for what is none."""
        values: dict[str, Any] = {}
        for part in text.split(","):
            name, _, value = part.strip().partition("=")
            try:
                kind = type(getattr(self, name)) if name in self._fields else None
                values[name] = kind(number := float(value))  # type: ignore[misc]
                if values[name] != number:
                    raise ValueError(number)
            except (TypeError, ValueError, OverflowError):
                raise ValueError(
                    f"got {part!r}; wanted NAME=NUMBER of {', '.join(self._fields)}, as steps=48"
                ) from None
        return self._replace(**values)

    def config(self, threshold: float) -> DecoyConfig:
        return DecoyConfig(
            self.steps,
            self.weight,
            threshold,
            self.step,
            momentum=self.momentum,
            evenness=self.evenness,
        )


def one_at_a_time(key: bool, **axes: Sequence[Any]) -> list[Case]:
    """The base, which is the first value of every axis; with ``key``, the base with a secret
    pattern; and the others, one changed at a time."""
    base = Case(**{axis: values[0] for axis, values in axes.items()})
    found = [base, base._replace(key=True)] if key else [base]
    for axis, values in axes.items():
        found += [base._replace(**{axis: value}) for value in values[1:]]
    return found


def checked(
    key: bool, threshold: float, base: str, also: Sequence[str], **axes: tuple[Any, ...]
) -> list[Case]:
    """The cases of one ``experiments.decoys``; ValueError for a value that none can have."""
    for name, values in axes.items():
        if not values:
            raise ValueError(f"got no value of {name}; wanted one or more, the base's first")
    order = ("epsilon", "weight", "steps", "shadows", "parts")
    cases = one_at_a_time(key, **{name: axes[name] for name in order})
    if base:
        cases = [case.changed(base) for case in cases]
    cases += [cases[0].changed(one) for one in also]
    for case in cases:
        checks.bound(case.epsilon)
        checks.between(0, 8, shadows=case.shadows)
        checks.between(1, decoyed.DRAWN, parts=case.parts)
        case.config(threshold)
    return list(dict.fromkeys(cases))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class World:
    """The networks of defender and attackers.

    Attributes:
      network: Ψ(E(·)).
      attacker: R.
      faces: (n,160,160,3), the drawn ones that decoys are mixed from.
      shadows: the defender's siblings.
      outside: the attackers', in no objective, by name.
      pattern: the secret.
      deviation: of it, and of all foreign ones.
    """

    network: Any
    attacker: Any
    faces: jax.Array
    shadows: tuple[Any, ...]
    outside: Mapping[str, Any]
    pattern: jax.Array
    deviation: float = dataclasses.field(default=DEVIATION, metadata={"static": True})

    def defense(self, case: Case, threshold: float) -> Defense:
        return defenses.decoy(
            recogniser=self.network.server,
            extractor=self.network.extractor,
            faces=self.faces,
            shadows=self.shadows[: case.shadows],
            pattern=self.pattern if case.key else None,
            parts=case.parts,
            config=dataclasses.replace(case.config(threshold), deviation=self.deviation),
        )


def world(
    system: System,
    attacker: Any,
    others: Sequence[System],
    public: np.ndarray,
    drawn: np.ndarray,
    n: int,
    seed: int,
    deviation: float = DEVIATION,
) -> World:
    """Siblings of the first of ``others`` put onto z: n shadows, of 3×3 and 1×1 patches in turn;
    three attackers' of other faces, by 3×3, 1×1 and 5×5; each from ``STITCHED`` of the ``public``
    faces (m,160,160,3) uint8; each further one of ``others``; Ψ with noise on its kernels."""
    batches = [public[i : i + 8].astype(np.float32) / 255 for i in range(0, len(public), 8)]
    z, *targets = (
        np.concatenate([np.asarray(called(one.extractor, jnp.asarray(b))) for b in batches])
        for one in (system, *others)
    )

    def sibling(i: int, patch: int = 3, which: int = 0) -> attacks.Sibling:
        other, mine = others[which], np.arange(STITCHED * i, STITCHED * (i + 1))
        grid = sface.grid() if isinstance(other.network, sface.SFace) else None
        learnt = attacks.stitch(z[mine], targets[which][mine], patch=patch, grid=grid)
        return attacks.sibling(learnt, other.server)

    rng = np.random.default_rng(seed)
    outside = {"sibling": sibling(n)}
    outside |= {f"sibling, {p}×{p}": sibling(n + 1, p) for p in UNLIKE}
    for i, one in enumerate(others[1:], 1):
        outside[f"far, {one.card['source']}"] = sibling(n, which=i)
    outside |= {f"Ψ ± {share:g}": noisy(system.server, share, rng) for share in NEAR}
    pattern = deviation * rng.normal(size=z.shape[1:]).astype(np.float32)
    return World(
        system.network,
        attacker,
        jnp.asarray(drawn, jnp.float32) / 255,
        tuple(sibling(i, (3, 1)[i % 2]) for i in range(n)),
        outside,
        jnp.asarray(pattern),
        deviation,
    )


def noisy(server: Any, share: float, rng: np.random.Generator) -> Any:
    """A recogniser near to Ψ: Gaussian noise on every kernel, in shares of its deviation."""

    def moved(leaf: Any) -> Any:
        if np.ndim(leaf) < 2:
            return leaf
        return leaf + jnp.asarray(share * np.std(leaf) * rng.normal(size=leaf.shape), leaf.dtype)

    return jax.tree.map(moved, server)
