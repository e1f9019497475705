"""DuetFace as a subject of the evaluation: 162 frequency channels stored, a mask from the client.

It starts from images, not from E's features, so that it cannot share a subject with the defences of
features; its rows stand beside theirs over the same faces and pairs.
"""

import dataclasses
from collections.abc import Callable, Sequence

import jax

from advface_jax.defenses import duetface_split
from advface_jax.models.duetface import Recogniser
from experiments.measure.judging import Subject


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Images:
    """The client hands the defence its images as they are."""

    def __call__(self, images: jax.Array) -> jax.Array:
        return images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Stored:
    """The server's 162 channels, the one condition (an ``evaluation.Store``)."""

    def __call__(self, images: jax.Array, keys: jax.Array, mask: jax.Array) -> jax.Array:
        return duetface_split(images)[1][None]  # (1, b, 160, 160, 162)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Together:
    """The server's network over what is stored, under the mask that the client makes anew."""

    recogniser: Recogniser

    def __call__(self, stored: jax.Array, images: jax.Array) -> jax.Array:
        return self.recogniser(stored, duetface_split(images)[0])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Shown:
    """What is shown to the client, all the way through both networks."""

    recogniser: Recogniser

    def __call__(self, images: jax.Array) -> jax.Array:
        kept, stored = duetface_split(images)
        return self.recogniser(stored, kept)


def of_duetface(
    recogniser: Recogniser, attackers: Sequence[Callable[[jax.Array], jax.Array]] = ()
) -> Subject:
    """DuetFace with its recogniser; attackers turn (b,160,160,162) into pictures (b,160,160,3).

    Nothing is stored unprotected: condition 0 is DuetFace.
    """
    return Subject(
        Images(), Stored(), tuple(attackers), Together(recogniser), Shown(recogniser), False
    )
