"""Files from somebody else: the one error of their readers, and what a file may ask of them.

Every reader of weights, faces, lists, cards, decoders and feature sets takes its limits from here
and refuses what is beyond them before it allocates. No reader has a clock: each step of it takes
from one of these budgets, which bounds its time, too. What a file makes a reader do is parsing
alone: nothing in a file is imported, called or unpickled, no name in it becomes a path outside of
its folder, and only regular files are opened.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO


class BadFile(ValueError):
    """A file that is damaged, hostile, of another kind than it should be, or not there.

    The only error of a reader, but for an ``OSError`` of the system (no permission, a failing
    disk), which says nothing about the file.
    """


FILE_BYTES = 512 << 20
"""Of a file that is read as a whole (weights): four times those of FaceNet with its classes."""
ARRAY_BYTES = 512 << 20
"""Of all arrays of a weight file together, however few bytes claim them."""
MEMBER_BYTES = 512 << 20
"""Of all members of a weight archive together, unpacked."""
IMAGE_BYTES = 256 << 20
"""Of one encoded image."""
PIXELS = 50_000_000
"""Of one photograph."""
SCANNED_PIXELS = 2_000_000_000
"""Of one JPEG, each scan of a progressive one counted: forty full scans of the largest."""
MAT_BYTES = 64 << 20
"""Of a .mat file, unpacked: ten times those of AgeDB's protocol."""
JSON_BYTES = 16 << 20
"""Of a card, or another file in JSON; parsed, each byte may take twenty."""
TEXT_BYTES = 256 << 20
"""Of a list, a table or a report."""
INDEX_BYTES = 1 << 30
"""Of the .idx beside a .rec: sixty million images."""
CHUNK_BYTES = 256 << 20
"""Of a chunk of records in a shard, unpacked: more than a hundred and sixty features."""
REC_BYTES = 1 << 50
"""Of a .rec, of which only what the .idx points at is read."""
ITEMS = 1 << 20
"""Of entries, fields, tables, nodes, steps or members in one file: each may take 1 kB."""
DEPTH = 64
"""Of what is nested: cells, dictionaries, groups, JSON."""
NAME = 4096
"""Characters of a name in a file."""


class Room:
    """What may still be read from one file.

    ``items`` bounds what one file can repeat, also where few bytes are pointed at many times.
    """

    def __init__(self) -> None:
        self.bytes, self.items = ARRAY_BYTES, ITEMS

    def take(self, shape: Sequence[int], itemsize: int = 4) -> int:
        """The size of an array that is about to be made; BadFile where it is too large."""
        numbers = [int(n) for n in shape]
        size = math.prod(numbers)
        if len(numbers) > 32 or min(numbers, default=0) < 0 or size * itemsize > self.bytes:
            claimed = f"an array of shape {str(tuple(numbers[:9]))[:80]}"
            raise BadFile(f"it claims more than {ARRAY_BYTES >> 20} MiB of numbers ({claimed})")
        self.bytes -= size * itemsize
        return size

    def count(self, items: int = 1) -> None:
        """Take so many items; BadFile where there are too many."""
        self.items -= items
        if self.items < 0:
            raise BadFile(f"it has more than {ITEMS:,} parts")


_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: str | os.PathLike[str], most: int) -> BinaryIO:
    """A regular file of at most ``most`` bytes, open for reading.

    A pipe or a device is refused without waiting for it.

    Raises:
      BadFile: not there, no regular file, or a larger one.
      OSError: what the system refuses for other reasons.
    """
    try:
        # a pipe that nobody writes to would hold the call that opens it
        handle = os.open(path, _FLAGS)
    except (FileNotFoundError, NotADirectoryError):
        raise BadFile(f"{path} does not exist") from None
    except ValueError as error:  # a zero byte in the path
        raise BadFile(f"{path!r} is no path: {error}") from None
    try:
        kind = os.fstat(handle)
        if not stat.S_ISREG(kind.st_mode):
            raise BadFile(f"{path} is not a regular file")
        if kind.st_size > most:
            raise BadFile(f"{path} has {kind.st_size:,} bytes, more than {most:,}")
        return os.fdopen(handle, "rb")
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(handle)
        raise


def read_bytes(path: str | os.PathLike[str], most: int = FILE_BYTES) -> bytes:
    """The contents of a regular file; errors of ``open_file``."""
    with open_file(path, most) as file:  # a read allocates all that it is asked for
        data = file.read(os.fstat(file.fileno()).st_size + 1)
    if len(data) > most:  # it grew meanwhile
        raise BadFile(f"{path} has more than {most:,} bytes")
    return data


def parse_json(data: bytes) -> dict[str, Any]:
    """The object in JSON text; BadFile for anything else."""
    if len(data) > JSON_BYTES:
        raise BadFile(f"more than {JSON_BYTES >> 20} MiB of JSON")
    try:
        value = json.loads(data.decode("utf-8-sig"))
    except RecursionError:
        raise BadFile(f"nested deeper than {DEPTH}") from None
    except ValueError as error:
        raise BadFile(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise BadFile(f"it holds {type(value).__name__}, wanted an object")
    level: list[Any] = [value]
    for _ in range(DEPTH):
        parts = (part.values() if isinstance(part, dict) else part for part in level)
        level = [one for part in parts for one in part if isinstance(one, dict | list)]
        if not level:
            return value
    raise BadFile(f"nested deeper than {DEPTH}")


def read_json(path: str | os.PathLike[str], remedy: str = "") -> dict[str, Any]:
    """The object in a JSON file; BadFile, which names the file, for anything else.

    ``remedy`` ends its message, as "copy the set again".
    """
    data = read_bytes(path, JSON_BYTES)
    try:
        return parse_json(data)
    except BadFile as error:
        end = f": {remedy}" if remedy else ""
        raise BadFile(f"{path} cannot be read ({error}){end}") from None


_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)


@contextlib.contextmanager
def zip_errors() -> Iterator[None]:
    """What zipfile and its decompressors raise on damage, as BadFile."""
    import lzma
    import struct
    import zlib

    known = (
        *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
        *(NotImplementedError, RuntimeError, ValueError, OverflowError, IndexError),
    )
    try:
        yield
    except BadFile:
        raise
    except known as error:
        raise BadFile((str(error) or type(error).__name__)[:500]) from error  # it has names
    except OSError as error:  # bz2's, and a seek to before the file's beginning
        if error.errno not in (None, 22):
            raise
        raise BadFile(str(error)) from error


def open_zip(file: str | os.PathLike[str] | BinaryIO) -> zipfile.ZipFile:
    """An archive of at most ``ITEMS`` members; BadFile when its directory cannot be read."""
    if isinstance(file, str | os.PathLike):
        open_file(file, REC_BYTES).close()
    with zip_errors():
        archive = zipfile.ZipFile(file)
        if len(archive.infolist()) > ITEMS:
            archive.close()
            raise BadFile(f"more than {ITEMS:,} members")
        return archive


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """A member, unpacked as far as ``most`` bytes; BadFile for damage and for larger ones.

    LZMA and Zstandard are refused: they claim a window of any size before the first byte. bzip2
    unpacks all that it is given at once, so it is given little.
    """
    data = member_begin(archive, member, most + 1)
    if len(data) > most:
        raise BadFile(f"more than {most >> 20} MiB")
    return data


def member_begin(archive: zipfile.ZipFile, member: zipfile.ZipInfo, most: int) -> bytes:
    """The first ``most`` bytes of a member, or all; errors as of ``read_member``."""
    if member.compress_type not in _PLAIN:
        raise BadFile(f"compressed with method {member.compress_type}: pack it again with deflate")
    if member.flag_bits & 1:
        raise BadFile("encrypted: unpack the archive with its password")
    step = 4096 if member.compress_type == zipfile.ZIP_BZIP2 else most
    parts, left = [], most
    with zip_errors(), archive.open(member) as file:
        while left and (part := file.read(min(step, left))):
            parts.append(part)
            left -= len(part)
    return b"".join(parts)


def member(archive: zipfile.ZipFile, name: str) -> zipfile.ZipInfo:
    """The entry of that name; BadFile where there is none."""
    try:
        return archive.getinfo(name)
    except KeyError:
        raise BadFile(f"it lacks {name}") from None
