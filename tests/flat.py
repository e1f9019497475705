"""Call an experiment's main with flat keywords, as the command line has its flags."""

import dataclasses
import inspect
import typing
from collections.abc import Callable
from typing import Any


def call(main: Callable[..., None], **flags: Any) -> None:
    """``main`` with each keyword in the group of flags (a dataclass) that has such a field."""
    hints = typing.get_type_hints(main)
    groups = {
        name: hints[name]
        for name in inspect.signature(main).parameters
        if dataclasses.is_dataclass(hints[name])
    }
    built = {}
    for name, group in groups.items():
        fields = {field.name for field in dataclasses.fields(group)}
        built[name] = group(**{key: flags.pop(key) for key in fields & flags.keys()})
    main(**built, **flags)
