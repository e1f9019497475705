"""What the pickle of a PyTorch file describes, without PyTorch and without running it.

A pickle is a program for a small machine; here its instructions are read as data. Names in it are
compared, never imported, and nothing in it is called: what a class or a function would make stays a
note of its name (``Made``).
"""

import pickletools
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from weights_convert.sources import Refused, Room

_NAMES = {
    **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2"},
    **{"Char": "i1", "Byte": "u1", "Bool": "?", "BFloat16": ml_dtypes.bfloat16},
}
_DTYPES = {f"torch {kind}Storage": np.dtype(name) for kind, name in _NAMES.items()}
_PLAIN = (str, int, float, bytes, type(None))


@dataclass(frozen=True)
class _Global:
    name: str  # "module name", as the pickle spells it


@dataclass
class Made:
    """What a class or a function that is not called here would make."""

    name: str
    state: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Storage:
    key: str
    dtype: np.dtype
    count: int


@dataclass(frozen=True)
class Tensor:
    storage: Storage
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


def _storage(reference: tuple) -> Storage:
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
    return Storage(str(key), _DTYPES[kind.name], count)


def _key(key: Any) -> Any:
    """A key of a dictionary: to hash nested tuples may take for ever."""
    if not isinstance(key, _PLAIN):
        raise ValueError("its pickle has keys that are neither names nor numbers")
    return key


def _build(function: Any, arguments: tuple) -> Any:
    """The three calls that a state dict contains, as plain data; of others, the name."""
    if not isinstance(function, _Global | Made):
        raise ValueError(f"its pickle calls a {type(function).__name__}")
    name = function.name
    if name == "collections OrderedDict":
        pairs = arguments[0] if arguments else ()
        return {_key(key): value for key, value in pairs}
    if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
        storage, offset, shape, strides, *_ = arguments
        if not isinstance(storage, Storage):
            raise ValueError("it has a tensor without storage")
        return Tensor(storage, offset, tuple(shape), tuple(strides))
    if name in ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"):
        return arguments[0]
    return Made(name)


def understand(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
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
                if not isinstance(stack[-1], Made):
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS":
                items = since_mark() if opcode.name == "SETITEMS" else [stack.pop(-2), stack.pop()]
                of = stack[-1].state if isinstance(stack[-1], Made) else stack[-1]
                of.update(zip(map(_key, items[::2]), items[1::2], strict=True))
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
                stack.append(Made("set"))
            case "ADDITEMS":
                since_mark()
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(_build(stack.pop(), arguments))
            case "BUILD":
                attributes, target = stack.pop(), stack[-1]
                if isinstance(target, Made) and isinstance(attributes, dict):
                    target.state.update(attributes)
                elif not isinstance(target, Made | dict):  # an OrderedDict's: version numbers
                    raise ValueError("its pickle sets attributes of an object")
            case other:
                raise ValueError(f"its pickle uses {other}, which a state dict does not need")
    raise EOFError("the pickle has no end")
