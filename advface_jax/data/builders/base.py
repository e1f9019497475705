"""What the builders share: images checked one by one, then their own bytes into array_record."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib
import io
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar, NamedTuple

import tensorflow_datasets as tfds
from PIL import Image

from advface_jax.data.builders import BUILDERS
from advface_jax.data.formats.prepared import FACES, PAIRS, SKIPPED, open_prepared, write_table
from advface_jax.data.pairs import NamedPair
from advface_jax.data.sources import FORMATS, Source, reason

Report = Callable[[int, int], None]  # images done, images in all

_LARGEST = 64_000_000  # pixels of one image
_STALE = 600  # seconds after which what another run left unfinished is nobody's
_AHEAD = 64  # images read and checked at a time


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Asks no server whether it knows the set, as tensorflow-datasets would."""


class FaceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set of encoded face images with names, identities and, where it has one, its protocol.

    Features: image (its own encoded bytes), name ('person/image.jpg') and identity. The records
    keep the source's order; `faces.tsv`, `pairs.tsv` and `skipped.tsv` lie beside them.
    """

    VERSION = tfds.core.Version("1.0.0")
    SPLIT: ClassVar[str] = "train"
    HOMEPAGE: ClassVar[str]
    CITATION: ClassVar[str]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "python -m advface_jax prepare --help; docs/datasets.md"

    def __init__(self, *, source: Source | None = None, report: Report | None = None, **kwargs):
        """source: as `gather` gives it; without it tfds' own folder for manual downloads is read.

        report: called with (images done, images in all).
        """
        super().__init__(**kwargs)
        self._source = source
        self._report = report or (lambda done, total: None)

    @classmethod
    def gather(cls, path: Path, protocol: Path | None = None) -> Source:
        """The images of the user's copy under the set's own names, and the pairs of its protocol.

        Raises ValueError when the copy is not one of the set.
        """
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        features = {"image": tfds.features.Image(), "name": text(), "identity": text()}
        return _Info(
            builder=self,
            description=(type(self).__doc__ or "").strip(),
            features=tfds.features.FeaturesDict(features),  # type: ignore[arg-type]
            homepage=self.HOMEPAGE,
            citation=self.CITATION,
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        if self._source is None:
            self._source = self.gather(Path(dl_manager.manual_dir))
        return {self.SPLIT: self._generate_examples(self._source)}

    def _generate_examples(self, source: Source) -> Iterator[tuple[int, dict[str, Any]]]:
        kept: list[tuple[str, str]] = []
        skipped = list(source.skipped)
        for done, (name, identity, image) in enumerate(_checked(source), 1):
            if isinstance(image, str):
                skipped.append((name, image))
            else:
                yield len(kept), {"image": image, "name": name, "identity": identity}
                kept.append((name, identity))
            self._report(done, len(source))
        if not kept:
            first = ": ".join(skipped[0]) if skipped else "there was none"
            raise ValueError(f"no image can be decoded; the first: {first}")
        folder = Path(self.data_path)  # still under its temporary name
        write_table(folder / FACES, ("file", "identity"), kept)
        write_table(folder / SKIPPED, ("file", "reason"), _one_line(skipped))
        if source.pairs:
            rows = ((p.fold, int(p.same), p.left, p.right) for p in source.pairs)
            write_table(folder / PAIRS, ("fold", "same", "file1", "file2"), rows)
        self.info.metadata["fingerprint"] = fingerprint(source)  # type: ignore[index]


def _one_line(rows: Iterable[tuple[str, str]]) -> list[list[str]]:
    return [[" ".join(value.split()) for value in row] for row in rows]


def _checked(source: Source) -> Iterator[tuple[str, str, bytes | str]]:
    """(name, identity, encoded image or the reason why there is none), in order."""
    rows = list(zip(source.names, source.identities, strict=True))
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for start in range(0, len(rows), _AHEAD):  # no more than these are in memory
            part = rows[start : start + _AHEAD]
            images = pool.map(lambda row: check(source.read, row[0]), part)
            yield from (
                (name, identity, image)
                for (name, identity), image in zip(part, images, strict=True)
            )


def check(read: Callable[[str], bytes], name: str) -> bytes | str:
    """The encoded image, once it was decoded to the last pixel, or the reason why it cannot be."""
    if set(name) & {"\t", "\n", "\r"}:
        return "a tab or a line break in its name"
    try:
        data = read(name)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.size[0] * image.size[1] > _LARGEST:
                return "too large: {}x{}".format(*image.size)
            image.load()
        return data
    except Exception as error:  # Pillow and the sources raise a dozen kinds; each costs one image
        return reason(error)


class Prepared(NamedTuple):
    """A finished set: its folder, what is in it, and whether this call made it."""

    folder: Path
    source: Source
    fresh: bool


def prepare(
    name: str,
    path: Path,
    data_dir: Path | None = None,
    protocol: Path | None = None,
    report: Report | None = None,
) -> Prepared:
    """Build the set `name` (a key of BUILDERS) from the user's copy, unless that was done before.

    data_dir: where tensorflow-datasets keep their sets (default: TFDS_DATA_DIR, else
        ~/tensorflow_datasets); the set gets a folder of its own in it.
    The folder appears once it is complete: a run that was stopped leaves nothing to mend, and
    starts again.
    Raises ValueError when the copy is not one of the set, or another copy was prepared there.
    """
    module, builder_name = BUILDERS[name]
    builder_class = getattr(importlib.import_module(f"{__package__}.{module}"), builder_name)
    source = builder_class.gather(path, protocol)
    where = None if data_dir is None else str(data_dir.expanduser())
    builder = builder_class(
        source=source, report=report, data_dir=where, file_format="array_record"
    )
    folder = Path(builder.data_path)
    if folder.exists():
        _same_or_refuse(folder, builder, source)
        return Prepared(folder, open_prepared(folder), fresh=False)
    _sweep(folder)
    with (
        tempfile.TemporaryDirectory() as nothing,  # the download manager wants a folder
        contextlib.redirect_stdout(io.StringIO()),  # it prints; the answer is the caller's
    ):
        tfds.disable_progress_bar()
        try:
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_dir=nothing, download_config=config)
        except RuntimeError as error:  # array_record's, as of a full disk
            raise ValueError(f"{folder} cannot be written: {error}") from error
        finally:
            tfds.enable_progress_bar()
    return Prepared(folder, open_prepared(folder), fresh=True)


def _same_or_refuse(folder: Path, builder: FaceBuilder, source: Source) -> None:
    made_of = (builder.info.metadata or {}).get("fingerprint")  # type: ignore[union-attr]
    if made_of != fingerprint(source):
        what = "holds the set made of other files" if made_of else "is no finished data set"
        raise ValueError(f"{folder} {what}: remove it, or name another folder with -o")


def _sweep(folder: Path) -> None:
    """Removes what a killed run left under its temporary name, unless one may still be at it."""
    for left in folder.parent.glob(f"incomplete.*_{folder.name}"):
        newest = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
        if time.time() - newest > _STALE:
            shutil.rmtree(left, ignore_errors=True)


def fingerprint(source: Source) -> str:
    """Tells sources apart: names, identities, pairs, and the bytes of eight of the images."""
    digest = hashlib.sha256()
    for name, identity in zip(source.names, source.identities, strict=True):
        digest.update(f"{name}\t{identity}\n".encode())
    digest.update(repr(source.pairs).encode())
    for i in range(0, len(source), max(len(source) // 8, 1)):
        with contextlib.suppress(OSError, ValueError):  # a broken one is listed when it is built
            digest.update(source.read(source.names[i]))
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class _Renamed:
    read: Callable[[str], bytes]
    old: dict[str, str]

    def __call__(self, name: str) -> bytes:
        return self.read(self.old[name])


def renamed(source: Source, naming: Callable[[str], tuple[str, str] | None], wanted: str) -> Source:
    """The source under the names and identities that `naming` gives for its own names.

    A file for which it gives None is skipped as not being `wanted`, and so is a second file of
    one name. Raises ValueError when none is left.
    """
    old: dict[str, str] = {}
    identities = []
    skipped = list(source.skipped)
    for name in source.names:
        new = naming(name)
        if new is None:
            skipped.append((name, f"not {wanted}"))
        elif new[0] in old:
            skipped.append((name, f"a second {new[0]}"))
        else:
            old[new[0]] = name
            identities.append(new[1])
    if not old:
        raise ValueError(
            f"none of the {len(source):,} images is {wanted}"
            + (f", the first: {source.names[0]!r}" if len(source) else "")
        )
    return Source(
        tuple(old), tuple(identities), _Renamed(source.read, old), source.pairs, tuple(skipped)
    )


def with_pairs(source: Source, pairs: Sequence[NamedPair]) -> Source:
    """The source with pairs, whose files may have another suffix here (crops saved as .png).

    Raises ValueError when none of the files that the pairs need is there.
    """
    names = {_stem(name): name for name in source.names}

    def here(name: str) -> str:
        return names.get(_stem(name), name)

    found = [p._replace(left=here(p.left), right=here(p.right)) for p in pairs]
    if not lacking(source.names, found)[1]:
        raise ValueError(
            f"none of the {len(pairs):,} pairs of the protocol is among the {len(source):,} images "
            f"(the first pair: {pairs[0].left}, {pairs[0].right}; the first image: "
            f"{source.names[0]}): do they belong together?"
        )
    return dataclasses.replace(source, pairs=tuple(found))


def lacking(names: Sequence[str], pairs: Sequence[NamedPair]) -> tuple[int, int]:
    """How many pairs need an image that is not there, and how many have both."""
    present = set(names)
    there = Counter(p.left in present and p.right in present for p in pairs)
    return there[False], there[True]


def _stem(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))
