"""Images solved from stored frequency channels: exact but for a constant a colour."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advface_jax import data, defenses, metrics
from advface_jax.attacks import solve_channels
from advface_jax.defenses import channels

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def faces() -> jax.Array:
    """Two synthetic faces (2,80,80,3)."""
    return jnp.asarray(data.read_faces("synthetic", limit=2).images[:, ::2, ::2] / 255, jnp.float32)


def without_means(x) -> np.ndarray:
    x = np.asarray(x)
    return x - x.mean((1, 2), keepdims=True)


def share(images) -> jax.Array:
    """DuetFace's 162 channels of images of any size."""
    return defenses.block_dct(images)[..., np.array(channels.SERVER_CHANNELS)]


def test_duetfaces_share_gives_the_face_without_any_training():
    faces = jnp.asarray(data.read_faces("synthetic", limit=1).images / 255, jnp.float32)
    picture = solve_channels(defenses.duetface()(faces))
    assert picture.shape == faces.shape and 0 <= picture.min() <= picture.max() <= 1
    assert metrics.ssim(picture, faces).min() > 0.9
    np.testing.assert_allclose(without_means(picture), without_means(faces), atol=2e-3)


def test_an_image_with_black_and_white_leaves_no_constant_open():
    x = np.random.default_rng(0).uniform(0.1, 0.4, (2, 24, 24, 3)).astype("f4")  # mean .25
    x[:, 3, 4], x[:, 20, 1] = 0, 1
    np.testing.assert_allclose(solve_channels(share(x)), x, atol=1e-4)
    darker = 0.5 * x  # the constant is open again: the guess is the mean
    guessed = np.asarray(solve_channels(share(darker), mean=0.3))
    np.testing.assert_allclose(guessed.mean((1, 2)), 0.3, atol=1e-4)
    np.testing.assert_allclose(without_means(guessed), without_means(darker), atol=1e-4)
    colour = np.array([0.1, 0.2, 0.3], "f4")  # of which [0,1] allows the last two
    tinted = np.asarray(solve_channels(share(darker), mean=colour)).mean((1, 2))
    np.testing.assert_allclose(tinted[:, 1:], [[0.2, 0.3]] * 2, atol=1e-4)
    nearest = np.asarray(solve_channels(share(darker), mean=0.9))
    np.testing.assert_allclose(nearest.max((1, 2)), 1, atol=1e-4)  # as far as [0,1] allows


def test_half_precision_hides_no_more(faces):
    assert metrics.ssim(solve_channels(share(faces).astype(jnp.bfloat16)), faces).min() > 0.9


def test_dctdps_noise_is_averaged_out(faces):
    defense = defenses.dctdp()
    stored = defense.method(faces, jax.random.split(KEY), None, None, defense.settings, None)
    picture = solve_channels(stored, channels.DCTDP_CHANNELS)
    assert metrics.ssim(picture, faces).min() > 0.85
    np.testing.assert_allclose(without_means(picture), without_means(faces), atol=0.05)


def test_the_order_of_the_channels_does_not_matter(faces):
    order = np.random.default_rng(1).permutation(162)
    small = share(faces[:1, :30, :30])
    present = tuple(np.array(channels.SERVER_CHANNELS)[order])
    np.testing.assert_array_equal(solve_channels(small[..., order], present), solve_channels(small))


def test_what_cannot_be_solved_is_refused_in_plain_words(faces):
    stored = share(faces[:1, :9, :9])
    with pytest.raises(ValueError, match=r"^got features z of shape \(1, 9, 9, 161\); wanted"):
        solve_channels(stored[..., 1:])
    with pytest.raises(ValueError, match="NaN or infinite"):
        solve_channels(stored * np.nan)
    with pytest.raises(ValueError, match="two pixels or more"):
        solve_channels(stored[:, :1, :1])
    for mean in (1.5, (0.5, 0.5), np.nan):
        with pytest.raises(ValueError, match=r"^got mean=.*; wanted a brightness in \[0, 1\], or"):
            solve_channels(stored, mean=mean)
    with pytest.raises(ValueError, match="different numbers from 0 to 191"):
        solve_channels(stored, (0,) * 162)
    nine = tuple(64 * c + i for c in range(3) for i in range(40, 49))  # a row, no column
    with pytest.raises(ValueError, match="without a whole row .* and a whole column"):
        solve_channels(stored[..., :27], nine)
