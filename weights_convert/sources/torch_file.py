"""Read the tensors of a PyTorch file (``.pt``) without PyTorch and without running its pickle.

Such a file is a pickle that describes tensors, and their raw bytes: in a zip (PyTorch 1.6 on), or
one after the other (before). A pickle is a program for a small machine; here its instructions are
read as data. Names in it are compared, never imported, and nothing in it is called: what a class
or a function would make stays a note of its name.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from weights_convert.sources import Refused, Room, explained

_NAMES = {
    **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2"},
    **{"Char": "i1", "Byte": "u1", "Bool": "?", "BFloat16": ml_dtypes.bfloat16},
}
_DTYPES = {f"torch {kind}Storage": np.dtype(name) for kind, name in _NAMES.items()}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_MOST_BYTES = 1 << 30  # of the members of a zip, which may be compressed
_PLAIN = (str, int, float, bytes, type(None))


@dataclass(frozen=True)
class _Global:
    name: str  # "module name", as the pickle spells it


@dataclass
class _Made:
    """What a class or a function that is not called here would make."""

    name: str
    state: dict = field(default_factory=dict)


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self, contents: bytes, room: Room) -> np.ndarray:
        values = np.frombuffer(contents, self.storage.dtype, self.storage.count)
        numbers = (self.offset, *self.shape, *self.strides)
        if not all(type(n) is int for n in numbers):
            raise ValueError("a tensor whose shape is not of integers")
        if min(numbers) < 0 or len(self.shape) != len(self.strides):
            raise ValueError(f"tensor with shape {self.shape} and strides {self.strides}")
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if self.offset + reach >= values.size:
            raise ValueError(f"tensor of shape {self.shape} reaches beyond its storage")
        room.take(self.shape)
        steps = [step * values.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps)
        return view.copy()


def _storage(reference: tuple) -> _Storage:
    """The storage that a persistent id of the pickle means."""
    if reference[0] != "storage":
        raise Refused(
            "it holds a whole module and its source; load it in PyTorch and save the state dict, "
            "not the module: torch.save(module.state_dict(), FILE)"
        )
    _, kind, key, _, count, *view = reference
    if not isinstance(kind, _Global) or kind.name not in _DTYPES:
        name = kind.name if isinstance(kind, _Global) else type(kind).__name__
        raise Refused(f"it holds {name!r}, which is no supported kind of number")
    if not isinstance(key, str | int) or not isinstance(count, int) or any(view):
        raise ValueError("a storage that is a view of another, or has no number")
    return _Storage(str(key), _DTYPES[kind.name], count)


def _build(function: Any, arguments: tuple) -> Any:
    """The three calls that a state dict contains, as plain data; of others, the name."""
    if not isinstance(function, _Global | _Made):
        raise ValueError(f"its pickle calls a {type(function).__name__}")
    name = function.name
    if name == "collections OrderedDict":
        return dict(*arguments)
    if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
        storage, offset, shape, strides, *_ = arguments
        if not isinstance(storage, _Storage):
            raise ValueError("it has a tensor without storage")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))
    if name in ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"):
        return arguments[0]
    return _Made(name)


def _understand(file: BinaryIO, storages: dict[str, _Storage] | None = None) -> Any:
    """The value that one pickle describes; ``file`` then stands behind its end.

    ``storages`` receives all that it mentions.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return stack.pop()
            case "MARK":
                marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING" | "BINSTRING"
                | "BINBYTES" | "SHORT_BINBYTES" | "LONG4" | "BINUNICODE8"
            ):  # fmt: skip
                stack.append(argument)
            case "GLOBAL":
                stack.append(_Global(str(argument)))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_Global(f"{module} {name}"))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                kinds = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
                stack.append(kinds[opcode.name]())
            case "APPEND" | "APPENDS":
                items = [stack.pop()] if opcode.name == "APPEND" else since_mark()
                if not isinstance(stack[-1], _Made):
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                if not all(isinstance(key, _PLAIN) for key in items[::2]):
                    raise ValueError("its pickle has keys that are neither names nor numbers")
                of = stack[-1].state if isinstance(stack[-1], _Made) else stack[-1]
                of.update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[int(argument)])
            case "BINPERSID":
                storage = _storage(stack.pop())
                stack.append(storage)
                if storages is not None:
                    storages[storage.key] = storage
            case "EMPTY_SET":
                stack.append(_Made("set"))
            case "ADDITEMS":
                since_mark()
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(_build(stack.pop(), arguments))
            case "BUILD":
                attributes, target = stack.pop(), stack[-1]
                if isinstance(target, _Made) and isinstance(attributes, dict):
                    target.state.update(attributes)
                elif not isinstance(target, _Made | dict):  # an OrderedDict's: version numbers
                    raise ValueError("its pickle sets attributes of an object")
            case other:
                raise ValueError(f"its pickle uses {other}, which a state dict does not need")
    raise EOFError("the pickle has no end")


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
        described = _understand(io.BytesIO(member("data.pkl")))
        return _resolve(described, lambda storage: member(f"data/{storage.key}"))


def _from_legacy(data: bytes) -> dict[str, np.ndarray]:
    if data[257:262] == b"ustar":
        raise Refused(
            "a tar, as PyTorch before 0.1.10 wrote; load it in PyTorch (torch.load) and save it "
            "again"
        )
    file = io.BytesIO(data)
    if _understand(file) != _LEGACY_MAGIC:
        raise ValueError("a pickle, but not one written by torch.save")
    version, system = _understand(file), _understand(file)
    if version != 1001 or system.get("little_endian") is not True:
        raise ValueError("another version of torch.save, or numbers that are not little-endian")
    storages: dict[str, _Storage] = {}
    described = _understand(file, storages)
    contents: dict[str, bytes] = {}
    for key in map(str, _understand(file)):
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
        if id(value) in seen or not isinstance(value, dict | _Made):
            continue
        seen.add(id(value))
        if isinstance(value, _Made):
            value = dict(_of_module(value)) or value.state
        if value and all(isinstance(k, str) and isinstance(t, _Tensor) for k, t in value.items()):
            found[name] = value
        else:
            waiting += [(f"{name}.{key}".strip("."), inner) for key, inner in value.items()]
    return found


def _of_module(module: _Made) -> Iterator[tuple[str, _Tensor]]:
    """The state dict of a whole module, as its attributes have it."""
    waiting, visits = [("", module)], 0
    while waiting:
        prefix, one = waiting.pop()
        visits += 1
        if visits > 10_000:
            raise Refused("a module of more than 10,000 modules: no FaceNet")
        for part in ("_parameters", "_buffers"):
            for name, tensor in dict(one.state.get(part) or {}).items():
                if isinstance(tensor, _Tensor):
                    yield f"{prefix}{name}", tensor
        for name, inner in dict(one.state.get("_modules") or {}).items():
            if isinstance(inner, _Made):
                waiting.append((f"{prefix}{name}.", inner))


def _tensors(described: Any) -> dict[str, _Tensor]:
    """The one state dict in a file: the file itself, or the largest inside of it."""
    found = _state_dicts(described)
    most = max(map(len, found.values()), default=0)
    names = [name for name, tensors in found.items() if len(tensors) == most]
    if len(names) == 1:
        return found[names[0]]
    if names:
        listed = ", ".join(names)[:200]
        raise Refused(f"it holds several state dicts ({listed}); save one of them alone")
    if isinstance(described, _Made):
        raise Refused(f"it holds {described.name!r}; save a state dict instead. Nothing was run")
    if not isinstance(described, dict):
        raise ValueError(f"it holds a {type(described).__name__}; wanted a state dict")
    for key, value in described.items():
        if isinstance(value, _Made):
            raise Refused(
                f"its entry {key!r} is made by {value.name!r}, which a state dict does not need; "
                "nothing was run"
            )
        if not isinstance(key, str) or not isinstance(value, _Tensor):
            raise ValueError(f"entry {key!r} is not a named tensor; wanted a plain state dict")
    raise ValueError("a state dict without a tensor")


def _resolve(described: Any, contents: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
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
