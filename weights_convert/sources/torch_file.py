"""Read a PyTorch state dict (``.pt``) without PyTorch and without running its pickle.

Such a file is a pickle that describes tensors, and their raw bytes: in a zip (PyTorch 1.6 on), or
one after the other (before). A pickle is a program for a small machine; here its instructions are
read as data, and only the few that a state dict needs are followed. Names in it are compared, never
imported, and nothing in it is called.
"""

import io
import pickletools
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from weights_convert.sources import explained

_NAMES = {
    **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2"},
    **{"Char": "i1", "Byte": "u1", "Bool": "?"},
}
_DTYPES = {f"torch {kind}Storage": np.dtype(name) for kind, name in _NAMES.items()}
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class _Global:
    name: str  # "module name", as the pickle spells it


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

    def array(self, contents: bytes) -> np.ndarray:
        values = np.frombuffer(contents, self.storage.dtype, self.storage.count)
        numbers = (self.offset, *self.shape, *self.strides)
        if min(numbers) < 0 or len(self.shape) != len(self.strides):
            raise ValueError(f"tensor with shape {self.shape} and strides {self.strides}")
        if 0 in self.shape:
            return np.zeros(self.shape, values.dtype)
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if self.offset + reach >= values.size:
            raise ValueError(f"tensor of shape {self.shape} reaches beyond its storage")
        steps = [step * values.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps)
        return view.copy()


def _storage(reference: tuple) -> _Storage:
    """The storage that a persistent id of the pickle means."""
    if reference[0] != "storage":
        raise ValueError(f"it refers to a {reference[0]!r}; save the state dict, not the module")
    _, kind, key, _, count, *_ = reference
    if kind.name not in _DTYPES:
        raise ValueError(f"it holds {kind.name!r}, which is no supported kind of number")
    return _Storage(str(key), _DTYPES[kind.name], int(count))


def _build(function: Any, arguments: tuple) -> Any:
    """The three calls that a state dict contains, as plain data."""
    name = function.name if isinstance(function, _Global) else repr(function)
    if name == "collections OrderedDict" and not arguments:
        return {}
    if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
        storage, offset, shape, strides, *_ = arguments
        if not isinstance(storage, _Storage):
            raise ValueError("it has a tensor without storage")
        return _Tensor(storage, offset, tuple(shape), tuple(strides))
    if name == "torch._utils _rebuild_parameter":
        return arguments[0]
    raise ValueError(
        f"its pickle calls {name!r}, which a state dict does not need; nothing was run"
    )


def _understand(file: BinaryIO) -> Any:
    """The value that one pickle describes; ``file`` then stands behind its end."""
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
                stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                memo[int(argument)] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[int(argument)])
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_build(stack.pop(), arguments))
            case "BUILD":
                stack.pop()  # an OrderedDict's attributes: version numbers of modules
                target = stack[-1]
                if not isinstance(target, dict):
                    raise ValueError("its pickle sets attributes of an object")
            case other:
                raise ValueError(f"its pickle uses {other}, which a state dict does not need")
    raise EOFError("the pickle has no end")


def _from_zip(data: bytes) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        names = {name.partition("/")[2]: name for name in archive.namelist()}
        if "data.pkl" not in names:
            raise ValueError("a zip without data.pkl, so not written by torch.save")
        if "byteorder" in names and archive.read(names["byteorder"]) != b"little":
            raise ValueError("its numbers are not little-endian")
        described = _understand(io.BytesIO(archive.read(names["data.pkl"])))
        return _resolve(described, lambda storage: archive.read(names[f"data/{storage.key}"]))


def _from_legacy(data: bytes) -> dict[str, np.ndarray]:
    file = io.BytesIO(data)
    if _understand(file) != _LEGACY_MAGIC:
        raise ValueError("a pickle, but not one written by torch.save")
    version, system = _understand(file), _understand(file)
    if version != 1001 or system.get("little_endian") is not True:
        raise ValueError(f"torch.save version {version}, system {system}")
    described = _understand(file)
    dtypes = {t.storage.key: t.storage.dtype for t in _tensors(described).values()}
    contents: dict[str, bytes] = {}
    for key in map(str, _understand(file)):
        (count,) = struct.unpack("<q", file.read(8))
        if count < 0:
            raise ValueError(f"storage {key} has {count} elements")
        contents[key] = file.read(count * dtypes[key].itemsize)
    return _resolve(described, lambda storage: contents[storage.key])


def _tensors(described: Any) -> dict[str, _Tensor]:
    if not isinstance(described, dict):
        raise ValueError(f"it holds a {type(described).__name__}; wanted a state dict")
    for key, value in described.items():
        if not isinstance(key, str) or not isinstance(value, _Tensor):
            raise ValueError(f"entry {key!r} is not a named tensor; wanted a plain state dict")
    return described


def _resolve(described: Any, contents: Callable[[_Storage], bytes]) -> dict[str, np.ndarray]:
    return {k: t.array(contents(t.storage)) for k, t in _tensors(described).items()}


def read(path: str | Path) -> dict[str, np.ndarray]:
    """Every tensor of a state dict by its own name.

    Both forms of ``torch.save`` are read. Convolution kernels are (out, in, height, width).
    """
    return parse(Path(path).read_bytes(), str(path))


def parse(data: bytes, label: str) -> dict[str, np.ndarray]:
    """``read`` for bytes that errors call ``label``."""
    with explained(label, "a PyTorch state dict", "give a .pt of torch.save(state_dict)"):
        return _from_zip(data) if data[:2] == b"PK" else _from_legacy(data)
