"""Pickles of lists of bytes and booleans, read without an unpickler: nothing in them can run.

The standard library's pickletools gives the opcodes. The few that build lists, tuples, bytes and
booleans move a stack here; any other is an error. Python 3 writes bytes under protocol 2 as a call
of ``_codecs.encode(text, 'latin1')``: it is recognised by its shape and not called.
"""

from __future__ import annotations

import mmap
import os
import pickletools
import struct
from typing import Any, NamedTuple

from advface_jax.untrusted import IMAGE_BYTES, ITEMS, REC_BYTES, BadFile, open_file

# opcode: bytes between it and its data
_BYTES = {"SHORT_BINSTRING": 2, "BINSTRING": 5}
_BYTES |= {"SHORT_BINBYTES": 2, "BINBYTES": 5, "BINBYTES8": 9}
_TEXTS = {"SHORT_BINUNICODE": 2, "BINUNICODE": 5, "BINUNICODE8": 9}
_ENCODE = ("_codecs", "encode")


class Blob(NamedTuple):
    """Where bytes lie in the file; ``latin1`` when they are written as UTF-8 of latin-1 text."""

    start: int
    length: int
    latin1: bool = False


class _Text(NamedTuple):
    blob: Blob
    short: str  # the text itself, where it is short enough to be a name


_MARK = object()
_CALL = object()  # _codecs.encode


def read_blob(path: str | os.PathLike[str], blob: Blob) -> bytes:
    """The bytes at their place; BadFile when the file has changed and they are not there."""
    with open_file(path, REC_BYTES) as file:
        file.seek(blob.start)
        data = file.read(blob.length)
    if len(data) < blob.length:
        raise BadFile("the file is cut short")
    if not blob.latin1:
        return data
    try:
        return data.decode("utf-8", "surrogatepass").encode("latin-1")
    except UnicodeError as error:
        raise BadFile(f"text where bytes should be: {error}") from None


def read_pickle(path: str | os.PathLike[str]) -> tuple[list[Blob], list[bool]]:
    """A pickled pair of a list of bytes and a list of booleans; no bytes are kept in memory.

    Raises:
      BadFile: the file is no pickle, is cut short, or holds anything else; the message names the
        global that it would import, or the opcode.
    """
    with open_file(path, REC_BYTES) as file:
        if not os.fstat(file.fileno()).st_size:
            raise BadFile(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            try:
                return _pair(_run(mapped))
            except (ValueError, IndexError, struct.error) as error:  # what pickletools raises, too
                raise BadFile(
                    f"{path} is no verification set of (list of bytes, list of booleans): "
                    f"{str(error)[:300]}"
                ) from error


def _pair(value: Any) -> tuple[list[Blob], list[bool]]:
    if not isinstance(value, tuple | list) or len(value) != 2:
        raise BadFile("its parts do not fit together")
    images, same = value
    if not isinstance(images, tuple | list) or not all(isinstance(blob, Blob) for blob in images):
        raise BadFile("its first list holds something else than bytes")
    if not isinstance(same, tuple | list) or not all(isinstance(yes, bool) for yes in same):
        raise BadFile("its second list holds something else than booleans")
    return list(images), list(same)


class _Bounded:
    """The file as pickletools reads it, which asks for each argument as a whole."""

    def __init__(self, mapped: mmap.mmap) -> None:
        self._mapped = mapped
        self.tell = mapped.tell

    def read(self, size: int) -> bytes:
        if size > IMAGE_BYTES:
            raise BadFile(f"one of its parts claims {size:,} bytes, more than {IMAGE_BYTES:,}")
        return self._mapped.read(size)

    def readline(self) -> bytes:
        start = self.tell()
        end = self._mapped.find(b"\n", start, start + IMAGE_BYTES)
        if end < 0:
            raise BadFile(f"it has a line without an end, or of more than {IMAGE_BYTES:,} bytes")
        return self._mapped.read(end + 1 - start)


class _Machine:
    """The stack and the memo of a pickle, where only data are moved."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise BadFile("it takes what is not there")
        return self.stack.pop()

    def top(self) -> Any:
        value = self.pop()
        self.stack.append(value)
        return value

    def marked(self) -> list[Any]:
        items = []
        while self.stack and self.stack[-1] is not _MARK:
            items.append(self.stack.pop())
        if not self.stack:
            raise BadFile("it closes what it did not open")
        self.stack.pop()
        return items[::-1]

    def extend(self, items: list[Any]) -> None:
        if type(self.top()) is not list:
            raise BadFile("something is appended to what is no list")
        self.stack[-1].extend(items)

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if function is _CALL and isinstance(arguments, tuple) and len(arguments) == 2:
            text, coding = arguments
            if isinstance(text, _Text) and isinstance(coding, _Text) and coding.short == "latin1":
                self.stack.append(text.blob)  # what _codecs.encode(text, "latin1") would give
                return
        raise BadFile("it calls a function, and nothing but data is read")

    def named(self, wanted: tuple[str, ...]) -> None:
        if wanted != _ENCODE:
            raise BadFile(f"it asks for {'.'.join(wanted)[:200]}, and nothing but data is read")
        self.stack.append(_CALL)

    def step(self, name: str, argument: Any) -> None:
        """One instruction, but for those that hold bytes."""
        match name:
            case "PROTO" | "FRAME":
                pass
            case "MARK":
                self.stack.append(_MARK)
            case "EMPTY_LIST" | "LIST":
                self.stack.append(self.marked() if name == "LIST" else [])
            case "APPEND" | "APPENDS":
                self.extend(self.marked() if name == "APPENDS" else [self.pop()])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [self.pop() for _ in range(int(name[-1]))]
                self.stack.append(tuple(reversed(items)))
            case "TUPLE" | "EMPTY_TUPLE":
                self.stack.append(tuple(self.marked()) if name == "TUPLE" else ())
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(name == "NEWTRUE")
            case "INT" if isinstance(argument, bool):
                self.stack.append(argument)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self.memo[int(argument)] = self.top()
            case "MEMOIZE":
                self.memo[len(self.memo)] = self.top()
            case "GET" | "BINGET" | "LONG_BINGET":
                if int(argument) not in self.memo:
                    raise BadFile("it repeats what it did not name")
                self.stack.append(self.memo[int(argument)])
            case "GLOBAL":
                self.named(tuple(str(argument).split(" ", 1)))
            case "STACK_GLOBAL":
                last, first = self.pop(), self.pop()
                if not isinstance(last, _Text) or not isinstance(first, _Text):
                    raise BadFile("it names what is no name")
                self.named((first.short, last.short))
            case "REDUCE":
                self.reduce()
            case _:
                raise BadFile(f"it holds {name}, and nothing but lists, bytes and booleans is read")


def _run(mapped: mmap.mmap) -> Any:
    machine = _Machine()
    for step, (opcode, argument, at) in enumerate(pickletools.genops(_Bounded(mapped))):  # type: ignore
        name, position = opcode.name, int(at or 0)
        if step > ITEMS:
            raise BadFile(f"more than {ITEMS:,} steps")
        if name in _BYTES:
            length = len(argument)  # type: ignore
            machine.stack.append(Blob(position + _BYTES[name], length))
        elif name in _TEXTS:
            start = position + _TEXTS[name]
            length = mapped.tell() - start
            short = str(argument) if length <= 64 else ""
            machine.stack.append(_Text(Blob(start, length, True), short))
        elif name == "STOP":
            value = machine.pop()
            if machine.stack:
                raise BadFile("it ends in the middle")
            return value
        else:
            machine.step(name, argument)
    raise BadFile("it has no end")
