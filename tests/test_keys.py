"""Secrets: HKDF, what follows from one and what does not, the pattern's distribution, bad input."""

import hashlib
import hmac

import jax
import numpy as np
import pytest

pytest.importorskip("cryptography")

from advface_jax import decoy_faces, keys  # noqa: E402

SECRET = bytes(range(32))


def test_derive_is_hkdf():
    names = (b"advface_jax decoy", b"door", b"decoy", b"7")
    info = b"".join(len(name).to_bytes(4, "big") + name for name in names)
    extracted = hmac.new(bytes(32), SECRET, hashlib.sha256).digest()  # RFC 5869
    expanded = hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()
    assert keys.derive(SECRET, "door", "decoy", "7") == expanded


def test_every_name_makes_another_secret():
    made = {
        keys.derive(secret, *names)
        for secret in (SECRET, SECRET[::-1])
        for names in (("ab", "c"), ("a", "bc"), ("abc",), ("a", "b", "c"))
    }
    assert len(made) == 8


def test_a_pattern_is_gaussian_and_follows_from_secret_and_system():
    one = keys.pattern(SECRET, "door")
    assert one.shape == (77, 77, 64) and one.dtype == np.float32
    np.testing.assert_array_equal(one, keys.pattern(SECRET, "door"))
    n = one.size
    assert abs(one.mean()) < 5 * 0.3 / n**0.5
    np.testing.assert_allclose(one.std(), 0.3, rtol=5 / (2 * n) ** 0.5)
    np.testing.assert_allclose((np.abs(one) < 0.3).mean(), 0.6827, atol=4e-3)
    assert np.abs(one).max() > 4 * 0.3
    for other in (keys.pattern(SECRET, "gate"), keys.pattern(SECRET[::-1], "door")):
        assert abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < 5 / n**0.5
    assert abs(np.corrcoef(one.ravel()[:-1], one.ravel()[1:])[0, 1]) < 5 / n**0.5
    np.testing.assert_allclose(keys.pattern(SECRET, "door", (3, 2), 0.6).std(), 0.6, rtol=0.9)


def test_an_enrolments_key_does_not_depend_on_the_others():
    both = keys.of_enrolments(SECRET, "door", ["anna 1", "bert 1"])
    alone = keys.of_enrolments(SECRET, "door", ["bert 1"])
    data = np.asarray(jax.random.key_data(both))
    np.testing.assert_array_equal(data[1:], jax.random.key_data(alone))
    again = keys.of_enrolments(SECRET, "door", ["anna 2"])
    assert (data[0] != np.asarray(jax.random.key_data(again))[0]).any()
    jax.random.normal(both[0])  # a key that JAX takes


def test_faces_are_drawn_from_the_secret():
    one = decoy_faces.draw(SECRET, "door", 2)
    assert one.shape == (2, 160, 160, 3) and one.dtype == np.float32
    assert 0 <= one.min() < 0.3 < 0.6 < one.max() <= 1
    np.testing.assert_array_equal(one, decoy_faces.draw(SECRET, "door", 2))
    assert (decoy_faces.draw(SECRET, "gate", 1)[0] != one[0]).mean() > 0.5


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: keys.derive(b"short", "a"), "a secret of 5 bytes; wanted 32 random bytes"),
        (lambda: keys.derive("x" * 32, "a"), "a secret of str; wanted"),  # type: ignore[arg-type]
        (lambda: keys.derive(SECRET), "wanted text: the system"),
        (lambda: keys.pattern(SECRET, "a", (3, 0)), r"shape\[1\]=0"),
        (lambda: keys.pattern(SECRET, "a", deviation=0), "deviation=0"),
        (lambda: keys.pattern(SECRET, "a", shape=()), r"shape=\(\)"),
        (lambda: keys.of_enrolments(SECRET, "a", []), "0 enrolments"),
        (lambda: keys.of_enrolments(SECRET, "a", ["x", "x"]), "not all distinct"),
        (lambda: decoy_faces.draw(SECRET, "a", 0), "faces=0"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
