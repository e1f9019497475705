"""What is read without any item, and from Ψ(z) and nothing else."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advface_jax.attacks import Attack
from experiments.attack.knowing import Builder, Known, World
from experiments.measure.compared import Case, recognised_by
from experiments.measure.subjects import Images

FLOORS = ("Ignorance (floor)", "Template (floor)")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Always:
    """The same picture, whatever is stored."""

    picture: jax.Array

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(self.picture, (len(x), *self.picture.shape))


def template(known: Known) -> Attack:
    """What Ψ(z) alone gives away, where it is all that is stored."""
    return Attack("template", ("recogniser",), "identity", Images())


def picture(known: Known) -> Attack:
    run, cost = known.world.from_template, {"faces": len(known.world.public)}
    return Attack("picture from the template", ("recogniser",), "picture", run, cost)


def mean_face(known: Known) -> Attack:
    mean = known.world.public.images.mean(0) / 255
    return Attack("mean face", (), "picture", Always(jnp.asarray(mean, jnp.float32)))


def floors(world: World, more: Sequence[Builder] = ()) -> list[tuple[Case, Sequence[Builder]]]:
    """Their cases, each with its own attacks, and ``more`` of the template."""

    def nothing(z: Any, keys: jax.Array, mask: Any) -> tuple[Any, Any]:
        return jnp.zeros((len(z), 1)), z

    def embedding(z: Any, keys: jax.Array, mask: Any) -> tuple[Any, Any]:
        return world.psi.run(z), z

    network = world.system.network
    server = recognised_by(network.server)
    ignorance, template_ = FLOORS
    return [
        (Case(ignorance, nothing, server, network.extractor), (mean_face,)),
        (Case(template_, embedding, server, network.extractor), (template, picture, *more)),
    ]
