"""Where photographs and crops come from: every format comes down to names and encoded bytes."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from advface_jax.data.pairs import NamedPair

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
# Whatever the name says; of the others Pillow runs a program for some (EPS: Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "GIF", "TIFF")
MAX_BYTES = 256 << 20  # of one encoded image; what claims to be larger is broken or hostile
TFDS = "tfds:"

Skips = tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Source:
    """Encoded images of any size by name; it can be pickled, for worker processes.

    names: n unique names with forward slashes, none absolute, none with '..'.
    identities: n labels; equal labels are one person.
    read: the encoded bytes (JPEG, PNG, ...) of a name, safe to call from several threads and
        processes. Raises OSError or ValueError with the reason when they cannot be had.
    pairs: the verification pairs that the source carries, if any.
    skipped: (name, reason) of what is there and cannot be one of the images.
    """

    names: tuple[str, ...]
    identities: tuple[str, ...]
    read: Callable[[str], bytes]
    pairs: tuple[NamedPair, ...] = ()
    skipped: Skips = ()

    def __len__(self) -> int:
        return len(self.names)


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a set of photographs or crops without reading any image.

    path: one of
        a folder or a zip of `identity/image.jpg`, or of flat files, each its own identity;
        an insightface RecordIO pack `NAME.rec` with `NAME.idx` beside it, or a folder with
        `train.rec`; identities are its labels;
        an insightface verification set `NAME.bin`, which carries its pairs;
        a prepared tensorflow-datasets set, by its folder or as 'tfds:NAME' (extra `data`).
    Images are sorted by name in folders and archives, else in the order of the pack. Nothing is
    unpacked to the disk, and no pickle is executed.
    Raises ValueError when there is no such set or it cannot be read.
    """
    if str(path).startswith(TFDS):
        from advface_jax.data.formats import prepared  # it needs this module

        return prepared.open_named(str(path).removeprefix(TFDS))
    path = Path(path)
    if path.is_dir():
        if (path / "dataset_info.json").is_file() or (path / "features.json").is_file():
            from advface_jax.data.formats import prepared

            return prepared.open_prepared(path)
        if (path / "train.rec").is_file():
            path = path / "train.rec"
        else:
            return _folder(path)
    if path.is_file() and path.suffix in (".rec", ".bin"):
        from advface_jax.data.formats import insightface

        return insightface.open_rec(path) if path.suffix == ".rec" else insightface.open_bin(path)
    if path.is_file() and zipfile.is_zipfile(path):
        return _zip(path)
    what = "does not exist"
    if path.exists():
        what = "is neither a folder nor a zip archive (one that was cut short is none either)"
    raise ValueError(
        f"{path} {what}: give a folder or a zip of identity/image.jpg, an insightface .rec or "
        ".bin, a prepared data set as 'tfds:NAME', or 'synthetic'"
    )


def reason(error: Exception) -> str:
    """Why an image cannot be had, in words that are the same at every run."""
    if type(error).__name__ == "UnidentifiedImageError":  # Pillow's shows an address in memory
        return "unreadable: not an image"
    return f"unreadable: {error or type(error).__name__}"


def unsafe(name: str) -> bool:
    """Whether a name would lead out of its folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts


def is_image(name: str) -> bool:
    """Whether a name is an image's; hidden files, hidden folders and a Mac's forks are none."""
    path = PurePosixPath(name)
    hidden = any(part.startswith(".") and part.strip(".") for part in path.parts)
    return path.suffix.lower() in SUFFIXES and not hidden and "__MACOSX" not in path.parts


def identity_of(name: str) -> str:
    """The folder of a file, the one above where CFP puts a person's views apart; a flat file is a
    person of its own."""
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
            raise ValueError(f"{name} leads out of its folder")
        path = os.path.join(self.root, name)
        if os.path.exists(path) and not os.path.isfile(path):  # a pipe would wait for ever
            raise ValueError("not a regular file")
        with open(path, "rb") as file:
            return _bounded(file.read(MAX_BYTES + 1))


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES >> 20} MiB for one image")
    return data


def _folder(root: Path) -> Source:
    skipped: list[tuple[str, str]] = []
    return _source(_walk(root, skipped), _Folder(str(root)), tuple(skipped))


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
            if not is_image(name):
                continue
            if name == _text(name):
                names.append(name)
            else:  # no list and no report could hold it
                skipped.append((_text(name), "a name that is not UTF-8: rename it"))
    return names


def _text(name: str) -> str:
    """A file's name as it can be printed and written: bytes that are no UTF-8 as \\xff."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _Zip:
    """Reads members of an archive that each process opens once, for itself."""

    def __init__(self, path: str):
        self.path = path
        self.opened: dict[int, tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]] = {}

    def __reduce__(self):
        return _Zip, (self.path,)

    def __call__(self, name: str) -> bytes:
        me = os.getpid()  # after a fork the parent's file position is not ours to move
        if me not in self.opened:
            archive = zipfile.ZipFile(self.path)
            self.opened = {me: (archive, {name: member for name, member in _members(archive)[0]})}
        archive, members = self.opened[me]
        try:
            with archive.open(members[name]) as file:
                return _bounded(file.read(MAX_BYTES + 1))
        except KeyError:
            raise ValueError(f"{name} is not in {self.path}") from None
        except Exception as error:  # zipfile lets a dozen kinds through, from as many modules
            raise ValueError(str(error) or type(error).__name__) from error


def _members(
    archive: zipfile.ZipFile,
) -> tuple[list[tuple[str, zipfile.ZipInfo]], list[tuple[str, str]]]:
    """The images of an archive under names with forward slashes, and (name, reason) of others."""
    kept: dict[str, zipfile.ZipInfo] = {}
    skipped = []
    for member, name in _named(archive):
        if member.is_dir() or not is_image(name):
            continue
        if unsafe(name):
            skipped.append((name, "with an unsafe path"))
        elif name in kept:
            skipped.append((name, "a second file of that name in the archive"))
        elif member.flag_bits & 1:
            skipped.append((name, "encrypted: unpack the archive with its password"))
        elif member.file_size > MAX_BYTES:
            skipped.append((name, f"more than {MAX_BYTES >> 20} MiB for one image"))
        else:
            kept[name] = member
    return list(kept.items()), skipped


def _named(archive: zipfile.ZipFile) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    for member in archive.infolist():
        yield member, member.filename.replace("\\", "/")  # as some Windows programs write it


def _zip(path: Path) -> Source:
    try:
        with zipfile.ZipFile(path) as archive:
            members, skipped = _members(archive)
    except Exception as error:
        raise ValueError(f"{path} cannot be read as a zip archive: {error}") from error
    return _source((name for name, _ in members), _Zip(str(path)), tuple(skipped))
