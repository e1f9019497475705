"""Read the tensors of a PyTorch file (``.pt``) without PyTorch and without running its pickle.

Such a file is a pickle that describes tensors (``torch_pickle``), and their raw bytes: in a zip
(PyTorch 1.6 on), or one after the other (before).
"""

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax import untrusted
from weights_convert.sources import BadFile, Refused, Room, explained
from weights_convert.sources.torch_pickle import Made, Storage, Tensor, understand

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_PARTS = 10_000  # of a module


def _from_zip(data: bytes) -> dict[str, np.ndarray]:
    with untrusted.open_zip(io.BytesIO(data)) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        left = untrusted.MEMBER_BYTES
        kept: dict[str, bytes] = {}  # tensors may share a storage

        def member(name: str) -> bytes:
            nonlocal left
            if name not in kept:
                if name not in names:
                    raise BadFile(f"a zip without {name[:80]}, so not written by torch.save")
                kept[name] = untrusted.read_member(archive, archive.getinfo(names[name]), left)
                left -= len(kept[name])
            return kept[name]

        if "data.pkl" not in names:
            raise BadFile("a zip without data.pkl, so not written by torch.save")
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
        raise BadFile("a pickle, but not one written by torch.save")
    version, system = understand(file), understand(file)
    little = isinstance(system, dict) and system.get("little_endian") is True
    if version != 1001 or not little:
        raise BadFile("another version of torch.save, or numbers that are not little-endian")
    storages: dict[str, Storage] = {}
    described = understand(file, storages)
    contents: dict[str, bytes] = {}
    keys = understand(file)
    if not isinstance(keys, list) or any(not isinstance(key, str | int) for key in keys):
        raise BadFile("no list of storages behind its pickle")
    for key in map(str, keys):
        (count,) = struct.unpack("<q", file.read(8))
        if key not in storages or not 0 <= count <= len(data):
            raise BadFile(f"storage {key[:80]} has {count} elements, or no tensor")
        contents[key] = file.read(count * storages[key].dtype.itemsize)
    return _resolve(described, lambda storage: contents.get(storage.key, b""))


def _state_dicts(described: Any) -> dict[str, dict]:
    """The dictionaries of tensors alone in what a file holds, by their names in it."""
    found: dict[str, dict] = {}
    waiting, seen = [("", described)], set()
    while waiting:
        name, value = waiting.pop()
        if id(value) in seen or not isinstance(value, dict | Made):
            continue
        seen.add(id(value))
        if len(name) > untrusted.NAME:
            raise BadFile(f"names of more than {untrusted.NAME:,} characters in it")
        if isinstance(value, Made):
            value = dict(_of_module(value)) or value.state
        if value and all(isinstance(k, str) and isinstance(t, Tensor) for k, t in value.items()):
            found[name] = value
        else:
            inner = ((k, one) for k, one in value.items() if isinstance(one, dict | Made))
            waiting += [(f"{name}.{_short(key)}".strip("."), one) for key, one in inner]
    return found


def _short(key: Any) -> str:
    """A key for a message; a number of any length stays unwritten."""
    return key if isinstance(key, str) else f"({type(key).__name__})"


def _of_module(module: Made) -> Iterator[tuple[str, Tensor]]:
    """The state dict of a whole module, as its attributes have it."""
    waiting, visits = [("", module)], 0
    while waiting:
        prefix, one = waiting.pop()
        parts = {name: one.state.get(name) for name in ("_parameters", "_buffers", "_modules")}
        inside = {name: part if isinstance(part, dict) else {} for name, part in parts.items()}
        visits += 1 + sum(map(len, inside.values()))  # modules may share parts, and be shared
        if visits > _MOST_PARTS or len(prefix) > untrusted.NAME:
            raise Refused(f"a module of more than {_MOST_PARTS:,} parts: no FaceNet")
        for part in ("_parameters", "_buffers"):
            for name, tensor in inside[part].items():
                if isinstance(tensor, Tensor):
                    yield f"{prefix}{_short(name)}", tensor
        for name, inner in inside["_modules"].items():
            if isinstance(inner, Made):
                waiting.append((f"{prefix}{_short(name)}.", inner))


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
        raise BadFile(f"it holds a {type(described).__name__}; wanted a state dict")
    for key, value in described.items():
        named, key = isinstance(key, str), _short(key)
        if isinstance(value, Made):
            raise Refused(
                f"its entry {key!r:.200} is made by {value.name!r:.200}, which a state dict does "
                "not need; nothing was run"
            )
        if not named or not isinstance(value, Tensor):
            raise BadFile(f"entry {key!r:.200} is not a named tensor; wanted a plain state dict")
    raise BadFile("a state dict without a tensor")


def _resolve(described: Any, contents: Callable[[Storage], bytes]) -> dict[str, np.ndarray]:
    room = Room()
    return {k: t.array(contents(t.storage), room) for k, t in _tensors(described).items()}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a state dict by its own name.

    Both forms of ``torch.save`` are read, and the state dict inside of a training's checkpoint or
    of a whole module is found. Convolution kernels are (out, in, height, width).
    """
    return parse(untrusted.read_bytes(path), str(path))


def parse(data: bytes, label: str) -> dict[str, np.ndarray]:
    """``read`` for bytes that errors call ``label``."""
    with explained(label, "a PyTorch state dict", "give a .pt of torch.save(state_dict)"):
        return _from_zip(data) if data[:2] == b"PK" else _from_legacy(data)
