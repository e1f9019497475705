"""SFace: its ONNX file, int8 in blocks, becomes a network that computes what the graph says."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import weight_files as wf
from flax import nnx
from jax import lax

import advface_jax
from advface_jax import checkpoint
from advface_jax.models import sface, state
from weights_convert.conversion import convert_file
from weights_convert.sources import onnx


def tensor(name: str, array: np.ndarray) -> bytes:
    number = {"f4": 1, "i1": 3, "i8": 7}[array.dtype.str[1:]]
    dims = b"".join(wf.field(1, n) for n in array.shape)
    return dims + wf.field(2, number) + wf.field(8, name) + wf.field(9, array.tobytes())


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    graph = b"".join(wf.field(5, tensor(name, array)) for name, array in arrays.items())
    path.write_bytes(wf.field(1, 7) + wf.field(7, graph))
    return path


def quantised(name: str, weight: np.ndarray, block: int) -> dict[str, np.ndarray]:
    """The arrays that stand for ``weight`` (out, …), and are it after rounding."""
    rows = weight.reshape(len(weight), -1)
    blocks = rows.reshape(len(rows), -1, min(block, rows.shape[1]))
    scales = np.abs(blocks).max(-1) / 127
    zeros = np.zeros(scales.shape, "i1")
    q = np.round(blocks / scales[..., None]).astype("i1").reshape(rows.shape)
    return {
        f"{name}_quantized": q,
        f"{name}_scales": scales.astype("f4"),
        f"{name}_zero_point": zeros,
        f"{name}_shape": np.array(weight.shape, "i8"),
    }


def source(seed: int = 0) -> dict[str, np.ndarray]:
    """Arrays as OpenCV's file names them, of moderate random values."""
    rng = np.random.default_rng(seed)
    arrays = {"scalar_op1": np.array([127.5], "f4"), "scalar_op2": np.array([1 / 128], "f4")}

    def norm(name: str, channels: int) -> None:
        for part in ("gamma", "beta", "moving_mean", "moving_var"):
            low = 0.5 if part in ("gamma", "moving_var") else -0.5
            arrays[f"{name}_{part}"] = rng.uniform(low, low + 1, channels).astype("f4")

    def layer(name: str, *shape: int) -> None:
        scale = np.sqrt(2 / np.prod(shape[1:]))
        arrays[f"{name}_conv2d_weight"] = (scale * rng.normal(size=shape)).astype("f4")
        arrays[f"{name}_relu_gamma"] = rng.uniform(-0.3, 0.3, (shape[0], 1, 1)).astype("f4")
        norm(f"{name}_batchnorm", shape[0])

    layer("conv_1", 32, 3, 3, 3)
    inputs = 32
    for i, (outputs, _) in enumerate(sface.BLOCKS):
        layer(f"conv_{i + 2}_dw", inputs, 1, 3, 3)
        layer(f"conv_{i + 2}", outputs, inputs, 1, 1)
        inputs = outputs
    norm("bn1", 1024)
    norm("fc1", 128)
    arrays["pre_fc1_weight"] = (rng.normal(size=(128, 50176)) / 224).astype("f4")
    arrays["pre_fc1_bias"] = rng.normal(size=128).astype("f4")
    return arrays


def source_names() -> list[str]:
    layers = ["conv_1", *(f"conv_{i}{dw}" for i in range(2, 15) for dw in ("_dw", ""))]
    norms = [*(f"{layer}_batchnorm" for layer in layers), "bn1", "fc1"]
    parts = ("gamma", "beta", "moving_mean", "moving_var")
    others = ["scalar_op1", "scalar_op2", "pre_fc1_weight", "pre_fc1_bias"]
    others += [f"{layer}_{part}" for layer in layers for part in ("conv2d_weight", "relu_gamma")]
    return others + [f"{norm}_{part}" for norm in norms for part in parts]


def as_the_graph_says(a: dict[str, np.ndarray], x: jax.Array) -> jax.Array:
    """fc1 (b,128) of faces (b,3,112,112) in 0..255: every node of the file, in its own layout."""

    def norm(x, name, epsilon):
        each = [a[f"{name}_{p}"] for p in ("gamma", "beta", "moving_mean", "moving_var")]
        gamma, beta, mean, var = (jnp.asarray(v).reshape(1, -1, *[1] * (x.ndim - 2)) for v in each)
        return gamma * (x - mean) / jnp.sqrt(var + epsilon) + beta

    def layer(x, name, stride=1):
        w = jnp.asarray(a[f"{name}_conv2d_weight"])
        edge = [(w.shape[-1] // 2, w.shape[-1] // 2)] * 2
        groups = x.shape[1] if w.shape[1] == 1 and x.shape[1] > 3 else 1
        x = lax.conv_general_dilated(x, w, (stride,) * 2, edge, feature_group_count=groups)
        x = norm(x, f"{name}_batchnorm", 1e-3)
        return jnp.where(x > 0, x, jnp.asarray(a[f"{name}_relu_gamma"])[None] * x)

    x = layer((x - 127.5) / 128, "conv_1")
    for i, (_, stride) in enumerate(sface.BLOCKS):
        x = layer(layer(x, f"conv_{i + 2}_dw", stride), f"conv_{i + 2}")
    x = norm(x, "bn1", 2e-5).reshape(len(x), -1)
    return norm(x @ a["pre_fc1_weight"].T + a["pre_fc1_bias"][None], "fc1", 2e-5)


@pytest.mark.slow  # compiles SFace twice
def test_the_converted_network_computes_what_the_graph_says(tmp_path, full_float32):
    arrays = source()
    file = write(tmp_path / "sface.onnx", arrays)
    found, card = convert_file(file)
    assert (card["kind"], card["source"]) == ("sface", "sface.onnx") and card["licence"]
    checkpoint.save(tmp_path / "sface", checkpoint.nest(found), card)
    system = advface_jax.load(tmp_path / "sface")
    faces = np.random.default_rng(1).uniform(size=(2, 112, 112, 3)).astype("f4")
    features = jax.jit(lambda net, x: net.of_frame(x))(system.extractor, faces)
    got = jax.jit(lambda net, x: net(x))(system.server, features)
    wanted = jax.jit(as_the_graph_says)(arrays, 255 * faces.transpose(0, 3, 1, 2))
    wanted /= jnp.linalg.norm(wanted, axis=1, keepdims=True)
    assert features.shape == (2, *sface.FEATURE_SHAPE)
    np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_int8_blocks_are_dequantised(tmp_path):
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(5, 2, 8, 8)).astype("f4") * np.array([1, 9], "f4")[:, None, None]
    file = write(tmp_path / "w.onnx", {**quantised("w", weight, 64), "b": weight[:, 0, 0, 0]})
    found = onnx.read(file)
    assert found.keys() == {"w", "b"}
    for channel, size in enumerate((1, 9)):  # each block has its own scale
        np.testing.assert_allclose(found["w"][:, channel], weight[:, channel], atol=0.02 * size)


def test_zero_points_count(tmp_path):
    arrays = quantised("w", np.ones((2, 4), "f4"), 2)
    arrays["w_zero_point"] += 1
    found = onnx.read(write(tmp_path / "w.onnx", arrays))["w"]
    np.testing.assert_allclose(found, 126 / 127, rtol=1e-6)


def test_another_network_is_refused_by_the_names_of_its_arrays(tmp_path):
    names = [name for name in source_names() if name != "fc1_beta"]
    arrays = dict.fromkeys([*names, "extra"], np.ones(2, "f4"))
    with pytest.raises(ValueError, match="2 arrays are not SFace's .*missing fc1_beta; extra: not"):
        convert_file(write(tmp_path / "other.onnx", arrays))
    small = dict.fromkeys(source_names(), np.ones(2, "f4"))
    small |= {"scalar_op1": np.array([127.5], "f4"), "scalar_op2": np.array([1 / 128], "f4")}
    with pytest.raises(ValueError, match="arrays with other shapes than SFace's"):
        convert_file(write(tmp_path / "small.onnx", small))


def test_damage_is_explained(tmp_path):
    file = write(tmp_path / "w.onnx", quantised("w", np.ones((2, 4), "f4"), 2))
    whole = file.read_bytes()
    for cut in (3, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="not an ONNX file, or a damaged one"):
            onnx.read(file)
    odd = quantised("w", np.ones((2, 4), "f4"), 2) | {"w_scales": np.ones((2, 3), "f4")}
    with pytest.raises(ValueError, match="scales of shape"):
        onnx.read(write(file, odd))


def test_faces_are_framed_and_the_grid_follows():
    faces = np.zeros((1, 160, 160, 3), "f4")
    faces[:, 90:110, 60:80] = 1  # a bright square
    framed = np.asarray(sface.frame(jnp.asarray(faces)))[0, ..., 0]
    assert framed.shape == (112, 112)
    rows, columns = sface.grid()
    for places, axis, pixel in ((rows, 1, 99.5), (columns, 0, 69.5)):  # the square's middle
        at = (framed.sum(axis) * np.arange(112)).sum() / framed.sum()
        seen = np.interp(at / 2, np.arange(56), places)  # in z, whose element j sees pixel 2j + 3
        assert 2 * seen + 3 == pytest.approx(pixel, abs=1.5)


def test_a_depthwise_convolution_is_a_grouped_one(full_float32):
    rng = np.random.default_rng(0)
    for stride in (1, 2):
        layer = sface.Depthwise(4, stride, rngs=nnx.Rngs(0))
        x = jnp.asarray(rng.normal(size=(2, 8, 8, 4)).astype("f4"))
        kernel = layer.kernel[...][:, :, None]
        wanted = lax.conv_general_dilated(
            *(x, kernel, (stride,) * 2, ((1, 1), (1, 1))),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=4,
        )
        np.testing.assert_allclose(jax.jit(lambda f, x: f(x))(layer, x), wanted, atol=1e-5)


def test_its_arrays_have_plain_names():
    names = state.shapes(lambda: sface.SFace(rngs=nnx.Rngs(0)))
    assert names["extractor.blocks.1.pointwise.kernel"] == (1, 1, 64, 128)
    assert names["server.linear.kernel"] == (50176, 128)
