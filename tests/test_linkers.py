"""Linkers: they find the directions of people, and read people whom they have not seen."""

import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flat import promotion  # noqa: F401

from advface_jax import attacks
from advface_jax.attacks import linkers
from advface_jax.training import finetune


def items(people: int, each: int, seed: int, shape=(8, 8, 4), noise: float = 3.0):
    """Items (n, *shape) of people who differ in a few directions, under strong noise in others."""
    basis = np.random.default_rng(0).normal(size=(12, int(np.prod(shape))))
    rng = np.random.default_rng(seed)
    who = rng.normal(size=(people, 4)).repeat(each, 0)
    x = who @ basis[:4] + noise * rng.normal(size=(people * each, 8)) @ basis[4:]
    return x.reshape(-1, *shape).astype("f4"), [f"p{i}" for i in range(people) for _ in range(each)]


def rank1(read: np.ndarray, names: list[str]) -> float:
    near = read @ read.T - 9 * np.eye(len(read))
    return float(np.mean(np.array(names)[near.argmax(1)] == np.array(names)))


def test_fishers_directions_read_people_not_seen_before():
    stored, names = items(30, 6, seed=1)
    other, theirs = items(20, 4, seed=2)
    attack = linkers.fisher("linear", stored, names, pool=1, shrink=0.01)
    flat = other.reshape(len(other), -1)
    assert rank1(flat / np.linalg.norm(flat, axis=1, keepdims=True), theirs) < 0.3
    assert rank1(attack(other), theirs) > 0.9
    assert attack.knows == ("names",) and attack.cost["items"] == 180


def test_a_ridge_reads_the_embeddings_it_was_given():
    stored, _ = items(60, 1, seed=1)
    true = np.random.default_rng(3).normal(size=(256, 5)).astype("f4")

    def embed(x):
        return x.reshape(len(x), -1) @ true

    attack = linkers.regressed("ridge", stored, embed(stored), ("extractor",), pool=1, ridge=1e-6)
    other, _ = items(9, 1, seed=2)
    wanted = embed(other) - embed(stored).mean(0)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    np.testing.assert_allclose((attack(other) * wanted).sum(1), 1, atol=1e-3)


def test_pooling_averages_places():
    z = jnp.asarray(np.arange(2 * 5 * 4 * 1, dtype="f4").reshape(2, 5, 4, 1))
    net = linkers.Linear(jnp.zeros(4), jnp.eye(4), 2)
    np.testing.assert_allclose(net(z)[0], [2.5, 4.5, 10.5, 12.5])


SHORT = finetune.FinetuneConfig(
    classifier_epochs=2, epochs=3, learning_rate=1e-2, people=4, images=2, flip=False
)


def test_training_on_names_teaches_a_network_and_leaves_the_given_one():
    stored, names = items(8, 4, seed=1, shape=(77, 77, 64), noise=1.0)
    server = networks.filled(lambda: networks.Small(rngs=networks.nnx.Rngs(0))).server
    before = attacks.reading.read("before", server, ("public recogniser",))(stored)
    attack = linkers.tuned("tuned", server, stored, names, ("names",), config=SHORT)
    after = attack(stored)
    assert attack.cost["people"] == 8 and attack.cost["epochs"] == 3
    assert rank1(after, names) > rank1(before, names)
    np.testing.assert_allclose(server(jnp.asarray(stored[:2])), before[:2], atol=1e-6)
    again = linkers.tuned("t", server, stored, names, ("names",), config=SHORT)(stored)
    np.testing.assert_array_equal(again, after)


def test_what_does_not_fit_is_refused():
    stored, names = items(4, 2, seed=1)
    for wrong, message in (
        (names[:3], "got 3 names for 8 stored items"),
        (["a"] * 8, "got 8 items of 1 people"),
        (list("abcdefgh"), "got 8 items of 8 people"),
    ):
        with pytest.raises(ValueError, match=message):
            linkers.fisher("linear", stored, wrong, pool=2)
    with pytest.raises(ValueError, match="got shrink=0"):
        linkers.fisher("linear", stored, names, pool=2, shrink=0)
    with pytest.raises(ValueError, match="wanted .* 9 or more across"):
        linkers.fisher("linear", stored, names, pool=9)
    with pytest.raises(ValueError, match=r"got embeddings of shape \(3, 2\); wanted \(8, e\)"):
        linkers.regressed("ridge", stored, np.zeros((3, 2)), ())
    with pytest.raises(ValueError, match="give more faces or a smaller batch"):
        linkers.convolutional("conv", np.zeros((8, 77, 77, 64), "f4"), names)
