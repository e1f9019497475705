"""S and R of a table: by kind or by file, with what is known of their training."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

import advface_jax
from advface_jax import networks
from advface_jax.models import decoders, state
from advface_jax.system import OWN, Role

KIND_NAMES = {"transrec": "TransRec", "resrec": "ResRec", "urec": "URec"}


class Models(NamedTuple):
    """Ψ(E(·)), the server's S, the attacker's R."""

    network: Any
    shadow: Any
    attacker: Any

    @property
    def kinds(self) -> tuple[str, str]:
        return _kind(self.shadow), _kind(self.attacker)


def _kind(one: Any) -> str:
    return one.config.kind if isinstance(one, decoders.Decoder) else OWN


def models(system: advface_jax.System, shadow: str, attacker: str) -> Models:
    """The networks, with S and R by kind or by file. Errors as for ``System.decoder``."""
    return Models(
        system.network, decoder(system, shadow, "shadow"), decoder(system, attacker, "attacker")
    )


class Trained(NamedTuple):
    """A decoder with what is known of its training."""

    decoder: decoders.Decoder
    role: Role
    file: Path
    seed: int | None  # of its training, if its card has one
    name: str  # in a table: its kind, and what is different from others of that kind

    @property
    def kind(self) -> str:
        return self.decoder.config.kind

    def card(self) -> dict[str, Any]:
        """For the settings of a results file."""
        return {
            "name": self.name,
            "kind": self.kind,
            "seed": self.seed,
            "file": self.file.name,
            "sha256": digest(self.decoder),
        }


def trained(system: advface_jax.System, sources: Sequence[str], role: Role) -> tuple[Trained, ...]:
    """Several decoders of one role, by kind or by file, under names that differ.

    Raises:
      ValueError: No source, one given twice, or as for ``System.decoder``.
    """
    if not sources:
        raise ValueError(f"got no {role}; wanted at least one: a kind or a .safetensors file")
    found = []
    for source in sources:
        one, path = decoder(system, source, role), file(system, source, role)
        card = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        seed = card.get("train", {}).get("seed")
        found.append(Trained(one, role, path, seed, KIND_NAMES[one.config.kind]))
    sums = [digest(one.decoder) for one in found]
    if twice := [s for s, d in zip(sources, sums, strict=True) if sums.count(d) > 1]:
        raise ValueError(
            f"got {', '.join(twice)} for {role}s, which are one decoder; wanted others"
        )
    distinctions = (
        lambda one: f"seed {one.seed}",
        lambda one: one.file.absolute().parent.name,
        lambda one: one.file.stem,
    )
    for by in distinctions:
        names = [one.name for one in found]
        found = [
            one._replace(name=f"{one.name}, {by(one)}") if names.count(one.name) > 1 else one
            for one in found
        ]
    return tuple(found)


def provenance(
    system: advface_jax.System, models: Models, shadow: str, attacker: str
) -> dict[str, Any]:
    """Which networks these are, for the settings of a results file."""
    return {
        **of_system(system),
        "shadow": Path(shadow).stem,
        "shadow_sha256": digest(models.shadow),
        "attacker": Path(attacker).stem,
        "attacker_sha256": digest(models.attacker),
    }


def of_system(system: advface_jax.System) -> dict[str, Any]:
    """Which recogniser this is, for the settings of a results file."""
    return {"weights": system.card["source"], "weights_sha256": system.card["sha256"]}


def decoder(system: advface_jax.System, source: str, role: Role) -> decoders.Decoder:
    """One decoder, by kind or by file. Errors as for ``System.decoder`` and ``read_decoder``."""
    if source in system.kinds:
        return system.decoder(source, role)
    decoders.check_sources(source)
    if source in decoders.KINDS:
        return system.decoder(source, role)
    return system.read_decoder(source)


def file(system: advface_jax.System, source: str, role: Role) -> Path:
    """Its file."""
    return system.decoder_file(source, role) if source in decoders.KINDS else Path(source)


def identities(system: advface_jax.System, source: str, role: Role) -> Path:
    """The list of the people in that decoder's training, which may be missing."""
    return file(system, source, role).with_suffix(".identities")


def lists(system: advface_jax.System, shadow: str, attacker: str) -> dict[str, Path]:
    """``identities`` of S and R, for ``inputs.seen_in_training``."""
    return {
        "shadow": identities(system, shadow, "shadow"),
        "attacker": identities(system, attacker, "attacker"),
    }


def digest(network: Any) -> str:
    """The sum of a network's weights."""
    if not isinstance(network, nnx.Module):
        return networks.digest(network)
    arrays = state.flatten(network)
    return hashlib.sha256(
        b"".join(np.asarray(arrays[k]).tobytes() for k in sorted(arrays))
    ).hexdigest()
