"""What the chunks of a shard claim, looked at before the library that unpacks them is asked to.

An array_record file is a Riegeli file: blocks of 64 KiB, each begun by a header of 24 bytes, and
across them chunks, each begun by a header of 40 bytes with the size of its data, packed and
unpacked. Source: Riegeli, doc/riegeli_records_file_format.md.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any, BinaryIO

from advface_jax.untrusted import CHUNK_BYTES, ITEMS, REC_BYTES, BadFile, open_file

_BLOCK, _BLOCK_HEADER = 1 << 16, 24
_CHUNK = struct.Struct("<8xQ8xQQ")  # between two sums: bytes packed; kind and records; unpacked


def array_record() -> Any:
    """The package's reader and writer, and its random access; ValueError without it."""
    try:
        from array_record.python import array_record_data_source, array_record_module  # type: ignore
    except ImportError:
        raise ValueError(
            "sets of features and prepared sets are array_record files, which need: pip install "
            "array_record"
        ) from None
    return array_record_module, array_record_data_source


def open_records(path: Path) -> Any:
    """Random access to the records of a shard whose chunks were checked."""
    check(path)
    return array_record()[1].ArrayRecordDataSource(str(path))


def check(path: Path) -> None:
    """BadFile for a chunk that claims to unpack to more than a shard's could.

    Raises:
      BadFile: such a chunk, or a file whose chunks do not follow one another.
    """
    with open_file(path, REC_BYTES) as file:
        end, at = os.fstat(file.fileno()).st_size, 0
        for _ in range(ITEMS):
            if at >= end:
                return
            head, data = _read(file, at, _CHUNK.size)
            if len(head) < _CHUNK.size:
                raise BadFile(f"{path} is cut short in a chunk at byte {at:,}")
            packed, kind, unpacked = _CHUNK.unpack(head)
            if packed > end or unpacked > CHUNK_BYTES or kind >> 8 > ITEMS:
                raise BadFile(f"{path} claims {unpacked:,} bytes in a chunk at byte {at:,}")
            at = max(_behind(data, packed), at + (kind >> 8))
            at += _BLOCK_HEADER if 0 < at % _BLOCK < _BLOCK_HEADER else 0
        raise BadFile(f"{path} has more than {ITEMS:,} chunks")


def _read(file: BinaryIO, at: int, size: int) -> tuple[bytes, int]:
    """``size`` bytes from ``at`` without the headers of blocks, and the place behind them."""
    data = b""
    while len(data) < size:
        at += _BLOCK_HEADER if at % _BLOCK == 0 else 0
        file.seek(at)
        part = file.read(min(size - len(data), _BLOCK - at % _BLOCK))
        if not part:
            break
        data, at = data + part, at + len(part)
    return data, at


def _behind(at: int, size: int) -> int:
    """The place ``size`` bytes behind ``at``, the headers of blocks between left out."""
    left = _BLOCK - at % _BLOCK if at % _BLOCK else 0
    if size <= left:
        return at + size
    size, at = size - left, at + left
    blocks, rest = divmod(size, _BLOCK - _BLOCK_HEADER)
    return at + blocks * _BLOCK + (rest + _BLOCK_HEADER if rest else 0)
