"""This project's own defence, in the common signature: decoys mixed from faces of nobody."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from advface_jax import checks, networks
from advface_jax.decoy import DEFAULT, EPSILON, DecoyConfig, cosine, keyed, protect_decoy
from advface_jax.defenses.defense import Defense

PARTS = 2
"""How many faces a decoy is mixed from."""


def decoy(
    *,
    recogniser: Any,
    extractor: Any,
    faces: ArrayLike,
    shadows: Sequence[Any] = (),
    pattern: ArrayLike | None = None,
    parts: int = PARTS,
    config: DecoyConfig | Mapping[str, Any] = DEFAULT,
) -> Defense:
    """Decoys: somebody else's feature, nudged within ε until Ψ reads the enrolled face.

    |stored - d| ≤ ε, where d = E(a mixture of ``faces``) follows from the item's key: deploy with
    those of ``keys.of_enrolments``, since who knows d amplifies the nudge and reads the face.

    Ψ recognises what is stored, and so does whoever has Ψ. With a pattern only the private
    recogniser does: ``defenses.decoys.recogniser(defense)``. A face that the steps do not bring to
    the threshold is stored all the same; ``defense.recognised(z, stored)`` tells which.

    Args:
      recogniser: Ψ, z -> embeddings, as ``advface_jax.load(…).server``.
      extractor: E, images -> z.
      faces: (n, *image), images of nobody that E takes, as ``decoy_faces.draw``; n ≥ ``parts``.
      shadows: shadow recognisers, z -> embeddings, which go on reading the decoy.
      pattern: the secret of ``keys.pattern``; None for no key.
      parts: how many faces a decoy is mixed from.
      config: steps, λ, threshold.

    Raises:
      ValueError: a wrong setting, a part that cannot be called, or fewer faces than ``parts``.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from advface_jax import defenses
      >>> E, recogniser = (lambda x: x[:, ::2, ::2]), (lambda z: z.mean(1).reshape(len(z), -1))
      >>> faces = jax.random.uniform(jax.random.key(1), (4, 8, 8, 3))
      >>> defense = defenses.decoy(recogniser=recogniser, extractor=E, faces=faces)
      >>> z = jax.random.uniform(jax.random.key(2), (1, 4, 4, 3))
      >>> defense(z, key=jax.random.key(0)).shape
      (1, 4, 4, 3)
    """
    config = checks.config(config, DecoyConfig)
    checks.positive(parts=parts)
    pictures = jnp.asarray(faces)
    floating = jnp.issubdtype(pictures.dtype, jnp.floating)  # shares of whole numbers are all 0
    if pictures.ndim < 3 or len(pictures) < parts or not floating:
        raise ValueError(
            f"got faces of shape {pictures.shape}, {pictures.dtype}; wanted {parts} images or more "
            "in floating point, as of decoy_faces.draw(secret, system)"
        )
    given = {
        "recogniser": networks.network(recogniser, "recogniser"),
        "extractor": networks.network(extractor, "extractor"),
        "shadows": tuple(networks.network(one, f"shadows[{i}]") for i, one in enumerate(shadows)),
        "faces": pictures,
        "pattern": None if pattern is None else jnp.asarray(pattern),
    }
    return Defense(
        "Decoy" if pattern is None else "Decoy with a key",
        _decoy,
        (config, parts),
        given,
        takes_key=True,
        takes_epsilon=True,
        usual=EPSILON,
        private=None if pattern is None else _private,
        accepts=_accepts,
    )


def made_by(defense: Defense) -> bool:
    """Whether the defence is a ``decoy``, with or without a key."""
    return defense.method is _decoy


def pictures(defense: Defense, keys: jax.Array) -> jax.Array:
    """The faces of nobody (b, *image) whose features a decoy defence starts from, by the items'
    keys (b,): secret."""
    return _mixed(keys, defense.networks["faces"], defense.settings[1])  # type: ignore[index]


def start(defense: Defense, keys: jax.Array) -> jax.Array:
    """The decoys d (b, …), E of ``pictures``, likewise: secret."""
    given = defense.networks
    return _start(keys, given["faces"], given["extractor"], defense.settings[1])  # type: ignore[index]


def recogniser(defense: Defense) -> Any:
    """The recogniser of what a decoy defence stores: Ψ, or the private one."""
    return defense.server(defense.networks["recogniser"])


def _private(networks):
    return keyed(networks["recogniser"], networks["pattern"])


def _accepts(z, stored, settings: tuple[DecoyConfig, int], networks) -> jax.Array:
    own = networks["recogniser"] if networks["pattern"] is None else _private(networks)
    threshold = settings[0].threshold
    if threshold == 1:  # which asks for all steps, not for equality
        threshold = DEFAULT.threshold
    return cosine(own(stored), own(z)) >= threshold


def _decoy(z, keys, epsilon, mask, settings: tuple[DecoyConfig, int], networks) -> jax.Array:
    config, parts = settings
    decoys = _start(keys, networks["faces"], networks["extractor"], parts)
    return protect_decoy(
        z,
        decoys,
        recogniser=networks["recogniser"],
        shadows=networks["shadows"],
        pattern=networks["pattern"],
        key=keys,
        epsilon=epsilon,
        config=config,
        mask=mask,
    ).stored


@functools.partial(jax.jit, static_argnames="parts")
def _start(keys, faces, extractor, parts):
    return extractor(_mixed(keys, faces, parts))


@functools.partial(jax.jit, static_argnames="parts")
def _mixed(keys, faces, parts):
    """A mixture for each key: random weights, each picture mirrored by chance."""

    def mixture(key: jax.Array) -> jax.Array:
        which, sides, shares = jax.random.split(key, 3)
        chosen = faces[jax.random.choice(which, len(faces), (parts,), replace=False)]
        turned = jax.random.bernoulli(sides, shape=(parts, *[1] * (faces.ndim - 1)))
        chosen = jnp.where(turned, chosen[:, :, ::-1], chosen)
        weights = jax.random.dirichlet(shares, jnp.ones(parts))
        return jnp.tensordot(weights.astype(faces.dtype), chosen, 1)

    return jax.vmap(mixture)(keys)
