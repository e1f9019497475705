"""Where the ascent starts: at z~, as the paper says, or a nudge beside the client's z."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import filled
from reference import weights

from advface_jax import ProtectConfig, defenses, gradient, pgd, protect, shadow_round_trip
from advface_jax.models import decoders, facenet
from advface_jax.protect import NUDGE, _protect, ascent, protect_sweep

METHODS = ("pgd", "fgsm", "mifgsm")


@pytest.fixture(scope="module")
def networks():
    config = decoders.DecoderConfig("transrec", width=4, depth=0)
    return {
        "extractor": filled(lambda: facenet.Extractor(rngs=nnx.Rngs(0)), 5),
        "shadow": filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), 7),
    }


@pytest.fixture(scope="module")
def z(networks) -> jax.Array:
    return jax.jit(lambda e, x: e(x))(networks["extractor"], weights.images(1, 2))


def furthest(a, b) -> float:
    """|a - b| without rounding."""
    return float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())


@pytest.mark.parametrize("method", METHODS)
def test_the_ball_stands_around_z_and_the_shadow_picture_moves(method, networks, z):
    config = ProtectConfig(steps=2, method=method, start="z")
    np.testing.assert_array_equal(protect(z, **networks, epsilon=0.0, config=config), z)
    z_adv = protect(z, **networks, epsilon=0.2, config=config)
    moved = np.abs(np.asarray(z_adv) - np.asarray(z))
    assert furthest(z_adv, z) <= float(np.float32(0.2)) and (moved > 0.19).mean() > 0.4
    x_tilde, z_tilde = shadow_round_trip(z, **networks)
    assert furthest(z_adv, z_tilde) > 0.3, "z and z~ are one here: this tests nothing"
    image, _ = shadow_round_trip(z_adv, **networks)
    assert float(jnp.abs(image - x_tilde).mean()) > 0.01
    again = protect(z, **networks, epsilon=0.2, config=config)
    np.testing.assert_array_equal(again, z_adv)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_the_bound_holds_in_half_precision(dtype, networks, z):
    config = ProtectConfig(steps=2, start="z")
    half = z.astype(dtype)
    z_adv = protect(half, **networks, epsilon=0.1, config=config)
    assert z_adv.dtype == dtype and 0.09 < furthest(z_adv, half) <= float(np.float32(0.1))


def test_the_ascent_begins_a_hundredth_beside_z(networks, z):
    """Steps too small to count leave the beginning; its signs are the same for both faces."""
    config = ProtectConfig(steps=1, alpha=1e-9, start="z")
    away = np.asarray(protect(z, **networks, epsilon=0.2, config=config)) - np.asarray(z)
    np.testing.assert_allclose(np.abs(away), NUDGE * 0.2, atol=1e-6)
    np.testing.assert_array_equal(np.sign(away[0]), np.sign(away[1]))
    assert abs(np.sign(away).mean()) < 0.01
    # there the gradient is of some size; at z itself it would be the roundings of S(z) - x~
    x_tilde, _ = shadow_round_trip(z, **networks)
    uphill = ascent(networks["shadow"], x_tilde, "batch", None)
    assert float(jnp.abs(uphill(z + jnp.asarray(away))).mean()) > 1e-3


def test_the_sweep_and_the_defence_start_there_too(networks, z):
    config = ProtectConfig(steps=2, start="z")
    one = protect(z, **networks, epsilon=0.1, config=config)
    programs = _protect._cache_size()  # type: ignore[attr-defined]
    protect(z, **networks, epsilon=0.05, config=config)
    assert _protect._cache_size() == programs  # type: ignore[attr-defined]
    swept = protect_sweep(z, [0.0, 0.1], **networks, config=config)
    np.testing.assert_array_equal(swept[0], z)
    stored = defenses.advface(**networks, config=config)(z, epsilon=0.1)
    for other in (swept[1], stored):  # another program rounds differently: a few signs turn
        assert float((jnp.abs(other - one) < 1e-3).mean()) > 0.98


def test_a_start_is_taken_into_the_ball_and_continues_what_was_begun():
    z0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 50)), jnp.float32)

    def wavy(z):
        return jnp.sin(9 * z).sum()

    two, three, five = (gradient.PGDConfig(steps=n, alpha=0.03) for n in (2, 3, 5))
    halfway = pgd(wavy, z0, 0.1, two)
    np.testing.assert_array_equal(pgd(wavy, z0, 0.1, three, halfway), pgd(wavy, z0, 0.1, five))
    for method in (gradient.pgd, gradient.fgsm, gradient.mifgsm):
        far = method(lambda z: 0 * z.sum(), z0, 0.1, start=z0 + 5)
        assert 0.0999 < furthest(far, z0) <= float(np.float32(0.1))
        for misfit in (z0[:1], z0.astype(jnp.float16), jnp.zeros(())):
            with pytest.raises(ValueError, match="^got a start of shape .*; wanted those of z0"):
                method(wavy, z0, 0.1, start=misfit)


def test_another_start_is_refused():
    with pytest.raises(ValueError, match="^got start='x'; wanted 'z_tilde' or 'z'"):
        ProtectConfig(start="x")  # type: ignore[arg-type]
