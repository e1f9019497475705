"""What tests of trainings and commands share: mains with flat keywords, calls that die."""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Optax's Adam raises a float to the power of an integer step count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def mortal(function: Callable[..., Any], survived: int) -> Callable[..., Any]:
    """``function``, interrupted at the call after so many."""
    calls = iter(range(survived))

    def called(*arguments):
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return function(*arguments)

    return called


def call(main: Callable[..., None], **flags: Any) -> None:
    """``main`` with each keyword in the group of flags (a dataclass) that has such a field."""
    for name, group in typing.get_type_hints(main).items():
        if dataclasses.is_dataclass(group):
            fields = {field.name for field in dataclasses.fields(group)}
            flags[name] = group(**{key: flags.pop(key) for key in fields & flags.keys()})  # type: ignore[operator]
    main(**flags)
