"""A bulk protection, set up from plain settings: the same in every process that takes part."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

import advface_jax
from advface_jax import checks, memory, sharding
from advface_jax.bulk import defenses, sources
from advface_jax.data.batches import Batch
from advface_jax.data.feature_sets import encoding, planning
from advface_jax.data.feature_sets.reading import FeatureSet
from advface_jax.data.feature_sets.shards import Fate
from advface_jax.defenses import Defense
from advface_jax.protect import PAPER, ProtectConfig

NOTICE = {
    defenses.ADVFACE: "Protected with AdvFace against decoders that do not know of it. Not private "
    "against an attacker who trains a decoder on features protected like these: see the README of "
    "advface_jax. The terms of the photographs' data set hold for these features too.",
    "none": "Unprotected features: a decoder makes the faces of them. The terms of the "
    "photographs' data set hold for these features too.",
}
OTHER = (
    "Protected with {}. Not private against an attacker who trains a decoder on features protected "
    "like these. The terms of the photographs' data set hold for these features too."
)
PRECISION = "highest"  # of products of matrices


@dataclass(frozen=True)
class Settings:
    """What a user asked for: plain values, so that another machine can do the same.

    Attributes are those of ``python -m advface_jax protect``; ``epsilon`` None is the defence's
    usual one.
    """

    source: str
    out: Path
    listing: Path | None = None
    where: dict[str, str] | None = None
    limit: int | None = None
    resize: bool = False
    crop: bool = False
    weights: str = "facenet-512-q8"
    shadow: str = "resrec"
    defense: str = defenses.ADVFACE
    epsilon: float | None = None
    config: ProtectConfig = PAPER
    dtype: encoding.Dtype = "bf16"
    labels: planning.Labels = "pseudonyms"
    names: bool = False
    batch: int = 16
    seed: int | None = None
    shard_size: int = 256
    workers: int = 2

    def check(self) -> None:
        """ValueError for what is wrong without a look at the data."""
        defenses.check(self.defense)
        checks.choice(self.dtype, "dtype", encoding.DTYPES)
        checks.choice(self.labels, "labels", ("none", "pseudonyms", "original"))
        if self.epsilon is not None:
            checks.bound(self.epsilon)
        limit = 1 if self.limit is None else self.limit
        checks.positive(batch=self.batch, shard_size=self.shard_size, limit=limit)
        planning.check(self.batch, self.shard_size, self.seed, self.workers)


class Job:
    """Settings with the networks and items that they name, and the compiled program.

    Attributes:
      settings: as asked for.
      items: what is protected.
      defense: with which defence.
      card: what the card of the set says.
      shape: of one stored feature.
      devices: of this process; each computes whole batches, so that a record does not depend on
        how many there are.
    """

    def __init__(self, settings: Settings, devices: Sequence[Any] | None = None):
        settings.check()
        self.settings = settings
        self.items = sources.open_items(
            settings.source,
            crop=settings.crop,
            limit=settings.limit,
            listing=settings.listing,
            where=settings.where,
            resize=settings.resize,
        )
        self.system = advface_jax.load(settings.weights)
        self.defense, networks = defenses.build(
            settings.defense, self.system, shadow=settings.shadow, config=settings.config
        )
        self._check_fit()
        self.card = self._card(networks)
        self.devices = list(jax.local_devices() if devices is None else devices)
        bound = np.float32(self.epsilon) if self.defense.takes_epsilon else None
        self._networks = bound, self.system.extractor, self.defense
        self.shape = self._shape()

    @property
    def epsilon(self) -> float:
        """The bound in force, of a defence that has one."""
        asked = self.settings.epsilon
        return self.defense.usual if asked is None else asked

    @property
    def on_accelerator(self) -> bool:
        return self.devices[0].platform != "cpu"

    def step(self, one: Batch, device: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """The ``running.Step`` of this job."""
        return self.compute(one, self.writing.keys(one.indices), device)

    def compute(
        self, one: Batch, keys: np.ndarray, device: int
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """``step`` with the items' keys, (b, 2)."""
        given = one.values, one.mask.astype(np.float32), keys
        place = self.devices[device]
        fate, parts = self.programs[device](*jax.device_put(given, place), *self._at(device))
        return np.asarray(fate), [np.asarray(part) for part in parts]

    def compile(self) -> None:
        """Compile the program for all devices; ValueError if it does not fit into their memory.

        Each device has a program of its own: one program for all of them would be another one for
        another number of devices, and round differently.
        """
        self.programs  # noqa: B018

    @functools.cached_property
    def programs(self) -> list[jax.stages.Compiled]:
        with ThreadPoolExecutor(min(8, len(self.devices))) as pool:
            programs = list(
                pool.map(lambda i: self._lowered(i).compile(), range(len(self.devices)))
            )
        memory.check(programs[0], self.settings.batch, devices=len(self.devices))
        return programs

    writing: planning.Writing

    def begin(self) -> planning.Writing | None:
        """The set in the folder, new or begun; None if it is finished."""
        writing = planning.begin(
            self.settings.out,
            self.items,
            settings=self.card,
            shard_size=self.settings.shard_size,
            shape=self.shape,
        )
        if writing is not None:
            self.writing = writing
        return writing

    def traced(self) -> Any:
        """The program's jaxpr for one device: to count its operations."""
        with jax.default_matmul_precision(PRECISION):
            return jax.make_jaxpr(functools.partial(_one, **self._static))(
                *self._arguments(self.settings.batch), *self._networks
            )

    def _lowered(self, device: int) -> jax.stages.Lowered:
        place = SingleDeviceSharding(self.devices[device])
        arguments = self._arguments(self.settings.batch, place)
        with jax.default_matmul_precision(PRECISION), sharding.alone():
            return _program.lower(*arguments, *self._at(device), **self._static)

    @functools.lru_cache  # noqa: B019 a process has one job
    def _at(self, device: int) -> Any:
        """The networks on a device."""
        return jax.device_put(self._networks, self.devices[device])

    @property
    def _static(self) -> dict[str, Any]:
        return {"dtype": self.settings.dtype, "size": self.system.image_size}

    @property
    def item(self) -> jax.ShapeDtypeStruct:
        """What one item is on its way to the device."""
        if isinstance(self.items, FeatureSet):
            return jax.ShapeDtypeStruct(self.items.shape, np.float32)
        return jax.ShapeDtypeStruct((160, 160, 3), np.uint8)

    def _arguments(self, n: int, place: Any = None) -> tuple[jax.ShapeDtypeStruct, ...]:
        shapes = (self.item.shape, self.item.dtype), ((), np.float32), ((2,), np.uint32)
        return tuple(jax.ShapeDtypeStruct((n, *s), d, sharding=place) for s, d in shapes)

    def _shape(self) -> tuple[int, ...]:
        program = functools.partial(_one, **self._static)
        _, parts = jax.eval_shape(program, *self._arguments(self.settings.batch), *self._networks)
        return parts[-1].shape[1:]

    def _check_fit(self) -> None:
        if self.settings.epsilon is not None and not self.defense.takes_epsilon:
            raise ValueError(
                f"got --epsilon {self.settings.epsilon} for {self.settings.defense}, which has no "
                "noise bound; wanted none"
            )
        if not isinstance(self.items, FeatureSet):
            return
        card, source = self.items.card, self.settings.source
        if card.get("defense") != "none":
            raise ValueError(
                f"{source} holds features that are protected already; wanted pictures, or features "
                "of --defense none"
            )
        if card.get("weights_sha256") != self.system.features_sha256:
            raise ValueError(
                f"{source} holds features of {card.get('weights')}; wanted those of "
                f"{self.settings.weights}: give its --weights"
            )
        if self.defense.takes is not None:
            raise ValueError(
                f"got {source}, a set of features, for {self.settings.defense}, which takes "
                "images; wanted pictures"
            )

    def _card(self, networks: dict[str, Any]) -> dict[str, Any]:
        s, name = self.settings, self.settings.defense
        attack = dataclasses.asdict(s.config) if name == defenses.ADVFACE else {}
        versions = {"advface_jax": advface_jax.__version__, "jax": jax.__version__}
        # Only where they are set: sets without them were begun before their cards had these.
        pictures = {name: True for name in ("crop", "resize") if getattr(s, name)}
        return {
            "notice": NOTICE.get(name) or OTHER.format(self.defense.name),
            **({"epsilon": self.epsilon} if self.defense.takes_epsilon else {}),
            **attack,
            "weights": self.system.card["source"],
            "weights_sha256": self.system.features_sha256,
            **networks,
            "versions": versions,
            **{"dtype": s.dtype, "labels": s.labels, "names": s.names, "seed": s.seed},
            "batch": s.batch,
            **pictures,
        }


def _one(values, mask, keys, epsilon, extractor, defense: Defense, *, dtype: str, size: int):
    """Items to (their ``shards.Fate`` (b,), the arrays of their records), on one device."""
    client = values.astype(jnp.float32)
    if values.dtype == jnp.uint8:
        client = client / 255
        if defense.takes is None:
            if size != client.shape[1]:
                client = jax.image.resize(client, (len(client), size, size, 3), "linear")
            client = extractor(client)
    key = jax.random.wrap_key_data(keys, impl="threefry2x32") if defense.takes_key else None
    stored = defense(client, key=key, epsilon=epsilon, mask=mask)
    finite = jnp.isfinite(stored).all(tuple(range(1, stored.ndim)))
    recognised = defense.recognised(client, stored)
    fate = jnp.where(finite, jnp.where(recognised, Fate.KEPT, Fate.REFUSED), Fate.NOT_FINITE)
    return fate, encoding.encode(stored, dtype, jnp)


_program = functools.partial(jax.jit, static_argnames=("dtype", "size"))(_one)
