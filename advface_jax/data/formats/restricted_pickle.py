"""Pickles of lists of bytes and booleans, read without an unpickler: nothing in them can run.

The standard library's pickletools gives the opcodes. The few that build lists, tuples, bytes and
booleans move a stack here; any other is an error. Python 3 writes bytes under protocol 2 as a call
of ``_codecs.encode(text, 'latin1')``: it is recognised by its shape and not called.
"""

from __future__ import annotations

import mmap
import os
import pickletools
from typing import Any, NamedTuple

from advface_jax.data.records import MAX_BYTES

_MOST_STEPS = 20_000_000  # a hundred times those of the largest public set
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
    """The bytes at their place; ValueError when the file has changed and they are not there."""
    with open(path, "rb") as file:
        file.seek(blob.start)
        data = file.read(blob.length)
    if len(data) < blob.length:
        raise ValueError("the file is cut short")
    return data.decode("utf-8", "surrogatepass").encode("latin-1") if blob.latin1 else data


def read_pickle(path: str | os.PathLike[str]) -> tuple[list[Blob], list[bool]]:
    """A pickled pair of a list of bytes and a list of booleans; no bytes are kept in memory.

    Raises:
      ValueError: the file is no pickle, is cut short, or holds anything else; the message names
        the global that it would import, or the opcode.
    """
    if not os.path.getsize(path):
        raise ValueError(f"{path} is empty")
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        try:
            value = _run(mapped)
            images, same = value
            if not all(isinstance(blob, Blob) for blob in images):
                raise ValueError("its first list holds something else than bytes")
            if not all(isinstance(yes, bool) for yes in same):
                raise ValueError("its second list holds something else than booleans")
            large = [blob.length for blob in images if blob.length > MAX_BYTES]
            if large:
                raise ValueError(f"one of its images has {large[0]:,} bytes")
        except (ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
            reason = str(error) if type(error) is ValueError else "its parts do not fit together"
            raise ValueError(
                f"{path} is no verification set of (list of bytes, list of booleans): {reason}"
            ) from error
    return list(images), list(same)


def _run(mapped: mmap.mmap) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        items = []
        while (item := stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    for step, (opcode, argument, at) in enumerate(pickletools.genops(mapped)):  # type: ignore
        name, position = opcode.name, int(at or 0)
        if step > _MOST_STEPS:
            raise ValueError(f"more than {_MOST_STEPS:,} steps")
        if name in _BYTES:
            length = len(argument)  # type: ignore
            stack.append(Blob(position + _BYTES[name], length))
        elif name in _TEXTS:
            start = position + _TEXTS[name]
            length = mapped.tell() - start
            short = str(argument) if length <= 64 else ""
            stack.append(_Text(Blob(start, length, True), short))
        elif name in ("PROTO", "FRAME"):
            pass
        elif name == "MARK":
            stack.append(_MARK)
        elif name in ("EMPTY_LIST", "LIST"):
            stack.append(marked() if name == "LIST" else [])
        elif name in ("APPEND", "APPENDS"):
            items = marked() if name == "APPENDS" else [stack.pop()]
            if type(stack[-1]) is not list:
                raise ValueError("something is appended to what is no list")
            stack[-1].extend(items)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            n = int(name[-1])
            stack[-n:] = [tuple(stack[-n:])]
        elif name in ("TUPLE", "EMPTY_TUPLE"):
            stack.append(tuple(marked()) if name == "TUPLE" else ())
        elif name in ("NEWTRUE", "NEWFALSE"):
            stack.append(name == "NEWTRUE")
        elif name == "INT" and isinstance(argument, bool):
            stack.append(argument)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            memo[int(argument or 0)] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[int(argument or 0)])
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            if name == "GLOBAL":
                wanted = tuple(str(argument).split(" ", 1))
            else:
                last = stack.pop()
                wanted = (stack.pop().short, last.short)
            if wanted != _ENCODE:
                raise ValueError(f"it asks for {'.'.join(wanted)}, and nothing but data is read")
            stack.append(_CALL)
        elif name == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            if function is not _CALL or len(arguments) != 2 or arguments[1].short != "latin1":
                raise ValueError("it calls a function, and nothing but data is read")
            stack.append(arguments[0].blob)  # what _codecs.encode(text, "latin1") would give
        elif name == "STOP":
            (value,) = stack
            return value
        else:
            raise ValueError(f"it holds {name}, and nothing but lists, bytes and booleans is read")
    raise ValueError("it has no end")
