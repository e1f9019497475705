"""The type of every defence: from what the client has to what the server stores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from advface_jax import checks

Shape = tuple[int, ...]
IMAGES: Shape = (160, 160, 3)
EPSILON = 0.2
"""The paper's bound (section 5.1.2), the default."""


def _static(**default: Any) -> Any:
    return dataclasses.field(metadata={"static": True}, **default)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Defense:
    """A defence: ``defense(client, key=…, epsilon=…, mask=…)`` is what the server stores.

    A pytree whose leaves are its networks' arrays: it may enter a caller's own ``jax.jit`` as an
    argument. Outside one, calls compile once for a batch shape, whatever ε and the key.

    Attributes:
      name: its name in a table.
      method: (client, keys (b,) or None, epsilon or None, mask (b,) or None, settings, networks)
        -> stored. A function of a module, so that equal defences share one compiled program.
      settings: hashable, a static argument of the method.
      networks: the arrays that the method uses, a pytree.
      takes: the shape of one of the client's items, (160,160,3) for an image; None for a z of any
        shape, or of the shape that its networks take.
      stores: the shape of one stored item, which is all that an attacker sees; None for z's own.
      keeps: the shape of what stays with the client and its recogniser needs beside the stored
        item; None where nothing stays.
      takes_key: whether it draws at random and needs a key.
      takes_epsilon: whether it has the noise bound ε.
      usual: the ε of a call that names none.
      private: (networks) -> the recogniser that alone is meant to read what is stored, a function
        of a module; None where that is the public Ψ.
      accepts: (client, stored, settings, networks) -> (b,) whether the server recognises each item
        in what is stored, a function of a module; None where the defence always keeps that.
    """

    name: str = _static()
    method: Callable[..., jax.Array] = _static()
    settings: Hashable = _static(default=None)
    networks: Any = None
    takes: Shape | None = _static(default=None)
    stores: Shape | None = _static(default=None)
    keeps: Shape | None = _static(default=None)
    takes_key: bool = _static(default=False)
    takes_epsilon: bool = _static(default=False)
    usual: float = _static(default=EPSILON)
    private: Callable[[Any], Any] | None = _static(default=None)
    accepts: Callable[..., jax.Array] | None = _static(default=None)

    @property
    def for_server(self) -> bool:
        """Whether Ψ recognises what is stored, without a recogniser trained on stored items."""
        return self.stores is None

    def server(self, public: Any) -> Any:
        """What recognises what is stored: the public Ψ, or the defence's private one."""
        return public if self.private is None else self.private(self.networks)

    def recognised(self, client: jax.Array, stored: jax.Array) -> jax.Array:
        """(b,) whether the server recognises the client's items in what was stored of them: where
        it does not, enrol them anew, and count them."""
        if self.accepts is None:
            return jnp.ones(len(stored), bool)
        return self.accepts(client, stored, self.settings, self.networks)

    def __call__(
        self,
        client: ArrayLike,
        *,
        key: jax.Array | None = None,
        epsilon: ArrayLike | None = None,
        mask: ArrayLike | None = None,
    ) -> jax.Array:
        """What the server stores for a batch of the client's items.

        Args:
          client: (b, *takes): images in [0,1], or finite features z (b, …); floating, b ≥ 1.
          key: of ``jax.random.key``. One key for the batch draws differently for each row; with
            (b,) keys, one for each item, an item's noise does not depend on its batch. Ignored by
            a defence that draws nothing.
          epsilon: the noise bound, a scalar ≥ 0 in units of z; None for the usual one, the
            paper's 0.2 unless the defence says otherwise. Refused by a defence without a bound.
          mask: (b,) with 0 for padding, which then influences no other item; its rows of the
            result mean nothing.

        Returns:
          stored (b, *stores), of the client's dtype; of its shape where ``stores`` is None.

        Raises:
          ValueError: a wrong shape, dtype or range, NaN or inf, an empty batch, a wrong ε, a
            missing key, or a key or mask that does not fit.
        """
        items = checks.features(client, None) if self.takes is None else checks.images(client)
        real = checks.mask(mask, items.shape[0])
        keys = self._keys(key, items.shape[0])
        return self.method(items, keys, self._epsilon(epsilon), real, self.settings, self.networks)

    def _epsilon(self, epsilon: ArrayLike | None) -> jax.Array | None:
        if self.takes_epsilon:
            return checks.epsilon(self.usual if epsilon is None else epsilon)
        if epsilon is not None:
            raise ValueError(
                f"got epsilon={epsilon} for {self.name}, which has no noise bound; wanted None"
            )
        return None

    def _keys(self, key: jax.Array | None, batch: int) -> jax.Array | None:
        """One key for each item."""
        if not self.takes_key:
            return None
        if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
            got = "no key" if key is None else f"key={key!r}"
            raise ValueError(
                f"got {got} for {self.name}, which draws at random; wanted one of "
                "jax.random.key(seed)"
            )
        if key.shape not in ((), (batch,)):
            raise ValueError(
                f"got keys of shape {key.shape}; wanted one key, or ({batch},), one for each item"
            )
        return key if key.ndim else jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
