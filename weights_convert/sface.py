"""SFace's arrays by the network's own paths, its batch norms folded into the layers beside them."""

from collections.abc import Mapping

import numpy as np
from flax import nnx

from advface_jax.models import sface, state
from weights_convert.rules import oihw_to_hwio

LICENCE = "Apache-2.0 (OpenCV zoo)"
_INPUT = {"scalar_op1": 127.5, "scalar_op2": 1 / 128}
_CONV_EPSILON, _END_EPSILON = 1e-3, 2e-5
_PARTS = ("gamma", "beta", "moving_mean", "moving_var")


def shapes() -> dict[str, tuple[int, ...]]:
    """Path and shape of every array of the network."""
    return state.shapes(lambda: sface.SFace(rngs=nnx.Rngs(0)))


def convert(source: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The network's arrays (float32) from those of OpenCV's ONNX file, by its names.

    Raises:
      ValueError: naming arrays that are missing, that nothing uses, or that have a wrong shape.
    """
    layers = _layers()
    norms = [*(f"{layer}_batchnorm" for layer in layers), "bn1", "fc1"]
    wanted = {
        *_INPUT,
        *("pre_fc1_weight", "pre_fc1_bias"),
        *(f"{layer}_{part}" for layer in layers for part in ("conv2d_weight", "relu_gamma")),
        *(f"{norm}_{part}" for norm in norms for part in _PARTS),
    }
    problems = [f"missing {name}" for name in sorted(wanted - source.keys())]
    problems += [f"{name}: nothing uses it" for name in sorted(source.keys() - wanted)]
    if problems:
        raise ValueError(
            f"{len(problems)} arrays are not SFace's as OpenCV's zoo has it "
            f"({'; '.join(problems[:6])}); wanted "
            "face_recognition_sface_2021dec_int8bq.onnx"
        )
    for name, value in _INPUT.items():
        if not np.allclose(source[name], value):
            raise ValueError(f"the input's {name} is {source[name]}; wanted {value}")

    try:
        arrays = _folded(source)
    except (ValueError, IndexError) as error:
        raise ValueError(f"arrays with other shapes than SFace's ({error})") from error
    wrong = [
        f"{name}: {arrays[name].shape}, wanted {shape}"
        for name, shape in shapes().items()
        if arrays[name].shape != shape
    ]
    if wrong:
        raise ValueError("arrays with other shapes than SFace's: " + "; ".join(wrong[:6]))
    return arrays


def _layers() -> list[str]:
    numbers = range(2, len(sface.BLOCKS) + 2)
    return ["conv_1", *(f"conv_{i}{by_channel}" for i in numbers for by_channel in ("_dw", ""))]


def _folded(source: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    def norm(name: str, epsilon: float) -> tuple[np.ndarray, np.ndarray]:  # y = x gain + offset
        gamma, beta, mean, variance = (source[f"{name}_{p}"].astype(np.float64) for p in _PARTS)
        gain = gamma / np.sqrt(variance + epsilon)
        return gain, beta - mean * gain

    arrays: dict[str, np.ndarray] = {}
    for layer in _layers():
        number = int(layer.split("_")[1]) - 2
        block, by_channel = f"extractor.blocks.{number}", layer.endswith("_dw")
        if number >= sface.SPLIT:
            block = f"server.blocks.{number - sface.SPLIT}"
        if number < 0:
            conv, relu = "extractor.stem", "extractor.relu"
        elif by_channel:
            conv, relu = f"{block}.depthwise", f"{block}.between"
        else:
            conv, relu = f"{block}.pointwise", f"{block}.after"
        kernel = oihw_to_hwio(source[f"{layer}_conv2d_weight"])
        gain, offset = norm(f"{layer}_batchnorm", _CONV_EPSILON)
        arrays[f"{conv}.kernel"] = (kernel[:, :, 0] if by_channel else kernel) * gain
        arrays[f"{conv}.bias"] = offset
        arrays[f"{relu}.slope"] = source[f"{layer}_relu_gamma"].reshape(-1)
    # bn1, the product, fc1; the file's places come after its channels.
    gain, offset = norm("bn1", _END_EPSILON)
    kernel = source["pre_fc1_weight"].astype(np.float64)
    kernel = kernel.reshape(-1, len(gain), 49)  # (e, c, places)
    bias = source["pre_fc1_bias"] + np.einsum("ecp,c->e", kernel, offset)
    last, end = norm("fc1", _END_EPSILON)
    kernel = (kernel * gain[:, None]).transpose(2, 1, 0).reshape(-1, len(last))
    arrays |= {"server.linear.kernel": kernel * last, "server.linear.bias": bias * last + end}
    return {name: np.asarray(value, np.float32) for name, value in arrays.items()}
