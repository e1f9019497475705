"""Identity from what is stored, without training: a recogniser reads it, or what was added to it.

A recogniser here is Ψ itself or a sibling of it (``stitching``): a callable on stored features. To
link two leaks of a person needs no attack of its own: read both, and compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from advface_jax import checks, networks
from advface_jax.attacks.attack import Attack

Start = Callable[[jax.Array], jax.Array]
GAINS = (2.0, 4.0, 8.0)


def read(name: str, recogniser: Any, knows: Sequence[str], before: Any = None) -> Attack:
    """A recogniser's embedding of what is stored.

    Args:
      name, knows: of the ``Attack``.
      recogniser: features -> embeddings (b,e), any callable that ``protect`` takes.
      before: stored -> features, as ``cleaning.clip``; None leaves them as they are.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> recogniser = lambda z: z.mean((1, 2))  # any, on features
      >>> attack = attacks.reading.read("Ψ", recogniser, ("recogniser",))
      >>> attack(jnp.ones((3, 4, 4, 2))).shape
      (3, 2)
    """
    net, clean = _normalised(recogniser), cleaner(before)
    return Attack(name, tuple(knows), "identity", lambda stored: _read(net, cleaned(clean, stored)))


def amplified(
    name: str, recogniser: Any, knows: Sequence[str], gain: float, start: Start | None = None
) -> Attack:
    """The embedding of start + gain · (stored - start), without its negative values.

    A defence that goes from a start towards the enrolled face, as far as Ψ needs, goes on under
    the gain until other recognisers see that face, too.

    Args:
      name, knows: of the ``Attack``; with "start" it takes the true starts.
      recogniser: features -> embeddings.
      gain: how much further; 1 reads what is stored. Try ``GAINS`` and report the best.
      start: stored -> the start as the attacker estimates it, as ``estimated(E, R)``; None for an
        attacker who knows it.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> recogniser, z = (lambda z: z.mean((1, 2))), jnp.ones((3, 4, 4, 2))
      >>> attack = attacks.reading.amplified("× 4", recogniser, ("start",), gain=4)
      >>> attack(z, start=z / 2).shape  # what is stored, and where it started
      (3, 2)
    """
    checks.above_zero(gain=gain)
    net, own = _normalised(recogniser), _start(knows, start)

    def run(stored: jax.Array, known: jax.Array | None = None) -> jax.Array:
        at = cleaned(own, stored) if known is None else known
        return _read(net, _further(stored, at, jnp.float32(gain)))

    return Attack(name, tuple(knows), "identity", run)


def moved(
    name: str, recogniser: Any, knows: Sequence[str], start: Start | None = None, before: Any = None
) -> Attack:
    """Which way the embedding moved: that of stored minus that of the start, normalised.

    Arguments as of ``amplified``; ``before`` as of ``read``, of both.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> recogniser, z = (lambda z: z.mean((1, 2))), jnp.ones((3, 4, 4, 2))
      >>> attack = attacks.reading.moved("moved", recogniser, ("start",))
      >>> attack(z, start=z.at[..., 0].set(0)).shape
      (3, 2)
    """
    net, own, clean = _normalised(recogniser), _start(knows, start), cleaner(before)

    def run(stored: jax.Array, known: jax.Array | None = None) -> jax.Array:
        at = cleaned(own, stored) if known is None else known
        return _unit(_read(net, cleaned(clean, stored)) - _read(net, cleaned(clean, at)))

    return Attack(name, tuple(knows), "identity", run)


def averaged(
    name: str, recognisers: Sequence[Any], knows: Sequence[str], minus: Any = None
) -> Attack:
    """The mean of several recognisers' embeddings, less another's, normalised.

    As of an attacker who draws keys of his own: he averages what Ψ reads under them, and subtracts
    what it reads without.

    Args:
      name, knows: of the ``Attack``.
      recognisers: features -> embeddings, one or more, all into one space.
      minus: a recogniser into the same space; None subtracts nothing.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> recogniser = lambda z: z.mean((1, 2))
      >>> keyed = [lambda z: recogniser(z + 1), lambda z: recogniser(z + jnp.arange(2.0))]
      >>> attack = attacks.reading.averaged("mean", keyed, ("recogniser",), minus=recogniser)
      >>> attack(jnp.ones((3, 4, 4, 2))).shape
      (3, 2)
    """
    nets = tuple(_normalised(each) for each in recognisers)
    if not nets:
        raise ValueError("got no recognisers to average; wanted one or more")
    other = None if minus is None else _normalised(minus)

    def run(stored: jax.Array) -> jax.Array:
        z = cleaned(None, stored)
        mean = jnp.stack([_read(net, z) for net in nets]).mean(0)
        return _unit(mean if other is None else mean - _read(other, z))

    return Attack(name, tuple(knows), "identity", run)


def estimated(extractor: Any, decoder: Any) -> Start:
    """A start as an attacker sees it, E(R(stored)): what R draws of a decoy is the decoy.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import attacks
      >>> E, R = (lambda x: x / 2), (lambda z: 2 * z)
      >>> attacks.reading.estimated(E, R)(jnp.full((1, 4, 4, 3), 0.25)).max().item()
      0.25
    """
    parts = networks.network(extractor, "extractor"), networks.network(decoder, "decoder")
    return jax.tree_util.Partial(_again, *parts)


def _again(extractor: Any, decoder: Any, stored: jax.Array) -> jax.Array:
    return extractor(jnp.clip(decoder(stored), 0, 1))


def _normalised(recogniser: Any) -> networks.Normalised:
    return networks.Normalised(networks.network(recogniser, "recogniser"))


def cleaner(before: Any) -> Any:
    """What cleans stored items before they are read, as a network; None as it is."""
    return None if before is None else networks.network(before, "before")


def _start(knows: Sequence[str], start: Start | None) -> Any:
    if ("start" in knows) == (start is not None):
        raise ValueError(
            f"got knows={tuple(knows)} {'with' if start else 'without'} an estimate of the start; "
            'wanted "start" in knows, or an estimate, start=estimated(E, R)'
        )
    return None if start is None else networks.network(start, "start")


def _unit(embeddings: jax.Array) -> jax.Array:
    length = jnp.linalg.norm(embeddings, axis=-1, keepdims=True)
    # A zero is nobody's direction; any one of length 1 will do.
    return jnp.where(
        length > 1e-6, embeddings / jnp.maximum(length, 1e-6), embeddings.shape[-1] ** -0.5
    )


# A recogniser is one program by itself, whatever comes before it: it takes long to compile.


@jax.jit
def _read(net: Any, z: jax.Array) -> jax.Array:
    return net(z)


@jax.jit
def cleaned(before: Any, stored: jax.Array) -> jax.Array:
    """Stored items as they are read, in float32, after ``before`` of ``cleaner``."""
    return (stored if before is None else before(stored)).astype(jnp.float32)


@jax.jit
def _further(stored: jax.Array, at: jax.Array, gain: jax.Array) -> jax.Array:
    at = at.astype(jnp.float32)
    return jnp.maximum(at + gain * (stored.astype(jnp.float32) - at), 0)
