"""The ascent of decoys: Adam on what recognisers read, one loop for all faces of a batch.

Some faces come to the threshold after a few steps, some only after all. So a large batch is worked
on a part at a time, always the first faces that are not done: it costs about the mean number of
steps of its faces, not that of the slowest one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from advface_jax import ball, sharding

Reader = Callable[[jax.Array], jax.Array]
"""A recogniser of features: z (b, …) -> embeddings (b,e). Every item is read by itself."""
BETA = 0.99
"""Of Adam's second moment."""
FEW, PARTS = 8, 4
"""A device works on a quarter of its faces at a time, or on 8 where that is more."""
Tree = TypeVar("Tree")


class Ascent(NamedTuple):
    """Where each face is: its next step, q, Adam's moments, and whether it is done; (b, …) each."""

    t: jax.Array
    q: jax.Array
    mean: jax.Array
    square: jax.Array
    done: jax.Array


class Aim(NamedTuple):
    """What is fixed for each face: d, the least that q may be, what ``own`` and the other readers
    have to read, and the key of its foreign patterns; (b, …) each."""

    decoy: jax.Array
    least: jax.Array
    face: jax.Array
    read: list[jax.Array]
    key: jax.Array


def ascend(
    aim: Aim,
    own: Reader,
    readers: Sequence[Reader],
    foreign: Callable[[jax.Array], Reader] | None,
    epsilon: jax.Array,
    mask: jax.Array | None,
    config: Mapping[str, jax.Array],
) -> jax.Array:
    """q (b, …): ``own`` reads the face from it, and ``readers`` the decoy.

    So does, in every step, one more reader, which ``foreign`` makes of keys (n,) for n faces.
    ``config`` has the fields of ``DecoyConfig`` as scalars.
    """
    momentum, places = config["momentum"], tuple(range(1, aim.decoy.ndim))
    part = _Part(aim.decoy.shape[0])

    def step(state: Ascent) -> Ascent:
        rows = part.first(~state.done)
        now, to = part.take(state, rows), part.take(aim, rows)
        pairs = [*zip(readers, to.read, strict=True)]
        if foreign is not None:
            other = foreign(jax.vmap(jax.random.fold_in)(to.key, now.t))
            pairs.append((other, other(to.decoy)))

        def objective(q: jax.Array) -> tuple[jax.Array, jax.Array]:
            alike = cosine(own(q), to.face)
            kept = [cosine(reader(q), read) for reader, read in pairs]
            return (alike + config["weight"] * sum(kept)).sum(), alike

        (_, alike), uphill = jax.value_and_grad(objective, has_aux=True)(now.q)
        arrived = now.done | (alike >= config["threshold"])
        uphill = uphill.astype(jnp.float32)
        t = now.t.astype(jnp.float32).reshape(-1, *[1] * len(places))
        mean = momentum * now.mean + (1 - momentum) * uphill
        square = BETA * now.square + (1 - BETA) * jnp.square(uphill)
        corrected = mean / (1 - momentum ** (t + 1.0))
        spread = jnp.sqrt(square / (1 - BETA ** (t + 1.0)))
        whole = jnp.sqrt(jnp.square(spread).mean(places, keepdims=True)) + 1e-12
        spread = whole * ((spread + 1e-8 * whole) / whole) ** config["evenness"]
        size = config["step"] * epsilon * (1 - t / config["steps"])
        moved = now.q + (size * corrected / spread).astype(now.q.dtype)
        moved = jnp.maximum(ball.projection(to.decoy, epsilon)(moved), to.least)
        q = jnp.where(arrived.reshape(t.shape), now.q, moved)
        done = arrived | (t.reshape(-1) + 1 >= config["steps"])
        return part.put(state, rows, Ascent(now.t + 1, q, mean, square, done))

    b, zeros = aim.decoy.shape[0], jnp.zeros(aim.decoy.shape, jnp.float32)
    padding = jnp.zeros(b, bool) if mask is None else mask == 0
    begun = Ascent(jnp.zeros(b, jnp.int32), aim.decoy, zeros, zeros, padding)
    return lax.while_loop(lambda state: ~state.done.all(), step, begun).q


class _Part:
    """The part of a batch of b faces that is worked on at a time, as many on every device."""

    def __init__(self, b: int):
        self.devices = sharding.sharing(b) if isinstance(b, int) else 1
        each = b // self.devices
        # Of an exported program of any batch, b is a symbol: all at a time.
        self.size = max(FEW, -(-each // PARTS)) if isinstance(b, int) and each > FEW else None

    def first(self, waiting: jax.Array) -> jax.Array | None:
        """(devices, size): on each device the first places that wait; beyond the end, if few do."""
        if self.size is None:
            return None
        waiting = waiting.reshape(self.devices, -1)
        n = waiting.shape[1]
        return jax.vmap(lambda one: jnp.nonzero(one, size=self.size, fill_value=n)[0])(waiting)

    def take(self, tree: Tree, rows: jax.Array | None) -> Tree:
        """Of each array (b, …) the items at these places (devices · size, …)."""
        if rows is None:
            return tree

        def chosen(x: jax.Array) -> jax.Array:
            found = jax.vmap(lambda one, at: one[at])(self._by_device(x), rows)
            return found.reshape(-1, *x.shape[1:])

        return jax.tree.map(chosen, tree)

    def put(self, tree: Tree, rows: jax.Array | None, new: Tree) -> Tree:
        """``tree`` with new items at these places; those beyond the end go nowhere."""
        if rows is None:
            return new

        def placed(x: jax.Array, new: jax.Array) -> jax.Array:
            put = jax.vmap(lambda one, at, new: one.at[at].set(new, mode="drop"))
            return put(self._by_device(x), rows, self._by_device(new)).reshape(x.shape)

        return jax.tree.map(placed, tree, new)

    def _by_device(self, x: jax.Array) -> jax.Array:
        return x.reshape(self.devices, -1, *x.shape[1:])


def cosine(a: jax.Array, b: jax.Array) -> jax.Array:
    """(b,), in float32, of embeddings of any length."""
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    squares = jnp.square(a).sum(-1) * jnp.square(b).sum(-1)
    # The root of what is above 0: at an embedding of 0 its derivative would be NaN.
    return (a * b).sum(-1) / jnp.sqrt(jnp.maximum(squares, 1e-24))
