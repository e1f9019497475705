"""Defences: bounds, keys, moments, padding, compilations, SciPy's DCT, bad input."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft
import scipy.ndimage
from networks import Pool, small_decoder, small_extractor

from advface_jax import ProtectConfig, defenses, protect
from advface_jax.defenses import channels

KEY = jax.random.key(3)
NOISE = {"ball": defenses.ball(2), "walk": defenses.walk(2), "laplace": defenses.laplace()}
ON_IMAGES = {name: getattr(defenses, name)() for name in ("duetface", "partialface", "dctdp")}
# Most calls have a mask: one compiled program then serves several tests.
REAL, PADDED = np.array([1, 1]), np.array([1, 0])
DECOY = defenses.decoy(
    recogniser=Pool(),
    extractor=small_extractor(),
    faces=np.random.default_rng(2).uniform(size=(3, 160, 160, 3)).astype("f4"),
    config={"steps": 2},
)
PLAIN = {"none": defenses.none(), **NOISE, **ON_IMAGES, "decoy": DECOY}


@pytest.fixture(scope="module")
def advface() -> defenses.Defense:
    return defenses.advface(
        extractor=small_extractor(), shadow=small_decoder(), config=ProtectConfig(steps=2)
    )


@pytest.fixture(scope="module")
def z() -> jax.Array:
    """Two features, half of whose elements are 0, as ReLU leaves them."""
    return jnp.asarray(np.maximum(np.random.default_rng(0).normal(size=(2, 77, 77, 64)), 0), "f4")


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(1).uniform(size=(2, 160, 160, 3)).astype("f4")


def moved(stored, z) -> np.ndarray:
    """stored - z without rounding: floats of 32 bits and fewer subtract exactly in 64."""
    return np.asarray(stored, np.float64) - np.asarray(z, np.float64)


@pytest.mark.parametrize("name", [*PLAIN, "advface"])
def test_every_defence_stores_what_it_says(name, advface, z, images):
    defense = advface if name == "advface" else PLAIN[name]
    client = images if name in ON_IMAGES else z
    assert defense.takes is None or client.shape[1:] == defense.takes
    stored = defense(client, key=KEY, mask=REAL)
    assert (
        stored.shape == (2, *(defense.stores or client.shape[1:])) and stored.dtype == jnp.float32
    )
    assert bool(jnp.isfinite(stored).all())
    assert defense.for_server == (name not in ON_IMAGES)
    if name != "advface":  # which has a test of its own
        padded = defense(jnp.asarray(client).at[1].set(1), key=KEY, mask=PADDED)
        np.testing.assert_array_equal(padded[0], stored[0])
    half = jax.ShapeDtypeStruct(client.shape, jnp.bfloat16)
    traced = jax.eval_shape(lambda client: defense(client, key=KEY), half)
    assert traced.dtype == jnp.bfloat16 and traced.shape == stored.shape


@pytest.mark.parametrize("name", [*NOISE, "partialface", "dctdp", "decoy"])
def test_the_key_decides_and_nothing_else(name, z, images):
    item = (images if name in ON_IMAGES else z)[0]
    twice, keys = jnp.stack([item, item]), jax.random.split(KEY)
    stored = PLAIN[name](twice, key=keys, mask=REAL)
    swapped = PLAIN[name](twice, key=keys[::-1], mask=REAL)[::-1]
    np.testing.assert_array_equal(stored, swapped)  # an item's own key, wherever in a batch it is
    one = PLAIN[name](twice, key=KEY, mask=REAL)
    share = 0.01 if name == "partialface" else 0.9  # 18 outcomes, which share channels
    assert bool((stored[0] != stored[1]).mean() > share)
    assert bool((one[0] != one[1]).mean() > share)


def test_padding_touches_no_other_item(advface, z):
    padded = [advface(z.at[1].set(fill), mask=PADDED)[0] for fill in (3, 9)]
    np.testing.assert_array_equal(*padded)
    counted = [advface(z.at[1].set(fill), mask=REAL)[0] for fill in (3, 9)]
    assert (np.abs(moved(*counted)) < 1e-3).mean() < 0.9  # or it was no test


def test_one_compilation_serves_every_epsilon_and_key(z, compilations):
    for defense, program in (
        (defenses.ball(3), "_random_steps"),
        (defenses.laplace(0.7), "_laplace"),
    ):
        for epsilon, key in ((0.2, KEY), (0.0, jax.random.key(9)), (jnp.float32(0.1), KEY)):
            defense(z[:1], key=key, epsilon=epsilon)  # settings that no other test has
        assert compilations().count(f"jit({program})") == 1


def test_a_defence_enters_the_callers_jit(advface, z):
    @jax.jit
    def mine(defense, z, key, epsilon):
        return defense(z, key=key, epsilon=epsilon)

    direct = NOISE["ball"](z, key=KEY, epsilon=0.1)
    np.testing.assert_allclose(mine(NOISE["ball"], z, KEY, 0.1), direct, atol=1e-6)
    assert jax.eval_shape(mine, advface, z, KEY, 0.1).shape == z.shape


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_the_ball_bounds_exactly(dtype, z):
    z = z.astype(dtype)
    for epsilon in (0.05, 0.1, 0.2, 0.3):
        noise = np.abs(moved(NOISE["ball"](z, key=KEY, epsilon=epsilon, mask=REAL), z))
        assert 0.99 * epsilon < noise.max() <= float(np.float32(epsilon))


@pytest.mark.parametrize("name", NOISE)
def test_without_epsilon_nothing_moves(name, z):
    np.testing.assert_array_equal(NOISE[name](z, key=KEY, epsilon=0, mask=REAL), z)


def test_the_moments_are_those_of_the_noise(z):
    z = z[:1]
    n = z.size  # 379 thousand: a mean is known to 0.16% of the deviation
    half = moved(defenses.ball(1)(z, key=KEY), z) / 0.2
    assert abs(half.mean()) < 5 * 0.58 / n**0.5
    np.testing.assert_allclose(np.abs(half).mean(), 1 / 2, rtol=5e-3)  # uniform
    np.testing.assert_allclose(half.std(), 1 / 3**0.5, rtol=5e-3)

    steps = moved(defenses.walk()(z, key=KEY), z) / 0.2
    assert abs(steps.mean()) < 5 * 3.65 / n**0.5
    np.testing.assert_allclose(steps.std(), (40 / 3) ** 0.5, rtol=5e-3)

    clipped = moved(defenses.ball()(z, key=KEY), z) / 0.2
    np.testing.assert_allclose(clipped.std(), 0.72, rtol=1e-2)
    np.testing.assert_allclose((np.abs(clipped) > 0.9999).mean(), 1 / 3, rtol=0.1)

    noise = moved(defenses.laplace(2.0)(z, key=KEY), z) * 2.0 / 0.2
    assert abs(noise.mean()) < 5 * 2**0.5 / n**0.5
    np.testing.assert_allclose(np.abs(noise).mean(), 1, rtol=5e-3)
    np.testing.assert_allclose(noise.std(), 2**0.5, rtol=1e-2)


def test_advface_is_protect(advface, z):
    wanted = protect(z, **advface.networks, epsilon=0.1, config=advface.settings, mask=REAL)
    np.testing.assert_array_equal(advface(z, epsilon=0.1, mask=REAL), wanted)
    papers = advface(z, epsilon=0.2, mask=REAL)
    np.testing.assert_array_equal(advface(z, mask=REAL), papers)
    fgsm = defenses.advface(**advface.networks, config=ProtectConfig(method="fgsm"))
    assert (advface.name, fgsm.name) == ("AdvFace", "AdvFace (FGSM)")


def scipys_channels(image: np.ndarray) -> np.ndarray:
    """The 192 channels of (n,n,3), by SciPy's spline, the JFIF formulas, SciPy's DCT."""
    n = len(image)
    colours = np.moveaxis(255 * image.astype("f8"), -1, 0)
    red, green, blue = (np.asarray(scipy.ndimage.zoom(c, 8, order=1)) for c in colours)
    y = 0.299 * red + 0.587 * green + 0.114 * blue
    cb = 128 - 0.168736 * red - 0.331264 * green + 0.5 * blue
    cr = 128 + 0.5 * red - 0.418688 * green - 0.081312 * blue
    blocks = np.stack([y, cb, cr]).reshape(3, n, 8, n, 8) - 128
    f = np.asarray(scipy.fft.dctn(blocks, type=2, norm="ortho", axes=(2, 4)))
    return f.transpose(1, 3, 0, 2, 4).reshape(n, n, 192)


@pytest.mark.parametrize("n", [1, 2, 7, 24, 160])
def test_the_transform_is_scipys(n, images):
    small = images[:1, :n, :n]
    ours, theirs = defenses.block_dct(small)[0], scipys_channels(small[0])
    # float32 at values of a thousand; the rounded coefficients of the formulas, times 255 × 8
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=3e-3)


def test_duetface_splits_the_channels_and_loses_none(images):
    client, server = defenses.duetface_split(images)
    defense = defenses.duetface()
    assert client.shape[1:] == defense.keeps == (160, 160, 30)
    assert server.shape[1:] == defense.stores == (160, 160, 162)
    np.testing.assert_array_equal(defense(images), server)
    order = np.argsort(channels.CLIENT_CHANNELS + channels.SERVER_CHANNELS)
    both = np.concatenate([client, server], -1)[..., order]
    np.testing.assert_allclose(both, defenses.block_dct(images), rtol=0, atol=1e-3)
    # the first six across, and (1, 0), (1, 1), (2, 0), (3, 0), of each colour
    kept = {(u, v) for u, v in np.ndindex(8, 8) if 8 * u + v in channels.DUETFACE_CLIENT}
    assert kept == {(0, v) for v in range(6)} | {(1, 0), (1, 1), (2, 0), (3, 0)}


def test_partialface_stores_one_subset_of_high_frequencies(images):
    defense = defenses.partialface()
    image = images[:1, :8, :8]  # several places: one does not tell small coefficients apart
    keys = jax.random.split(KEY, 40)
    stored = defense.method(image.repeat(40, 0), keys, None, None, defense.settings, None)
    few = np.asarray(stored)[:, 0].reshape(40, 24, 9)
    here = np.asarray(defenses.block_dct(image))[0, 0].reshape(24, 64)
    raster = [tuple(np.abs(here[:, :, None] - item[:, None]).sum(0).argmin(0)) for item in few]
    for item, where in zip(few, raster, strict=True):
        np.testing.assert_allclose(item, here[:, where], atol=1e-3)  # the same of every colour
    subsets = {frozenset(where) for where in raster}
    assert len(subsets) == 6 and all(len(subset) == 9 for subset in subsets)
    assert frozenset.union(*subsets) == set(range(64)) - set(channels.PARTIALFACE_PRUNED)
    assert 12 < len(set(raster)) <= 18  # 16.2 of 18 are expected of 40
    other = defenses.partialface(seed=1)
    assert other.settings != defense.settings == defenses.partialface().settings


def test_dctdp_drops_the_means_and_adds_noise_of_its_scale(images):
    small = images[:, :40, :40]
    without = np.delete(np.asarray(defenses.block_dct(small)), [0, 64, 128], -1)
    for defense, scale in ((defenses.dctdp(), 0.25), (defenses.dctdp(0.5, 3.0), 6)):
        keys = jax.random.split(KEY)
        stored = defense.method(small, keys, None, None, defense.settings, None)
        np.testing.assert_allclose(np.abs(np.asarray(stored) - without).mean(), scale, rtol=5e-3)


BAD = {
    # name: (how z is changed, other arguments, what the message must say)
    "no item": (lambda z: z[:0], {}, "an empty batch of features z; wanted at least one"),
    "no batch": (lambda z: z[0, 0, 0], {}, r"features z of shape \(64,\); wanted \(b, …\)"),
    "NaN": (lambda z: z.at[0, 0, 0, 0].set(jnp.nan), {}, "NaN or infinite values; wanted finite"),
    "epsilon below 0": (None, {"epsilon": -0.1}, "epsilon=-0.1; wanted a finite bound, 0 or"),
    "a short mask": (None, {"mask": [1]}, r"mask of shape \(1,\); wanted \(2,\)"),
    "no key": (None, {"key": None}, r"no key for .*at random; wanted one of jax.random.key\(seed"),
    "a number": (None, {"key": 3}, r"key=3 for .*wanted one of jax.random.key"),
    "a raw key": (None, {"key": jnp.zeros(2, "uint32")}, "wanted one of jax.random.key"),
    "many keys": (None, {"key": jax.random.split(KEY, 5)}, r"keys of shape \(5,\); .* or \(2,\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_plain_words(case, z):
    change, arguments, message = BAD[case]
    with pytest.raises(ValueError, match=f"(?s)^(?=got ).*{message}"):
        NOISE["ball"](change(z) if change else z, **{"key": KEY, **arguments})


def test_bad_images_are_refused_in_plain_words(images, z):
    defense = ON_IMAGES["partialface"]
    for bad, message in (
        (images * 255, "values from .*; wanted finite ones in"),
        (images * np.nan, "values from nan"),
        (images[:, :80], "wanted \\(b, 160, 160, 3\\)"),
        (z, "wanted \\(b, 160, 160, 3\\)"),
    ):
        with pytest.raises(ValueError, match=f"^got images .*{message}"):
            defense(bad, key=KEY)
    with pytest.raises(ValueError, match=r"^got epsilon=0.2 for .*no noise bound; wanted None"):
        defense(images, key=KEY, epsilon=0.2)


def test_the_transform_refuses_what_is_no_image(images):
    for bad in (images[:, :80], images[0], images[..., :1]):
        with pytest.raises(ValueError, match="^got images of shape .*; wanted"):
            defenses.block_dct(bad)


@pytest.mark.parametrize(
    "make",
    [
        lambda: defenses.ball(0),
        lambda: defenses.walk(2.5),  # type: ignore[arg-type]
        lambda: defenses.laplace(0.0),
        lambda: defenses.laplace(float("nan")),
        lambda: defenses.partialface(-1),
        lambda: defenses.dctdp(budget=-1),
        lambda: defenses.dctdp(sensitivity=float("inf")),
    ],
)
def test_settings_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match=r"^got (steps|budget|seed|sensitivity)=.*; wanted "):
        make()


@pytest.mark.parametrize("make", [defenses.ball, defenses.walk])
def test_random_steps_with_x64(make):
    with jax.enable_x64(True):
        assert make()(np.ones((1, 4), "f4"), key=jax.random.key(0)).dtype == "float32"
