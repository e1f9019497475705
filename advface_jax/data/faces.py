"""Face crops at random access: in memory, or decoded on demand from any source."""

from __future__ import annotations

import io
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from advface_jax.data.listing import Rows, read_listing, sound_rows
from advface_jax.data.pairs import NamedPair
from advface_jax.data.sources import FORMATS, Skips, Source, open_source, reason

SIZE = 160  # FaceNet's input, in pixels
_LARGEST = 4096  # of a picture that is resized, in pixels a side
_BAR_FROM = 500  # fewer faces are decoded within a second: no bar


@dataclass(frozen=True)
class Encoded:
    """Crops that stay encoded where they are until they are asked for.

    read: a name's encoded bytes, as `Source.read`.
    resize: whether square pictures of another size than 160x160 are resized.
    """

    read: Callable[[str], bytes]
    resize: bool = False


@dataclass(frozen=True, eq=False)
class Faces:
    """Random access over n face crops; it can be pickled, for worker processes.

    names: n unique names, as in the source ('identity/image.jpg').
    identities: n labels; equal labels are one person.
    store: uint8 (n, 160, 160, 3), RGB in 0..255; or `Encoded`, then the faces are lazy.
    skipped: (name, reason) of each face that was asked for and could not be had.
    pairs: the verification pairs that the source carries, by name; they may name faces that were
        not selected.
    """

    names: tuple[str, ...]
    identities: tuple[str, ...]
    store: np.ndarray | Encoded
    skipped: Skips = ()
    pairs: tuple[NamedPair, ...] = ()

    def __post_init__(self) -> None:
        want = (len(self.names), SIZE, SIZE, 3)
        if isinstance(self.store, np.ndarray) and (
            self.store.shape != want or self.store.dtype != np.uint8
        ):
            raise ValueError(
                f"images are {self.store.dtype} {self.store.shape}, wanted uint8 {want}: "
                "one 160x160 RGB crop for each name"
            )
        if len(self.identities) != len(self.names):
            raise ValueError(
                f"{len(self.identities)} identities for {len(self.names)} names: give one for each"
            )

    def __len__(self) -> int:
        return len(self.names)

    @property
    def images(self) -> np.ndarray:
        """All crops, uint8 (n, 160, 160, 3); lazy faces are all decoded, anew at each use."""
        return self.store if isinstance(self.store, np.ndarray) else self.batch(range(len(self)))

    def crop(self, i: int) -> np.ndarray | str:
        """One crop, uint8 (160, 160, 3), or the reason why a lazy one cannot be had."""
        if isinstance(self.store, np.ndarray):
            return self.store[i]
        return decode(self.store.read, self.names[i], self.store.resize)

    def batch(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The crops at `indices`, uint8 (b, 160, 160, 3), a copy.

        Raises ValueError with the name of a lazy face that cannot be had.
        """
        rows = np.asarray(indices, dtype=np.intp)
        if isinstance(self.store, np.ndarray):
            return self.store[rows]
        images = np.empty((len(rows), SIZE, SIZE, 3), np.uint8)
        for k, i in enumerate(rows):
            crop = self.crop(i)
            if isinstance(crop, str):
                raise ValueError(f"the face {self.names[i]} cannot be had: {crop}")
            images[k] = crop
        return images

    def select(self, indices: Iterable[int]) -> Faces:
        """The faces at `indices`, in that order; what was skipped stays on record."""
        rows = np.fromiter(indices, dtype=np.intp)
        return Faces(
            tuple(self.names[i] for i in rows),
            tuple(self.identities[i] for i in rows),
            self.store[rows] if isinstance(self.store, np.ndarray) else self.store,
            self.skipped,
            self.pairs,
        )


def read_faces(
    source: str | os.PathLike[str],
    *,
    listing: str | os.PathLike[str] | None = None,
    where: Mapping[str, str] | None = None,
    names: Iterable[str] | None = None,
    limit: int | None = None,
    resize: bool = False,
    progress: bool = True,
) -> Faces:
    """Read 160x160 RGB face crops into memory.

    source: whatever `open_source` opens (a folder or a zip of `identity/image.jpg`, an insightface
        pack, a prepared data set 'tfds:NAME', ...), or the word 'synthetic'.
    listing: a tab-separated file with a header that has at least the columns file and identity.
        It then says which files are read, in its order, and whose they are. Without it all images
        are read, with the source's own order and identities: for folders and archives sorted by
        name, a file's folder (for flat files its stem) being its identity.
    where: keep only the listing's rows with these values, as in {"lfw_lookalike": "-"}.
    names: keep only these files.
    limit: keep only the first so many.
    resize: take square pictures of other sizes too (insightface's have 112x112), resized
        bilinearly, with antialiasing where they shrink. What they frame stays what it was.
    progress: show a bar on stderr when there are many.

    A file that is missing, truncated, of another size or listed twice is skipped; `Faces.skipped`
    has it with the reason and one warning counts them. Nothing is ever unpacked to the disk.
    Raises ValueError when the source or the listing cannot be read, or no face is left.
    """
    faces = _chosen(source, listing, where, names, limit, resize)
    if isinstance(faces.store, Encoded):
        faces = _decoded(faces, faces.store, progress)
    return _reported(source, faces)


def open_faces(
    source: str | os.PathLike[str],
    *,
    listing: str | os.PathLike[str] | None = None,
    where: Mapping[str, str] | None = None,
    names: Iterable[str] | None = None,
    limit: int | None = None,
    resize: bool = False,
) -> Faces:
    """Open face crops for random access, for sets larger than memory: each is decoded when asked.

    The arguments are those of `read_faces`. What the names alone tell (missing, listed twice) is
    skipped and counted here; whether a file is whole and of the right size shows when it is asked
    for: `Faces.crop` then gives the reason, `Faces.batch` raises ValueError with the name.
    """
    return _reported(source, _chosen(source, listing, where, names, limit, resize))


def _chosen(
    source: str | os.PathLike[str],
    listing: str | os.PathLike[str] | None,
    where: Mapping[str, str] | None,
    names: Iterable[str] | None,
    limit: int | None,
    resize: bool,
) -> Faces:
    """The faces asked for, lazy; synthetic ones are drawn."""
    wanted = None if names is None else dict.fromkeys(names)
    if limit is not None and limit < 1:
        raise ValueError(f"limit={limit}: ask for at least one face, or None for all")
    if where and listing is None:
        raise ValueError(f"where={dict(where)} selects rows of a listing: give listing as well")
    if str(source) == "synthetic":
        if listing is not None:
            raise ValueError("source='synthetic' has no listing: leave listing out")
        return _synthetic(wanted, limit)

    opened = open_source(source)
    rows = _rows(opened) if listing is None else read_listing(listing, where)
    known = dict(opened.skipped)
    skipped = [] if listing is not None or wanted is not None else list(opened.skipped)
    if wanted is not None:
        listed = {name for name, _ in rows}
        skipped += [(name, known.get(name, "not there")) for name in wanted if name not in listed]
        rows = [row for row in rows if row[0] in wanted]
    rows, refused = sound_rows(rows[:limit], set(opened.names), known)
    return Faces(
        tuple(name for name, _ in rows),
        tuple(identity for _, identity in rows),
        Encoded(opened.read, resize),
        (*skipped, *refused),
        opened.pairs,
    )


def _rows(source: Source) -> Rows:
    return list(zip(source.names, source.identities, strict=True))


def _synthetic(wanted: dict[str, None] | None, limit: int | None) -> Faces:
    # both need Faces from here
    from advface_jax.data.drawn.faces import synthetic_faces, synthetic_names

    names = list(synthetic_names())
    keep = [name for name in names if wanted is None or name in wanted]
    if not keep:
        raise ValueError(
            f"none of the names is synthetic: take them from {names[0]!r} ... {names[-1]!r}"
        )
    return synthetic_faces(names=keep[:limit])


def _reported(source: str | os.PathLike[str], faces: Faces) -> Faces:
    """The faces, with a warning that counts those skipped; ValueError when none is left."""
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
            stacklevel=3,
        )
    return faces


def _decoded(lazy: Faces, store: Encoded, progress: bool) -> Faces:
    """The lazy faces in memory; those that cannot be had join the skipped."""
    images = np.empty((len(lazy), SIZE, SIZE, 3), np.uint8)
    kept: list[int] = []
    skipped = list(lazy.skipped)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        crops = pool.map(lambda name: decode(store.read, name, store.resize), lazy.names)
        for i, crop in zip(_bar(range(len(lazy)), progress), crops, strict=True):
            if isinstance(crop, str):
                skipped.append((lazy.names[i], crop))
            else:
                images[len(kept)] = crop
                kept.append(i)
    return Faces(
        tuple(lazy.names[i] for i in kept),
        tuple(lazy.identities[i] for i in kept),
        images[: len(kept)],
        tuple(skipped),
        lazy.pairs,
    )


def decode(read: Callable[[str], bytes], name: str, resize: bool = False) -> np.ndarray | str:
    """One crop, uint8 (160, 160, 3), or the reason why there is none."""
    try:
        with Image.open(io.BytesIO(read(name)), formats=FORMATS) as image:
            wide, high = image.size  # known from the header, before any pixel is decoded
            if (wide, high) == (SIZE, SIZE):
                return np.asarray(rgb(image))
            if not resize:
                return f"not 160x160: {wide}x{high}"
            if wide != high or wide > _LARGEST:
                return f"not square or larger than {_LARGEST}x{_LARGEST}: {wide}x{high}"
            return np.asarray(rgb(image).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    except Exception as error:  # Pillow and the sources raise a dozen kinds; each costs one face
        return reason(error)


def rgb(image: Image.Image) -> Image.Image:
    """Any picture as RGB of 8 bits; of grey with 16 the upper 8, where Pillow clips to white."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB")


def _bar(rows: Sequence[int], progress: bool) -> Iterable[int]:
    if not progress or len(rows) < _BAR_FROM:
        return rows
    from rich.console import Console  # only here: importing the library stays quick
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:  # a log has no use for a bar
        return rows
    return track(rows, "reading faces", console=console, transient=True)
