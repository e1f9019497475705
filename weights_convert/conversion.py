"""From a weight file to the network's arrays and their card."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from advface_jax.models import facenet, mtcnn, state
from weights_convert import finding, sface, tables
from weights_convert.fetch import Standardization, sha256
from weights_convert.rules import Rule, Shapes, convert, without_prefix
from weights_convert.sources import (
    graphdef,
    keras_h5,
    onnx,
    safetensors_file,
    tf_checkpoint,
    tflite,
    torch_file,
    wheel,
)


@dataclass(frozen=True)
class Kind:
    """One kind of weight file: how it is read, and how its names map.

    ``anchor`` is an array that each such network has, by which a prefix of all names is found.
    """

    name: str
    read: Callable[[Path], dict[str, np.ndarray]]
    rules: Callable[[], Sequence[Rule]]
    files: Callable[[Path], list[Path]] = lambda path: [path]
    anchor: str = ""


MTCNN = "mtcnn"  # the face detector
SFACE = "sface"  # a recogniser of another family; every other kind is FaceNet

_SLIM, _TORCH = "InceptionResnetV1/Conv2d_1a_3x3/weights", "conv2d_1a.conv.weight"

KINDS: dict[str, Kind] = {
    ".tflite": Kind("TFLite", tflite.read, tables.tflite, anchor=_SLIM),
    ".pt": Kind("facenet-pytorch", torch_file.read, tables.torch, anchor=_TORCH),
    ".safetensors": Kind("safetensors", safetensors_file.read, tables.torch, anchor=_TORCH),
    ".pb": Kind("TensorFlow graph", graphdef.read, tables.tensorflow, anchor=_SLIM),
    ".index": Kind(
        *("TensorFlow checkpoint", tf_checkpoint.read, tables.tensorflow, tf_checkpoint.files),
        anchor=_SLIM,
    ),
    ".h5": Kind("Keras", keras_h5.read, tables.keras),
    ".whl": Kind(MTCNN, wheel.read, tables.mtcnn),
    ".onnx": Kind(SFACE, onnx.read, tuple),
}


def config_of(
    arrays: Mapping[str, np.ndarray], standardization: Standardization | None = None
) -> facenet.FaceNetConfig:
    """The network that renamed arrays belong to, by their names and shapes.

    Without a ``standardization``, 128-d weights get "whiten" and 512-d ones "fixed", as Sandberg
    trained them.
    """

    def columns(path: str) -> int | None:
        matrix = arrays.get(path)
        return None if matrix is None or matrix.ndim != 2 else int(matrix.shape[1])

    # Without a bottleneck 512 is a guess, so that the error can still list what is missing.
    size = columns("server.bottleneck.linear.kernel") or 512
    return facenet.FaceNetConfig(
        embedding_size=size,
        standardization=standardization or ("whiten" if size == 128 else "fixed"),
        folded="extractor.conv2d_1a.conv.bias" in arrays,
        classes=columns("logits.kernel"),
    )


def shapes_of(arrays: Mapping[str, np.ndarray]) -> Shapes:
    """Path and shape of every array of the network that ``arrays`` belong to."""
    config = config_of(arrays)
    return state.shapes(lambda: facenet.InceptionResNetV1(config, rngs=nnx.Rngs(0)))


def convert_file(
    path: str | Path, *, source: str = "", standardization: Standardization | None = None
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The network's arrays by dotted path (float32) of a weight file, and their card.

    ``path`` may name the file in every way of ``finding.find``.

    The card has their origin (``source``, by default the file's name; ``kind``, ``sha256``,
    ``date``) and a recogniser's fields of ``FaceNetConfig`` (``embedding_size``,
    ``standardization``, ``folded``, ``classes``). The detector's card (kind "mtcnn") has its
    ``licence`` and the sums of its three files (``members``) instead, SFace's (kind "sface") its
    ``licence``.

    Raises:
      ValueError: a missing or unreadable file, or one that does not fit the network.
    """
    path, key = finding.find(path)
    kind = KINDS[key]
    arrays = kind.read(path)
    if not source:  # a saved model's file is called variables.index
        source = path.parents[1].name if path.name == "variables.index" else path.name
    card: dict[str, Any] = {
        "source": source,
        "kind": kind.name,
        "sha256": sha256(*kind.files(path)),
        "date": datetime.date.today().isoformat(),
    }
    try:
        if kind.name in (MTCNN, SFACE) and standardization is not None:
            raise ValueError(f"{kind.name} has one input: leave --standardization out")
        if kind.name == SFACE:
            return sface.convert(arrays), card | {"licence": sface.LICENCE}
        if kind.name == MTCNN:
            shapes = state.shapes(lambda: mtcnn.MTCNN(rngs=nnx.Rngs(0)))
            arrays = convert(arrays, kind.rules(), shapes)
            return arrays, card | {"licence": wheel.LICENCE, "members": wheel.MEMBERS}
        arrays = convert(without_prefix(arrays, kind.anchor), kind.rules(), shapes_of)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    config = config_of(arrays, standardization)
    fields = ("embedding_size", "standardization", "folded", "classes")
    return arrays, card | {name: getattr(config, name) for name in fields}
