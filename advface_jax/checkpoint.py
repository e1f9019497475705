"""Checkpoints: a folder with a tree of arrays (``arrays/``, Orbax) and their card (``card.json``).

Trees are nested dictionaries with string keys; ``nest`` and ``flatten`` turn dotted names such as
``extractor.conv2d_1a.bn.mean`` into trees and back.
"""

import contextlib
import errno
import glob
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from advface_jax import runtime
from advface_jax.untrusted import BadFile, Room, read_json

Tree = dict[str, Any]


def nest(flat: Mapping[str, Any]) -> Tree:
    """Dotted names to a tree: ``{"a.b": x}`` becomes ``{"a": {"b": x}}``.

    Raises:
      ValueError: one name is the beginning of another (``a`` and ``a.b``).
    """
    tree: Tree = {}
    for name, value in flat.items():
        *branches, leaf = name.split(".")
        place = tree
        for branch in branches:
            place = place.setdefault(branch, {})
            if not isinstance(place, dict):
                raise ValueError(f"{name!r}: {branch!r} is an array already; rename one of them")
        if leaf in place:
            raise ValueError(f"{name!r} is a branch already; rename one of them")
        place[leaf] = value
    return tree


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree to dotted names: ``{"a": {"b": x}}`` becomes ``{"a.b": x}``."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if not isinstance(key, str):
            raise ValueError(f"{prefix}{key!r}: a key must be a string, got {type(key).__name__}")
        if "." in key:
            raise ValueError(f"{prefix}{key}: the key {key!r} must not contain a dot; nest it")
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


@contextlib.contextmanager
def _orbax() -> Iterator[Any]:
    """An Orbax checkpointer, silent. Imported here because the import takes two seconds."""
    logger = logging.getLogger("absl")
    level = logger.level
    import orbax.checkpoint as ocp

    logger.setLevel(logging.CRITICAL)  # errors are exceptions too
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            yield checkpointer
    finally:
        logger.setLevel(level)


def _needs_backend(task: str) -> None:
    """ValueError where JAX has no backend, which Orbax needs."""
    if why := runtime.absent_backend():
        raise ValueError(f"{task}: {why}")


_SYSTEM = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EMFILE", "ENOMEM", "EIO")


def _system_reason(error: Exception) -> str | None:
    """What hindered the operating system, if TensorStore's page of text says so."""
    words = (os.strerror(getattr(errno, name)) for name in _SYSTEM if hasattr(errno, name))
    return next((word for word in words if word in str(error)), None)


def _first_line(error: Exception) -> str:
    text = (str(error).strip() or "no reason given").splitlines()[0][:200]
    return f"{type(error).__name__}: {text}"


def _aside(directory: Path) -> Path:
    """The old checkpoint's place while the new one moves into its own."""
    return directory.with_name(f".{directory.name}.old")


def _clear(directory: Path) -> None:
    """Remove what killed saves left an hour ago or longer; a younger one may be at work."""
    for path in directory.parent.glob(f".{glob.escape(directory.name)}.????????"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 3600:
                shutil.rmtree(path, ignore_errors=True)


def save(
    directory: str | os.PathLike[str], tree: Mapping[str, Any], card: Mapping[str, Any]
) -> None:
    """Write a checkpoint, or replace one, with a card for JSON.

    It is written beside ``directory`` and renamed: after a kill at any moment ``restore`` finds the
    old one or the new one. Each leaf of ``tree`` is numeric and has one element or more.

    Raises:
      ValueError: the folder holds something else, the tree is empty, a key or a leaf does not fit,
        the card is not JSON, the disk is full or read-only, or JAX has no backend.
    """
    directory = Path(directory).absolute()
    replaces = (directory / "card.json").is_file() or not directory.exists()
    if not replaces and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(
            f"{directory} exists and is not a checkpoint (no card.json in it); give another folder"
        )
    # numpy leaves: a checkpoint written on a GPU must open on a machine without one
    arrays = {name: np.asarray(value) for name, value in flatten(tree).items()}
    unfit = [k for k, v in arrays.items() if v.size == 0 or v.dtype == object]
    if not arrays or unfit:
        raise ValueError(
            f"cannot save {', '.join(unfit) or 'an empty tree'}: wanted numbers, at least one each"
        )
    try:
        text = json.dumps(dict(card), indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"the card is not JSON: {error}") from error

    _needs_backend(f"{directory} was not written")
    directory.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        work.chmod(0o755)  # mkdtemp makes folders for one user only
        try:
            with _orbax() as checkpointer:
                checkpointer.save(work / "arrays", nest(arrays))
        except Exception as error:
            reason = _system_reason(error) or _first_line(error)
            raise ValueError(f"{directory} was not written: {reason}") from error
        (work / "card.json").write_text(text, encoding="utf-8")
        aside = _aside(directory)
        if directory.exists():
            shutil.rmtree(aside, ignore_errors=True)
            directory.rename(aside)
        work.rename(directory)
        shutil.rmtree(aside, ignore_errors=True)
        _clear(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def exists(directory: str | os.PathLike[str]) -> bool:
    """Whether ``restore`` would find a checkpoint there, also after a killed save."""
    path = Path(directory).absolute()
    return path.exists() or _aside(path).exists()


def restore(directory: str | os.PathLike[str]) -> tuple[Tree, dict[str, Any]]:
    """The tree (NumPy arrays) and the card of a checkpoint.

    Raises:
      ValueError: no checkpoint there, or a damaged one; or JAX has no backend to read it with.
    """
    path = Path(directory).absolute()
    if not path.exists() and _aside(path).exists():
        path = _aside(path)  # a save was killed between its two renames
    if not path.is_dir():
        raise BadFile(
            f"no checkpoint folder at {path}; make one with `python -m weights_convert`, "
            "or by training"
        )
    if not (path / "card.json").is_file() or not (path / "arrays").is_dir():
        raise BadFile(
            f"{path} is not a checkpoint: wanted card.json and arrays/ in it; give another folder"
        )
    card = read_json(path / "card.json", "save it again")
    _needs_backend(f"{path} was not read")
    try:
        with _orbax() as checkpointer:
            claimed = checkpointer.metadata(path / "arrays")
            _bounded(getattr(claimed, "item_metadata", claimed))  # older Orbax: the tree at once
            tree = checkpointer.restore(path / "arrays")
    except (MemoryError, BadFile):
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds, with pages of text
        if reason := _system_reason(error):
            raise ValueError(f"the arrays of {path} cannot be read: {reason}") from error
        raise BadFile(
            f"the arrays of {path} cannot be read ({_first_line(error)}); the checkpoint is "
            "damaged: make it again (in the cache folder: delete it, and it is fetched again)"
        ) from error
    return _sound(path, tree), card


def _bounded(metadata: Any) -> None:
    """BadFile where the arrays that a checkpoint claims are too large."""
    import jax

    room = Room()
    for leaf in jax.tree.leaves(getattr(metadata, "tree", metadata)):
        room.count()
        shape, dtype = getattr(leaf, "shape", None), getattr(leaf, "dtype", None)
        if shape is not None and dtype is not None:
            room.take(shape, np.dtype(dtype).itemsize)


def _sound(path: Path, tree: Any) -> Tree:
    """The tree with NumPy's arrays, and with names alone as its keys."""
    try:
        if not isinstance(tree, Mapping):
            raise BadFile(f"a {type(tree).__name__} where a tree should be")
        return nest({name: np.asarray(value) for name, value in flatten(tree).items()})
    except ValueError as error:
        raise BadFile(f"the arrays of {path}: {error}; save it again") from error
