"""Protection on small random networks: the bound, the padding, the compilations, the complaints."""

import dataclasses
import importlib
import logging
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from networks import filled
from reference import weights

import advface_jax
from advface_jax import ProtectConfig, protect, shadow_round_trip
from advface_jax.models import decoders, facenet, state
from advface_jax.models.layers import ConvBN
from advface_jax.protect import protect_sweep

SIZES = {
    "transrec": decoders.DecoderConfig("transrec", width=4, depth=0),
    "resrec": decoders.DecoderConfig("resrec", width=4, depth=1),
    "urec": decoders.DecoderConfig("urec", width=4, depth=2),
}
TWO_STEPS = ProtectConfig(steps=2)
FGSM = ProtectConfig(method="fgsm")
every_decoder = pytest.mark.parametrize("kind", SIZES)


def new_decoder(kind) -> decoders.Decoder:
    return filled(lambda: decoders.decoder(SIZES[kind], rngs=nnx.Rngs(0)), 7)


def new_extractor() -> facenet.Extractor:
    return filled(lambda: facenet.Extractor(rngs=nnx.Rngs(0)), 5)


@pytest.fixture(scope="module")
def extractor() -> facenet.Extractor:
    return new_extractor()


@pytest.fixture(scope="module")
def shadows() -> dict[str, decoders.Decoder]:
    return {kind: new_decoder(kind) for kind in SIZES}


@pytest.fixture(scope="module")
def shadow(shadows) -> decoders.Decoder:
    return shadows["transrec"]


@pytest.fixture(scope="module")
def z(extractor) -> jax.Array:
    """Features of two images."""
    return jax.jit(lambda extractor, x: extractor(x))(extractor, weights.images(1, 2))


@pytest.fixture
def compilations(caplog):
    """What XLA has compiled so far in this test, by name."""

    def names() -> list[str]:
        said = (re.match(r"Finished XLA compilation of (\S+)", r.message) for r in caplog.records)
        return [match[1] for match in said if match]

    with caplog.at_level(logging.WARNING), jax.log_compiles():
        yield names


def distance(a: jax.Array, b: jax.Array) -> np.ndarray:
    """|a - b| without rounding: floats of 32 bits and fewer subtract exactly in 64."""
    return np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))


def share_of_equals(a: jax.Array, b: jax.Array) -> float:
    """Two compiled programs round differently, which flips the sign of a few tiny gradients."""
    return float((distance(a, b) < 1e-3).mean())


@every_decoder
def test_the_bound_holds_exactly_around_the_shadow_feature(kind, extractor, shadows, z):
    networks = {"extractor": extractor, "shadow": shadows[kind]}
    x_tilde, z_tilde = shadow_round_trip(z, **networks)
    assert x_tilde.shape == (2, 160, 160, 3) and z_tilde.shape == z.shape
    losses = []
    # ε = 0 is z~ as the same program has it: on some hardware another program rounds differently
    centre = protect(z, **networks, epsilon=0.0, config=TWO_STEPS)
    np.testing.assert_allclose(centre, z_tilde, rtol=1e-4, atol=1e-4)
    for epsilon in (0.0, 0.05, 0.1, 0.2, 0.3):
        z_adv = protect(z, **networks, epsilon=epsilon, config=TWO_STEPS)
        assert z_adv.shape == z.shape and z_adv.dtype == z.dtype
        moved = distance(z_adv, centre)
        assert moved.max() <= float(np.float32(epsilon))
        assert (moved >= 0.999 * epsilon).mean() > 0.4  # the others have stepped back
        image, _ = shadow_round_trip(z_adv, **networks)
        losses.append(float(jnp.abs(image - x_tilde).sum()))
    assert min(losses[1:]) > losses[0] and max(losses) > 1.2 * losses[0]


@pytest.mark.parametrize("method", ["pgd", "fgsm", "mifgsm"])
def test_every_method_moves_the_shadow_picture_away(method, extractor, shadow, z):
    networks = {"extractor": extractor, "shadow": shadow}
    config = ProtectConfig(steps=2, method=method)
    x_tilde, _ = shadow_round_trip(z, **networks)
    z_tilde, z_adv = (protect(z, **networks, epsilon=e, config=config) for e in (0.0, 0.2))
    assert distance(z_adv, z_tilde).max() <= float(np.float32(0.2))
    images = (shadow_round_trip(q, **networks)[0] for q in (z_tilde, z_adv))
    before, after = (jnp.abs(image - x_tilde).mean() for image in images)
    assert after > before + 0.01


def test_bound_step_leaves_the_ball(extractor, shadow, z):
    config = ProtectConfig(steps=4, bound="step")
    start, end = (
        protect(z, extractor=extractor, shadow=shadow, epsilon=e, config=config) for e in (0, 0.1)
    )
    assert 0.2 < distance(end, start).max() <= 0.4 + 1e-5


@every_decoder
def test_the_sweep_is_protect_at_each_epsilon(kind, extractor, shadows, z):
    networks = {"extractor": extractor, "shadow": shadows[kind], "config": TWO_STEPS}
    epsilons = [0.0, 0.1, 0.3]
    swept = protect_sweep(z, epsilons, **networks)
    assert swept.shape == (3, *z.shape)
    for one, epsilon in zip(swept, epsilons, strict=True):
        assert share_of_equals(one, protect(z, **networks, epsilon=epsilon)) > 0.98
        assert distance(one, swept[0]).max() <= float(np.float32(epsilon))
    np.testing.assert_array_equal(swept, protect_sweep(z, jnp.asarray(epsilons), **networks))


def test_one_compilation_serves_every_epsilon(extractor, shadow, z, compilations):
    # steps that no other test takes, so that nothing is compiled yet
    networks = {"extractor": extractor, "shadow": shadow, "config": ProtectConfig(steps=3)}
    for epsilon in (0.2, 0.05, 0, np.float32(0.1), jnp.asarray(0.3)):
        protect(z, **networks, epsilon=epsilon)
    assert [name for name in compilations() if "protect" in name] == ["jit(_protect)"]
    protect_sweep(z, [0.0, 0.1], **networks)
    before = compilations()
    assert [name for name in before if "sweep" in name] == ["jit(_sweep)"]
    protect_sweep(z, [0.2, 0.3], **networks)
    protect_sweep(z, np.array([0.1, 0.0]), **networks)
    protect(z, **networks, epsilon=0.25)
    assert compilations() == before


@pytest.mark.parametrize("real", [[1, 1, 0], [False, True, True]])
@every_decoder
def test_padding_has_no_influence(kind, real, extractor, shadows, z):
    networks = {"extractor": extractor, "shadow": shadows[kind]}
    where = np.flatnonzero(real)
    padded = jnp.full((3, *z.shape[1:]), 9.0).at[where].set(z)
    alone = protect(z, **networks, config=FGSM)
    among = protect(padded, **networks, config=FGSM, mask=jnp.asarray(real))
    assert share_of_equals(among[where], alone) > 0.999
    unmasked = protect(padded, **networks, config=FGSM, mask=np.ones(3))
    assert share_of_equals(unmasked[where], alone) < 0.9  # or the padding was no test


@pytest.mark.parametrize(
    ("statistics", "independent"), [("example", True), ("running", True), ("batch", False)]
)
def test_on_whom_a_face_depends(statistics, independent, extractor, shadow, z):
    config = dataclasses.replace(FGSM, statistics=statistics)
    mates = jnp.concatenate([z[:1], 5 * z[1:, ::-1]])
    one, other = (
        protect(batch, extractor=extractor, shadow=shadow, config=config)[0] for batch in (z, mates)
    )
    assert (share_of_equals(one, other) > 0.999) == independent


@pytest.mark.parametrize("statistics", ["batch", "running", "example"])
def test_the_stored_statistics_stay_as_they_are(statistics, extractor, z):
    shadow = new_decoder("transrec")
    before = jax.tree.map(np.array, state.flatten(shadow))
    networks = {"extractor": extractor, "shadow": shadow}
    protect(z, **networks, config=ProtectConfig(steps=2, statistics=statistics))
    shadow_round_trip(z, **networks, statistics=statistics)
    after = state.flatten(shadow)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_it_works_inside_the_callers_jit(extractor, shadow, z):
    @jax.jit
    def mine(extractor, shadow, z, epsilon):
        return protect(z, extractor=extractor, shadow=shadow, epsilon=epsilon, config=FGSM)

    z_adv = mine(extractor, shadow, z, 0.1)
    direct = protect(z, extractor=extractor, shadow=shadow, epsilon=0.1, config=FGSM)
    assert share_of_equals(z_adv, direct) > 0.999


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_keeps_its_dtype_and_the_bound(dtype, extractor, shadow, z):
    networks = {"extractor": extractor, "shadow": shadow, "config": TWO_STEPS}
    start, end = (protect(z.astype(dtype), **networks, epsilon=e) for e in (0.0, 0.1))
    assert end.dtype == dtype
    assert distance(end, start).max() <= float(np.float32(0.1))


def test_the_three_spellings():
    spelt = {}
    exec("from advface_jax import protect", spelt)
    assert spelt["protect"] is advface_jax.protect is protect
    assert advface_jax.protect_sweep is protect_sweep
    assert callable(protect) and callable(protect_sweep)


# -- what does not fit ------------------------------------------------------------------------


def narrow_decoder() -> decoders.Decoder:
    decoder = new_decoder("transrec")
    assert isinstance(decoder, decoders.TransRec)
    decoder.conv_2b = ConvBN(32, 4, 3, rngs=nnx.Rngs(0), padding="same", scale=True)
    return decoder


def other_extractor() -> facenet.Extractor:
    extractor = new_extractor()
    extractor.conv2d_2b = ConvBN(32, 48, 3, rngs=nnx.Rngs(0), padding="same")
    return extractor


def spoilt(value):
    return lambda z: z.at[1, 2, 3, 4].set(value)


BAD = {
    # name: (how z is changed, other arguments, what the message must say)
    "rank 3": (lambda z: z[0], {}, r"shape \(77, 77, 64\); wanted \(b, 77, 77, 64\).*x\[None\]"),
    "channels": (lambda z: z[..., :32], {}, r"shape \(2, 77, 77, 32\); wanted \(b, 77, 77, 64\)"),
    "channels first": (lambda z: z.transpose(0, 3, 1, 2), {}, r"shape \(2, 64, 77, 77\); wanted"),
    "images": (lambda z: jnp.zeros((2, 160, 160, 3)), {}, r"shape \(2, 160, 160, 3\); wanted"),
    "integers": (lambda z: z.astype(jnp.int32), {}, r"dtype int32; wanted float32: use .astype"),
    "NaN": (spoilt(jnp.nan), {}, "NaN or infinite values; wanted finite ones: look"),
    "infinity": (spoilt(-jnp.inf), {}, "NaN or infinite values; wanted finite ones: look"),
    "no item": (lambda z: z[:0], {}, "got an empty batch of features z; wanted at least one"),
    "nothing": (lambda z: None, {}, r"shape \(\); wanted \(b, 77, 77, 64\)"),
    "epsilon below 0": (None, {"epsilon": -0.1}, "got epsilon=-0.1.*; wanted a finite bound, 0 or"),
    "epsilon NaN": (None, {"epsilon": np.nan}, "got epsilon=nan; wanted a finite bound, 0 or"),
    "epsilon infinite": (None, {"epsilon": np.inf}, "got epsilon=inf; wanted a finite bound"),
    "two epsilons": (None, {"epsilon": [0.1, 0.2]}, r"shape \(2,\); wanted one number.*_sweep"),
    "a short mask": (None, {"mask": [1]}, r"mask of shape \(1,\); wanted \(2,\), one entry for"),
    "a mask like z": (None, {"mask": np.ones((2, 77))}, r"mask of shape \(2, 77\); wanted \(2,\)"),
    "a mask of padding": (None, {"mask": [0, 0]}, "every item as padding; wanted at least one"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_plain_words(case, extractor, shadow, z):
    change, arguments, message = BAD[case]
    with pytest.raises(ValueError, match=f"(?s)^(?=got ).*{message}"):
        protect(change(z) if change else z, extractor=extractor, shadow=shadow, **arguments)


@pytest.mark.parametrize("epsilons", [[], [0.1, -0.1], [0.1, np.nan], [[0.1]], 0.1])
def test_bad_epsilons_of_a_sweep_are_refused(epsilons, extractor, shadow, z):
    with pytest.raises(ValueError, match="^got .*epsilon.*; wanted "):
        protect_sweep(z, epsilons, extractor=extractor, shadow=shadow)


def test_networks_that_do_not_fit_are_refused(extractor, shadow, z):
    misfits = [
        (extractor, narrow_decoder()),
        (other_extractor(), shadow),
        (shadow, extractor),
        (None, shadow),
    ]
    for other, decoder in misfits:
        for call in (protect, shadow_round_trip):
            with pytest.raises(ValueError, match=r"(?s)do not fit z.*: got .*; wanted .*take both"):
                call(z, extractor=other, shadow=decoder)  # type: ignore[arg-type]


def test_a_second_call_traces_nothing(extractor, shadow, z, monkeypatch):
    how = {"extractor": extractor, "shadow": shadow, "config": TWO_STEPS}
    first = protect(z, **how)
    module = importlib.import_module(
        "advface_jax.protect"
    )  # the package has a function of the name
    monkeypatch.setattr(module, "_round_trip", None)
    monkeypatch.setattr(module, "_attack", None)
    np.testing.assert_array_equal(protect(z, **how), first)


@pytest.mark.parametrize("settings", [{"method": "cw"}, {"statistics": "train"}, {"steps": 0}])
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=r"^got (method|statistics|steps)=.*; wanted "):
        ProtectConfig(**settings)


@pytest.mark.parametrize("statistics", ["train", "nonsense"])
def test_a_round_trip_on_unknown_statistics_is_refused(statistics, extractor, shadow, z):
    with pytest.raises(ValueError, match=r"^got statistics=.*; wanted "):
        shadow_round_trip(z, extractor=extractor, shadow=shadow, statistics=statistics)


# -- XLA:CPU's slow convolutions --------------------------------------------------------------

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


@on_a_cpu
@every_decoder
def test_protection_has_no_slow_convolution(kind, extractor, shadows, z):
    from advface_jax.protect import _protect, _sweep  # whose compiled program it is

    for program, epsilon in ((_protect, 0.1), (_sweep, [0.0, 0.1, 0.3])):
        epsilon = jnp.asarray(epsilon, jnp.float32)
        text = compiled(program, z, epsilon, None, extractor, shadows[kind], TWO_STEPS)
        assert not slow_convolutions(text)


@on_a_cpu
@pytest.mark.parametrize("batch", [1, 2])
def test_a_face_takes_seven_megabytes(batch, extractor):
    """TransRec as shipped; beside weights and batch norm's numbers nothing is kept for a face."""
    from advface_jax.protect import lowered

    config = decoders.DecoderConfig.of("transrec")
    shadow = filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), 7)
    z = jax.ShapeDtypeStruct((batch, 77, 77, 64), jnp.float32)
    program = lowered(z, 0.1, extractor=extractor, shadow=shadow, config=TWO_STEPS).compile()
    found = program.memory_analysis()
    assert found and found.temp_size_in_bytes / batch < 7e6


@on_a_cpu
def test_a_sweep_takes_no_more_than_twice_the_memory_of_one_bound(extractor, shadow, z):
    from advface_jax.protect import _protect, _sweep

    def temporary(program, epsilon):
        epsilon = jnp.asarray(epsilon, jnp.float32)
        lowered = program.lower(z, epsilon, None, extractor, shadow, TWO_STEPS)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    one, seven = temporary(_protect, 0.1), temporary(_sweep, np.linspace(0, 0.3, 7))
    assert 0 < one <= seven <= 2 * one


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
