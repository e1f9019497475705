"""The type of every attack: what it knows, and what it may give."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advface_jax import attacks


def attack(run, reads: Any = "identity", knows: Any = ("extractor",)):
    return attacks.Attack("mine", knows, reads, run)


def test_batches_of_one_size_give_every_item_once():
    sizes = []

    def run(stored):
        sizes.append(len(stored))
        return stored / jnp.linalg.norm(stored, axis=1, keepdims=True)

    stored = np.random.default_rng(0).normal(size=(7, 5)).astype("f4")
    read = attack(run)(stored, batch=3)
    np.testing.assert_allclose(read, stored / np.linalg.norm(stored, axis=1)[:, None], rtol=1e-6)
    assert sizes == [3, 3, 3]


@pytest.mark.parametrize("knows", [("extractor",), ("start",)])
def test_only_a_batch_lies_on_the_device(knows):
    stored = np.ones((9, 3, 5, 7), "f4")  # a shape that nothing else has here

    def run(*given):
        held = [len(x) for x in jax.live_arrays() if x.shape[1:] == stored.shape[1:]]
        assert held == [2] * len(given)
        return jnp.eye(2)

    start = {"start": stored} if knows == ("start",) else {}
    assert attack(run, knows=knows)(stored, batch=2, **start).shape == (9, 2)
    stored[8, 0, 0, 0] = np.nan
    with pytest.raises(ValueError, match="got features z with NaN"):
        attack(lambda *given: jnp.eye(2), knows=knows)(stored, batch=2, **start)
    with pytest.raises(ValueError, match="dtype uint8; wanted float32"):
        attack(len)(np.ones((9, 3, 5, 7), np.uint8))


def test_pictures_are_pictures():
    stored = np.zeros((2, 5), "f4")
    assert attack(lambda s: np.zeros((len(s), 160, 160, 3), "f4"), "picture")(stored).shape[0] == 2
    for wrong in (
        lambda s: np.zeros((len(s), 80, 80, 3), "f4"),
        lambda s: np.zeros((len(s), 160, 160, 3)),
        lambda s: np.full((len(s), 160, 160, 3), 2, "f4"),
        lambda s: np.full((len(s), 160, 160, 3), np.nan, "f4"),
    ):
        with pytest.raises(ValueError, match="the attack mine gave .*wanted float32 pictures"):
            attack(wrong, "picture")(stored)


def test_embeddings_have_length_one():
    stored = np.ones((2, 5), "f4")
    for wrong in (
        lambda s: s,
        lambda s: s[:, 0],
        lambda s: s[:1] / np.sqrt(5),
        lambda s: s * np.nan,
    ):
        with pytest.raises(ValueError, match="the attack mine gave .*wanted float32 embeddings"):
            attack(wrong)(stored)
    with pytest.raises(ValueError, match="NaN or infinite"):
        attack(lambda s: s)(stored * np.inf)


def test_knowledge_has_its_words():
    with pytest.raises(ValueError, match="got knows of mine='psi'; wanted 'extractor', 'defense'"):
        attack(len, knows=("psi",))
    with pytest.raises(ValueError, match=r"got knows='key'; wanted a tuple: \('key',\)"):
        attack(len, knows="key")
    with pytest.raises(ValueError, match="got reads='name'; wanted 'picture' or 'identity'"):
        attack(len, reads="name")
