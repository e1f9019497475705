"""The stitch: a known linear map is found again; a sibling reads what a recogniser reads."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest

from advface_jax import attacks


def features(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("f4")


def test_a_linear_map_of_patches_is_found_again(full_float32):
    true = attacks.Stitch(jnp.asarray(features(0, 3, 3, 4, 5)), jnp.arange(5.0), None, False)
    z = features(1, 11, 9, 8, 4)  # two batches, the last one smaller
    found = attacks.stitch(z, true(jnp.asarray(z)), ridge=1e-9)
    np.testing.assert_allclose(found.kernel, true.kernel, atol=1e-4)
    np.testing.assert_allclose(found.bias, true.bias, atol=1e-4)
    assert not found.rectify
    other = features(2, 3, 9, 8, 4)
    assert attacks.explained(found, other, true(jnp.asarray(other))) > 0.99999


def test_a_target_without_negative_values_gives_a_stitch_without():
    z = features(1, 4, 7, 7, 2)
    found = attacks.stitch(z, np.maximum(z[..., :1], 0))
    assert found.rectify and float(found(jnp.asarray(z)).min()) == 0


def test_another_grid_samples_z_there():
    ramp = np.broadcast_to(np.arange(10.0, dtype="f4")[:, None, None], (1, 10, 6, 1))
    z = np.concatenate([ramp, features(0, 1, 10, 6, 1)], -1)
    rows, columns = np.array([-3, 2.5, 4, 20]), np.array([0.0, 1, 2])
    wanted = np.broadcast_to(np.array([0, 2.5, 4, 9], "f4")[:, None, None], (1, 4, 3, 1))
    found = attacks.stitch(z, wanted, patch=1, ridge=1e-9, grid=(rows, columns))
    np.testing.assert_allclose(found(jnp.asarray(z)), wanted, atol=1e-3)
    halves = attacks.stitch(ramp, ramp[:, ::2] + 0.5, patch=1, ridge=1e-9)  # evenly, without one
    np.testing.assert_allclose(halves(jnp.asarray(ramp)), ramp[:, ::2] + 0.5, atol=1e-3)


def test_a_sibling_reads_what_its_recogniser_reads():
    extractor = networks.small_extractor()
    public = networks.filled(lambda: networks.Small(rngs=networks.nnx.Rngs(0))).server
    faces = np.random.default_rng(0).uniform(size=(6, 160, 160, 3)).astype("f4")
    z = extractor(jnp.asarray(faces))
    mixed = z[..., ::-1] @ jnp.asarray(np.eye(64, dtype="f4") * 2)  # the public one's own features
    stitch = attacks.stitch(z, mixed, patch=1, ridge=1e-8)
    read = attacks.sibling(stitch, public)
    got = jax.jit(lambda read, z: read(z))(read, z)  # its arrays are arguments
    np.testing.assert_allclose(got, public(mixed), atol=1e-2)
    assert float(jnp.abs(jax.grad(lambda z: read(z)[0, 0])(z)).max()) > 0


@pytest.mark.parametrize(
    "z, target, how, message",
    [
        ((2, 7, 7, 3), (3, 7, 7, 3), {}, "got features of 2 faces to learn from and 3 targets"),
        ((2, 7, 7), (2, 7, 7, 3), {}, r"got source features of shape \(2, 7, 7\); wanted"),
        ((2, 7, 7, 3), (2, 5), {}, r"got target features of shape \(2, 5\); wanted"),
        ((2, 7, 7, 3), (2, 7, 7, 3), {"patch": 2}, "got patch=2; wanted an odd number"),
        ((2, 7, 7, 3), (2, 7, 7, 3), {"ridge": 0.0}, "got ridge=0"),
        ((2, 7, 7, 3), (2, 5, 5, 3), {"grid": ([0], [0])}, "got a grid of shape .* wanted 5"),
    ],
)
def test_what_does_not_fit_is_refused(z, target, how, message):
    with pytest.raises(ValueError, match=message):
        attacks.stitch(features(0, *z), features(1, *target), **how)


def test_a_whole_system_is_no_recogniser_of_features():
    with pytest.raises(ValueError, match="one of its parts: .*server"):
        attacks.sibling(
            attacks.Stitch(jnp.ones(1), jnp.ones(1), None, True), networks.small_system()
        )
