"""Secrets of a server that stores decoys: everything follows from one, by HKDF (RFC 5869).

A secret belongs to a server; a system's name and an enrolment's number make it another secret
each. Losing what was derived for one enrolment tells nothing about another. Nothing here is stored
beside the features. Needs the package ``cryptography`` (extra ``keys``).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import checks

BYTES = 32


def derive(secret: bytes, *names: str) -> bytes:
    """32 bytes that follow from the secret and the names, by HKDF-SHA256.

    Args:
      secret: 32 random bytes or more, as ``secrets.token_bytes(32)``; no password.
      names: what they are for: the system, the purpose, the enrolment.

    Raises:
      ValueError: a secret that is too short or no bytes, or no name.
      ModuleNotFoundError: without ``cryptography``.

    Example:
      >>> from advface_jax import keys
      >>> secret = bytes(32)  # secrets.token_bytes(32), and kept
      >>> len(keys.derive(secret, "front door", "audit"))
      32
    """
    if not isinstance(secret, bytes) or len(secret) < BYTES:
        got = f"{len(secret)} bytes" if isinstance(secret, bytes) else type(secret).__name__
        raise ValueError(
            f"got a secret of {got}; wanted {BYTES} random bytes or more: secrets.token_bytes(32)"
        )
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"got names={names}; wanted text: the system, the purpose, the enrolment")
    try:
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "secrets are derived by HKDF, which needs: pip install cryptography", name=error.name
        ) from error

    # Each name with its length: ("ab", "c") and ("a", "bc") are two secrets.
    parts = [name.encode() for name in ("advface_jax decoy", *names)]
    info = b"".join(len(part).to_bytes(4, "big") + part for part in parts)
    return HKDF(hashes.SHA256(), BYTES, salt=None, info=info).derive(secret)


def pattern(
    secret: bytes, system: str, shape: Sequence[int] = (77, 77, 64), deviation: float = 0.3
) -> np.ndarray:
    """The secret pattern of a system, Gaussian, of one feature's shape, float32.

    A ChaCha20 keystream, made normal: what is known of some of it tells nothing about the rest.
    One for a system, so that one pass of Ψ serves all of its enrolments. A new secret, or a new
    name of the system, revokes: what was enrolled with the old one no longer verifies.

    Raises:
      ValueError: as for ``derive``, or an empty shape or a deviation that is not above 0.

    Example:
      >>> from advface_jax import keys
      >>> secret = bytes(32)  # secrets.token_bytes(32), and kept
      >>> keys.pattern(secret, "front door", shape=(4, 4, 2)).shape
      (4, 4, 2)
    """
    checks.above_zero(deviation=deviation)
    if not shape:
        raise ValueError("got shape=(); wanted that of one feature, as (77, 77, 64)")
    checks.positive(**{f"shape[{i}]": n for i, n in enumerate(shape)})
    n = int(np.prod(shape))
    uniform = _uniform(derive(secret, system, "pattern"), 2 * n).reshape(2, n)
    normal = np.sqrt(-2 * np.log(uniform[0])) * np.cos(2 * np.pi * uniform[1])
    return (deviation * normal).reshape(*shape).astype(np.float32)


def of_enrolments(secret: bytes, system: str, enrolments: Sequence[str]) -> jax.Array:
    """Keys (b,) for ``defenses.decoy``: each enrolment's own choice of a decoy.

    Args:
      secret, system: as for ``pattern``.
      enrolments: a name for each, never used twice: a person who enrols again is a new one.

    Raises:
      ValueError: as for ``derive``, no enrolment, or one that stands there twice.

    Example:
      >>> from advface_jax import keys
      >>> secret = bytes(32)  # secrets.token_bytes(32), and kept
      >>> keys.of_enrolments(secret, "front door", ["0001", "0002"]).shape
      (2,)
    """
    if not enrolments or len(set(enrolments)) != len(enrolments):
        raise ValueError(f"got {len(enrolments)} enrolments, not all distinct; wanted one or more")
    seeds = [derive(secret, system, "decoy", one)[:8] for one in enrolments]
    data = np.array([np.frombuffer(seed, ">u4") for seed in seeds], np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")


def _uniform(key: bytes, n: int) -> np.ndarray:
    """n numbers in (0,1), from the 53 leading bits of each 8 bytes of a keystream."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms

    stream = Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    bits = np.frombuffer(stream.update(bytes(8 * n)), "<u8") >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) / 2.0**53
