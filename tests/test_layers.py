"""The layers against JAX's own convolution, pooling and arithmetic."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax
from networks import filled

from advface_jax import sharding
from advface_jax.models import state
from advface_jax.models.fast import convolution
from advface_jax.models.fast.convolution import Window, conv
from advface_jax.models.layers import BatchNorm, Conv, Mix, max_pool, rectify

pytestmark = pytest.mark.usefixtures("full_float32")


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


# name -> (input height and width, kernel height and width, window); sizes odd, even and unequal
WINDOWS = {
    "valid": ((9, 8), (3, 3), Window()),
    "same": ((9, 8), (3, 3), Window(1, ((1, 1), (1, 1)))),
    "1x1": ((5, 6), (1, 1), Window()),
    "stride 2": ((9, 9), (3, 3), Window(2)),
    "stride 2 that leaves a rest": ((10, 8), (3, 3), Window(2)),
    "stride 2, padded": ((10, 9), (3, 3), Window(2, ((1, 1), (1, 1)))),
    "uneven padding": ((9, 8), (4, 2), Window(1, ((2, 1), (1, 0)))),
    "1x7 same": ((9, 8), (1, 7), Window(1, ((0, 0), (3, 3)))),
    "7x1 same": ((9, 8), (7, 1), Window(1, ((3, 3), (0, 0)))),
    "mirror of stride 1": ((5, 6), (3, 3), Window(1, ((2, 2), (2, 2)))),
    "mirror of stride 2": ((5, 6), (3, 3), Window(1, ((2, 2), (2, 2)), 2)),
    "mirror of stride 2, oblong": ((5, 6), (1, 3), Window(1, ((0, 0), (2, 2)), 2)),
}


def plain(x: jax.Array, kernel: jax.Array, window: Window) -> jax.Array:
    how = {"lhs_dilation": (window.dilation,) * 2, "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    return lax.conv_general_dilated(x, kernel, (window.stride,) * 2, window.padding, **how)


@pytest.mark.parametrize("name", WINDOWS)
def test_conv_has_the_gradients_of_plain_autodiff(name):
    size, kernel_size, window = WINDOWS[name]
    assert_plain(normal(0, 2, *size, 3), normal(1, *kernel_size, 3, 5), window)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("channels", [(9, 16), (17, 18)])
@pytest.mark.parametrize("name", ["valid", "same", "mirror of stride 1", "uneven padding"])
def test_what_a_cpu_computes_beyond_the_result_is_cut_off(name, channels, alone, monkeypatch):
    """Maps large enough for several cores; channels enough for YNNPACK, or padded to it."""
    monkeypatch.setattr(sharding, "cores", lambda: convolution.MANY_CORES)
    _, kernel_size, window = WINDOWS[name]
    batch = 1 if alone else 2
    x = normal(0, batch, convolution.FEW_ROWS + 1, convolution.FEW_ROWS + 2, channels[0])
    kernel = normal(1, *kernel_size, *channels)
    assert_plain(x, kernel, window)
    y = jax.eval_shape(lambda: plain(x, kernel, window))
    assert convolution._wants_all_cores(x) == alone
    made, wider, padding = convolution._fast_on_cpu(x, kernel, window, alone)
    rows = made.shape[1] + sum(padding[0]) - kernel_size[0] + 1
    assert rows >= y.shape[1]
    assert (rows > made.shape[1]) == alone, "one example: on all cores"
    assert made.shape[3] == wider.shape[2] and (max(wider.shape[2:]) > 16 or alone)


@pytest.mark.parametrize("name", ["same", "uneven padding"])
def test_many_channels_take_half_the_products_of_rows(name):
    """By Winograd, exact to the sixth digit of the largest; not in half precision."""
    _, _, window = WINDOWS[name]
    x = normal(0, 2, convolution.FEW_ROWS + 1, convolution.FEW_ROWS + 3, 64)
    kernel = normal(1, 3, 3, 64, 65)

    def products(x):
        program = str(jax.make_jaxpr(lambda x: conv(x, kernel.astype(x.dtype), window))(x))
        return program.count("conv_general_dilated[")

    assert products(x) == 6 and products(x.astype(jnp.bfloat16)) == 1
    assert products(x[:1]) == 6
    assert products(x[:, :8]) == 1, "too few rows to gain"
    truths, ours = (value_and_gradients(f, x, kernel, window) for f in (plain, conv))
    for a, b in zip(ours, truths, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=5e-6 * float(jnp.abs(b).max()))


PARTS = [(6, 1, 6, 1, 6), (6, 1, 5, 3.5, 3), (6, 2, 2, 1.5, 2), (6, 2, 3, 1.5, 6), (6, 2, 0, 0, 2)]
PARTS += [(7, 2, 3, 3.5, 1), (2, 2, 0, 1, 2)]


@pytest.mark.parametrize(("batch", "devices", "most", "part", "size"), PARTS)
def test_a_cpu_takes_a_large_batch_in_parts_of_each_devices_examples(
    batch, devices, most, part, size, monkeypatch
):
    x, kernel = normal(0, batch, 9, 8, 5), normal(1, 3, 3, 5, 7)
    window = Window(padding=((1, 1), (1, 1)))
    given, multiply = set(), convolution._multiply

    def watched(x, *how, alone=False):
        given.add(x.shape[0])
        assert not alone, "one of several"
        return multiply(x, *how)

    monkeypatch.setattr(jax, "device_count", lambda: devices)
    monkeypatch.setattr(convolution, "FEW_ROWS", 1)
    monkeypatch.setattr(sharding, "cores", lambda: convolution.MANY_CORES)
    monkeypatch.setattr(convolution, "MOST_BYTES", most * x[0].nbytes)
    monkeypatch.setattr(convolution, "PART_BYTES", part * x[0].nbytes)
    monkeypatch.setattr(convolution, "_multiply", watched)
    ours = np.asarray(conv(x, kernel, window))
    np.testing.assert_allclose(ours, plain(x, kernel, window), rtol=0, atol=1e-5)
    assert given == {size}


QUICK = {"xla_backend_optimization_level": 0}  # compiling is what takes the time here


@functools.partial(jax.jit, static_argnums=(0, 3), compiler_options=QUICK)
def value_and_gradients(convolve, x, kernel, window):
    y, vjp = jax.vjp(lambda x, kernel: convolve(x, kernel, window), x, kernel)
    return y, *vjp(normal(2, *y.shape))


def assert_plain(x, kernel, window):
    y, *truths = value_and_gradients(plain, x, kernel, window)
    ours, *gradients = value_and_gradients(conv, x, kernel, window)
    np.testing.assert_allclose(ours, y, rtol=1e-5, atol=1e-5)
    for gradient, truth in zip(gradients, truths, strict=True):
        assert gradient.shape == truth.shape
        assert np.linalg.norm(gradient - truth) <= 1e-5 * np.linalg.norm(truth)
        np.testing.assert_allclose(gradient, truth, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("stride", "kernel_size"), [(1, 3), (1, (1, 3)), (2, 3), (2, 2)])
def test_a_transposed_convolution_spreads_each_input_under_its_kernel(stride, kernel_size):
    """y[s·i + k] += x[i] w[k], written out."""
    how = {"stride": stride, "transpose": True, "bias": True}
    layer = filled(lambda: Conv(2, 3, kernel_size, rngs=nnx.Rngs(0), **how))
    x, kernel = np.asarray(normal(0, 2, 4, 5, 2)), np.asarray(layer.kernel[...])
    kh, kw = kernel.shape[:2]
    assert layer.bias is not None
    y = np.zeros((2, 3 * stride + kh, 4 * stride + kw, 3)) + np.asarray(layer.bias[...])
    for i in range(4):
        for j in range(5):
            spread = np.einsum("bc,hwco->bhwo", x[:, i, j], kernel)
            y[:, i * stride : i * stride + kh, j * stride : j * stride + kw] += spread
    np.testing.assert_allclose(layer(jnp.asarray(x)), y, rtol=1e-4, atol=1e-5)


def test_rectify_is_relu():
    x = jnp.asarray([-2.0, -0.0, 0.0, 1e-30, 3.0])
    for dtype in (jnp.float32, jnp.bfloat16):
        (y, vjp), (truth, true_vjp) = (jax.vjp(f, x.astype(dtype)) for f in (rectify, jax.nn.relu))
        assert y.dtype == dtype and np.array_equal(y, truth)
        assert np.array_equal(vjp(y + 5)[0], true_vjp(y + 5)[0])


@pytest.mark.parametrize(
    ("size", "stride", "shape"), [(2, 2, (9, 8)), (3, 3, (6, 7)), (3, 2, (9, 8))]
)
def test_max_pool_is_reduce_window(size, stride, shape):
    x = normal(0, 2, *shape, 3)

    def truth(x):
        window, strides = (1, size, size, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, -jnp.inf, lax.max, window, strides, "VALID")

    @functools.partial(jax.jit, static_argnums=0)
    def value_and_gradient(pool, x):
        y, vjp = jax.vjp(pool, x)
        return y, vjp(jnp.arange(1, y.size + 1, dtype=y.dtype).reshape(y.shape))[0]

    y, gradient = value_and_gradient(lambda x: max_pool(x, size, stride), x)
    expected, expected_gradient = value_and_gradient(truth, x)
    assert np.array_equal(y, expected)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-6)


def test_the_first_of_a_tie_has_the_gradient():
    """As with reduce_window. The decoders' ties are zeros of a ReLU, which pass none on."""
    x = jnp.ones((1, 4, 5, 2)).at[0, 0, 0].set(2)
    _, vjp = jax.vjp(lambda x: max_pool(x, 2, 2), x)
    (gradient,) = vjp(jnp.full((1, 2, 2, 2), 4.0))
    first = [[4, 0, 4, 0, 0], [0, 0, 0, 0, 0], [4, 0, 4, 0, 0], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(gradient[0, ..., 0], first)


def norm(scale: bool = True) -> BatchNorm:
    """Batch norm over three channels whose every number is another."""
    bn = BatchNorm(3, scale=scale, decay=0.9)
    if bn.scale is not None:
        bn.scale[...] = jnp.array([1.0, 2.0, -0.5])
    bn.bias[...] = jnp.array([0.1, -0.2, 0.3])
    bn.mean[...] = jnp.array([0.5, 0.0, -0.5])
    bn.var[...] = jnp.array([1.0, 4.0, 0.25])
    return bn


@pytest.mark.parametrize("statistics", ["running", "batch", "example", "train"])
def test_batch_norm_by_whose_statistics(statistics):
    scale = statistics != "batch"
    bn = norm(scale)
    x = np.asarray(3 + 2 * normal(0, 4, 6, 5, 3), np.float64)
    axes = (1, 2) if statistics == "example" else (0, 1, 2)
    mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    if statistics == "running":
        mean, var = np.array([0.5, 0, -0.5]), np.array([1, 4, 0.25])
    gamma = np.array([1, 2, -0.5]) if scale else 1
    y = (x - mean) / np.sqrt(var + 1e-3) * gamma + np.array([0.1, -0.2, 0.3])
    ours = bn(jnp.asarray(x, jnp.float32), statistics)
    np.testing.assert_allclose(ours, y, rtol=1e-4, atol=1e-5)

    stored = np.array([0.5, 0, -0.5]), np.array([1, 4, 0.25])
    if statistics == "train":
        seen = mean.ravel(), var.ravel()
        stored = tuple(0.9 * old + 0.1 * new for old, new in zip(stored, seen, strict=True))
    np.testing.assert_allclose(bn.mean[...], stored[0], rtol=1e-6)
    np.testing.assert_allclose(bn.var[...], stored[1], rtol=1e-5)


@pytest.mark.parametrize("mask", [[0, 1, 0, 1], [True, False, False, False]])
def test_what_is_masked_has_no_part_in_the_batch_statistics(mask):
    x = normal(0, 4, 6, 5, 3)
    real = np.asarray(mask, bool)
    padded = jnp.where(jnp.asarray(real)[:, None, None, None], x, 100.0)
    for statistics in ("batch", "example"):
        y = norm()(padded, statistics, jnp.asarray(mask))
        np.testing.assert_allclose(y[real], norm()(x[real], statistics), rtol=1e-4, atol=1e-5)


def test_the_scale_of_a_large_channel_fits_half_precision():
    """Decoders are stored in it, and DCTDP's coefficients reach a thousand."""
    mix = Mix(3, 2, decay=0.0, rngs=nnx.Rngs(0))
    mix(jnp.full((1, 8, 8, 3), 1016.0), "train")
    kept = {name: np.asarray(a).astype("f2") for name, a in state.flatten(mix).items()}
    assert all(np.isfinite(a).all() for a in kept.values())
    np.testing.assert_allclose(kept["size"], 1016, rtol=1e-3)


def test_half_precision_keeps_its_statistics_in_full():
    x = (3 + normal(0, 2, 32, 32, 3)).astype(jnp.bfloat16)
    y = norm()(x, "batch")
    assert y.dtype == jnp.bfloat16
    truth = norm()(x.astype(jnp.float32), "batch")
    # 2048 values averaged in bfloat16 would be off by more
    assert abs(float(y.astype(jnp.float32).mean() - truth.mean())) < 0.02
