"""Faces from any source: which ones, and into memory or lazily."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from advface_jax import checks
from advface_jax.data.drawn.faces import synthetic_faces, synthetic_names
from advface_jax.data.faces import SIZE, Encoded, Faces
from advface_jax.data.listing import read_listing, sound_rows
from advface_jax.data.naming import Names
from advface_jax.data.records import counted
from advface_jax.data.sources import open_source
from advface_jax.data.threads import in_order

_BAR_FROM = 500  # fewer faces are decoded within a second: no bar


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

    A file that is missing, truncated, of another size or listed twice is skipped;
    ``Faces.skipped`` has it with the reason, and one warning counts them. Nothing is unpacked to
    the disk.

    Args:
      source: Whatever ``open_source`` opens (a folder or a zip of ``identity/image.jpg``, an
        insightface pack, a prepared data set "tfds:NAME", ...), or the word "synthetic".
      listing: A table (``tables.read_table``) with at least the columns file and identity: which
        files are read, in its order, and whose they are. Without it all images are read, in the
        source's own order and with its identities.
      where: Keep only the listing's rows with these values, as in {"lfw_lookalike": "-"}.
      names: Keep only these files. Here and in the listing a name may differ from the file's own as
        ``naming.Names`` allows, in its ending for instance.
      limit: Keep only the first so many.
      resize: Take square pictures of other sizes too (insightface's have 112x112), resized
        bilinearly, with antialiasing where they shrink. The framing stays what it was.
      progress: Show a bar on stderr when there are many.

    Raises:
      ValueError: the source or the listing is unreadable, or no face is left.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from advface_jax import data
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> (folder / "ann").mkdir()
      >>> Image.new("RGB", (160, 160)).save(folder / "ann" / "1.jpg")
      >>> faces = data.read_faces(folder)
      >>> faces.names, faces.identities, faces.images.shape
      (('ann/1.jpg',), ('ann',), (1, 160, 160, 3))
    """
    faces = _chosen(source, listing, where, names, limit, resize)
    if isinstance(faces.store, Encoded):
        faces = _decoded(faces, progress)
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
    """Open face crops for random access, for sets larger than memory; arguments of ``read_faces``.

    Files that are missing or listed twice are skipped and counted here. A damaged file or a wrong
    size shows when the face is asked for: ``Faces.crop`` and ``Faces.batch`` raise ValueError.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from advface_jax import data
      >>> folder = pathlib.Path(tempfile.mkdtemp())
      >>> Image.new("RGB", (160, 160)).save(folder / "1.jpg")
      >>> data.open_faces(folder).crop(0).shape  # decoded when it is asked for
      (160, 160, 3)
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
    wanted = None if names is None else list(dict.fromkeys(names))
    if limit is not None:
        checks.positive(limit=limit)
    if where and listing is None:
        raise ValueError(f"where={dict(where)} selects rows of a listing: give listing as well")
    if str(source) == "synthetic":
        if listing is not None:
            raise ValueError("source='synthetic' has no listing: leave listing out")
        known = list(synthetic_names())
        keep = [name for name in known if wanted is None or name in wanted]
        if not keep:
            raise ValueError(
                f"none of the names is synthetic: take them from {known[0]!r} ... {known[-1]!r}"
            )
        return synthetic_faces(names=keep[:limit])
    opened = open_source(source)
    if listing is None:
        rows = list(zip(opened.names, opened.identities, strict=True))
    else:
        rows = read_listing(listing, where)
    reasons = dict(opened.skipped)
    skipped = [] if listing is not None or wanted is not None else list(opened.skipped)
    if wanted is not None:
        listed = Names(name for name, _ in rows)
        meant = {name: listed.one(name) for name in wanted}
        lost = [name for name in wanted if meant[name] is None]
        skipped += [(name, reasons.get(name) or listed.why_not(name)) for name in lost]
        keep = set(meant.values())
        rows = [row for row in rows if row[0] in keep]
    rows, refused = sound_rows(rows[:limit], Names(opened.names), reasons)
    names, identities = (tuple(row[column] for row in rows) for column in (0, 1))
    store = Encoded(opened.read, resize)
    return Faces(names, identities, store, (*skipped, *refused), opened.pairs)


def _reported(source: str | os.PathLike[str], faces: Faces) -> Faces:
    """The faces, with a warning that counts those skipped; ValueError when none is left."""
    if not len(faces):
        first = "; the first: {}: {}".format(*faces.skipped[0]) if faces.skipped else ""
        raise ValueError(
            f"no face is left of {source} ({len(faces.skipped):,} skipped{first}): it must hold "
            "160x160 images, and the listing, where and names, where given, must select some"
        )
    if faces.skipped:
        kinds = counted(reason for _, reason in faces.skipped)
        warnings.warn(
            f"{source}: {len(faces):,} faces read, {len(faces.skipped):,} skipped ({kinds}), "
            f"the first: {faces.skipped[0][0]!r}",
            stacklevel=3,
        )
    return faces


def _decoded(lazy: Faces, progress: bool) -> Faces:
    """The lazy faces in memory; the unreadable ones join the skipped."""
    images = np.empty((len(lazy), SIZE, SIZE, 3), np.uint8)
    kept: list[int] = []
    skipped = list(lazy.skipped)
    rows = range(len(lazy))
    for i, crop in zip(_bar(rows, progress), in_order(lazy.crop, rows), strict=True):
        try:
            images[len(kept)] = crop.result()
            kept.append(i)
        except ValueError as error:
            skipped.append((lazy.names[i], str(error)))
    found = lazy.select(kept)
    return dataclasses.replace(found, store=images[: len(kept)], skipped=tuple(skipped))


def _bar(rows: Sequence[int], progress: bool) -> Iterable[int]:
    if not progress or len(rows) < _BAR_FROM:
        return rows
    from rich.console import Console  # only here: importing the library stays quick
    from rich.progress import track

    console = Console(stderr=True)
    if not console.is_terminal:  # a log has no use for a bar
        return rows
    return track(rows, "reading faces", console=console, transient=True)
