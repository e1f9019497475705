"""Read the weights of a Keras file: ``.h5``, ``.weights.h5`` or ``.keras``, whole or weights alone.

Keras 1 and 2, and Keras 3's ``.h5``, keep ``layer/…/variable:0``. Keras 3's own form numbers the
variables of each layer (``layers/conv2d_1/vars/0``): lately with the layer's name beside them, once
(3.5) with the names in a ``.keras`` file's config.json alone.
"""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.sources import Refused, Room, explained

_NUMBERED = re.compile(r"(?P<place>(.*/)?)vars/(?P<number>\d+)")
_WORDS = {  # of a layer's variables in their order, by its first variable's dimensions and number
    (4, 1): ("kernel",), (4, 2): ("kernel", "bias"),
    (2, 1): ("kernel",), (2, 2): ("kernel", "bias"),
    (1, 3): ("beta", "moving_mean", "moving_variance"),
    (1, 4): ("gamma", "beta", "moving_mean", "moving_variance"),
}  # fmt: skip
_MOST_BYTES = 1 << 30  # of a member of a .keras file, which may be compressed
_WAY_OUT = "load the model in Keras and save it as an .h5 (model.save('facenet.h5'))"


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every weight as ``layer/variable``, without the ``:0`` that Keras 2 puts behind.

    The state of an optimiser, which a whole model may contain, is left out. Convolution kernels are
    (height, width, in, out).
    """
    try:
        import h5py
    except ImportError as error:
        raise ValueError(f"{path}: h5py reads such files ({error}); pip install h5py") from error

    with explained(path, "a Keras file", "fetch it again"):
        source, names = _unzipped(path) if zipfile.is_zipfile(path) else (str(path), {})
        with h5py.File(source, "r") as file:
            group = file
            if "model_weights" in file:
                if not isinstance(file.get("model_weights", getlink=True), h5py.HardLink):
                    raise ValueError("model_weights points into another file")
                group = file["model_weights"]
            if not isinstance(group, h5py.Group):
                raise ValueError("model_weights is not a group")
            datasets = _datasets(group)
            numbered = {k: m for k in datasets if (m := _NUMBERED.fullmatch(k))}
            arrays = _by_number(group, datasets, numbered, names) if numbered else _named(datasets)
    if not arrays:
        raise ValueError(f"{path}: no weights in this file; give one saved with its weights")
    return arrays


def _unzipped(path: str | Path) -> tuple[io.BytesIO, dict[str, str]]:
    """The weights of a ``.keras`` file, and its layers' names by their places."""
    with zipfile.ZipFile(path) as archive:
        for member in ("model.weights.h5", "config.json"):
            if archive.getinfo(member).file_size > _MOST_BYTES:
                raise Refused(f"{member} in it has more than {_MOST_BYTES:,} bytes: no FaceNet")
        config = json.loads(archive.read("config.json"))
        return io.BytesIO(archive.read("model.weights.h5")), dict(_layers(config, ""))


def _layers(model: dict[str, Any], place: str) -> Iterator[tuple[str, str]]:
    """Place and name of each layer: places count the layers of each class, as Keras 3 does."""
    counts: dict[str, int] = {}
    for layer in model["config"].get("layers", ()):
        word = re.sub(r"(?<=.)([A-Z][a-z]+)|(?<=[a-z])([A-Z])", r"_\1\2", layer["class_name"])
        word = word.lower()
        count = counts[word] = counts.get(word, -1) + 1
        inner = f"{place}layers/{word}_{count}/" if count else f"{place}layers/{word}/"
        if layer["config"].get("center") is False:
            raise Refused(
                f"its layer {layer['config']['name']!r} has no beta, which FaceNet's have"
            )
        yield inner, layer["config"]["name"]
        yield from _layers(layer, inner)


def _datasets(group: Any) -> dict[str, Any]:
    """The arrays of a file by their names; none is read, and no link is followed."""
    import h5py

    found: dict[str, Any] = {}

    def collect(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"{name} points into another file")
            if not name.startswith(("optimizer/", "optimizer_weights/")):
                found[name] = item

    group.visititems(collect)
    return found


def _named(datasets: dict[str, Any]) -> dict[str, np.ndarray]:
    arrays, room = {}, Room()
    for name, item in datasets.items():
        *above, layer, word = ("", *name.split("/"))
        if above and re.fullmatch(re.escape(above[-1]) + r"_\d+", layer):
            layer = above[-1]  # Keras numbers a name that a process used before; its group is right
        key = f"{layer}/{word.removesuffix(':0')}".strip("/")
        if key in arrays:
            raise ValueError(f"two weights are called {key!r}")
        room.take(item.shape)
        arrays[key] = np.asarray(item[()])
    return arrays


def _by_number(
    group: Any, datasets: dict[str, Any], numbered: dict[str, re.Match], names: dict[str, str]
) -> dict[str, np.ndarray]:
    """Keras 3's numbered variables, under the names of their layers and their own."""
    layers: dict[str, dict[int, Any]] = {}
    for key, match in numbered.items():
        layers.setdefault(match["place"], {})[int(match["number"])] = datasets[key]
    arrays, room = {}, Room()
    for place, variables in layers.items():
        name = group[f"{place}vars"].attrs.get("name") or names.get(place)
        if name is None:
            raise Refused(f"an older Keras 3 keeps no names of layers in it; {_WAY_OUT}")
        if sorted(variables) != list(range(len(variables))):
            raise ValueError(f"{place} lacks a variable")
        items = [variables[i] for i in range(len(variables))]
        words = _WORDS.get((len(items[0].shape), len(items)))
        if words is None:
            raise Refused(f"its layer {name!r} is none that FaceNet has; {_WAY_OUT}")
        for word, item in zip(words, items, strict=True):
            room.take(item.shape)
            if f"{name}/{word}" in arrays:
                raise ValueError(f"two weights are called {name}/{word!r}")
            arrays[f"{name}/{word}"] = np.asarray(item[()])
    return arrays
