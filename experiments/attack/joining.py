"""Somebody else's defence or attack, by the name of a function."""

from typing import Any, TypeVar

from advface_jax.cli import function as function

T = TypeVar("T")


def built(found: Any, kind: type[T], source: str, flag: str) -> T:
    """What the function returned, if it is of its ``kind``; else ValueError."""
    if not isinstance(found, kind):
        raise ValueError(
            f"--{flag} {source} returned a {type(found).__name__}; wanted an "
            f"{kind.__module__}.{kind.__name__}"
        )
    return found
