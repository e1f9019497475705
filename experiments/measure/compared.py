"""The defences that the tables compare, each with the network that recognises what it stores."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from advface_jax import ProtectConfig, defenses, sharding
from advface_jax.attacks import reading
from advface_jax.defenses import Defense, decoys
from experiments.measure import decoders
from experiments.measure.judging import Servers, keys_of
from experiments.measure.kept import batches

METHODS = ("pgd", "fgsm", "mifgsm")


def of_features(models: decoders.Models, config: ProtectConfig) -> tuple[Defense, ...]:
    """The rows that a feature's defence gives, with the paper's one ``config`` by every method."""
    networks: dict[str, Any] = {"extractor": models.network.extractor, "shadow": models.shadow}
    return (
        defenses.ball(config.steps),
        defenses.walk(config.steps),
        defenses.laplace(),
        *(
            defenses.advface(**networks, config=dataclasses.replace(config, method=method))
            for method in METHODS
        ),
    )


Store = Callable[[Any, jax.Array, Any], tuple[Any, Any]]


@dataclasses.dataclass(frozen=True)
class Case:
    """A defence as it is attacked.

    Attributes:
      name: In a table.
      store: (item (b,…), keys (b,), mask (b,)) -> what a thief of the database has, and what the
        server compares: the same arrays, unless the server has a secret beside the database.
      recognise: What the server compares, and the images -> embeddings (b,e).
      client: images -> the item.
      defense: For attackers who have its code; None where no code helps.
      epsilon: The bound; None without one.
      probe: The item of an undefended photograph -> what the server compares of it; None: itself.
      imitation: ``defense`` by an attacker who has the code and not the secret; None without one.
      cost: Plain facts, such as milliseconds an item.
    """

    name: str
    store: Store
    recognise: Callable[[Any, Any], Any]
    client: Callable[[Any], Any]
    defense: Defense | None = None
    epsilon: float | None = None
    probe: Callable[[Any], Any] | None = None
    imitation: Defense | None = None
    cost: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def imitated(self) -> Store | None:
        """``store`` by ``imitation``."""
        return self.imitation and storing(self.imitation, self.epsilon)

    @property
    def starts(self) -> bool:
        """Whether a thief may learn where every item started from: it is a secret decoy."""
        return bool(self.defense and decoys.made_by(self.defense))

    @property
    def private(self) -> bool:
        """Whether a key decides who recognises what is stored."""
        return bool(self.defense and self.defense.private)

    def shown(self, images: Any) -> Any:
        """What the server makes of photographs, which no defence touched: embeddings (b,e)."""
        item = called(self.client, images)
        return self.recognise(self.probe(item) if self.probe else item, images)


def case(defense: Defense, network: Any, epsilon: float, imitation: Defense | None = None) -> Case:
    """A defence of E's features that Ψ recognises, or its private recogniser; ``imitation`` is
    the same with an attacker's own secrets."""
    bound = epsilon if defense.takes_epsilon else None
    own = functools.partial(called, Servers((defense.server(network.server),)))
    return Case(
        defense.name,
        storing(defense, bound),
        own if defense.private else recognised_by(network.server),
        network.extractor,
        defense,
        bound,
        imitation=imitation,
    )


def storing(defense: Defense, epsilon: float | None) -> Store:
    """A defence whose stored items are all that the server compares."""

    def store(z: Any, keys: jax.Array, mask: Any) -> tuple[Any, Any]:
        stored = defense(z, key=keys, epsilon=epsilon, mask=mask)
        return stored, stored

    return store


def recognised_by(server: Any) -> Callable[[Any, Any], Any]:
    """What Ψ makes of what is stored, by the same program as an attack that reads with Ψ."""
    read = reading.read("server", server, ("recogniser",))
    return lambda stored, images: read.run(stored)


@jax.jit
def called(network: Any, *given: jax.Array) -> jax.Array:
    """A network as an argument of the compiled program."""
    return network(*given)


def protected(store: Store, items: np.ndarray, seed: int, batch: int) -> np.ndarray:
    """What a thief has of public items (n,…), float16, by keys of ``seed``."""
    parts, mesh = [], sharding.across(batch)
    for _, real, chosen, mask in batches(len(items), batch):
        given = items[chosen].astype(np.float32), keys_of(seed, chosen), mask
        stored, _ = store(*sharding.split(given, mesh))
        parts.append(np.asarray(stored)[:real].astype(np.float16))
    return np.concatenate(parts)
