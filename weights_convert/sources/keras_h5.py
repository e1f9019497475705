"""Read the weights of a Keras file: ``.h5``, ``.weights.h5`` or ``.keras``, whole or weights alone.

Keras 1 and 2, and Keras 3's ``.h5``, keep ``layer/…/variable:0``. Keras 3's own form numbers the
variables of each layer (``layers/conv2d_1/vars/0``): lately with the layer's name beside them, once
(3.5) with the names in a ``.keras`` file's config.json alone.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax import untrusted
from advface_jax.untrusted import NAME
from weights_convert.sources import BadFile, Refused, Room, explained, hdf5

_NUMBERED = re.compile(r"(?P<place>(.*/)?)vars/(?P<number>[0-9]{1,6})")
_WORDS = {  # of a layer's variables in their order, by its first variable's dimensions and number
    (4, 1): ("kernel",), (4, 2): ("kernel", "bias"),
    (2, 1): ("kernel",), (2, 2): ("kernel", "bias"),
    (1, 3): ("beta", "moving_mean", "moving_variance"),
    (1, 4): ("gamma", "beta", "moving_mean", "moving_variance"),
}  # fmt: skip
_WAY_OUT = "load the model in Keras and save it as an .h5 (model.save('facenet.h5'))"


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every weight as ``layer/variable``, without the ``:0`` that Keras 2 puts behind.

    The state of an optimiser, which a whole model may contain, is left out. Convolution kernels are
    (height, width, in, out).
    """
    with explained(path, "a Keras file", "fetch it again"):
        data, places = untrusted.read_bytes(path), {}
        if data[:2] == b"PK":
            data, places = _unzipped(data)
        room = Room()
        found = hdf5.contents(data, room)
        arrays, names = found.arrays, found.names
        whole = "model_weights/"
        if any(name.startswith(whole) for name in arrays):
            arrays = {k.removeprefix(whole): v for k, v in arrays.items() if k.startswith(whole)}
            names = {k.removeprefix(whole): v for k, v in names.items() if k.startswith(whole)}
        left_out = ("optimizer/", "optimizer_weights/")
        arrays = {k: v for k, v in arrays.items() if not k.startswith(left_out)}
        numbered = {k: m for k in arrays if (m := _NUMBERED.fullmatch(k))}
        if numbered:
            weights = _by_number(arrays, numbered, places | names, room)
        else:
            weights = _named(arrays, room)
    if not weights:
        raise BadFile(f"{path}: no weights in this file; give one saved with its weights")
    return weights


def _unzipped(data: bytes) -> tuple[bytes, dict[str, str]]:
    """The weights of a ``.keras`` file, and its layers' names by the paths of their variables."""
    with untrusted.open_zip(io.BytesIO(data)) as archive:
        text, weights = (
            untrusted.read_member(archive, untrusted.member(archive, name), most)
            for name, most in (
                ("config.json", untrusted.JSON_BYTES),
                ("model.weights.h5", untrusted.MEMBER_BYTES),
            )
        )
    return weights, dict(_layers(untrusted.parse_json(text), ""))


def _layers(model: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Place and name of each layer: places count the layers of each class, as Keras 3 does."""
    counts: dict[str, int] = {}
    config = model.get("config")
    layers = config.get("layers", []) if isinstance(config, dict) else None
    if not isinstance(layers, list):
        raise BadFile("its config.json holds no layers")
    for layer in layers:
        inner_config = layer.get("config") if isinstance(layer, dict) else None
        name = inner_config.get("name") if isinstance(inner_config, dict) else None
        kind = layer.get("class_name") if isinstance(layer, dict) else None
        if not isinstance(name, str) or not isinstance(kind, str) or len(kind) > NAME:
            raise BadFile("its config.json has a layer without a name")
        word = re.sub(r"(?<=.)([A-Z][a-z]+)|(?<=[a-z])([A-Z])", r"_\1\2", kind).lower()
        count = counts[word] = counts.get(word, -1) + 1
        inner = f"{place}layers/{word}_{count}/" if count else f"{place}layers/{word}/"
        if inner_config and inner_config.get("center") is False:
            raise Refused(f"its layer {name[:200]!r} has no beta, which FaceNet's have")
        yield f"{inner}vars", name
        yield from _layers(layer, inner)


def _named(arrays: dict[str, hdf5.Array], room: Room) -> dict[str, np.ndarray]:
    found = {}
    for name, item in arrays.items():
        *above, layer, word = ("", *name.split("/"))
        if above and re.fullmatch(re.escape(above[-1]) + r"_\d+", layer):
            layer = above[-1]  # Keras numbers a name that a process used before; its group is right
        key = f"{layer}/{word.removesuffix(':0')}".strip("/")
        if key in found:
            raise BadFile(f"two weights are called {key!r}")
        found[key] = item.read(room)
    return found


def _by_number(
    arrays: dict[str, hdf5.Array], numbered: dict[str, re.Match], names: dict[str, str], room: Room
) -> dict[str, np.ndarray]:
    """Keras 3's numbered variables, under the names of their layers and their own."""
    layers: dict[str, dict[int, hdf5.Array]] = {}
    for key, match in numbered.items():
        layers.setdefault(match["place"], {})[int(match["number"])] = arrays[key]
    found = {}
    for place, variables in layers.items():
        name = names.get(f"{place}vars")
        if name is None:
            raise Refused(f"an older Keras 3 keeps no names of layers in it; {_WAY_OUT}")
        if sorted(variables) != list(range(len(variables))):
            raise BadFile(f"{place} lacks a variable")
        items = [variables[i] for i in range(len(variables))]
        words = _WORDS.get((len(items[0].shape), len(items)))
        if words is None:
            raise Refused(f"its layer {name!r} is none that FaceNet has; {_WAY_OUT}")
        for word, item in zip(words, items, strict=True):
            if f"{name}/{word}" in found:
                raise BadFile(f"two weights are called {name}/{word!r}")
            found[f"{name}/{word}"] = item.read(room)
    return found
