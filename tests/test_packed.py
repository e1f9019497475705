"""Decoders over packed maps are the decoders: the same image, the same first gradient."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import new_extractor, small_decoder
from reference import weights

from advface_jax import ProtectConfig, protect
from advface_jax.models import decoders, facenet
from advface_jax.models.fast import packed, packed_decoders

# Kind, its depth, the pixels of a cell, and S's statistics.
CASES = [
    ("transrec", 0, (2, 2), "batch"),
    ("resrec", 1, (2, 4), "batch"),
    ("urec", 2, (2, 4), "batch"),
    ("transrec", 0, (2, 2), "running"),
    ("urec", 2, (1, 1), "batch"),
]
MORE = [
    ("urec", 2, (4, 4), "batch"),
    ("resrec", 1, (1, 2), "batch"),
    ("resrec", 1, (2, 4), "example"),
    ("transrec", 0, (1, 1), "batch"),
    ("resrec", 1, (1, 1), "batch"),
    ("urec", 0, (2, 2), "batch"),
    ("urec", 2, (2, 4), "running"),
    ("urec", 2, (2, 4), "example"),
]


@functools.cache
def new_decoder(kind, depth) -> decoders.Decoder:
    return small_decoder(kind, 7, depth=depth)


QUICK = {"xla_backend_optimization_level": 0}  # compiling is what takes the time here


@functools.partial(jax.jit, static_argnames=("cell", "statistics"), compiler_options=QUICK)
def image_and_gradient(decoder, z, signs, mask, cell, statistics):
    """S(z), and the gradient of its sum with ``signs`` (b,160,160,3); plain, where cell is None."""
    form = packed_decoders.form(decoder, "plain", z.dtype)
    if cell:
        form = packed_decoders.packed(decoder, z.dtype, cell)

    def image(q):
        return form.image(form.decode(q, statistics, mask))

    x, vjp = jax.vjp(image, form.pack(z))
    signs = signs if mask is None else signs * mask[:, None, None, None]
    return x, form.unpack(vjp(signs)[0])


@functools.cache
def of_three_faces(kind, depth, cell, statistics) -> list[np.ndarray]:
    """Image and gradient; for ResRec and URec the second face is padding."""
    z = jnp.asarray(weights.features(1, 3))
    noise = weights.uniform(3, "signs", (3, 160, 160, 3)) - 0.5
    signs = jnp.sign(jnp.asarray(noise, jnp.float32))
    mask = None if kind == "transrec" else jnp.asarray([1.0, 0.0, 1.0])
    found = image_and_gradient(new_decoder(kind, depth), z, signs, mask, cell, statistics)
    return [np.asarray(a) for a in found]


@pytest.mark.parametrize(
    ("kind", "depth", "cell", "statistics"),
    [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE)],
)
def test_image_and_first_gradient_are_those_of_the_plain_decoder(kind, depth, cell, statistics):
    x, g = of_three_faces(kind, depth, cell, statistics)
    x_plain, g_plain = of_three_faces(kind, depth, None, statistics)
    real = [0, 1, 2] if kind == "transrec" else [0, 2]
    np.testing.assert_allclose(x[real], x_plain[real], atol=2e-5)
    assert kind == "transrec" or not g[1].any()
    # A ReLU or a maximum that tips over at its edge changes the gradient of some pixels around it;
    # the first and the last pixels are where padding and repetition would show.
    error = np.abs(g - g_plain)[real] / np.abs(g_plain[real]).max()
    for part in (np.s_[:], np.s_[:, :2], np.s_[:, -2:], np.s_[:, :, :2], np.s_[:, :, -2:]):
        assert np.quantile(error[part], 0.9) < 5e-5
    assert np.linalg.norm(g - g_plain) < 0.01 * np.linalg.norm(g_plain)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    ("kind", "depth", "cell", "statistics"),
    [
        ("transrec", 0, (1, 2), "batch"),
        ("resrec", 1, (2, 4), "example"),
        ("urec", 2, (2, 4), "batch"),
    ],
)
def test_the_forms_of_a_tpu_are_the_plain_decoder(kind, depth, cell, statistics, monkeypatch):
    expected = of_three_faces(kind, depth, None, statistics)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    of_three_faces.cache_clear()
    jax.clear_caches()
    found = of_three_faces(kind, depth, cell, statistics)
    of_three_faces.cache_clear()
    jax.clear_caches()
    for one, other in zip(found, expected, strict=True):
        error = np.abs(one - other)[::2] / np.abs(other[::2]).max()
        assert np.quantile(error, 0.9) < 5e-5  # a ReLU that tips over changes some pixels
        assert np.linalg.norm((one - other)[::2]) < 0.01 * np.linalg.norm(other[::2])


def test_maps_come_back_as_they_were():
    x = jnp.arange(2 * 7 * 7 * 3, dtype=jnp.float32).reshape(2, 7, 7, 3)
    pack, unpack = (jax.jit(f, static_argnums=1) for f in (packed.pack, packed.unpack))
    for cell, first in (((1, 1), 0), ((2, 4), -3), ((4, 4), 2)):
        grid = packed.Grid.of(7, cell, first)
        there = pack(x, grid)
        np.testing.assert_array_equal(unpack(there, grid), x)
        assert there.sum() == x.sum(), "zeros outside the map"
        inside = grid.inside(3)
        assert (there.size == x[:2].size) if inside is None else inside.sum() == x[0].size


def test_cells_that_fit_no_stride_are_refused():
    with pytest.raises(ValueError, match="got cells of 2 and 2 pixels.*stride of 2; wanted"):
        packed.taps(packed.Axis(38, 2), packed.Axis(77, 2), 3, 2, 0)


@pytest.mark.parametrize(
    ("width", "cell"), [(4, (4, 4)), (16, (2, 4)), (32, (2, 2)), (48, (1, 2)), (200, (1, 1))]
)
def test_cells_fill_128_channels(width, cell):
    assert packed_decoders.cell_of(width) == cell


@pytest.mark.slow
@pytest.mark.parametrize("start", ["z_tilde", "z"])
def test_protect_packed_is_protect(start):
    """One step; further ones amplify the last digit, since they take the gradient's sign."""
    networks = {"extractor": new_extractor(), "shadow": new_decoder("transrec", 0)}
    z, mask = networks["extractor"](jnp.asarray(weights.images(1, 3))), jnp.asarray([1.0, 1, 0])
    configs = (ProtectConfig(1, start=start, formulation=how) for how in ("plain", "packed"))
    plain, packed_ = (protect(z, **networks, epsilon=0.1, mask=mask, config=c) for c in configs)
    assert packed_.shape == z.shape and packed_.dtype == z.dtype
    assert (np.abs(plain - packed_)[:2] < 1e-3).mean() > (0.999 if start == "z_tilde" else 0.99)


OTHER = nnx.eval_shape(lambda: facenet.Extractor(rngs=nnx.Rngs(0)))


def test_what_cannot_be_packed_stays_as_it_is():
    with pytest.raises(ValueError, match="got formulation='packed' for a Extractor; wanted"):
        packed_decoders.form(OTHER, "packed", jnp.float32)
    with pytest.raises(ValueError, match="^got formulation='fast'; wanted"):
        ProtectConfig(formulation="fast")  # type: ignore[arg-type]


def test_auto_is_what_is_fastest_where_it_runs(monkeypatch):
    decoder = new_decoder("transrec", 0)
    features = jax.ShapeDtypeStruct((1, 77, 77, 64), "float32")
    packed_shapes = {"gpu": features.shape, "cpu": features.shape, "tpu": (1, 20, 20, 1024)}
    for platform, shape in packed_shapes.items():
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)

        def pack(decoder, z, platform=platform):
            form = packed_decoders.form(decoder, "auto", jnp.float32)
            assert (form.decode is decoder) == (platform == "gpu")
            return form.pack(z)

        assert jax.eval_shape(pack, decoder, features).shape == shape
        assert packed_decoders.form(OTHER, "auto", jnp.float32).decode is OTHER
