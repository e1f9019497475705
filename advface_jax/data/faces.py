"""Face crops held in memory, read from a folder or a zip archive."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

SIZE = 160  # FaceNet's input, in pixels
_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_BAR_FROM = 500  # fewer faces are decoded within a second: no bar


@dataclass(frozen=True, eq=False)
class Faces:
    """Random access over n face crops.

    names: n unique names, as in the source ('identity/image.jpg').
    identities: n labels; equal labels are one person.
    images: uint8 (n, 160, 160, 3), RGB in 0..255.
    skipped: (name, reason) of each face that was asked for and could not be had.
    """

    names: tuple[str, ...]
    identities: tuple[str, ...]
    images: np.ndarray
    skipped: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        want = (len(self.names), SIZE, SIZE, 3)
        if self.images.shape != want or self.images.dtype != np.uint8:
            raise ValueError(
                f"images are {self.images.dtype} {self.images.shape}, wanted uint8 {want}: "
                "one 160x160 RGB crop for each name"
            )
        if len(self.identities) != len(self.names):
            raise ValueError(
                f"{len(self.identities)} identities for {len(self.names)} names: give one for each"
            )

    def __len__(self) -> int:
        return len(self.names)

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The crops at `indices`, uint8 (b, 160, 160, 3), a copy."""
        return self.images[np.asarray(indices, dtype=np.intp)]

    def select(self, indices: Iterable[int]) -> Faces:
        """The faces at `indices`, in that order; what was skipped stays on record."""
        rows = np.fromiter(indices, dtype=np.intp)
        return Faces(
            tuple(self.names[i] for i in rows),
            tuple(self.identities[i] for i in rows),
            self.images[rows],
            self.skipped,
        )


def epoch_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """The order of n faces in one epoch: an int permutation (n,) that follows from its arguments.

    A resumed training finds the batch of any (seed, epoch, step) without replaying the others.
    """
    if min(n, seed, epoch) < 0:
        raise ValueError(f"n={n}, seed={seed}, epoch={epoch}: none of them may be negative")
    bits = np.random.Philox(np.random.SeedSequence([seed, epoch]))
    return np.random.Generator(bits).permutation(n)


def read_faces(
    source: str | os.PathLike[str],
    *,
    listing: str | os.PathLike[str] | None = None,
    where: Mapping[str, str] | None = None,
    names: Iterable[str] | None = None,
    limit: int | None = None,
    progress: bool = True,
) -> Faces:
    """Read 160x160 RGB face crops into memory.

    source: a folder or a zip of `identity/image.jpg` (or of flat files), or the word 'synthetic'.
    listing: a tab-separated file with a header that has at least the columns file and identity.
        It then says which files are read, in its order, and whose they are. Without it all images
        are read, sorted by name, and a file's folder (for flat files its stem) is its identity.
    where: keep only the listing's rows with these values, as in {"lfw_lookalike": "-"}.
    names: keep only these files.
    limit: keep only the first so many.
    progress: show a bar on stderr when there are many.

    A file that is missing, truncated, of another size or listed twice is skipped; `Faces.skipped`
    has it with the reason and one warning counts them. Nothing is ever unpacked to the disk.
    Raises ValueError when the source or the listing cannot be read, or no face is left.
    """
    wanted = None if names is None else dict.fromkeys(names)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: ask for at least one face, or None for all")
    if where and listing is None:
        raise ValueError(f"where={dict(where)} selects rows of a listing: give listing as well")
    if str(source) == "synthetic":
        if listing is not None:
            raise ValueError("source='synthetic' has no listing: leave listing out")
        return _synthetic(wanted, limit)

    with _opened(Path(source)) as (present, read):
        rows = _rows_of(listing, where) if listing is not None else _rows_from(present)
        skipped: list[tuple[str, str]] = []
        if wanted is not None:
            known = {name for name, _ in rows}
            skipped += [(name, "not there") for name in wanted if name not in known]
            rows = [row for row in rows if row[0] in wanted]
        rows, refused = _sound(rows[:limit], set(present))
        faces = _decode(rows, read, skipped + refused, progress)
    if not len(faces):
        first = "; the first: {}: {}".format(*faces.skipped[0]) if faces.skipped else ""
        raise ValueError(
            f"no face is left of {source} ({len(faces.skipped):,} skipped{first}): it must hold "
            "160x160 images that the listing, where and names, where given, do select"
        )
    if faces.skipped:
        kinds = Counter(reason.split(":")[0] for _, reason in faces.skipped)
        warnings.warn(
            f"{source}: {len(faces):,} faces read, {len(faces.skipped):,} skipped ("
            + ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
            + f"), the first: {faces.skipped[0][0]!r}",
            stacklevel=2,
        )
    return faces


def _synthetic(wanted: dict[str, None] | None, limit: int | None) -> Faces:
    # both need Faces from here
    from advface_jax.data.synthetic import synthetic_faces, synthetic_names

    names = list(synthetic_names())
    keep = [name for name in names if wanted is None or name in wanted]
    if not keep:
        raise ValueError(
            f"none of the names is synthetic: take them from {names[0]!r} ... {names[-1]!r}"
        )
    return synthetic_faces(names=keep[:limit])


@contextlib.contextmanager
def _opened(source: Path) -> Iterator[tuple[list[str], Callable[[str], bytes]]]:
    """The names of the images in a folder or a zip, and a function that reads one's bytes."""
    if source.is_dir():
        files = (path.relative_to(source).as_posix() for path in source.rglob("*"))
        yield _images(files), lambda name: (source / name).read_bytes()
    elif source.is_file() and zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as archive:
            yield _images(archive.namelist()), archive.read
    else:
        what = "is neither a folder nor a zip archive" if source.exists() else "does not exist"
        raise ValueError(
            f"{source} {what}: give a folder or a zip of identity/image.jpg, or 'synthetic'"
        )


def _images(names: Iterable[str]) -> list[str]:
    """Those that are images, sorted; hidden files and a Mac's resource forks are not."""
    paths = ((name, PurePosixPath(name)) for name in names)
    return sorted(
        name
        for name, path in paths
        if path.suffix.lower() in _SUFFIXES
        and not path.name.startswith(".")
        and "__MACOSX" not in path.parts
    )


def _rows_from(present: Iterable[str]) -> list[tuple[str, str]]:
    paths = ((name, PurePosixPath(name)) for name in present)
    return [(name, path.parent.name or path.stem) for name, path in paths]


def _rows_of(
    listing: str | os.PathLike[str], where: Mapping[str, str] | None
) -> list[tuple[str, str]]:
    """(file, identity) of the listing's rows that `where` keeps, in the listing's order."""
    with open(listing, newline="", encoding="utf-8") as lines:
        table = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        columns = table.fieldnames or []
        lacking = [c for c in ("file", "identity", *(where or {})) if c not in columns]
        if lacking:
            raise ValueError(
                f"{listing} has the columns {', '.join(columns) or '(none)'} and lacks "
                f"{', '.join(lacking)}: it must be tab-separated with a header line"
            )
        return [
            (row["file"] or "", row["identity"] or "")
            for row in table
            if all(row[column] == value for column, value in (where or {}).items())
        ]


def _sound(
    rows: Iterable[tuple[str, str]], present: set[str]
) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """The rows that can be read, once each, and (name, reason) of the others."""
    kept: dict[str, str] = {}
    refused = []
    for name, identity in rows:
        if name in kept:
            refused.append((name, "listed twice"))
        elif ".." in PurePosixPath(name).parts or PurePosixPath(name).is_absolute():
            refused.append((name, "with an unsafe path"))
        elif name not in present:
            refused.append((name, "not there"))
        else:
            kept[name] = identity
    return list(kept.items()), refused


def _decode(
    rows: Sequence[tuple[str, str]],
    read: Callable[[str], bytes],
    skipped: list[tuple[str, str]],
    progress: bool,
) -> Faces:
    images = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
    kept = []
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda row: _crop(read, row[0]), rows)
        for row, crop in zip(_bar(rows, progress), results, strict=True):
            if isinstance(crop, str):
                skipped.append((row[0], crop))
            else:
                images[len(kept)] = crop
                kept.append(row)
    return Faces(
        tuple(name for name, _ in kept),
        tuple(identity for _, identity in kept),
        images[: len(kept)],
        tuple(skipped),
    )


def _crop(read: Callable[[str], bytes], name: str) -> np.ndarray | str:
    """One crop, uint8 (160, 160, 3), or the reason why there is none."""
    try:
        with Image.open(io.BytesIO(read(name))) as image:
            if image.size != (SIZE, SIZE):  # known from the header, before any pixel is decoded
                return "not 160x160: {}x{}".format(*image.size)
            return np.asarray(image.convert("RGB"))
    except Exception as error:  # Pillow and zipfile raise a dozen kinds; each costs one face
        return f"unreadable: {error}"


def _bar(rows: Sequence[tuple[str, str]], progress: bool) -> Iterable[tuple[str, str]]:
    if not progress or len(rows) < _BAR_FROM:
        return rows
    from rich.console import Console  # only here: importing the library stays quick
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:  # a log has no use for a bar
        return rows
    return track(rows, "reading faces", console=console, transient=True)
