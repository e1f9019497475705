"""The type of every attack: from what the server stores to a picture or an identity."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from jax.typing import ArrayLike

from advface_jax import checks

KNOWLEDGE = {
    "extractor": "E as an oracle: it may be asked for features of any picture",
    "defense": "the code of the defence",
    "shadow": "the defender's own S",
    "public recogniser": "a recogniser that anybody can download, not the server's",
    "recogniser": "Ψ, the server's own recogniser",
    "names": "stolen items with the names of their people",
    "key": "the defender's secret key",
    "start": "where the defence started from, as a decoy",
}
"""The words of ``Attack.knows``, and what each means."""

Reads = Literal["picture", "identity"]


@dataclasses.dataclass(frozen=True)
class Attack:
    """An attack: ``attack(stored)`` is what a thief of the database reads.

    Attributes:
      name: its name in a table.
      knows: what the attacker has beside the stored items, out of ``KNOWLEDGE``; () for nothing.
      reads: "picture": images (b,160,160,3) float32 in [0,1]; or "identity": L2-normalised
        embeddings (b,e) float32, which compare with those of the same attack only.
      run: stored (b, …) -> that; of an attack that knows "start", (stored, start) -> that. It need
        not be jitted, nor check what it takes.
      cost: plain facts, such as training items, seconds, or passes of E and Ψ an item.
    """

    name: str
    knows: tuple[str, ...]
    reads: Reads
    run: Callable[..., ArrayLike]
    cost: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        checks.choice(self.reads, "reads", ("picture", "identity"))
        if isinstance(self.knows, str):
            raise ValueError(f"got knows={self.knows!r}; wanted a tuple: ({self.knows!r},)")
        for word in self.knows:
            checks.choice(word, f"knows of {self.name}", tuple(KNOWLEDGE))

    def __call__(
        self, stored: ArrayLike, *, start: ArrayLike | None = None, batch: int = 16
    ) -> np.ndarray:
        """What the attacker reads, checked, ``batch`` items at a time.

        Only a batch lies on the device, and its values are checked when its turn comes.

        Args:
          stored: (n, …), n ≥ 1, finite.
          start: what the items started from, of their shape, for an attack that knows "start".
          batch: how many items ``run`` gets at once. Fewer come only if there are fewer in all: the
            last batch repeats earlier items, so that one compiled program serves every n.

        Raises:
          ValueError: no items, NaN or inf, a start that is missing or does not fit, or a result
            that is not what ``reads`` promises.
        """
        given = [checks.shaped(stored, "features z", None)]
        if ("start" in self.knows) != (start is not None):
            raise ValueError(
                f"got {'no start' if start is None else 'a start'} for the attack {self.name}; "
                f"wanted {'one' if start is None else 'none'}: it knows {', '.join(self.knows)}"
            )
        if start is not None:
            given.append(checks.shaped(start, "features z", given[0].shape[1:]))
            if given[1].shape != given[0].shape:
                raise ValueError(
                    f"got {len(given[1])} starts for {len(given[0])} stored items; wanted one each"
                )
        checks.positive(batch=batch)
        n = given[0].shape[0]
        size = min(batch, n)
        parts = []
        for begin in range(0, n, size):
            at = min(begin, n - size)  # the last batch overlaps
            batches = (checks.features(items[at : at + size], None) for items in given)
            result = np.asarray(self.run(*batches))
            self._check(result, size)
            parts.append(result[begin - at :])
        return np.concatenate(parts)

    def _check(self, result: np.ndarray, items: int) -> None:
        picture = self.reads == "picture"
        shape = (items, 160, 160, 3) if picture else (items, *result.shape[1:2])
        good = result.shape == shape and result.dtype == np.float32 and result.ndim > 1
        if good and picture:
            good = bool((result >= -1e-5).all() and (result <= 1 + 1e-5).all())
        elif good:
            good = bool((np.abs(np.linalg.norm(result, axis=1) - 1) < 1e-2).all())
        if not good:
            low_high = f", {result.min():.3g} to {result.max():.3g}" if result.size else ""
            wanted = "pictures (…, 160, 160, 3) in [0, 1]" if picture else "embeddings of length 1"
            raise ValueError(
                f"the attack {self.name} gave {result.dtype} of shape {result.shape}{low_high}; "
                f"wanted float32 {wanted}, one for each of {items} items"
            )
