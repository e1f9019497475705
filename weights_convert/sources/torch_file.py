"""Read the tensors of a PyTorch file (``.pt``) without PyTorch and without running its pickle.

Such a file is a pickle that describes tensors (``torch_pickle``), and their raw bytes: in a zip
(PyTorch 1.6 on), or one after the other (before).
"""

import io
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from weights_convert.sources import Refused, Room, explained
from weights_convert.sources.torch_pickle import Made, Storage, Tensor, understand

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_BYTES = 1 << 30  # of the members of a zip, which may be compressed


def _from_zip(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        left = _MOST_BYTES

        def member(name: str) -> bytes:
            nonlocal left
            left -= archive.getinfo(names[name]).file_size
            if left < 0:
                raise Refused(f"its members have more than {_MOST_BYTES:,} bytes: no FaceNet")
            return archive.read(names[name])

        if "data.pkl" not in names:
            raise ValueError("a zip without data.pkl, so not written by torch.save")
        if "constants.pkl" in names:
            raise Refused(
                "a TorchScript program; load it in PyTorch (torch.jit.load) and save its state "
                "dict: torch.save(program.state_dict(), FILE)"
            )
        if "byteorder" in names and member("byteorder") != b"little":
            raise Refused("its numbers are not little-endian; save it again on another machine")
        described = understand(io.BytesIO(member("data.pkl")))
        return _resolve(described, lambda storage: member(f"data/{storage.key}"))


def _from_legacy(data: bytes) -> dict[str, np.ndarray]:
    if data[257:262] == b"ustar":
        raise Refused(
            "a tar, as PyTorch before 0.1.10 wrote; load it in PyTorch (torch.load) and save it "
            "again"
        )
    file = io.BytesIO(data)
    if understand(file) != _LEGACY_MAGIC:
        raise ValueError("a pickle, but not one written by torch.save")
    version, system = understand(file), understand(file)
    if version != 1001 or system.get("little_endian") is not True:
        raise ValueError("another version of torch.save, or numbers that are not little-endian")
    storages: dict[str, Storage] = {}
    described = understand(file, storages)
    contents: dict[str, bytes] = {}
    for key in map(str, understand(file)):
        (count,) = struct.unpack("<q", file.read(8))
        if count < 0:
            raise ValueError(f"storage {key} has {count} elements")
        contents[key] = file.read(count * storages[key].dtype.itemsize)
    return _resolve(described, lambda storage: contents[storage.key])


def _state_dicts(described: Any) -> dict[str, dict]:
    """The dictionaries of tensors alone in what a file holds, by their names in it."""
    found: dict[str, dict] = {}
    waiting, seen = [("", described)], set()
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen or not isinstance(value, dict | Made):
            continue
        seen.add(id(value))
        if isinstance(value, Made):
            value = dict(_of_module(value)) or value.state
        if value and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in value.items()):
            found[name] = value
        else:
            waiting += [(f"{name}.{key}".strip("."), inner) for key, inner in value.items()]
    return found


def _of_module(module: Made) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a whole module, as its attributes have it."""
    waiting, visits = [("", module)], 0
    while waiting:
        prefix, one = waiting.pop()
        visits += 1
        if visits > 10_000:
            raise Refused("a module of more than 10,000 modules: no FaceNet")
        for part in ("_parameters", "_buffers"):
            for name, tensor in dict(one.state.get(part) or {}).items():
                if isinstance(tensor, Tensor):
                    yield f"{prefix}{name}", tensor
        for name, inner in dict(one.state.get("_modules") or {}).items():
            if isinstance(inner, Made):
                waiting.append((f"{prefix}{name}.", inner))


def _tensors(described: Any) -> dict[str, Tensor]:
    """The one state dict in a file: the file itself, or the largest inside of it."""
    found = _state_dicts(described)
    most = max(map(len, found.values()), default=0)
    names = [name for name, tensors in found.items() if len(tensors) == most]
    if len(names) == 1:
        return found[names[0]]
    if names:
        listed = ", ".join(names)[:200]
        raise Refused(f"it holds several state dicts ({listed}); save one of them alone")
    if isinstance(described, Made):
        raise Refused(f"it holds {described.name!r}; save a state dict instead. Nothing was run")
    if not isinstance(described, dict):
        raise ValueError(f"it holds a {type(described).__name__}; wanted a state dict")
    for key, value in described.items():
        if isinstance(value, Made):
            raise Refused(
                f"its entry {key!r} is made by {value.name!r}, which a state dict does not need; "
                "nothing was run"
            )
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise ValueError(f"entry {key!r} is not a named tensor; wanted a plain state dict")
    raise ValueError("a state dict without a tensor")


def _resolve(described: Any, contents: Callable[[Storage], bytes]) -> dict[str, np.ndarray]:
    room = Room()
    return {k: t.array(contents(t.storage), room) for k, t in _tensors(described).items()}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a state dict by its own name.

    Both forms of ``torch.save`` are read, and the state dict inside of a training's checkpoint or
    of a whole module is found. Convolution kernels are (out, in, height, width).
    """
    return parse(Path(path).read_bytes(), str(path))


def parse(data: bytes, label: str) -> dict[str, np.ndarray]:
    """``read`` for bytes that errors call ``label``."""
    with explained(label, "a PyTorch state dict", "give a .pt of torch.save(state_dict)"):
        return _from_zip(data) if data[:2] == b"PK" else _from_legacy(data)
