"""Image metrics against scikit-image, verification against a slow loop written on its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity

from advface_jax import metrics

IMAGE_METRICS = [metrics.ssim, metrics.psnr, metrics.mse]


def picture_pairs(height=40, width=56):
    """Pairs from nearly equal to unrelated: (6, h, w, 3) twice, float32 in [0, 1]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:height, :width]
    smooth = [np.sin(x / (3 + k) + k) * np.cos(y / (5 + k)) / 2 + 0.5 for k in range(18)]
    a = np.stack(smooth, axis=-1).reshape(height, width, 6, 3).transpose(2, 0, 1, 3)
    noise = rng.normal(size=a.shape) * np.array([0.001, 0.01, 0.05, 0.2, 0, 0])[:, None, None, None]
    b = np.clip(a + noise, 0, 1)
    b[4] = rng.random(b[4].shape)  # unrelated
    b[5] = 1 - a[5]  # the negative: SSIM below 0
    return a.astype(np.float32), b.astype(np.float32)


def skimage_ssim(a, b):
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return structural_similarity(a, b, channel_axis=-1, data_range=1, **how)


@pytest.mark.parametrize(
    ("ours", "theirs", "tolerance"),
    [
        (metrics.ssim, skimage_ssim, 1e-4),
        (metrics.psnr, lambda a, b: peak_signal_noise_ratio(a, b, data_range=1), 1e-3),
        (metrics.mse, mean_squared_error, 1e-6),
    ],
)
def test_equal_to_scikit_image(ours, theirs, tolerance):
    a, b = picture_pairs()
    got = ours(a, b)
    assert got.shape == (6,) and got.dtype == jnp.float32
    wanted = [theirs(p, q) for p, q in zip(a, b, strict=True)]
    assert ours is not metrics.ssim or wanted[0] > 0.99 and wanted[5] < 0, "the whole range"
    np.testing.assert_allclose(got, wanted, atol=tolerance, rtol=0)


@pytest.mark.parametrize("metric", IMAGE_METRICS)
def test_inside_a_larger_jit(metric):
    a, b = picture_pairs()
    inside = jax.jit(lambda a, b: metric(a, jax.nn.relu(b)))
    np.testing.assert_allclose(inside(a, b), metric(a, b), rtol=1e-5, atol=1e-6)


def test_equal_images_give_finite_values_and_gradients():
    a, _ = picture_pairs()
    np.testing.assert_array_equal(metrics.psnr(a, a), np.full(6, 100, np.float32))
    np.testing.assert_array_equal(metrics.mse(a, a), np.zeros(6, np.float32))
    np.testing.assert_allclose(metrics.ssim(a, a), np.ones(6), atol=1e-6)
    black = np.zeros_like(a)
    np.testing.assert_allclose(metrics.ssim(black, black), np.ones(6), atol=1e-6)
    gradient = jax.grad(lambda q: metrics.psnr(a, q).sum())(jnp.asarray(a))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("metric", IMAGE_METRICS)
@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: a[0], "leading axis"),
        (lambda a: a[:0], "none of them 0"),
        (lambda a: a[..., :1], r"\(n, h, w, 3\)"),
        (lambda a: a[:1], r"\(1, 40, 56, 3\)"),
        (lambda a: a.astype(np.float64), "float64"),
        (lambda a: (a * 255).astype(np.uint8), "uint8.*255"),
        (lambda a: a * 255, "divide 0..255 by 255"),
        (lambda a: a - 0.5, r"in \[0, 1\]"),
        (lambda a: np.where(a > 0.5, np.float32(np.nan), a), "nan"),
        (lambda a: np.where(a > 0.5, np.float32(np.inf), a), "inf"),
    ],
)
def test_bad_images_are_refused(metric, spoil, words):
    a, b = picture_pairs()
    with pytest.raises(ValueError, match=words):
        metric(a, spoil(b))
    with pytest.raises(ValueError, match=words):
        metric(spoil(a), b)
    with pytest.raises(ValueError, match="at least 11"):
        metrics.ssim(a[:, :10], b[:, :10])


def unit_rows(n, d, seed):
    rows = np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_squared_distance():
    u, v = unit_rows(9, 512, 0), unit_rows(9, 512, 1)
    wanted = 2 - 2 * np.sum(u.astype(np.float64) * v, axis=1)
    found = metrics.squared_distance(jnp.asarray(u), v)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_array_equal(metrics.squared_distance(u, u), np.zeros(9))
    assert metrics.squared_distance(u, -u).max() <= 4


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda u: u[0], r"\(n, d\)"),
        (lambda u: u[:0], "at least 1"),
        (lambda u: u[:, :4], "one shape"),
        (lambda u: u * 2, "divide each row"),
        (lambda u: u * np.float32(np.nan), "NaN"),
        (lambda u: (u * 9).astype(np.int32), "int32"),
    ],
)
def test_bad_embeddings_are_refused(spoil, words):
    u = unit_rows(5, 16, 0)
    with pytest.raises(ValueError, match=words):
        metrics.squared_distance(u, spoil(u))


def made_pairs(n=300, folds=10):
    """Two overlapping classes whose thresholds differ from fold to fold."""
    rng = np.random.default_rng(3)
    same = np.arange(n) % 2 == 0
    distances = np.clip(np.where(same, 0.8, 1.5) + 0.35 * rng.normal(size=n), 0, 4)
    return distances, same, np.arange(n) * folds // n


def slow_ten_fold(distances, same, folds):
    """The protocol, pair by pair and threshold by threshold."""
    pairs = list(zip(distances, same, folds, strict=True))

    def rightly(pairs, threshold):
        return sum(1 for d, s, _ in pairs if (d < threshold) == s)

    def chosen(pairs):  # of several that are best, the first
        return max((step / 100 for step in range(401)), key=lambda t: rightly(pairs, t))

    accuracies, thresholds = [], []
    for fold in sorted(set(folds)):
        inside = [p for p in pairs if p[2] == fold]
        thresholds.append(chosen([p for p in pairs if p[2] != fold]))
        accuracies.append(rightly(inside, thresholds[-1]) / len(inside))
    return accuracies, thresholds, chosen(pairs)


def test_ten_fold_accuracy_is_that_of_a_slow_loop():
    distances, same, folds = made_pairs()
    accuracies, thresholds, threshold = slow_ten_fold(distances, same, folds)
    found = metrics.ten_fold_accuracy(distances, same, folds)
    assert len(set(thresholds)) > 1  # else the folds' own thresholds would go untested
    assert found.thresholds == tuple(thresholds)
    assert found.threshold == threshold
    assert found.accuracy == pytest.approx(np.mean(accuracies), abs=1e-12)
    assert found.std == pytest.approx(np.std(accuracies), abs=1e-12)
    order = np.random.default_rng(0).permutation(len(same))  # nor do the folds' names matter
    shuffled = metrics.ten_fold_accuracy(distances[order], same[order], folds[order] * 7 + 1)
    assert shuffled == found


def test_the_smallest_of_equal_thresholds_is_taken_and_the_bound_is_strict():
    distances = np.array([0.5, 1.5, 0.5, 1.5], np.float32)
    same = np.array([True, False, True, False])
    found = metrics.ten_fold_accuracy(distances, same, np.array([1, 1, 2, 2]))
    assert found == metrics.Verification(1.0, 0.0, (0.51, 0.51), 0.51)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda d, s, f: (d[:-1], s, f), "one shape"),
        (lambda d, s, f: (d[:0], s[:0], f[:0]), "at least 1"),
        (lambda d, s, f: (d[:, None], s, f), r"\(n,\)"),
        (lambda d, s, f: (d, s.astype(int), f), "astype"),
        (lambda d, s, f: (d, s, f / 2), "float64; wanted bool and integers"),
        (lambda d, s, f: (d * np.nan, s, f), "NaN"),
        (lambda d, s, f: (d - 2, s, f), "0 to 4"),
        (lambda d, s, f: ((d * 10).astype(int), s, f), "wanted floats"),
        (lambda d, s, f: (d, np.ones_like(s), f), "one class only .same"),
        (lambda d, s, f: (d, np.zeros_like(s), f), "one class only .different"),
        (lambda d, s, f: (d, f == 3, f), "outside fold 3"),
        (lambda d, s, f: (d, s, f * 0), "single fold"),
    ],
)
def test_bad_pairs_are_refused(spoil, words):
    with pytest.raises(ValueError, match=words):
        metrics.ten_fold_accuracy(*spoil(*made_pairs()))


@pytest.mark.parametrize("far", [0, 0.01, 0.29, 0.5, 0.99])
def test_threshold_at_far_is_the_largest_that_keeps_the_rate(far):
    distances = np.random.default_rng(1).permutation(np.linspace(0.5, 3.5, 100))
    threshold = metrics.threshold_at_far(distances, far)
    assert np.mean(distances < threshold) == pytest.approx(far, abs=1e-12)
    assert np.mean(distances < np.nextafter(threshold, 4)) > far
    ties = np.array([1.0, 1.0, 1.0, 2.0])
    assert metrics.threshold_at_far(ties, 0.5) == 1.0  # all of the three ties, or none


@pytest.mark.parametrize("far", [-0.1, 1, np.nan])
def test_a_rate_outside_its_range_is_refused(far):
    with pytest.raises(ValueError, match="0 <= far < 1"):
        metrics.threshold_at_far(np.array([1.0]), far)
    with pytest.raises(ValueError, match="at least 1"):
        metrics.threshold_at_far(np.array([]), 0.1)


def test_srra():
    distances = np.array([0.2, 1.0, 1.2, 3.0])
    assert metrics.srra(distances, 1.2) == 0.5
    assert metrics.srra(distances, 0) == 0
    for threshold in (-1, 5, np.nan):
        with pytest.raises(ValueError, match="0 to 4"):
            metrics.srra(distances, threshold)
    with pytest.raises(ValueError, match="NaN"):
        metrics.srra(distances * np.nan, 1)
