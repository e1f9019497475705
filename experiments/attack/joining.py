"""Somebody else's defence or attack, by the name of a function."""

import functools
import hashlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from advface_jax import cli

T = TypeVar("T")


def function(source: str, flag: str) -> Callable[..., Any]:
    """The function of "module:function", which takes one argument; else ValueError."""
    found = cli.function(source, flag)
    try:
        inspect.signature(found).bind(None)
    except TypeError as error:
        raise ValueError(
            f"got --{flag} {source}, which cannot be called with one argument ({error}); wanted a "
            f"function of {'the system' if flag == 'defense' else 'what the attacker knows'}"
        ) from None
    return found


def source_sum(found: Any) -> str | None:
    """The sha256 of the file that a function, or an object that is called, is written in; None
    where there is none."""
    while isinstance(found, functools.partial):
        found = found.func
    written = found if hasattr(found, "__qualname__") else type(found)
    try:
        return hashlib.sha256(Path(inspect.getfile(written)).read_bytes()).hexdigest()
    except (TypeError, OSError):
        return None


def label(builder: Any) -> str:
    """What tells a ``Builder`` from others, in words that stay the same from run to run."""
    if isinstance(builder, functools.partial):
        return f"{label(builder.func)} {[*builder.args, *sorted(builder.keywords.items())]}"
    where = builder if hasattr(builder, "__qualname__") else type(builder)
    return f"{where.__module__}.{where.__qualname__} {getattr(builder, 'name', '')}".strip()


def built(found: Any, kind: type[T], source: str, flag: str) -> T:
    """What the function returned, if it is of its ``kind``; else ValueError."""
    if not isinstance(found, kind):
        raise ValueError(
            f"--{flag} {source} returned a {type(found).__name__}; wanted an "
            f"{kind.__module__}.{kind.__name__}"
        )
    return found
