"""Groups of an HDF5 file: the messages of an object's header, and the links of a group."""

from __future__ import annotations

from collections.abc import Iterator

from advface_jax.untrusted import DEPTH, NAME
from weights_convert.sources import BadFile, Refused, Room
from weights_convert.sources.hdf5_bytes import Bytes

Messages = list[tuple[int, bytes]]
_LINK_INFO, _LINK, _MORE, _TABLE = 2, 6, 16, 17
_NOWHERE = (1 << 64) - 1


def messages(file: Bytes, address: int, room: Room) -> Iterator[tuple[int, bytes]]:
    """Kind and body of each message in an object's header."""
    if file.at(address, 4) == b"OHDR":
        flags = file.number(address + 5, 1)
        start = address + 6 + (16 if flags & 32 else 0) + (4 if flags & 16 else 0)
        width = 1 << (flags & 3)
        head, newer = 4 + (2 if flags & 4 else 0), True
        blocks = [(start + width, file.number(start, width))]
    elif file.number(address, 1) == 1:
        head, newer = 8, False
        blocks = [(address + 16, file.number(address + 8, 4))]
    else:
        raise BadFile(f"no object at {address:,}")
    while blocks:
        at, size = blocks.pop(0)
        room.count()
        end = at + size
        if end > len(file):
            raise BadFile("a header that reaches beyond the end")
        while at + head <= end:
            room.count()
            kind, size = (
                (file.number(at, 1), file.number(at + 1, 2))
                if newer
                else (file.number(at, 2), file.number(at + 2, 2))
            )
            shared = file.number(at + (3 if newer else 4), 1) & 2
            at += head
            if at + size > end:
                raise BadFile("a message that reaches beyond its header")
            body, at = file.at(at, size), at + size
            if kind == _MORE:
                more = Bytes(body)
                place, length = more.number(0), more.number(8)
                if newer:  # a signature before, a sum behind
                    if file.at(place, 4) != b"OCHK" or length < 8:
                        raise BadFile(f"no more of a header at {place:,}")
                    place, length = place + 4, length - 8
                blocks.append((place, length))
            elif shared and kind in (1, 3, 8, 11, 12):
                raise Refused("its arrays share their types; save it again in Keras")
            else:
                yield kind, body


def leaves(file: Bytes, address: int, kind: int, key: int, room: Room) -> Iterator[int]:
    """Where the entries of a B-tree's leaves lie: a key of that many bytes, then an address."""
    waiting: list[tuple[int, int | None]] = [(address, None)]
    while waiting:
        address, level = waiting.pop()
        room.count()
        if file.at(address, 4) != b"TREE" or file.number(address + 4, 1) != kind:
            raise BadFile(f"no tree at {address:,}")
        found, entries = file.number(address + 5, 1), file.number(address + 6, 2)
        if found > DEPTH or (level is not None and found != level):
            raise BadFile("a tree whose levels do not fit")
        room.count(entries)
        places = [address + 24 + i * (key + 8) for i in range(entries)]
        if found:
            waiting += [(file.number(at + key), found - 1) for at in reversed(places)]
        else:
            yield from places


def links(file: Bytes, found: Messages, room: Room) -> Iterator[tuple[str, int]]:
    """Name and address of each object in a group."""
    for kind, body in found:
        part = Bytes(body)
        if kind == _TABLE:
            yield from _old(file, part.number(0), part.number(8), room)
        elif kind == _LINK:
            yield _link(part)
        elif kind == _LINK_INFO:
            at = 2 + (8 if part.number(1, 1) & 1 else 0)
            if part.number(at) != _NOWHERE:
                yield from _dense(file, part.number(at), part.number(at + 8), room)


def _old(file: Bytes, tree: int, heap: int, room: Room) -> Iterator[tuple[str, int]]:
    """The links of a symbol table."""
    if file.at(heap, 4) != b"HEAP":
        raise BadFile(f"no names at {heap:,}")
    size, names = file.number(heap + 8), file.number(heap + 24)
    file.at(names, size)
    for at in leaves(file, tree, 0, 8, room):
        node = file.number(at + 8)
        if file.at(node, 4) != b"SNOD":
            raise BadFile(f"no symbols at {node:,}")
        for i in range(file.number(node + 6, 2)):
            room.count()
            entry = node + 8 + 40 * i
            place = file.number(entry)
            if place >= size:
                raise BadFile("a name that is not there")
            raw = file.data[names + place : names + min(size, place + NAME)].partition(b"\0")[0]
            name = raw.decode("utf-8")
            if file.number(entry + 16, 4) == 2:
                raise BadFile(f"{name[:200]!r} points elsewhere")
            yield _checked(name), file.number(entry + 8)


def _link(part: Bytes) -> tuple[str, int]:
    flags, at = part.number(1, 1), 2
    kind = part.number(at, 1) if flags & 8 else 0
    at += (1 if flags & 8 else 0) + (8 if flags & 4 else 0) + (1 if flags & 16 else 0)
    width = 1 << (flags & 3)
    length = part.number(at, width)
    if length > NAME:
        raise BadFile(f"a name of more than {NAME:,} bytes")
    name = part.at(at + width, length).decode("utf-8")
    if kind != 0:
        raise BadFile(f"{name[:200]!r} points elsewhere")
    return _checked(name), part.number(at + width + length)


def _checked(name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise BadFile(f"a link called {name[:200]!r}")
    return name


def _dense(file: Bytes, heap: int, tree: int, room: Room) -> Iterator[tuple[str, int]]:
    """The links of a large group of new form: messages in a heap, which a tree lists."""
    if file.at(tree, 4) != b"BTHD" or file.at(heap, 4) != b"FRHP" or file.number(heap + 7, 2):
        raise BadFile(f"no links at {heap:,}")
    node, record = file.number(tree + 6, 4), file.number(tree + 10, 2)
    depth, root, count = (file.number(tree + at, n) for at, n in ((12, 2), (16, 8), (24, 2)))
    if depth > 1 or not 11 <= record <= node - 10:
        raise Refused("a group of more than a thousand entries: no FaceNet")
    starts = [(root, count)]
    if depth:
        width = max(1, (((node - 10) // record).bit_length() + 7) // 8)
        at = root + 6 + record * count
        starts = [(root, count)]
        for i in range(count + 1):
            place = at + i * (8 + width)
            starts.append((file.number(place), file.number(place + 8, width)))
    for address, records in starts:
        if file.at(address, 4) not in (b"BTLF", b"BTIN"):
            raise BadFile(f"no links at {address:,}")
        for i in range(records):
            room.count()
            place = address + 6 + record * i
            yield _link(Bytes(_managed(file, heap, file.at(place + 4, record - 4))))


def _managed(file: Bytes, heap: int, key: bytes) -> bytes:
    """An object of a fractal heap by its key: its kind, offset and length."""
    bits, first, largest = (
        file.number(heap + 128, 2),
        file.number(heap + 112),
        file.number(heap + 120),
    )
    width, root, rows = (
        file.number(heap + 110, 2),
        file.number(heap + 132),
        file.number(heap + 140, 2),
    )
    bytes_ = (bits + 7) // 8
    offset = int.from_bytes(key[1 : 1 + bytes_], "little")
    length = int.from_bytes(key[1 + bytes_ :], "little")
    if key[0] & 0xF0 or length > NAME + 100 or not 0 < first <= largest or not width:
        raise Refused("its links are kept in a form that Keras does not write")
    if not rows:
        return file.at(root + offset, length)
    if file.at(root, 4) != b"FHIB":
        raise BadFile(f"no links at {root:,}")
    at, size = root + 13 + bytes_, first
    for row in range(min(rows, DEPTH)):
        size = first if row < 2 else size * 2
        if size > largest:
            break
        if offset < width * size:
            block = file.number(at + 8 * (offset // size))
            return file.at(block + offset % size, length)
        offset, at = offset - width * size, at + 8 * width
    raise BadFile("a link that is not in its heap")
