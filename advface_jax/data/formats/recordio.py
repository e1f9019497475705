"""MXNet's RecordIO as insightface packs faces in it: one record at an offset.

A record is magic, a word of 3 bits (part of a split record) and 29 bits (length), the payload,
padding to 4 bytes. The payload begins with flag, label, id, id2 (``IfQQ``); with flag > 0 as many
float labels follow and replace the first; the rest is the encoded image.
Source: MXNet, include/dmlc/recordio.h of dmlc-core and python/mxnet/recordio.py.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from advface_jax.untrusted import (
    IMAGE_BYTES,
    INDEX_BYTES,
    REC_BYTES,
    BadFile,
    open_file,
    read_bytes,
)

MAGIC = 0xCED7230A
_WORDS = struct.Struct("<II")
_HEADER = struct.Struct("<IfQQ")
_MOST_LABELS = 1 << 16


class Record(NamedTuple):
    """The labels of a record, and where in the file its image's bytes are."""

    labels: tuple[float, ...]
    start: int
    length: int


def read_record(file: BinaryIO, offset: int) -> Record:
    """The record at an offset, without its image; ValueError when there is none."""
    try:
        file.seek(offset)
        words = file.read(_WORDS.size)
    except (OSError, OverflowError):  # farther than any file of this disk could reach
        words = b""
    if len(words) < _WORDS.size:
        raise BadFile(f"past the end of the file: there is no record at byte {offset}")
    magic, word = _WORDS.unpack(words)
    if magic != MAGIC:
        raise BadFile(f"no record begins at byte {offset}: the .idx belongs to another .rec")
    if word >> 29:
        raise BadFile(
            "a record split into parts, which is not read (MXNet splits one whose bytes happen to "
            "hold its magic number): encode that image anew and pack it again"
        )
    length = word & ((1 << 29) - 1)
    header = file.read(_HEADER.size)
    if length < _HEADER.size or len(header) < _HEADER.size:
        raise BadFile(f"the record at byte {offset} has no image header")
    flag, label, _, _ = _HEADER.unpack(header)
    left = length - _HEADER.size
    if not flag:
        return Record((label,), file.tell(), left)
    size = 4 * flag
    if flag > _MOST_LABELS or size > left or len(more := file.read(size)) < size:
        raise BadFile(f"the record at byte {offset} claims {flag} labels and has fewer")
    return Record(struct.unpack(f"<{flag}f", more), file.tell(), left - size)


def read_image(path: str | os.PathLike[str], offset: int) -> bytes:
    """The encoded image of the record at an offset; ValueError when it is not whole."""
    with open_file(path, REC_BYTES) as file:  # opened anew: threads and forks share no position
        record = read_record(file, offset)
        if not record.length:
            raise BadFile("a record without an image")
        there = os.fstat(file.fileno()).st_size - record.start
        if there < record.length:
            raise BadFile(f"the .rec is cut short: {there:,} of {record.length:,} bytes are there")
        if record.length > IMAGE_BYTES:
            raise BadFile(f"a record with {record.length:,} bytes of an image")
        return file.read(record.length)


def read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Keys and offsets of an .idx file, int64 (n,) each; ValueError with the first wrong line."""
    try:
        lines = read_bytes(path, INDEX_BYTES).decode("ascii").splitlines()
    except UnicodeDecodeError:
        raise BadFile(f"{path} is not a text file of keys and offsets") from None
    keys, offsets = [], []
    for number, line in enumerate(lines, 1):
        words = line.split()
        if len(words) != 2 or not all(word.isdigit() and len(word) < 19 for word in words):
            raise BadFile(f"{path}, line {number}: wanted 'key offset', got {line!r:.200}")
        keys.append(int(words[0]))
        offsets.append(int(words[1]))
    return np.array(keys, np.int64), np.array(offsets, np.int64)
