"""A packaged set of protected features as a training set: its labels, protection and pictures."""

import dataclasses
from collections import Counter
from pathlib import Path

import advface_jax
from advface_jax import ProtectConfig, data
from advface_jax.data.feature_sets.reading import file_sum
from experiments.measure import decoders


def features_with_labels(system: advface_jax.System, folder: Path) -> data.FeatureSet:
    """A set of this E's features with a label each."""
    found = data.open_features(folder)
    if not found.identities:
        raise ValueError(
            f"{folder} was written without labels, which a training needs: make it with `python -m "
            "advface_jax features … --labels pseudonyms` (or original)"
        )
    if found.card.get("weights_sha256") != system.features_sha256:
        raise ValueError(
            f"{folder} holds features of {found.card.get('weights')}; these weights are "
            f"{system.card['source']}: give --weights {found.card.get('weights')}"
        )
    return found


def protection(found: data.FeatureSet) -> tuple[ProtectConfig, float]:
    """How a set was protected according to its card, and its ε."""
    names = {field.name for field in dataclasses.fields(ProtectConfig)}
    try:
        how = ProtectConfig(**{k: v for k, v in found.card.items() if k in names})
        return how, float(found.card["epsilon"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the card of {found.folder} does not say how it was protected ({error}): copy the set "
            "again"
        ) from error


def same_shadow(system: advface_jax.System, found: data.FeatureSet, shadow: str) -> None:
    """Refuse (ValueError) an S other than that of the set."""
    file = decoders.file(system, shadow, "shadow")
    if file_sum(file) != found.card.get("shadow_sha256"):
        raise ValueError(
            f"{found.folder} was protected with another S than {shadow}: give it with --shadow, so "
            "that the measured faces are protected in the same way"
        )


def same_faces(found: data.FeatureSet, crops: data.Faces) -> None:
    """Refuse (ValueError) other faces than the set's, which has no names: by faces per person."""
    ours, theirs = Counter(found.identities), Counter(crops.identities)
    alike = sorted(ours.values()) == sorted(theirs.values())
    if not alike or (found.card.get("labels") == "original" and ours != theirs):
        raise ValueError(
            f"{found.folder} has {len(found)} features of {len(ours)} people and --faces give "
            f"{len(crops)} of {len(theirs)}; wanted the same faces: give the --listing and --where "
            "that the set was made with"
        )
