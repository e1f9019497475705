"""The reference: features sealed at rest with AES-GCM, the key kept elsewhere.

A thief of the database alone has random bytes; who has the key too has the features themselves.
"""

import time
from typing import Any

import jax
import numpy as np

from advface_jax import sealing
from advface_jax.sealing import KEY, NONCE
from experiments.measure.compared import Case, recognised_by


def seal(feature: np.ndarray, key: bytes, nonce: bytes) -> bytes:
    """A feature in half precision, sealed: nonce, ciphertext, tag. One nonce seals one item."""
    return sealing.seal(feature.astype(np.float16).tobytes(), key, nonce=nonce)


def unseal(item: bytes, key: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The feature, float32.

    Raises:
      ValueError: Another key, or an item that was changed.
    """
    opened = sealing.unseal(item, key)
    return np.frombuffer(opened, np.float16).reshape(shape).astype(np.float32)


def cases(network: Any, seed: int) -> list[Case]:
    """Sealed, with the key safe and with the key stolen. The server unseals and runs Ψ as ever."""
    key = np.random.default_rng([seed, 256]).bytes(KEY)

    def store(z: Any, keys: jax.Array, mask: Any) -> tuple[Any, Any]:
        z = np.asarray(z)
        numbers = np.asarray(jax.random.key_data(keys)).reshape(len(z), -1)
        items = [
            seal(one, key, np.random.default_rng(n.tolist()).bytes(NONCE))
            for one, n in zip(z, numbers, strict=True)
        ]
        opened = np.stack([unseal(item, key, z.shape[1:]) for item in items])
        # What attacks on features can take: a number of the ciphertext for each of the feature.
        raw = [np.frombuffer(item, np.uint8, z[0].size, NONCE) for item in items]
        return np.stack(raw).reshape(z.shape).astype(np.float32) / 255, opened

    def stolen(z: Any, keys: jax.Array, mask: Any) -> tuple[Any, Any]:
        _, opened = store(z, keys, mask)
        return opened, opened

    server, spent = recognised_by(network.server), cost()
    stores = {"key safe": store, "key stolen": stolen}
    return [
        Case(f"Sealed (AES-GCM), {name}", one, server, network.extractor, cost=spent)
        for name, one in stores.items()
    ]


def cost(shape: tuple[int, ...] = (77, 77, 64), repeats: int = 20) -> dict[str, Any]:
    """Milliseconds to seal and to unseal one feature here, medians, and its bytes."""
    one = np.random.default_rng(0).random(shape, np.float32)
    key, spent = bytes(KEY), []
    for i in range(repeats):
        began = time.perf_counter()
        item = seal(one, key, i.to_bytes(NONCE, "big"))
        between = time.perf_counter()
        unseal(item, key, shape)
        spent.append((between - began, time.perf_counter() - between))
    sealing, opening = np.median(spent, 0) * 1e3
    extra = len(item) - 2 * one.size
    return {"seal_ms": round(sealing, 3), "unseal_ms": round(opening, 3), "extra_bytes": extra}
