"""Read the weights of a Keras ``.h5`` file: a whole model, or weights alone."""

from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.sources import explained


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every weight as ``layer/variable:0``, its last two names in the file.

    The state of an optimiser, which a whole model may contain, is left out. Convolution kernels are
    (height, width, in, out).
    """
    import h5py

    arrays: dict[str, np.ndarray] = {}

    def collect(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if item.external or item.is_virtual:
            raise ValueError(f"{name} points into another file")
        key = "/".join(name.split("/")[-2:])
        if key in arrays:
            raise ValueError(f"two weights are called {key!r}")
        arrays[key] = np.asarray(item[()])

    with explained(path, "a Keras .h5 file", "fetch it again"), h5py.File(path, "r") as file:
        group = file.get("model_weights", file)
        if not isinstance(group, h5py.Group):
            raise ValueError("model_weights is not a group")
        group.visititems(collect)  # it follows no links, so no other file is opened
    if not arrays:
        raise ValueError(f"{path}: no weights in this file; give one saved with its weights")
    return arrays
