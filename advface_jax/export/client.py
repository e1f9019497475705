"""FaceNet's E as ONNX: what a browser (onnxruntime-web) or a phone runs.

Three convolutions, written node by node with the package ``onnx`` (extra ``client``): no exporter
from JAX is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from advface_jax.export import artefact

if TYPE_CHECKING:
    from advface_jax.system import System

OPSET = 17
IR = 8  # what onnxruntime of 2022 reads


def write_onnx(path: str | os.PathLike[str], system: System) -> Mapping[str, Any]:
    """Write E: ``images`` float32 (b,160,160,3) in [0,1] to ``z`` float32 (b,77,77,64).

    Returns:
      The card, which is also the model's metadata.

    Raises:
      ValueError: an E other than FaceNet's, or with batch norm not folded.
      ModuleNotFoundError: without ``onnx``.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from advface_jax.models.facenet import FEATURE_SHAPE, Extractor

    extractor = system.extractor
    if not isinstance(extractor, Extractor) or extractor.conv2d_1a.bn is not None:
        raise ValueError(
            f"got E of type {type(extractor).__name__}; wanted FaceNet's, of load(…) with "
            "fold=True: another E by an exporter of its own"
        )
    nodes, constants = [], []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(kind: str, inputs: list[str], output: str, **how: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **how))
        return output

    x = node("Transpose", ["images"], "planes", perm=[0, 3, 1, 2])
    x = node("Mul", [x, constant("255", np.float32(255))], "pixels")
    if extractor.standardization == "fixed":
        x = node("Sub", [x, constant("middle", np.float32(127.5))], "centred")
        x = node("Div", [x, constant("128", np.float32(128))], "standardized")
    else:
        least = constant("least", np.float32((160 * 160 * 3) ** -0.5))
        mean = node("ReduceMean", [x], "mean", axes=[1, 2, 3])
        x = node("Sub", [x, mean], "centred")
        variance = node("ReduceMean", [node("Mul", [x, x], "squares")], "var", axes=[1, 2, 3])
        deviation = node("Max", [node("Sqrt", [variance], "deviation"), least], "divisor")
        x = node("Div", [x, deviation], "standardized")
    for name in ("conv2d_1a", "conv2d_2a", "conv2d_2b"):
        conv = getattr(extractor, name).conv
        kernel = np.asarray(conv.kernel[...], np.float32).transpose(3, 2, 0, 1)
        (top, bottom), (left, right) = conv.window.padding
        weights = [constant(f"{name}.kernel", np.ascontiguousarray(kernel))]
        weights.append(constant(f"{name}.bias", np.asarray(conv.bias[...], np.float32)))
        pads, strides = [top, left, bottom, right], [conv.window.stride] * 2
        x = node("Conv", [x, *weights], name, pads=pads, strides=strides)
        x = node("Relu", [x], f"{name}.relu")
    node("Transpose", [x], "z", perm=[0, 2, 3, 1])
    float32 = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "E",
        [helper.make_tensor_value_info("images", float32, ["b", 160, 160, 3])],
        [helper.make_tensor_value_info("z", float32, ["b", *FEATURE_SHAPE])],
        constants,
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opsets, producer_name="advface_jax")
    model.ir_version = IR
    card = {
        "part": "extractor",
        "weights": str(system.card["source"]),
        "weights_sha256": str(system.card["sha256"]),
    }
    helper.set_model_props(model, card)
    onnx.checker.check_model(model, full_check=True)
    artefact.save(path, model.SerializeToString())
    return card
