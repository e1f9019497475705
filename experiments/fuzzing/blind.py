"""Blind damage: one operation on bytes, whatever they mean."""

from __future__ import annotations

import random
import re

_NUMBERS = (
    *(0, 1, 2, 3, 7, 8, 16, 31, 64, 100, 127, 128, 255, 256, 1024, 4096, 65535, 65536),
    *(2**24, 2**26, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1),
)
_WORDS = (
    *(b"\0", b"\xff" * 4, b"\xff" * 10, b"[" * 300, b"{" * 300, b"(" * 300, b"]" * 300, b"9" * 400),
    *(b"-1", b"1e999", b"NaN", b"..", b"../../../etc/passwd", b"/dev/zero", b"\n", b"\r\n", b"\t"),
    *(b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xff\xfe", b'"', b"'", b",", b";", b"\x1a", b"%s%n"),
)


def blind(rng: random.Random, data: bytes, words: tuple[bytes, ...], other: bytes = b"") -> bytes:
    """One operation on bytes."""
    out = bytearray(data)
    at = rng.randrange(len(out) + 1)
    match rng.randrange(12):
        case 0 | 1 if out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        case 2 if out:
            out[at % len(out)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
        case 3 | 4:  # a number of some width and order
            size = rng.choice((1, 2, 4, 4, 8, 8))
            value = (rng.choice(_NUMBERS) + rng.choice((-1, 0, 0, 1))) % (1 << 8 * size)
            out[at : at + size] = value.to_bytes(size, rng.choice(("little", "little", "big")))
        case 5:
            del out[at : at + rng.choice((1, 1, 2, 4, 8, 16, 100))]
        case 6:
            end = at + rng.choice((1, 2, 4, 8, 16, 64, 256))
            out[at:at] = out[at:end] * rng.choice((1, 1, 1, 2, 50))
        case 7:
            out[at:at] = rng.choice(words + _WORDS)
        case 8:
            word = rng.choice(words + _WORDS)
            out[at : at + len(word)] = word
        case 9:
            del out[at:]
        case 10 if other:
            begin = rng.randrange(len(other))
            out[at : at + rng.randrange(64)] = other[begin : begin + rng.randrange(64)]
        case 11:  # a number in digits
            found = list(re.finditer(rb"\d+", data[:100_000]))
            if found:
                where = rng.choice(found)
                out[where.start() : where.end()] = str(rng.choice(_NUMBERS)).encode()
        case _:
            out += bytes(rng.randrange(256) for _ in range(rng.randrange(16)))
    return bytes(out)
