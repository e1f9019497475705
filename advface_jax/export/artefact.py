"""The file of an exported program, and ``load``: this module needs jax alone.

(``jax.export`` itself reads its programs with the package flatbuffers.) Copied out of the package,
it works as it is. The file, all numbers little-endian::

    16 bytes   MAGIC
    32 bytes   sha256 of everything that follows
     8 bytes   length of the card
     card      JSON, UTF-8: the part, what it takes and gives, versions, arrays
     program   what ``jax.export`` wrote, ``card["program_bytes"]`` long
     arrays    the weights, one after the other, as ``card["arrays"]`` lists them
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export

MAGIC = b"advface_jax\0prog"
FORMAT = 1
HEAD = len(MAGIC) + 32 + 8
MOST_CARD, MOST_BYTES = 2**20, 2**32
DTYPES = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2"), "int32": np.dtype("<i4")}


@dataclasses.dataclass(frozen=True, repr=False)
class Program:
    """An exported program: call it with the arrays that ``card["takes"]`` lists, in that order.

    It compiles once for each size of batch. Shapes and dtypes are checked, values are not.

    Attributes:
      card: what it is: ``part``, ``weights``, ``weights_sha256``, ``takes``, ``gives``,
        ``platforms``, ``settings``, ``versions``.
    """

    card: Mapping[str, Any]
    arrays: tuple[jax.Array, ...]
    run: Any

    def __call__(self, *given: Any) -> Any:
        wanted = self.card["takes"]
        if len(given) != len(wanted):
            names = ", ".join(one["name"] for one in wanted)
            raise ValueError(f"got {len(given)} arguments; wanted {len(wanted)}: {names}")
        arrays = [_fitting(x, one) for x, one in zip(given, wanted, strict=True)]
        sizes = {len(x) for x, one in zip(arrays, wanted, strict=True) if one["shape"][:1] == ["b"]}
        if len(sizes) > 1:
            raise ValueError(f"got batches of {sorted(sizes)}; wanted one size for all arguments")
        return self.run(self.arrays, *arrays)


def load(path: str | os.PathLike[str], *, sha256: str) -> Program:
    """A program from a file of ``advface_jax.export.write``, by the sum that its maker told.

    A program is XLA's to read, and one that was forged can crash that reader or do worse. So the
    sum is asked for, and nothing of a file with another sum is read.

    Args:
      path: the file.
      sha256: what ``write`` returned and ``python -m advface_jax export`` printed.

    Raises:
      ValueError: no such file, one of another kind, damaged, another than ``sha256`` says, of a
        newer format or JAX, or not for this platform.
      ModuleNotFoundError: without flatbuffers.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not HEAD < size <= MOST_BYTES:
            raise ValueError(f"got {path} of {size} bytes; wanted a file of advface_jax.export")
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"got {path}, which is unreadable ({error.strerror})") from None
    if data[: len(MAGIC)] != MAGIC:
        raise ValueError(f"got {path}, which is no exported program; wanted one of export.write")
    total = hashlib.sha256(data[HEAD - 8 :]).hexdigest()
    if stated(data) != total:
        raise ValueError(f"got {path}, which is damaged (its sum differs): copy or export it again")
    if sha256.lower() != total:
        raise ValueError(f"got {path} of sha256 {total}; wanted {sha256}: another file")
    try:
        card, program, arrays = _parts(data)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, struct.error) as error:
        reason = " ".join(f"{error}".split())[:200]
        raise ValueError(f"got {path}, whose card is wrong ({reason}): export it again") from None
    exported = _exported(path, card, program)
    return Program(card, arrays, jax.jit(exported.call))


def pack(card: Mapping[str, Any], exported: export.Exported, arrays: Sequence[Any]) -> bytes:
    """The bytes of a file: ``card`` with what ``load`` checks."""
    program = bytes(exported.serialize())
    plain = [np.ascontiguousarray(np.asarray(a)) for a in arrays]
    listed = [{"dtype": a.dtype.name, "shape": list(a.shape)} for a in plain]
    if wrong := {one["dtype"] for one in listed} - DTYPES.keys():
        raise ValueError(f"got weights of {', '.join(wrong)}; wanted {', '.join(DTYPES)}")
    card = {
        **card,
        "format": FORMAT,
        "platforms": list(exported.platforms),
        "program_bytes": len(program),
        "arrays": listed,
    }
    text = json.dumps(card, ensure_ascii=False).encode()
    rest = struct.pack("<Q", len(text)) + text + program
    rest += b"".join(a.astype(DTYPES[a.dtype.name]).tobytes() for a in plain)
    return MAGIC + hashlib.sha256(rest).digest() + rest


def stated(data: bytes) -> str:
    """The sum that a file says it has."""
    return data[len(MAGIC) : HEAD - 8].hex()


def save(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        try:
            file.write(data)
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise


def _parts(data: bytes) -> tuple[dict[str, Any], bytes, tuple[jax.Array, ...]]:
    (length,) = struct.unpack_from("<Q", data, HEAD - 8)
    if length > MOST_CARD:
        raise ValueError(f"it has {length} bytes, at most {MOST_CARD}")
    card = json.loads(data[HEAD : HEAD + length].decode())
    if card["format"] != FORMAT:
        raise ValueError(f"format {card['format']}, this reads {FORMAT}: take a newer advface_jax")
    for one in card["takes"]:
        if not isinstance(one["name"], str) or not _is_shape(one["shape"][1:]):
            raise ValueError("what it takes is unclear")
        np.dtype(one["dtype"])
    if lacking := {"part", "weights", "gives"} - card.keys() or {"jax"} - card["versions"].keys():
        raise ValueError(f"it lacks {', '.join(sorted(lacking))}")
    at = HEAD + length
    end = at + _count(card["program_bytes"])
    program, at = data[at:end], end
    arrays = []
    for one in card["arrays"]:
        dtype, shape = DTYPES[one["dtype"]], one["shape"]
        if not _is_shape(shape):
            raise ValueError("an array's shape")
        n = math.prod(shape)
        if at + n * dtype.itemsize > len(data):
            raise ValueError("its arrays are longer than the file")
        arrays.append(jax.numpy.asarray(np.frombuffer(data, dtype, n, at).reshape(shape)))
        at += n * dtype.itemsize
    if at != len(data):
        raise ValueError("its arrays are shorter than the file")
    return card, program, tuple(arrays)


def _exported(path: Path, card: Mapping[str, Any], program: bytes) -> export.Exported:
    made, here = str(card["versions"]["jax"])[:40], jax.__version__
    again = "export it again with your own JAX, or install that one"
    # JAX promises that a newer one reads what an older one wrote, and not the other way round.
    if _release(made) > _release(here):
        raise ValueError(f"got {path}, made by jax {made}; wanted {here} or older: {again}")
    try:
        exported = export.deserialize(bytearray(program))
        low = export.minimum_supported_calling_convention_version
        high = export.maximum_supported_calling_convention_version
        if not low <= exported.calling_convention_version <= high:
            raise ValueError(f"calling convention {exported.calling_convention_version}")
        exported.mlir_module()  # what an older JAX cannot read fails here
    except ModuleNotFoundError:
        raise
    except Exception as error:  # of a parser in C++, many kinds
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ValueError(
            f"got {path}, made by jax {made}, which jax {here} cannot read ({reason}): {again}"
        ) from None
    platform = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
    if platform not in exported.platforms:
        raise ValueError(
            f"got {path} for {', '.join(exported.platforms)}; wanted one for {platform}"
        )
    return exported


def _fitting(x: Any, wanted: Mapping[str, Any]) -> jax.Array | np.ndarray:
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    shape, name = wanted["shape"], wanted["name"]
    if array.dtype == np.float64 and wanted["dtype"] == "float32":
        array = array.astype(np.float32)  # NumPy's default
    fits = len(array.shape) == len(shape) and all(
        n >= 1 if m == "b" else n == m for n, m in zip(array.shape, shape, strict=True)
    )
    if not fits or str(array.dtype) != wanted["dtype"]:
        raise ValueError(
            f"got {name} of {array.dtype} {tuple(array.shape)}; wanted {wanted['dtype']} "
            f"({', '.join(map(str, shape))}){', b of 1 or more' if 'b' in shape else ''}"
        )
    return array


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(n) for n in re.findall(r"\d+", version)[:2])


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list) and all(type(n) is int and 0 <= n < 2**32 for n in shape)


def _count(n: Any) -> int:
    if type(n) is not int or not 0 <= n < MOST_BYTES:
        raise ValueError(f"a length of {n!r}")
    return n
