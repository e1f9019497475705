"""Enrol, verify, identify: what is stored, how it is protected, and the decision (Fig. 2)."""

from __future__ import annotations

import dataclasses
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from advface_jax import decoy_faces, defenses, keys
from advface_jax.decoy import DEFAULT, EPSILON, DecoyConfig, keyed, protect_decoy
from advface_jax.defenses import decoys, defense
from advface_jax.protect import protect
from advface_jax.service.store import Enrolment, Store, StoreError
from advface_jax.system import System

Protection = Literal["decoy", "advface"]
THRESHOLDS = {"decoy": 0.56, "advface": 0.53}
"""Cosines at a false accept rate of 1e-3 (docs/deploying.md)."""
ATTEMPTS = 4
"""Decoys that an enrolment tries before it is refused."""
ONE_STEP = DecoyConfig(threshold=-1)  # compiles the same program
SYSTEM = "service"  # the name that the secrets of a store are derived for


def settings(system: System, protection: Protection) -> dict[str, Any]:
    """What a store is made for: items of other weights or another defence do not fit it."""
    return {"weights_sha256": system.card["sha256"], "protection": protection}


@dataclasses.dataclass(frozen=True)
class Decision:
    """``accepted``, and the enrolment that it is about (None: nobody)."""

    accepted: bool
    enrolment: Enrolment | None
    cosine: float


class Gate:
    """The server of Fig. 2 over an open ``Store``. Safe from several threads.

    A damaged enrolment counts as revoked: the audit log and the standard output name it.
    Raw features live for the length of a call, and embeddings of stored items in memory only.
    ``enrols`` says whether an enrolment's program is compiled; before, it compiles with the first.

    Args:
      system: the recogniser.
      store: opened with ``settings(system, protection)``.
      protection: decoys with a key, or AdvFace.
      threshold: the cosine from which on a probe is accepted.
      shadows: shadow recognisers of decoys.
      progress: called with how many enrolments have been read, and how many there are.
    """

    def __init__(
        self,
        system: System,
        store: Store,
        protection: Protection = "decoy",
        threshold: float | None = None,
        shadows: Sequence[Any] = (),
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self.system, self.store, self.protection = system, store, protection
        self.threshold = THRESHOLDS[protection] if threshold is None else threshold
        if not -1 < self.threshold < 1:
            raise ValueError(f"got threshold={threshold}; wanted a cosine, above -1 and below 1")
        self._lock, self.enrols = threading.RLock(), False
        self._defense, self._reader = None, system.server
        if protection == "decoy":
            pattern = keys.pattern(store.secret, SYSTEM, self.feature_shape)
            self._defense = defenses.decoy(
                recogniser=system.server,
                extractor=system.extractor,
                faces=decoy_faces.draw(store.secret, SYSTEM),
                pattern=pattern,
                shadows=shadows,
            )
            self._shadows, self._pattern = tuple(shadows), pattern
            self._reader = keyed(system.server, pattern)
        everyone = store.enrolments()
        self._people = {one.id: one for one in everyone}
        self._known: dict[str, np.ndarray] = {}
        for i, one in enumerate(everyone):
            progress(i, len(everyone))
            damaged = not one.generation
            if not one.revoked:
                try:
                    self._known[one.id] = self.embed(self.stored(one.id))
                except StoreError:  # the others are to be answered still
                    damaged = True
                    self._people[one.id] = dataclasses.replace(one, revoked=True)
            if damaged:
                store.record("open", one.id, "damaged: it counts as revoked")
                what = f"enrolment {one.id} is damaged and counts as revoked"
                print(f"error: {what}: restore a backup, or delete it", flush=True)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Of z, without the batch."""
        return self.system.feature.shape

    def features(self, images: np.ndarray) -> np.ndarray:
        """E: images (1,s,s,3) in [0,1] to z."""
        return np.asarray(_apply(self.system.extractor, jnp.asarray(images)))

    def embed(self, z: np.ndarray) -> np.ndarray:
        """What the store's own recogniser reads from z or an item (1, …): (e,)."""
        return np.asarray(_apply(self._reader, jnp.asarray(z)))[0]

    def warm(self, say: Callable[[str], None], more: Mapping[str, Callable[[], Any]]) -> None:
        """Compile what probes need, and ``more``, side by side, so that nobody waits for it."""
        image = np.full((1, *[self.system.image_size] * 2, 3), 0.5, np.float32)
        z = np.zeros((1, *self.feature_shape), np.float32)
        programs = {
            "E": lambda: self.features(image),
            "Ψ": lambda: self.embed(z),
            "R": lambda: self.thief(z),
            **more,
        }
        say(f"compiling {', '.join(programs)}")
        with ThreadPoolExecutor(len(programs)) as pool:
            for done in [pool.submit(run) for run in programs.values()]:
                done.result()

    def warm_enrolments(self, say: Callable[[str], None]) -> None:
        """Compile what an enrolment needs beyond that: the larger part. Then ``enrols`` is True."""
        say("compiling what an enrolment needs; probes are answered")
        z = jnp.zeros((1, *self.feature_shape), jnp.float32)
        self._protect(z, "warm", ONE_STEP)
        self.enrols = True

    def people(self) -> list[Enrolment]:
        with self._lock:
            return sorted(self._people.values(), key=lambda one: (one.name, one.id))

    def enrol(self, name: str, z: np.ndarray) -> Enrolment:
        """A new enrolment of z (1, …).

        Raises:
          ValueError: no decoy of ``ATTEMPTS`` stands for this face, or AdvFace makes of it what is
            not recognised.
        """
        return self._put(Enrolment(secrets.token_hex(16), 1, name, False), z, "enrol")

    def renew(self, id: str, z: np.ndarray) -> Enrolment:
        """An enrolment made anew from z, with another decoy; a revoked one is valid again.

        Raises:
          KeyError: no such enrolment.
          ValueError: as for ``enrol``, z is another face than the one enrolled, or the enrolment is
            damaged: its generation, which the next decoy follows from, is not known.
        """
        one = was = self._people[id]
        if not one.generation:
            raise ValueError("got a damaged enrolment; wanted it deleted, and the person enrolled")
        if not one.revoked and not self._alike(id, self.embed(z)) >= self.threshold:
            self.store.record("renew", id, "another face")
            raise ValueError("got another face than the one enrolled; wanted the same, or revoke")
        one = dataclasses.replace(one, generation=one.generation + 1, revoked=False)
        return self._put(one, z, "renew", was)

    def verify(self, id: str, z: np.ndarray) -> Decision:
        """Whether z (1, …) is who is enrolled as ``id``. KeyError: no such enrolment."""
        one = self._people[id]
        cosine = -1.0 if one.revoked else self._alike(id, self.embed(z))
        accepted = cosine >= self.threshold
        self.store.record("verify", id, "accepted" if accepted else "refused")
        return Decision(accepted, one, cosine)

    def identify(self, z: np.ndarray) -> Decision:
        """Who z (1, …) is, of all that are enrolled."""
        with self._lock:
            ids, known = list(self._known), list(self._known.values())
        cosines = np.stack(known) @ self.embed(z) if ids else np.full(1, -1.0)
        best = int(cosines.argmax())
        with self._lock:  # an enrolment that was erased since the comparison counts no more
            accepted = bool(cosines[best] >= self.threshold) and ids[best] in self._known
            one = self._people[ids[best]] if accepted else None
        self.store.record("identify", one and one.id, "accepted" if accepted else "nobody")
        return Decision(accepted, one, float(cosines[best]))

    def revoke(self, id: str) -> None:
        """Erase what is stored, keep the name. KeyError: no such enrolment."""
        with self._lock:
            self.store.revoke(id)
            self._known.pop(id, None)
            self._people[id] = dataclasses.replace(self._people[id], revoked=True)

    def delete(self, id: str) -> None:
        """Erase everything of an enrolment. KeyError: there is none."""
        with self._lock:
            self.store.delete(id)
            self._known.pop(id, None)
            del self._people[id]

    def stored(self, id: str) -> np.ndarray:
        """What is stored, opened: (1, …). KeyError: nothing is."""
        return self.store.item(id).reshape(1, *self.feature_shape)

    def thief(self, item: np.ndarray) -> np.ndarray:
        """What a thief's decoder R makes of items (1, …): uint8 images (1,s,s,3)."""
        images = _apply(self.system.attacker, jnp.asarray(item))
        return np.asarray(jnp.clip(jnp.round(255 * images), 0, 255)).astype(np.uint8)

    def _put(
        self, one: Enrolment, z: np.ndarray, event: str, was: Enrolment | None = None
    ) -> Enrolment:
        face, given = self.embed(z), jnp.asarray(z)
        least = DEFAULT.threshold if self.protection == "decoy" else self.threshold
        for attempt in range(ATTEMPTS if self.protection == "decoy" else 1):
            stored = self._protect(given, f"{one.id}/{one.generation}/{attempt}")
            stored = stored.astype(np.float16).astype(np.float32)
            embedding = self.embed(stored)
            if embedding @ face >= least - 0.002:  # half precision
                break
        else:
            outcome, why = {
                "decoy": ("no decoy stands for it", f"that {ATTEMPTS} decoys do not stand for"),
                "advface": ("not recognised", "that is not recognised once it is protected"),
            }[self.protection]
            self.store.record(event, None, outcome)
            raise ValueError(f"got a face {why}; wanted another photograph")
        with self._lock:
            if was is not None and self._people.get(one.id) != was:
                # Erased or renewed while the decoy was computed: what was erased stays erased.
                self.store.record(event, one.id, "changed meanwhile")
                if one.id not in self._people:
                    raise KeyError(one.id)
                raise ValueError("got an enrolment that was changed meanwhile; wanted it as it was")
            self.store.put(one, stored, event)
            self._people[one.id], self._known[one.id] = one, embedding
        return one

    def _protect(self, z: jax.Array, enrolment: str, config: DecoyConfig = DEFAULT) -> np.ndarray:
        if self._defense is None:
            how = {"extractor": self.system.extractor, "shadow": self.system.shadow}
            return np.asarray(protect(z, epsilon=defense.EPSILON, **how))
        key = keys.of_enrolments(self.store.secret, SYSTEM, [enrolment])
        start = decoys.start(self._defense, key)
        how = {"recogniser": self.system.server, "shadows": self._shadows, "config": config}
        made = protect_decoy(z, start, pattern=self._pattern, key=key, epsilon=EPSILON, **how)
        return np.asarray(made.stored)

    def _alike(self, id: str, embedding: np.ndarray) -> float:
        return float(self._known[id] @ embedding)


@jax.jit
def _apply(network: Any, x: jax.Array) -> jax.Array:
    return network(x)
