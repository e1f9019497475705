"""Damage inside of array_record files, whose sums are made right again.

Such a file is a Riegeli file: blocks of 64 KiB, across them chunks, each with a header of 40 bytes
with its own sum and that of its data. The sums are HighwayHash-64 with a public key, so that
whoever wants can write them, and so does this. Sources: Riegeli,
doc/riegeli_records_file_format.md; Alakuijala et al., Fast keyed hash/pseudo-random function using
SIMD multiply and permute, 2016.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from experiments.fuzzing.blind import blind

MAGIC = bytes.fromhex("83af70d10d884a3f")  # the first block's header begins with its sum
_KEY = struct.unpack("<4Q", b"Riegeli/records\n" * 2)
_BLOCK, _BLOCK_HEADER, _HEADER = 1 << 16, 24, 40
_MOST = 4096  # bytes of a chunk that is damaged: the sum is slow
_ALL = (1 << 64) - 1
_PI = (
    (0xDBE6D5D5FE4CCE2F, 0xA4093822299F31D0, 0x13198A2E03707344, 0x243F6A8885A308D3),
    (0x3BD39E10CB0EF593, 0xC0ACF169B5F18A8C, 0xBE5466CF34E90C6C, 0x452821E638D01377),
)


def damaged(rng: random.Random, data: bytes, words: tuple[bytes, ...]) -> bytes:
    """One chunk's numbers or data changed, in as many bytes as before."""
    out = bytearray(data)
    begin, size = rng.choice([*chunks(data)])
    body = slice(begin + _HEADER, begin + _HEADER + size)
    if rng.random() < 0.25:
        at = begin + rng.choice((8, 24, 25, 32))  # packed, kind, records, unpacked
        size = 1 if at == begin + 24 else 7 if at == begin + 25 else 8
        changed = blind(rng, bytes(out[at : at + size]), words)
        out[at : at + size] = changed[:size].ljust(size, b"\0")
    else:
        changed = blind(rng, bytes(out[body]), words)
        out[body] = changed[:size].ljust(size, b"\0")
        out[begin + 16 : begin + 24] = struct.pack("<Q", highway_hash(bytes(out[body])))
    header = bytes(out[begin + 8 : begin + _HEADER])
    out[begin : begin + 8] = struct.pack("<Q", highway_hash(header))
    return bytes(out)


def chunks(data: bytes) -> Iterator[tuple[int, int]]:
    """Where a chunk begins and how many bytes its data have, of the small ones in one block."""
    at = _BLOCK_HEADER
    while at + _HEADER <= len(data):
        (size,) = struct.unpack_from("<Q", data, at + 8)
        if size > len(data):
            return  # damaged already
        if 0 < size <= _MOST and at // _BLOCK == (at + _HEADER + size - 1) // _BLOCK:
            yield at, size
        at = _behind(at, _HEADER + size)
        at += _BLOCK_HEADER if at % _BLOCK == 0 else 0


def _behind(at: int, size: int) -> int:
    while size:
        part = min(size, _BLOCK - at % _BLOCK)
        at, size = at + part, size - part
        at += _BLOCK_HEADER if size and at % _BLOCK == 0 else 0
    return at


def highway_hash(data: bytes) -> int:
    """HighwayHash-64 with Riegeli's key."""
    state = [list(_PI[0]), list(_PI[1])]
    state += [[m ^ k for m, k in zip(_PI[0], _KEY, strict=True)]]
    state += [[m ^ _half_turned(k) for m, k in zip(_PI[1], _KEY, strict=True)]]
    whole = len(data) & ~31
    for at in range(0, whole, 32):
        _update(state, struct.unpack_from("<4Q", data, at))
    if rest := data[whole:]:
        n = len(rest)
        state[2] = [(v + (n << 32) + n) & _ALL for v in state[2]]
        state[3] = [_turned(v & 0xFFFFFFFF, n) | _turned(v >> 32, n) << 32 for v in state[3]]
        packet = bytearray(rest[: n & ~3].ljust(32, b"\0"))
        if n & 16:
            packet[28:32] = rest[-4:]
        elif n & 3:
            end = rest[n & ~3 :]
            packet[16:19] = bytes((end[0], end[(n & 3) >> 1], end[-1]))
        _update(state, struct.unpack("<4Q", packet))
    for _ in range(4):
        v = state[2]
        _update(state, [_half_turned(v[i]) for i in (2, 3, 0, 1)])
    return sum(part[0] for part in state) & _ALL


def _update(state: list[list[int]], lanes: tuple[int, ...] | list[int]) -> None:
    mul0, mul1, v0, v1 = state
    for i in range(4):
        v1[i] = (v1[i] + mul0[i] + lanes[i]) & _ALL
        mul0[i] ^= (v1[i] & 0xFFFFFFFF) * (v0[i] >> 32)
        v0[i] = (v0[i] + mul1[i]) & _ALL
        mul1[i] ^= (v0[i] & 0xFFFFFFFF) * (v1[i] >> 32)
    for into, of in ((v0, v1), (v1, v0)):
        for i in (0, 2):
            low, high = _zipped(of[i], of[i + 1])
            into[i] = (into[i] + low) & _ALL
            into[i + 1] = (into[i + 1] + high) & _ALL


_LOW = (3, 12, 2, 5, 14, 1, 15, 0)  # bytes of two numbers, shuffled so that multiplications mix
_HIGH = (11, 4, 10, 13, 9, 6, 8, 7)


def _zipped(v0: int, v1: int) -> tuple[int, int]:
    both = struct.pack("<2Q", v0, v1)
    low, high = bytes(both[i] for i in _LOW), bytes(both[i] for i in _HIGH)
    return int.from_bytes(low, "little"), int.from_bytes(high, "little")


def _half_turned(v: int) -> int:
    return v >> 32 | v << 32 & _ALL


def _turned(v: int, n: int) -> int:
    return (v << n | v >> 32 - n) & 0xFFFFFFFF
