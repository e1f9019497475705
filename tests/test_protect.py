"""Protection on small networks: the bound, the start, the padding, the compilations, the errors."""

import dataclasses
import importlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from networks import distance, new_extractor, small_decoder, small_extractor
from reference import weights

from advface_jax import PGDConfig, ProtectConfig, protect, protect_sweep, shadow_round_trip
from advface_jax.models import decoders, state
from advface_jax.models.layers import ConvBN
from advface_jax.protect import NUDGE, _protect, _sweep, ascent, lowered

TWO_STEPS = ProtectConfig(steps=2)
PLAIN = ProtectConfig(steps=2, formulation="plain")  # compiles in half the time
FGSM = dataclasses.replace(PLAIN, method="fgsm")
SWEPT = [0.0, 0.1, 0.3]


@pytest.fixture(scope="module")
def networks() -> dict:
    return {"extractor": small_extractor(), "shadow": small_decoder(seed=7)}


@pytest.fixture(scope="module")
def z(networks) -> jax.Array:
    """Features of two images."""
    return networks["extractor"](jnp.asarray(weights.images(1, 2)))


def share_of_equals(a: jax.Array, b: jax.Array) -> float:
    """Two compiled programs round differently, which flips the sign of a few tiny gradients."""
    return float((distance(a, b) < 1e-3).mean())


CONFIGS = {
    "pgd": TWO_STEPS,
    "fgsm": FGSM,
    "mifgsm, each step bounded": dataclasses.replace(PLAIN, steps=4, method="mifgsm", bound="step"),
    "fgsm from z": dataclasses.replace(FGSM, start="z"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_the_shadow_image_moves_away_and_the_bound_holds_exactly(name, networks, z):
    config = CONFIGS[name]
    x_tilde, z_tilde = shadow_round_trip(z, **networks)
    assert x_tilde.shape == (2, 160, 160, 3) and z_tilde.shape == z.shape
    # ε = 0 is z~ in the same program: another one may round differently
    centre = protect(z, **networks, epsilon=0.0, config=config)
    if config.start == "z":
        np.testing.assert_array_equal(centre, z)
        assert distance(z, z_tilde).max() > 0.3, "z and z~ are alike: this tests nothing"
    else:
        np.testing.assert_allclose(centre, z_tilde, rtol=1e-4, atol=1e-4)
    before, _ = shadow_round_trip(centre, **networks)
    for epsilon in (0.05, 0.2):
        z_adv = protect(z, **networks, epsilon=epsilon, config=config)
        assert z_adv.shape == z.shape and z_adv.dtype == z.dtype
        moved = distance(z_adv, centre)
        if config.bound == "step":
            assert 2 * epsilon < moved.max() <= 4 * epsilon + 1e-5
        else:
            assert moved.max() <= float(np.float32(epsilon))
            assert (moved >= 0.99 * epsilon).mean() > 0.4  # the others have stepped back
        after, _ = shadow_round_trip(z_adv, **networks)
        loss, least = (float(jnp.abs(image - x_tilde).mean()) for image in (after, before))
        assert loss > least + 0.002


def test_the_sweep_is_protect_at_each_epsilon(networks, z):
    how = networks | {"config": TWO_STEPS}
    swept = protect_sweep(z, SWEPT, **how)
    assert swept.shape == (3, *z.shape)
    for one, epsilon in zip(swept, SWEPT, strict=True):
        assert share_of_equals(one, protect(z, **how, epsilon=epsilon)) > 0.98
        assert distance(one, swept[0]).max() <= float(np.float32(epsilon))
    np.testing.assert_array_equal(swept, protect_sweep(z, jnp.asarray(SWEPT), **how))


def test_one_compilation_serves_every_epsilon(networks, z, compilations):
    def of_protect():
        return [name for name in compilations() if "protect" in name or "sweep" in name]

    how = networks | {"config": TWO_STEPS}
    protect(z, **how, epsilon=0.2)
    protect_sweep(z, SWEPT, **how)
    assert len(before := of_protect()) <= 2
    for epsilon in (0.05, 0, np.float32(0.1), jnp.asarray(0.3)):
        protect(z, **how, epsilon=epsilon)
    protect_sweep(z, np.array([0.1, 0.0, 0.2]), **how)
    assert of_protect() == before


def test_what_was_lowered_is_not_compiled_again_and_a_second_call_traces_nothing(
    networks, z, compilations, monkeypatch
):
    how = networks | {"config": dataclasses.replace(FGSM, alpha=0.1)}  # of no other test
    lowered(z, 0.1, **how).compile()
    first = protect(z, **how, epsilon=0.1)
    assert [name for name in compilations() if "protect" in name] == ["jit(_protect)"]
    module = importlib.import_module("advface_jax.protect")  # the package has a function so named
    monkeypatch.setattr(module, "_round_trip", None)
    monkeypatch.setattr(module, "_attack", None)
    np.testing.assert_array_equal(protect(z, **how, epsilon=0.1), first)


def test_padding_has_no_influence(networks, z):
    where = np.array([1, 2])
    padded = jnp.full((3, *z.shape[1:]), 9.0).at[where].set(z)
    alone = protect(z, **networks, config=FGSM)
    among = protect(padded, **networks, config=FGSM, mask=np.array([False, True, True]))
    assert share_of_equals(among[where], alone) > 0.999
    unmasked = protect(padded, **networks, config=FGSM, mask=np.ones(3))
    assert share_of_equals(unmasked[where], alone) < 0.9  # or the padding was no test


@pytest.mark.parametrize(
    ("statistics", "independent"), [("example", True), ("running", True), ("batch", False)]
)
def test_whether_a_face_depends_on_its_batch(statistics, independent, networks, z):
    stored = jax.tree.map(np.array, state.flatten(networks["shadow"]))
    config = dataclasses.replace(FGSM, statistics=statistics)
    mates = jnp.concatenate([z[:1], 5 * z[1:, ::-1]])
    one, other = (protect(batch, **networks, config=config)[0] for batch in (z, mates))
    assert (share_of_equals(one, other) > 0.999) == independent
    after = state.flatten(networks["shadow"])
    assert all(np.array_equal(stored[name], after[name]) for name in stored), "S is as before"


def test_it_works_inside_the_callers_jit_around_a_concrete_z(networks, z):
    @jax.jit
    def mine(extractor, shadow, epsilon):
        return protect(z, extractor=extractor, shadow=shadow, epsilon=epsilon, config=FGSM)

    direct = protect(z, **networks, epsilon=0.1, config=FGSM)
    assert share_of_equals(mine(*networks.values(), 0.1), direct) > 0.999


def test_an_attacker_who_knows_the_defence_gets_its_derivative(networks, z):
    """To z it is that of z~ = E(S(z)): the steps have none, and here no element leaves the ball."""
    away = jnp.asarray(np.random.default_rng(0).normal(size=z.shape), z.dtype)

    def along(f):
        return jax.grad(lambda z: (f(z) * away).sum())(z)

    got = along(lambda z: protect(z, **networks, config=FGSM))
    expected = along(lambda z: shadow_round_trip(z, **networks)[1])
    np.testing.assert_allclose(got, expected, atol=1e-4 * float(jnp.abs(expected).max()))
    assert float(jnp.abs(got).max()) > 0.1
    slope = jax.grad(lambda e: protect(z, **networks, config=FGSM, epsilon=e).sum())(0.2)
    assert abs(float(slope)) > 1
    with pytest.raises(ValueError, match="^got a forward derivative .*; wanted jax.grad"):
        jax.jvp(lambda z: protect(z, **networks, config=FGSM), (z,), (away,))


def test_x64_may_be_switched_on_after_a_call(networks, z):
    how = networks | {"config": TWO_STEPS}
    before = protect(z, **how)
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        assert share_of_equals(protect(z, **how), before) > 0.98
        assert protect(z.astype(jnp.float64), **how).dtype == jnp.float64


@pytest.mark.parametrize(("dtype", "start"), [(jnp.bfloat16, "z_tilde"), (jnp.float16, "z")])
def test_half_precision_keeps_its_dtype_and_the_bound(dtype, start, networks, z):
    how = networks | {"config": dataclasses.replace(PLAIN, start=start)}
    centre, end = (protect(z.astype(dtype), **how, epsilon=e) for e in (0.0, 0.1))
    assert end.dtype == dtype
    assert 0.09 < distance(end, centre).max() <= float(np.float32(0.1))
    assert start == "z_tilde" or np.array_equal(centre, z.astype(dtype))


def test_the_ascent_from_z_begins_a_hundredth_of_epsilon_away(networks, z):
    """A step too small to count shows where it begins; the signs are the same for both faces."""
    config = ProtectConfig(steps=1, alpha=1e-9, start="z", formulation="plain")
    away = np.asarray(protect(z, **networks, epsilon=0.2, config=config)) - np.asarray(z)
    np.testing.assert_allclose(np.abs(away), NUDGE * 0.2, atol=1e-6)
    np.testing.assert_array_equal(np.sign(away[0]), np.sign(away[1]))
    assert abs(np.sign(away).mean()) < 0.01
    # there the gradient has some size; at z itself it would be the roundings of S(z) - x~
    x_tilde, _ = shadow_round_trip(z, **networks)
    uphill = jax.jit(lambda s, x, q: ascent(s, x, "batch", None)(q))
    gradient = uphill(networks["shadow"], x_tilde, z + jnp.asarray(away))
    assert float(jnp.abs(gradient).mean()) > 1e-3


def narrow_decoder() -> decoders.Decoder:
    decoder = small_decoder()
    assert isinstance(decoder, decoders.TransRec)
    decoder.conv_2b = ConvBN(32, 4, 3, rngs=nnx.Rngs(0), padding="same", scale=True)
    return decoder


BAD = {
    # name: (how z is changed, other arguments, what the message must say)
    "rank 3": (lambda z: z[0], {}, r"shape \(77, 77, 64\); wanted \(b, 77, 77, 64\).*x\[None\]"),
    "channels": (lambda z: z[..., :32], {}, r"shape \(2, 77, 77, 32\); wanted \(b, 77, 77, 64\)"),
    "channels first": (lambda z: z.transpose(0, 3, 1, 2), {}, r"channels come last.*\(0, 2, 3, 1"),
    "images": (lambda z: jnp.zeros((2, 160, 160, 3)), {}, r"like images; .*z = E\(images\)"),
    "NCHW": (lambda z: jnp.zeros((2, 3, 160, 160)), {}, r"like images; .*z = E\(images\)"),
    "embeddings": (lambda z: z[:, 0, 0], {}, "like embeddings; z is what E makes, before"),
    "integers": (lambda z: z.astype(jnp.int32), {}, r"dtype int32; wanted float32: use .astype"),
    "NaN": (lambda z: z.at[1, 2, 3, 4].set(jnp.nan), {}, "NaN or infinite values; wanted finite"),
    "infinity": (lambda z: z.at[1, 2, 3, 4].set(-jnp.inf), {}, "NaN or infinite values; wanted"),
    "no item": (lambda z: z[:0], {}, "got an empty batch of features z; wanted at least one"),
    "epsilon below 0": (None, {"epsilon": -0.1}, "got epsilon=-0.1.*; wanted a finite bound, 0 or"),
    "epsilon NaN": (None, {"epsilon": np.nan}, "got epsilon=nan; wanted a finite bound, 0 or"),
    "epsilon infinite": (None, {"epsilon": np.inf}, "got epsilon=inf; wanted a finite bound"),
    "two epsilons": (None, {"epsilon": [0.1, 0.2]}, r"shape \(2,\); wanted one number.*_sweep"),
    "a short mask": (None, {"mask": [1]}, r"mask of shape \(1,\); wanted \(2,\), one entry for"),
    "a mask like z": (None, {"mask": np.ones((2, 77))}, r"mask of shape \(2, 77\); wanted \(2,\)"),
    "a mask of padding": (None, {"mask": [0, 0]}, "every item as padding; wanted at least one"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_plain_words(case, networks, z):
    change, arguments, message = BAD[case]
    with pytest.raises(ValueError, match=f"(?s)^(?=got ).*{message}"):
        protect(change(z) if change else z, **networks, **arguments)


@pytest.mark.parametrize("epsilons", [[], [0.1, -0.1], [0.1, np.nan], [[0.1]], 0.1])
def test_bad_epsilons_of_a_sweep_are_refused(epsilons, networks, z):
    with pytest.raises(ValueError, match="^got .*epsilon.*; wanted "):
        protect_sweep(z, epsilons, **networks)


def test_networks_that_do_not_fit_are_refused(networks, z):
    extractor, shadow = networks.values()
    narrow = small_extractor()
    narrow.kernel = nnx.Param(jnp.zeros((3, 48)))
    for other, decoder in [(extractor, narrow_decoder()), (narrow, shadow), (shadow, extractor)]:
        with pytest.raises(ValueError, match=r"(?s)do not fit z.*: got .*; wanted .*take both"):
            protect(z, extractor=other, shadow=decoder)
    with pytest.raises(ValueError, match="^got extractor of type NoneType, which cannot be called"):
        shadow_round_trip(z, extractor=None, shadow=shadow)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings", [{"method": "cw"}, {"statistics": "train"}, {"steps": 0}, {"start": "x"}]
)
def test_settings_that_make_no_sense_are_refused(settings, networks, z):
    with pytest.raises(ValueError, match=r"^got (method|statistics|steps|start)=.*; wanted "):
        ProtectConfig(**settings)
    with pytest.raises(ValueError, match=r"^got (method|statistics|steps|start)=.*; wanted "):
        protect(z, **networks, config=settings)
    with pytest.raises(ValueError, match=r"^got statistics=.*; wanted "):
        shadow_round_trip(z, **networks, statistics="train")  # type: ignore[arg-type]


def test_settings_may_be_dicts_and_scalars_of_other_libraries(networks, z):
    expected = protect(z, **networks, config=TWO_STEPS)
    assert ProtectConfig(steps=np.int64(2), alpha=jnp.float32(0.5)) == ProtectConfig(2, 0.5)  # type: ignore[arg-type]
    given: Any = {"steps": jnp.int32(2)}, {"steps": np.array(2)}, PGDConfig(steps=2)
    for config in given:
        np.testing.assert_array_equal(protect(z, **networks, config=config), expected)
    for config, got in (({"step": 2}, "config with step"), (2, "config of type int")):
        with pytest.raises(ValueError, match=f"^got {got}; wanted a ProtectConfig, or a dict"):
            protect(z, **networks, config=config)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="^got steps=2.5; wanted a whole number"):
        ProtectConfig(steps=2.5)  # type: ignore[arg-type]


on_a_cpu = pytest.mark.skipif(jax.default_backend() != "cpu", reason="the slow path is XLA:CPU's")


def compiled(program, *arguments) -> str:
    text = program.lower(*arguments).compile().as_text()
    assert " while(" in text and " convolution(" in text
    return text


def slow_convolutions(compiled: str) -> list[str]:
    """The convolutions that XLA:CPU runs as a scalar loop, an order of magnitude slower: in jax
    0.12 named wrapped_convolution, in 0.10 those whose kernel is transposed or reversed. And those
    without any padding, which take two to eight times longer than with some."""
    slow = r"wrapped_convolution|rhs_reversal|dim_labels=b01f_01oi->"
    slow += r"|window=\{size=(?!1x1)\d+x\d+( stride=\d+x\d+)?\}"
    return [line for line in compiled.splitlines() if re.search(slow, line)]


@pytest.mark.slow
@on_a_cpu
@pytest.mark.parametrize("kind", ["resrec", "urec"])
def test_protection_has_no_slow_convolution(kind, networks, z):
    shadow = small_decoder(kind, depth=1)
    text = compiled(_protect, z, jnp.float32(0.1), None, networks["extractor"], shadow, TWO_STEPS)
    assert not slow_convolutions(text)


@pytest.mark.slow
@on_a_cpu
@pytest.mark.parametrize("batch", [1, 2])
def test_a_face_takes_seven_megabytes_and_no_slow_convolution(batch):
    """TransRec as shipped; beside weights and batch norm's numbers nothing is kept for a face."""
    shadow = small_decoder(width=decoders.DecoderConfig.of("transrec").width)
    z = jax.ShapeDtypeStruct((batch, 77, 77, 64), jnp.float32)
    program = lowered(z, 0.1, extractor=new_extractor(), shadow=shadow, config=TWO_STEPS).compile()
    found = program.memory_analysis()
    assert found and found.temp_size_in_bytes / batch < 7e6
    assert not slow_convolutions(program.as_text() or "")


@on_a_cpu
def test_a_sweep_takes_little_more_memory_than_one_bound_and_no_slow_convolution(networks, z):
    def program(jitted, epsilon):
        epsilon = jnp.asarray(epsilon, jnp.float32)
        return jitted.lower(z, epsilon, None, *networks.values(), TWO_STEPS).compile()

    one, several = program(_protect, 0.1), program(_sweep, SWEPT)
    found, more = one.memory_analysis(), several.memory_analysis()
    assert found and more
    assert 0 < found.temp_size_in_bytes <= more.temp_size_in_bytes <= 2 * found.temp_size_in_bytes
    assert not slow_convolutions(several.as_text() or "")


@on_a_cpu
def test_the_guard_sees_what_plain_autodiff_does():
    """Without our own derivative the input gradient in a loop is on the slow path."""

    def plain(z, kernel):
        def loss(z):
            dimensions = ("NHWC", "HWIO", "NHWC")
            y = lax.conv_general_dilated(z, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
            return jnp.abs(y).sum()

        return lax.fori_loop(0, 2, lambda _, z: z + 0.1 * jnp.sign(jax.grad(loss)(z)), z)

    arguments = jnp.ones((1, 16, 16, 8)), jnp.ones((3, 3, 8, 8))
    assert slow_convolutions(compiled(jax.jit(plain), *arguments))
