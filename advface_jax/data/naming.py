"""Which of a source's files a list means, where the two are written differently."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property
from pathlib import PurePosixPath

# Endings of images: those that are read, and those that only another program reads.
SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jif", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".webp", ".gif",
    ".tif", ".tiff", ".pbm", ".pgm", ".ppm", ".pnm",
}  # fmt: skip
NOT_READ = {
    ".heic", ".heif", ".hif", ".avif", ".jp2", ".j2k", ".jpx", ".jxl", ".dng", ".cr2", ".cr3",
    ".nef", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".psd", ".tga", ".pcx", ".sgi", ".ras",
    ".dib", ".ico", ".exr", ".hdr", ".pfm", ".svg", ".eps", ".npy", ".npz",
}  # fmt: skip


class Names:
    """The names of a source, to be found by names that mean them.

    A name means itself, if it is there. Else it means the files that differ from it in the image's
    ending, which cropping and converting change; in how accents are composed (Macs write them
    apart); or in backslashes, which Windows writes.
    """

    def __init__(self, names: Iterable[str]):
        self.names = dict.fromkeys(names)

    @cached_property
    def _alike(self) -> dict[str, list[str]]:
        alike = defaultdict(list)
        for name in self.names:
            alike[_stem(name)].append(name)
        return alike

    def meant(self, name: str) -> tuple[str, ...]:
        """The names that ``name`` can mean: one, none, or several that differ in their endings."""
        if name in self.names:
            return (name,)
        alike = self._alike.get(_stem(name), ())
        closer = [one for one in alike if _suffix(one) == _suffix(name)]
        return tuple(closer if len(closer) == 1 else alike)

    def one(self, name: str) -> str | None:
        """The name that ``name`` means, if it is one."""
        meant = self.meant(name)
        return meant[0] if len(meant) == 1 else None

    def why_not(self, name: str) -> str:
        """The reason why ``name`` does not mean one."""
        if meant := self.meant(name):
            return f"several files that differ only in their endings: {', '.join(meant)}"
        return "not there"


def _suffix(name: str) -> str:
    suffix = PurePosixPath(name).suffix.lower()
    return suffix if suffix in SUFFIXES | NOT_READ else ""


def _stem(name: str) -> str:
    name = name.replace("\\", "/").strip().removeprefix("./")
    return unicodedata.normalize("NFC", name[: len(name) - len(_suffix(name))])
