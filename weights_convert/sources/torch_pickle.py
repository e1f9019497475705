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

from advface_jax.untrusted import DEPTH, ITEMS
from weights_convert.sources import BadFile, Refused, Room

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
        count, dtype = self.storage.count, self.storage.dtype
        if count > len(contents) // dtype.itemsize:
            raise BadFile(f"a storage of {count:,} numbers with {len(contents):,} bytes")
        values = np.frombuffer(contents, dtype, count)
        room.take(self.shape, dtype.itemsize)
        if 0 in self.shape:
            return np.zeros(self.shape, dtype)
        reach = sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if self.offset + reach >= values.size:
            raise BadFile(f"a tensor of shape {self.shape} reaches beyond its storage")
        steps = [step * values.itemsize for step in self.strides]
        view = np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps)
        return view.copy()


def _tensor(arguments: tuple) -> Tensor:
    """What torch._utils._rebuild_tensor_v2 would make."""
    if len(arguments) < 4 or not isinstance(arguments[0], Storage):
        raise BadFile("it has a tensor without storage")
    storage, offset, *sizes = arguments[:4]
    if not all(isinstance(part, tuple | list) and len(part) <= DEPTH for part in sizes):
        raise BadFile("it has a tensor without a shape")
    shape, strides = (tuple(part) for part in sizes)
    if not all(type(n) is int and 0 <= n < 1 << 62 for n in (offset, *shape, *strides)):
        raise BadFile("it has a tensor whose shape is not of whole numbers from 0")
    if len(shape) != len(strides):
        raise BadFile(f"it has a tensor of {len(shape)} axes with {len(strides)} strides")
    return Tensor(storage, offset, shape, strides)


def _storage(reference: Any) -> Storage:
    """The storage that a persistent id of the pickle means."""
    if not isinstance(reference, tuple) or len(reference) < 5 or reference[0] != "storage":
        raise Refused(
            "it holds a whole module and its source; load it in PyTorch and save the state dict, "
            "not the module: torch.save(module.state_dict(), FILE)"
        )
    _, kind, key, _, count, *view = reference
    if not isinstance(kind, _Global) or kind.name not in _DTYPES:
        name = kind.name if isinstance(kind, _Global) else type(kind).__name__
        raise Refused(f"it holds {name!r:.200}, which is no supported kind of number")
    named = isinstance(key, str) or (type(key) is int and abs(key) < 1 << 64)
    if not named or type(count) is not int or not 0 <= count < 1 << 62 or any(view):
        raise BadFile("a storage that is a view of another, or has no number")
    return Storage(str(key), _DTYPES[kind.name], count)


def _key(key: Any) -> Any:
    """A key of a dictionary: to hash nested tuples may take for ever."""
    if not isinstance(key, _PLAIN):
        raise BadFile("its pickle has keys that are neither names nor numbers")
    return key


def _updated(of: dict, pairs: list[tuple[Any, Any]]) -> dict:
    of.update((_key(key), value) for key, value in pairs)
    return of


def _build(function: Any, arguments: Any) -> Any:
    """The three calls that a state dict contains, as plain data; of others, the name."""
    if not isinstance(function, _Global | Made) or not isinstance(arguments, tuple):
        raise BadFile(f"its pickle calls a {type(function).__name__}")
    name = function.name
    if name == "collections OrderedDict":
        pairs = arguments[0] if arguments else []
        if not isinstance(pairs, list | tuple) or any(
            not isinstance(pair, list | tuple) or len(pair) != 2 for pair in pairs
        ):
            raise BadFile("its pickle makes a dictionary of what are no pairs")
        return _updated({}, [tuple(pair) for pair in pairs])
    if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
        return _tensor(arguments)
    if name in ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"):
        if not arguments:
            raise BadFile("it has a parameter of nothing")
        return arguments[0]
    return Made(name)


class _Machine:
    """The stack, the marks and the memo of a pickle, where only data are moved."""

    def __init__(self, storages: dict[str, Storage] | None):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.storages = storages

    def pop(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise BadFile("its pickle takes what is not there")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def since_mark(self) -> list[Any]:
        if not self.marks:
            raise BadFile("its pickle closes what it did not open")
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def extend(self, items: list[Any]) -> None:
        of = self.top()
        if isinstance(of, list):
            of.extend(items)
        elif not isinstance(of, Made):
            raise BadFile("its pickle appends to what is no list")

    def update(self, items: list[Any]) -> None:
        of = self.top()
        of = of.state if isinstance(of, Made) else of
        if not isinstance(of, dict) or len(items) % 2:
            raise BadFile("its pickle sets entries of what is no dictionary")
        _updated(of, list(zip(items[::2], items[1::2], strict=True)))

    def recall(self, number: int) -> None:
        if number not in self.memo:
            raise BadFile("its pickle repeats what it did not name")
        self.stack.append(self.memo[number])

    def build(self) -> None:
        attributes, target = self.pop(), self.top()
        if isinstance(target, Made) and isinstance(attributes, dict):
            target.state.update(attributes)
        elif not isinstance(target, Made | dict):  # an OrderedDict's: version numbers
            raise BadFile("its pickle sets attributes of an object")

    def step(self, name: str, argument: Any) -> None:
        """One instruction."""
        stack = self.stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.marks.append(len(stack))
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case (
                "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT"
                | "BINUNICODE" | "SHORT_BINUNICODE" | "SHORT_BINSTRING" | "BINSTRING"
                | "BINBYTES" | "SHORT_BINBYTES" | "LONG4" | "BINUNICODE8"
            ):  # fmt: skip
                stack.append(argument)
            case "GLOBAL":
                stack.append(_Global(str(argument)))
            case "STACK_GLOBAL":
                of, module = self.pop(), self.pop()
                if not isinstance(of, str) or not isinstance(module, str):
                    raise BadFile("its pickle names what is no name")
                stack.append(_Global(f"{module} {of}"))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                stack.append(tuple(self.since_mark()))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                kinds = {"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict}
                stack.append(kinds[name]())
            case "APPEND" | "APPENDS":
                self.extend([self.pop()] if name == "APPEND" else self.since_mark())
            case "SETITEM":
                value, key = self.pop(), self.pop()
                self.update([key, value])
            case "SETITEMS":
                self.update(self.since_mark())
            case "BINPUT" | "LONG_BINPUT":
                self.memo[int(argument)] = self.top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "BINGET" | "LONG_BINGET":
                self.recall(int(argument))
            case "BINPERSID":
                storage = _storage(self.pop())
                stack.append(storage)
                if self.storages is not None:
                    self.storages[storage.key] = storage
            case "EMPTY_SET":
                stack.append(Made("set"))
            case "ADDITEMS":
                self.since_mark()
            case "REDUCE" | "NEWOBJ":
                arguments = self.pop()
                stack.append(_build(self.pop(), arguments))
            case "BUILD":
                self.build()
            case other:
                raise BadFile(f"its pickle uses {other}, which a state dict does not need")


def understand(file: BinaryIO, storages: dict[str, Storage] | None = None) -> Any:
    """The value that one pickle describes; ``file`` then stands behind its end.

    ``storages`` receives all that it mentions.
    """
    machine = _Machine(storages)
    for step, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if opcode.name == "STOP":
            return machine.pop()
        if step > ITEMS:
            raise BadFile(f"a pickle of more than {ITEMS:,} steps")
        machine.step(opcode.name, argument)
    raise BadFile("the pickle has no end")
