"""Arrays of any shape, type and value into the public functions: a right result or a ValueError."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("hypothesis")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as arrays  # noqa: E402

from advface_jax import ball, checks, gradient, metrics, protect  # noqa: E402
from advface_jax.defenses import noise  # noqa: E402

few = settings(max_examples=20, deadline=None, derandomize=True, database=None)
DTYPES = ("float32", "float64", "float16", "int32", "uint8", "bool", "complex64")
# Few shapes, since each compiles anew; the sizes 0 and 1 among them.
SHAPES = st.sampled_from([(), (0,), (1,), (3,), (0, 2), (1, 0), (1, 1), (2, 3), (1, 2, 2, 1)])
BOUNDS = st.sampled_from([0.0, 1e-30, 0.1, 1.0, 3e38, -0.1, float("nan"), float("inf"), True, None])


@st.composite
def anything(draw, shapes: st.SearchStrategy = SHAPES, dtypes=DTYPES):
    """An array, NaN, infinity and the largest numbers among its values."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    return draw(arrays.arrays(dtype, draw(shapes), elements=arrays.from_dtype(dtype)))


def sound(array) -> bool:
    """Whether an array is what the functions of features ask for."""
    floating = np.issubdtype(array.dtype, np.floating)
    return bool(floating and array.ndim >= 2 and array.shape[0] and _finite(array))


def _finite(array) -> bool:
    with np.errstate(over="ignore"):  # as float32, which NumPy's float64 becomes
        return bool(np.isfinite(array.astype(np.float32) if array.size else 0.0).all())


def exactly_within(z, z0, epsilon) -> bool:
    """|z - z0| <= ε in exact arithmetic."""
    pairs = zip(np.ravel(z).tolist(), np.ravel(z0).tolist(), strict=True)
    bound = Fraction(float(np.float32(epsilon)))
    return all(abs(Fraction(a) - Fraction(b)) <= bound for a, b in pairs)


def double(z):
    return z * 2


@pytest.mark.slow
@pytest.mark.long
@few
@given(anything(), BOUNDS)
def test_protect_keeps_the_ball_or_refuses(z, epsilon):
    good = sound(z) and epsilon is not None and 0 <= epsilon < float("inf")
    config = {"steps": 2, "start": "z"}
    try:
        found = protect(z, extractor=double, shadow=double, epsilon=epsilon, config=config)  # type: ignore
    except ValueError as error:
        assert str(error).startswith("got ") and not good
        return
    assert good and found.shape == z.shape
    centre = np.asarray(z, found.dtype)
    assert exactly_within(np.asarray(found, np.float64), centre.astype(np.float64), epsilon)


@pytest.mark.slow
@pytest.mark.long
@few
@given(anything(), BOUNDS)
def test_pgd_keeps_the_ball_or_refuses(z, epsilon):
    floating = np.issubdtype(z.dtype, np.floating)
    if epsilon is None or (floating and not _finite(z)):
        return  # pgd is inside of other programs and looks at no value of z
    with jax.numpy_dtype_promotion("standard"):
        z0 = jnp.asarray(z)
    good = floating and 0 <= epsilon < float("inf")
    try:
        found = gradient.pgd(lambda x: x, z0, epsilon, gradient.PGDConfig(steps=2))
    except ValueError as error:
        assert str(error) and not good
        return
    assert good and found.shape == z0.shape and found.dtype == z0.dtype
    assert exactly_within(np.asarray(found, np.float64), np.asarray(z0, np.float64), epsilon)


LARGEST = float(np.float32(3e38))
project = jax.jit(ball.project)
# XLA takes subnormal numbers for 0.
floats = st.floats(-LARGEST, LARGEST, width=32, allow_subnormal=False)


@few
@given(floats, floats, st.floats(0, LARGEST, width=32, allow_subnormal=False))
def test_the_ball_is_exact_and_projection_is_done_once(z, z0, epsilon):
    one = project(*(jnp.float32(x)[None] for x in (z, z0)), jnp.float32(epsilon))
    assert exactly_within(one, np.full(1, z0, np.float32), epsilon)
    assert np.array_equal(one, project(one, jnp.float32(z0)[None], jnp.float32(epsilon)))
    if exactly_within([z], [z0], epsilon):
        assert one.tolist() == [z]


@pytest.mark.slow
@pytest.mark.long
@few
@given(anything(), st.sampled_from(["none", "ball", "walk", "laplace"]), BOUNDS, st.booleans())
def test_noise_keeps_shape_and_type_or_refuses(z, name, epsilon, keyed):
    defense = getattr(noise, name)()
    key = jax.random.key(0) if keyed else None
    try:
        found = defense(z, key=key, epsilon=epsilon)
    except ValueError as error:
        assert str(error).startswith("got ")
        ruled = epsilon is not None and not (defense.takes_epsilon and 0 <= epsilon < float("inf"))
        assert not sound(z) or ruled or (defense.takes_key and not keyed)
        return
    assert sound(z) and found.shape == z.shape
    if name == "none":
        assert np.array_equal(found, np.asarray(z, found.dtype))


@pytest.mark.slow
@pytest.mark.long
@few
@given(
    anything(st.sampled_from([(0, 12, 12, 3), (1, 1, 1, 3), (1, 12, 11, 3), (12, 12, 3), (1, 3)])),
    st.booleans(),
)
def test_image_metrics_are_in_range_or_refuse(a, right):
    if right and a.ndim == 4 and a.size:
        bits = np.frombuffer(a.tobytes(), np.uint8)
        a = np.resize(bits, a.shape).astype(np.float32) / 255
    for metric, low, high, same in (
        (metrics.ssim, -1, 1, 1.0),
        (metrics.psnr, 0, 100, 100.0),
        (metrics.mse, 0, 1, 0.0),
    ):
        try:
            found = np.asarray(metric(a, a))
        except ValueError as error:
            assert str(error).startswith("got ")
            assert not (right and a.ndim == 4 and a.size and min(a.shape[1:3]) >= 11)
            continue
        assert found.shape == a.shape[:1] and np.all((found >= low - 1e-5) & (found <= high + 1e-5))
        np.testing.assert_allclose(found, same, atol=1e-4)


numbers = anything(st.sampled_from([(), (0,), (1,), (2,), (4,), (2, 2)]))


@few
@given(numbers, numbers, numbers, st.floats(allow_nan=True))
def test_verification_is_a_share_or_refuses(distances, same, folds, number):
    for call in (
        lambda: metrics.ten_fold_accuracy(distances, same, folds).accuracy,
        lambda: metrics.srra(distances, number),
        lambda: metrics.threshold_at_far(distances, number) / 4,
        lambda: metrics.squared_distance(distances, same).max() / 4,
    ):
        try:
            share = call()
        except ValueError as error:
            assert str(error).startswith("got ")
        else:
            assert 0 <= share <= 1


@few
@given(st.lists(st.tuples(st.floats(0, 4), st.booleans(), st.integers(1, 3)), min_size=1))
def test_the_best_threshold_of_all_is_at_least_as_good_as_none(rows):
    distances, same, folds = (np.array(column) for column in zip(*rows, strict=True))
    try:
        found = metrics.ten_fold_accuracy(distances, same, folds)
    except ValueError as error:
        assert "fold" in str(error)
        return
    judged = np.mean((distances < found.threshold) == same)
    assert judged >= np.mean(~same)  # what the threshold 0 gets right
    assert len(found.thresholds) == len(set(folds.tolist())) and 0 <= found.accuracy <= 1


@few
@given(anything(), st.integers(-1, 3))
def test_masks_fit_or_are_refused(mask, batch):
    try:
        found = checks.mask(mask, batch)
    except ValueError as error:
        assert str(error).startswith("got ")
        return
    assert found is not None and found.shape == (batch,)
    assert set(np.asarray(found).tolist()) <= {0.0, 1.0} and np.any(np.asarray(found))
