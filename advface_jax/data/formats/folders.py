"""Folders and zip archives of images: names, identities and encoded bytes."""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from advface_jax import untrusted
from advface_jax.data import pictures
from advface_jax.data.naming import NOT_READ, SUFFIXES
from advface_jax.data.records import Skips, Source, unsafe
from advface_jax.untrusted import BadFile

_NOBODYS = {"__MACOSX", "@eaDir", "$RECYCLE.BIN"}  # folders that systems make for themselves


def open_folder(root: Path) -> Source:
    """The images below a folder; a link to a folder that was read already is skipped."""
    skipped: list[tuple[str, str]] = []
    return _source(_walk(root, skipped), _Folder(str(root)), tuple(skipped))


def open_zip(path: Path) -> Source:
    """The images of an archive; ValueError when its directory cannot be read."""
    try:
        with untrusted.open_zip(path) as archive:
            members, skipped = _members(archive)
    except BadFile as error:
        raise BadFile(f"{path} cannot be read as a zip archive: {error}") from error
    return _source(members, _Zip(str(path)), skipped)


def is_image(name: str) -> bool:
    """Whether a name has the ending of an image that is read."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def _hidden(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return any((p.startswith(".") and p.strip(".")) or p in _NOBODYS for p in parts)


def _why_not(name: str, begin: Callable[[], bytes]) -> str | None:
    """Why a file is not read whose name is no image's, if it is a picture all the same.

    Args:
      begin: Gives its first bytes.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if suffix in NOT_READ:
        return f"not read as {suffix}: save it as JPEG or PNG"
    if pictures.is_one(begin()):
        return "a picture without a picture's ending: rename it"
    return None


def identity_of(name: str) -> str:
    """A file's folder, above CFP's ``frontal`` and ``profile``; a flat file is its own person."""
    path = PurePosixPath(name)
    folder = path.parent.parent if path.parent.name in ("frontal", "profile") else path.parent
    return folder.name or path.parent.name or path.stem


def _source(names: Iterable[str], read: Callable[[str], bytes], skipped: Skips) -> Source:
    names = tuple(sorted(names))
    return Source(names, tuple(identity_of(name) for name in names), read, skipped=skipped)


@dataclass(frozen=True)
class _Folder:
    root: str

    def __call__(self, name: str) -> bytes:
        if unsafe(name):
            raise BadFile(f"{name} leads out of its folder")
        path = os.path.join(self.root, name)
        try:
            return untrusted.read_bytes(path, untrusted.IMAGE_BYTES)
        except BadFile as error:  # a reason is the same wherever the folder lies
            raise BadFile(str(error).removeprefix(f"{path} ")) from None


def _walk(root: Path, skipped: list[tuple[str, str]]) -> list[str]:
    """The images below `root`, through links too, each folder once; unreadable ones are noted."""

    def relative(path: str) -> str:
        return Path(os.path.relpath(path, root)).as_posix()

    def refused(error: OSError) -> None:
        skipped.append((_text(relative(error.filename)), f"unreadable: {error.strerror}"))

    names: list[str] = []
    seen = set()
    for place, folders, files in os.walk(root, onerror=refused, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # a link back up, or a second link to the same folder
            folders.clear()
            skipped.append((_text(relative(place)), "a link to a folder that was read already"))
            continue
        seen.add(real)
        folders.sort()
        at = relative(place)
        for name in (f if at == "." else f"{at}/{f}" for f in files):
            if _hidden(name):
                continue
            if not is_image(name):
                if why := _why_not(name, lambda name=name: _begin(root / name)):
                    skipped.append((_text(name), why))
            elif name == _text(name):
                names.append(name)
            else:  # no list and no report could hold it
                skipped.append((_text(name), "a name that is not UTF-8: rename it"))
    return names


def _begin(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        if path.is_file():  # a pipe would wait for ever
            with open(path, "rb") as file:
                return file.read(pictures.BEGIN)
    return b""


def _text(name: str) -> str:
    """A file's name as it can be printed and written: bytes that are not UTF-8 as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _Zip:
    """Reads members of an archive, which each process opens once for itself."""

    def __init__(self, path: str):
        self.path = path
        self.opened: dict[int, tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]] = {}

    def __reduce__(self):
        return _Zip, (self.path,)

    def __call__(self, name: str) -> bytes:
        me = os.getpid()  # after a fork the parent's file position is not ours to move
        if me not in self.opened:
            archive = untrusted.open_zip(self.path)
            self.opened = {me: (archive, _members(archive)[0])}
        archive, members = self.opened[me]
        if name not in members:
            raise BadFile(f"{name} is not in {self.path}")
        return untrusted.read_member(archive, members[name], untrusted.IMAGE_BYTES)


def _members(archive: zipfile.ZipFile) -> tuple[dict[str, zipfile.ZipInfo], Skips]:
    """The images of an archive under names with forward slashes, and (name, reason) of others."""
    kept: dict[str, zipfile.ZipInfo] = {}
    skipped = []
    for member in archive.infolist():
        name = _name(member).replace("\\", "/")  # as some Windows programs write it
        if not name or name.endswith("/") or _hidden(name):
            continue
        if not is_image(name):
            if why := _why_not(name, lambda member=member: _member_begin(archive, member)):
                skipped.append((name, why))
        elif unsafe(name):
            skipped.append((name, "with an unsafe path"))
        elif name in kept:
            skipped.append((name, "a second file of that name in the archive"))
        elif member.flag_bits & 1:
            skipped.append((name, "encrypted: unpack the archive with its password"))
        elif member.file_size > untrusted.IMAGE_BYTES:
            skipped.append((name, f"more than {untrusted.IMAGE_BYTES >> 20} MiB for one image"))
        else:
            kept[name] = member
    return kept, tuple(skipped)


def _member_begin(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    try:
        return untrusted.member_begin(archive, member, pictures.BEGIN)
    except BadFile:  # encrypted or damaged
        return b""


def _name(member: zipfile.ZipInfo) -> str:
    """A member's name, also of a Mac, which writes UTF-8 and does not say so."""
    if not member.flag_bits & 0x800:
        with contextlib.suppress(UnicodeError):
            return member.filename.encode("cp437").decode("utf-8")
    return member.filename
