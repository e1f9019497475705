"""Small damage to small files, by a seeded generator: blind, and by the form of what is damaged.

A form that wraps another (a zip, a compressed block, sums over a chunk) is opened, its inside is
damaged, and it is closed again, so that damage reaches the code behind the wrapping.
"""

from __future__ import annotations

import io
import json
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

from advface_jax import untrusted
from experiments.fuzzing import riegeli
from experiments.fuzzing.blind import blind
from experiments.fuzzing.seeds import Files

_MOST = 1 << 24  # bytes of what is unpacked here
_LARGEST = 1 << 22  # bytes of a file: what is looked for is small and claims to be large
_DAMAGED = (ValueError, LookupError, struct.error, zlib.error, EOFError, OSError, RecursionError)
_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, 10**400, 1.5, float("nan"), float("inf")),
    *("", "x", "../x", "/etc/passwd", "\0", "x" * 5000, [], {}, [[]], {"": {}}, [0], ["a"]),
)


def mutated(rng: random.Random, seeds: list[Files], words: tuple[bytes, ...] = ()) -> Files:
    """One of the seeds, in one to four places damaged."""
    files = dict(rng.choice(seeds))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 4))):
        name = rng.choice(list(files))
        other = rng.choice(seeds).get(name, b"")
        if rng.random() < 0.01:
            files[name] = b""
        else:
            made = damaged(rng, files[name], words, other)
            files[name] = made if len(made) <= _LARGEST else files[name]
    return files


def damaged(rng: random.Random, data: bytes, words: tuple[bytes, ...], other: bytes = b"") -> bytes:
    """Damage to one file: three times of four inside of its form, if it has one."""
    if rng.random() < 0.75:
        for begins, inside in _FORMS:
            if re.match(begins, data, re.DOTALL):
                try:
                    return inside(rng, data, words)
                except _DAMAGED:
                    break  # damaged so much already that only blind damage is left
    return blind(rng, data, words, other)


def _zip(rng: random.Random, data: bytes, words: tuple[bytes, ...]) -> bytes:
    with untrusted.open_zip(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        members = [(one.filename, untrusted.read_member(archive, one, _MOST)) for one in entries]
    at = rng.randrange(len(members))
    name, content = members[at]
    match rng.randrange(10):
        case 0:
            del members[at]
        case 1:
            members.append(members[at])
        case 2:
            members[at] = (name + rng.choice(("/", "x", "/../x", "\0")), content)
        case 3:
            members[at] = (name, content * rng.choice((2, 100)))
        case _:
            members[at] = (name, damaged(rng, content, words))
    out = io.BytesIO()
    kind = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name), content, kind)
    return out.getvalue()


def _json(rng: random.Random, data: bytes, words: tuple[bytes, ...]) -> bytes:
    if len(data) > 100_000:
        return blind(rng, data, words)
    value = json.loads(data)
    places: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        part = waiting.pop()
        for key in part if isinstance(part, dict) else range(len(part)):
            places.append((part, key))
            if isinstance(part[key], dict | list):
                waiting.append(part[key])
    if not places:
        return blind(rng, data, words)
    part, key = rng.choice(places)
    match rng.randrange(8):
        case 0:
            del part[key]
        case 1 if isinstance(part, dict):
            part[rng.choice(("", "x", "kind", "depth", "\ud800"))] = part[key]
        case 2 if isinstance(part, list):
            part.extend(part[:] * rng.choice((1, 50)))
        case 3 if isinstance(part[key], int | float) and not isinstance(part[key], bool):
            part[key] = rng.choice((-1, 0, 1, 10**6, 2**31, 2**63, part[key] + 1, -part[key], 0.5))
        case 4:
            for _ in range(rng.choice((5, 70, 400))):
                part[key] = [part[key]]
        case _:
            part[key] = rng.choice(_VALUES)
    return json.dumps(value).encode()


def _png(rng: random.Random, data: bytes, words: tuple[bytes, ...]) -> bytes:
    chunks, at = [], 8
    while at + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    i = rng.randrange(len(chunks))
    kind, body = chunks[i]
    if kind == b"IDAT" and rng.random() < 0.5:
        body = zlib.compress(blind(rng, zlib.decompress(body), words))
    elif rng.random() < 0.15:
        kind = rng.choice((b"tRNS", b"PLTE", b"eXIf", b"iTXt", b"zTXt", b"acTL", b"fcTL", b"gAMA"))
    else:
        body = blind(rng, body, words)
    chunks[i] = (kind, body)
    if rng.random() < 0.2:
        chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
    sums = (struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks)
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + checked
        for (kind, body), checked in zip(chunks, sums, strict=True)
    )


def _safetensors(rng: random.Random, data: bytes, words: tuple[bytes, ...]) -> bytes:
    (size,) = struct.unpack_from("<Q", data)
    header = _json(rng, data[8 : 8 + size], words)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


def _gzip(rng: random.Random, data: bytes, words: tuple[bytes, ...]) -> bytes:
    import gzip

    with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
        return gzip.compress(blind(rng, file.read(1 << 24), words), 1, mtime=0)


def _mat(rng: random.Random, data: bytes, words: tuple[bytes, ...]) -> bytes:
    kind, size = struct.unpack_from("<II", data, 128)
    if kind != 15:
        return data[:128] + blind(rng, data[128:], words)
    inside = zlib.compress(blind(rng, zlib.decompress(data[136 : 136 + size]), words), 1)
    return data[:128] + struct.pack("<II", 15, len(inside)) + inside


_FORMS: list[tuple[bytes, Callable[[random.Random, bytes, tuple[bytes, ...]], bytes]]] = [
    (rb"PK\x03\x04", _zip),
    (rb"\x89PNG", _png),
    (rb"\x1f\x8b", _gzip),
    (rb"MATLAB 5", _mat),
    (re.escape(riegeli.MAGIC), riegeli.damaged),
    (rb".{8}\{\"", _safetensors),
    (rb"\s*[\[{]", _json),
]
