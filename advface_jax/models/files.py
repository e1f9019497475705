"""A trained network as two files: its arrays (``.safetensors``) and its card (``.json``)."""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import safetensors
import safetensors.numpy
from flax import nnx

from advface_jax.models import state
from advface_jax.untrusted import JSON_BYTES, BadFile, parse_json, read_bytes

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
C = TypeVar("C", bound="DataclassInstance")
M = TypeVar("M", bound=nnx.Module)
_WIDEST = 4096  # channels of a layer


def write(
    path: str | os.PathLike[str], module: nnx.Module, card: Mapping[str, Any], dtype: str
) -> None:
    """Write every array of ``module`` as ``dtype`` to ``path``, and ``card`` beside it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {k: np.asarray(v).astype(dtype) for k, v in state.flatten(module).items()}
    safetensors.numpy.save_file(arrays, path)
    path.with_suffix(".json").write_text(
        json.dumps({**card, "dtype": dtype}, indent=2) + "\n", encoding="utf-8"
    )


def read(
    path: str | os.PathLike[str],
    what: str,
    understand: Callable[[dict[str, Any]], T],
    written_by: str = "",
) -> tuple[dict[str, np.ndarray], dict[str, Any], T]:
    """The arrays and the card that ``write`` wrote, and what ``understand`` makes of the card.

    Raises:
      BadFile: there is no such ``what``, or it is damaged.
    """
    path = _named(Path(path).expanduser())
    for file in (path, path.with_suffix(".json")):
        if not file.is_file():
            wanted = f"wanted NAME.safetensors beside NAME.json{written_by}"
            raise BadFile(f"no {what} at {file}: {wanted}")
    try:
        card = parse_json(read_bytes(path.with_suffix(".json"), JSON_BYTES))
        arrays = _arrays(read_bytes(path))
        if "weights_sha256" not in card:  # every card names its recogniser
            raise KeyError("weights_sha256")
        for name in {"weights", "weights_sha256", "defense"} & card.keys():
            if not isinstance(card[name], str | None):
                raise BadFile(f"its card has {name}={card[name]!r:.80}")
        understood = understand(card)
    except KeyError as error:
        raise BadFile(f"{path} is no {what} of ours: its card lacks {error}") from error
    except ValueError as error:
        raise BadFile(f"{path} is damaged ({str(error)[:1000]}): copy or train it again") from error
    return arrays, card, understood


def config(given: Any, kind: type[C]) -> C:
    """A dataclass of settings, its fields numbers and words, from what a card has of it.

    Raises:
      BadFile: fields that are unknown or lack, values of another type or beyond any network's size.
    """
    if not isinstance(given, Mapping):
        raise BadFile(f"its config is a {type(given).__name__}")
    fields = {field.name: field for field in dataclasses.fields(kind)}
    if unknown := given.keys() - fields.keys():
        raise BadFile(f"its config has {', '.join(sorted(unknown))[:200]}")
    for name, value in given.items():
        default = fields[name].default
        wanted = fields[name].type if default is dataclasses.MISSING else type(default)
        if type(value) is not wanted or (wanted is int and value > _WIDEST):
            raise BadFile(f"its config has {name}={value!r:.80}")
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in given:
            raise BadFile(f"its config lacks {name}")
    return kind(**given)


def fill(
    path: str | os.PathLike[str], build: Callable[[], M], arrays: Mapping[str, np.ndarray]
) -> M:
    """``state.fill`` by the arrays of a file; BadFile, which names it, where they do not fit."""
    try:
        return state.fill(build, arrays)
    except ValueError as error:
        raise BadFile(f"{path}: {str(error)[:2000]}") from error


def _arrays(data: bytes) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load(data)
    except safetensors.SafetensorError as error:
        raise BadFile(str(error)) from error
    except KeyError as error:  # the package's own table of types
        raise BadFile(f"numbers of the type {error}") from error


def _named(path: Path) -> Path:
    """The ``.safetensors`` file that ``path`` means: itself, its card, its folder, or its stem."""
    if path.is_dir() and (path / "card.json").is_file():
        raise ValueError(
            f"{path} is a recogniser's checkpoint (load reads it); wanted NAME.safetensors"
        )
    if path.is_dir() and len(found := list(path.glob("*.safetensors"))) == 1:
        return found[0]
    if path.suffix == ".json":
        return path.with_suffix(".safetensors")
    with_ending = path.with_name(path.name + ".safetensors") if path.name else path
    return with_ending if not path.exists() and with_ending.is_file() else path
