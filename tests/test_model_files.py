"""A trained network's two files: each way to name them, and what is said where they are others."""

import json
import os

import numpy as np
import pytest
from flax import nnx

from advface_jax.models import files

CARD = {"weights_sha256": "00", "size": 3}


@pytest.fixture
def written(tmp_path):
    path = tmp_path / "new" / "one.v2.safetensors"
    files.write(path, nnx.Linear(2, 3, rngs=nnx.Rngs(0)), CARD, "float32")
    return path


def read(path):
    return files.read(path, "decoder", lambda card: card["size"])


@pytest.mark.parametrize("name", ["one.v2.safetensors", "one.v2.json", "one.v2", "", "~/"])
def test_each_way_to_name_it(name, written, monkeypatch):
    monkeypatch.setenv("HOME", str(written.parent))
    monkeypatch.setenv("USERPROFILE", str(written.parent))
    arrays, card, size = read(name if name.startswith("~") else written.parent / name)
    assert (card["dtype"], size) == ("float32", 3)
    np.testing.assert_array_equal(arrays["bias"], np.zeros(3))


def test_a_recognisers_checkpoint_is_no_decoder(tmp_path):
    (tmp_path / "card.json").touch()
    with pytest.raises(ValueError, match="recogniser's checkpoint .*wanted NAME.safetensors"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("card", "complaint"),
    [
        ("[" * 200_000 + "]" * 200_000, "is damaged"),
        ("[1, 2]", "is damaged .*it holds list"),
        (json.dumps({"weights_sha256": "00"}), "is no decoder of ours: its card lacks 'size'"),
        (json.dumps({"size": 3}), "is no decoder of ours: its card lacks 'weights_sha256'"),
    ],
)
def test_other_cards_are_refused(card, complaint, written):
    written.with_suffix(".json").write_text(card)
    with pytest.raises(ValueError, match=complaint):
        read(written)


def test_no_permission_is_no_damage(written, monkeypatch):
    def locked(path, flags):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", locked)
    with pytest.raises(PermissionError):
        read(written)
