"""The ascents by what they achieve: the loss rises, the bound holds to the last bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import distance

from advface_jax.gradient import PGDConfig, fgsm, mifgsm, pgd

DTYPES = (jnp.float32, jnp.bfloat16, jnp.float16)
EPSILONS = (0.0, 1e-9, 1e-3, 0.05, 0.1, 0.2, 0.3, 1.0)

# Every method, as f(objective, z0, epsilon).
METHODS = {
    "pgd": functools.partial(pgd, config=PGDConfig(steps=5)),
    "pgd, alpha from epsilon": functools.partial(pgd, config=PGDConfig(steps=12, alpha=None)),
    "fgsm": fgsm,
    "mifgsm": functools.partial(mifgsm, config=PGDConfig(steps=5)),
}
every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


def spread(n: int, dtype) -> jax.Array:
    """n values of both signs, from 1e-4 to 8 in magnitude, and 0."""
    rng = np.random.default_rng(0)
    z = np.exp(rng.uniform(np.log(1e-4), np.log(8), (4, n))) * rng.choice([-1, 1], (4, n))
    z[:, 0] = 0
    return jnp.asarray(z, dtype)


def wavy(z: jax.Array) -> jax.Array:
    return jnp.sin(3 * z.astype(jnp.float32)).sum()


@every_method
def test_the_loss_rises_by_the_loss_or_its_gradient(method):
    z0 = spread(500, jnp.float32)
    z, same = (jax.jit(lambda z, o=o: method(o, z, 0.1))(z0) for o in (wavy, jax.grad(wavy)))
    assert z.shape == z0.shape and wavy(z) > wavy(z0) + 100
    assert np.array_equal(z, same)


def ascents(method, dtype):
    """(ε, z0, z of one compiled program) for every ε."""
    z0, traces = spread(5000, dtype), []

    @jax.jit
    def attack(z, epsilon):
        traces.append(epsilon)
        return method(jax.grad(wavy), z, epsilon)

    for epsilon in EPSILONS:
        z = attack(z0, jnp.float32(epsilon))
        assert z.dtype == z0.dtype
        yield epsilon, z0, z
    assert len(traces) == 1


@every_method
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_element_leaves_the_ball_by_one_bit(method, dtype):
    for epsilon, z0, z in ascents(method, dtype):
        furthest = distance(z, z0).max()
        assert furthest <= float(np.float32(epsilon)), epsilon
        # nor is the ball smaller than the dtype makes it where values are small
        near = np.abs(np.asarray(z0, np.float64)) <= epsilon
        assert epsilon < 1e-3 or distance(z, z0)[near].max() > 0.98 * epsilon


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_cpu_and_an_accelerator_project_alike(dtype, monkeypatch):
    anew = [np.asarray(z, np.float32) for _, _, z in ascents(METHODS["pgd"], dtype)]
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")  # keeps the bounds
    for (epsilon, _, z), same in zip(ascents(METHODS["pgd"], dtype), anew, strict=True):
        assert np.array_equal(np.asarray(z, np.float32), same), epsilon


@every_method
def test_a_linear_loss_is_followed_to_the_corner(method):
    """max c·z over the ball is z0 + ε sign(c), element by element; where c = 0 nothing moves."""
    z0 = spread(500, jnp.float32)
    c = jnp.asarray(np.random.default_rng(1).integers(-2, 3, z0.shape), jnp.float32)
    z = jax.jit(lambda z: method(lambda z: (c * z).sum(), z, 0.1))(z0)
    np.testing.assert_allclose(z, z0 + 0.1 * jnp.sign(c), rtol=0, atol=1e-6)


@pytest.mark.parametrize("method", [pgd, mifgsm])
def test_a_maximum_inside_the_ball_is_found_to_within_a_step(method):
    z0 = spread(500, jnp.float32)
    inside = jnp.asarray(np.random.default_rng(1).uniform(-0.2, 0.2, z0.shape), jnp.float32)
    # without momentum, with which MI-FGSM overshoots by design
    config = PGDConfig(steps=60, alpha=0.01, momentum=0.0)
    z = method(lambda z: -jnp.square(z - (z0 + inside)).sum(), z0, 0.3, config)
    np.testing.assert_allclose(z, z0 + inside, rtol=0, atol=0.01 + 1e-5)


def test_momentum_carries_on_where_the_gradient_turns():
    """Gradients 1, then -0.1 each step, scaled to 1 and -1: with momentum 1 their sum is 0 after
    two steps and negative after three; without it the second step turns back."""
    z0 = jnp.zeros((1, 1), jnp.float32)

    def gradient(z):
        return jnp.where(z < 0.5, 1.0, -0.1).astype(z.dtype)

    def final(momentum, steps):
        config = PGDConfig(steps=steps, alpha=1.0, momentum=momentum)
        return float(mifgsm(gradient, z0, 10.0, config)[0, 0])

    assert [final(1.0, steps) for steps in (1, 2, 3)] == [1, 1, 0]
    assert [final(0.0, steps) for steps in (1, 2, 3)] == [1, 0, 1]


@pytest.mark.parametrize("method", [pgd, mifgsm])
@pytest.mark.parametrize(("alpha", "epsilon"), [(0.2, 0.05), (0.05, 0.2), (None, 0.2)])
def test_bound_step_holds_each_step_and_leaves_the_ball(method, alpha, epsilon):
    z0 = spread(50, jnp.float32)
    size = min(epsilon / 10 if alpha is None else alpha, epsilon)
    one, many = (
        method(lambda z: z.sum(), z0, epsilon, PGDConfig(steps, alpha, bound="step"))
        for steps in (1, 24)
    )
    assert distance(one, z0).max() == pytest.approx(size, rel=1e-4)
    np.testing.assert_allclose(many, z0 + 24 * size, rtol=1e-5)
    assert distance(many, z0).min() > epsilon


def test_a_start_is_moved_into_the_ball_and_continues_an_ascent():
    z0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 50)), jnp.float32)
    two, three, five = (PGDConfig(steps=n, alpha=0.03) for n in (2, 3, 5))
    halfway = pgd(wavy, z0, 0.1, two)
    np.testing.assert_array_equal(pgd(wavy, z0, 0.1, three, halfway), pgd(wavy, z0, 0.1, five))
    for method in (pgd, fgsm, mifgsm):
        far = method(lambda z: 0 * z.sum(), z0, 0.1, start=z0 + 5)
        assert 0.0999 < distance(far, z0).max() <= float(np.float32(0.1))
        for misfit in (z0[:1], z0.astype(jnp.float16), jnp.zeros(())):
            with pytest.raises(ValueError, match="^got a start of shape .*; wanted those of z0"):
                method(wavy, z0, 0.1, start=misfit)


@pytest.mark.parametrize("method", [pgd, fgsm, mifgsm])
def test_bad_bounds_and_centres_are_refused(method):
    for epsilon in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="got epsilon="):
            method(jnp.sum, jnp.ones(3), epsilon)
    for centre in ([1.0, 2.0], jnp.ones(3, jnp.int32)):
        with pytest.raises(ValueError, match="got z0 of type"):
            method(jnp.sum, centre, 0.1)


def test_no_gradient_is_no_nan_in_half_precision():
    z = jnp.ones((2, 3), jnp.float16)
    assert np.array_equal(mifgsm(lambda z: 0 * z.sum(), z, 0.1), z)


@every_method
def test_an_objective_of_another_shape_is_refused(method):
    z0 = spread(50, jnp.float32)
    with pytest.raises(ValueError, match=r"shape \(4,\) for z of shape \(4, 50\); wanted a scalar"):
        method(lambda z: z.sum(1), z0, 0.1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"steps": 0}, "got steps=0; wanted a whole number, 1 or more"),
        ({"alpha": 0.0}, "got alpha=0.0; wanted a positive step"),
        ({"alpha": -0.2}, "got alpha=-0.2; wanted a positive step"),
        ({"alpha": float("nan")}, "got alpha=nan; wanted a positive step"),
        ({"bound": "sum"}, "got bound='sum'; wanted 'total' or 'step'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PGDConfig(**settings)


@every_method
def test_the_derivative_is_that_of_the_arithmetic(method):
    """Against central differences."""
    with jax.enable_x64(True):
        z0 = jnp.asarray(np.random.default_rng(0).normal(size=(2, 40)))
        along = jnp.asarray(np.random.default_rng(1).normal(size=(2, 40)))

        def attack(z, epsilon):
            return method(lambda q: jnp.sin(7 * q).sum(), jnp.tanh(2 * z), epsilon)

        def apart(h):
            return attack(z0 + h * along, 0.15 + h)

        _, tangent = jax.jvp(attack, (z0, jnp.asarray(0.15)), (along, jnp.asarray(1.0)))
        # ε is rounded to 32 bits, and a sign changes here and there.
        wrong = jnp.abs(tangent - (apart(1e-5) - apart(-1e-5)) / 2e-5) > 2e-3
        assert wrong.mean() < 0.05
        backward = jax.grad(lambda z, e: (attack(z, e) * along).sum(), (0, 1))(z0, 0.15)
        forward = (tangent * along).sum()
        np.testing.assert_allclose((backward[0] * along).sum() + backward[1], forward, rtol=1e-6)
        assert jnp.abs(backward[0]).max() > 0.1 and jnp.abs(backward[1]) > 0.1


def test_a_whole_number_as_bound_has_no_derivative_and_the_rest_has():
    z0 = spread(50, jnp.float32)
    np.testing.assert_array_equal(jax.grad(lambda z: pgd(jnp.sum, z, 1).sum())(z0), 1)
