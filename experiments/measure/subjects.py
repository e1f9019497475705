"""What the tables measure: defences as stores, decoders as attackers, networks as recognisers.

Each class is one of the callables of a ``judging.Subject``.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advface_jax import ProtectConfig, defenses, protect_sweep
from advface_jax.attacks import solve_channels
from advface_jax.models.decoders import Decoder
from advface_jax.models.duetface import Recogniser
from experiments.measure.judging import Subject

MEAN_COLOUR = (0.595, 0.441, 0.365)
"""R, G, B of CelebA B (3,158 faces, no look-alikes of LFW's people): ``Solved``'s guess."""


def static() -> Any:
    """A field that is no array: part of the compiled program."""
    return dataclasses.field(metadata={"static": True})


# -- stores: (item (b,…), keys (b,), mask (b,)) -> (c, b, *stored) ---------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sweep:
    """AdvFace at every ε, with one shadow round trip."""

    epsilons: jax.Array
    extractor: Any
    shadow: Decoder
    config: ProtectConfig = static()
    precision: str = static()

    def __call__(self, z: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        return protect_sweep(
            z.astype(self.precision),
            self.epsilons,
            extractor=self.extractor,
            shadow=self.shadow,
            config=self.config,
            mask=mask,
        )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Each:
    """Every defence at one ε, by the same keys: ``ball`` and ``walk`` thus take the same steps and
    differ by the projection alone."""

    defenses: tuple[defenses.Defense, ...]
    epsilon: jax.Array
    precision: str = static()

    def __call__(self, z: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        client = z.astype(self.precision)
        stored = [d(client, key=keys, epsilon=self.epsilon, mask=mask) for d in self.defenses]
        return jnp.stack(stored)  # (c, b, 77, 77, 64)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stored:
    """One defence without ε, as the only condition."""

    defense: defenses.Defense

    def __call__(self, item: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        return self.defense(item, key=keys, mask=mask)[None]


# -- clients, attackers, recognisers ---------------------------------------------------------------


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Images:
    """A client that gives the defence its images as they are."""

    def __call__(self, images: jax.Array) -> jax.Array:
        return images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Clipping:
    """An attacker who uses that E ends in a ReLU: a free step, without any training."""

    attacker: Callable[[jax.Array], jax.Array]

    def __call__(self, stored: jax.Array) -> jax.Array:
        return self.attacker(jnp.maximum(stored, 0))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Solved:
    """An attacker who solves for the image, and guesses its mean colour."""

    present: tuple[int, ...] = static()

    def __call__(self, stored: jax.Array) -> jax.Array:
        return solve_channels(stored, self.present, MEAN_COLOUR)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Constant:
    """The same embedding for every face, where there is no recogniser."""

    def __call__(self, first: jax.Array, *_: jax.Array) -> jax.Array:
        return jnp.ones((first.shape[0], 1))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DuetFaceServer:
    """The server's network over what is stored, under the mask that the client makes anew."""

    recogniser: Recogniser

    def __call__(self, stored: jax.Array, images: jax.Array) -> jax.Array:
        return self.recogniser(stored, defenses.duetface_split(images)[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DuetFaceReplay:
    """What is shown to the client, through both of DuetFace's networks."""

    recogniser: Recogniser

    def __call__(self, images: jax.Array) -> jax.Array:
        kept, stored = defenses.duetface_split(images)
        return self.recogniser(stored, kept)


def of_duetface(
    recogniser: Recogniser, attackers: Sequence[Callable[[jax.Array], jax.Array]] = ()
) -> Subject:
    """DuetFace with its recogniser, the only condition; attackers turn (b,160,160,162) into
    pictures (b,160,160,3).

    It starts from images and not from E's features, so its rows are measured apart from theirs,
    over the same faces and pairs.
    """
    return Subject(
        Images(),
        Stored(defenses.duetface()),
        tuple(attackers),
        DuetFaceServer(recogniser),
        DuetFaceReplay(recogniser),
        unprotected=False,
    )
