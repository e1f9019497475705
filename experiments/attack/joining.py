"""Somebody else's defence or attack, by the name of a function."""

import importlib
import re
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def function(source: str, flag: str) -> Callable[..., Any]:
    """The function of "module:function" on Python's path.

    Raises:
      ValueError: Another form, or no such module or function.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source):
        raise ValueError(f"got --{flag} {source}; wanted MODULE:FUNCTION, as my_work:build")
    module, name = source.split(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"got --{flag} {source}, which cannot be loaded ({error}); wanted a module on Python's "
            "path, and a function in it"
        ) from error
    if not callable(found):
        raise ValueError(f"got --{flag} {source}, a {type(found).__name__}; wanted a function")
    return found


def built(found: Any, kind: type[T], source: str, flag: str) -> T:
    """What the function returned, if it is of its ``kind``; else ValueError."""
    if not isinstance(found, kind):
        raise ValueError(
            f"--{flag} {source} returned a {type(found).__name__}; wanted an "
            f"{kind.__module__}.{kind.__name__}"
        )
    return found
