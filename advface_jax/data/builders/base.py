"""What the builders share: images checked one by one, then their own bytes into array_record."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from advface_jax.data import pictures
from advface_jax.data.formats.prepared import FACES, PAIRS, SKIPPED, write_table
from advface_jax.data.naming import Names
from advface_jax.data.records import NamedPair, Source
from advface_jax.data.threads import in_order

Report = Callable[[int, int], None]  # images done, images in all

_LARGEST = 64_000_000  # pixels of one image


class _Info(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Without a query to tensorflow-datasets' server."""


class FaceBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A set of encoded face images with names, identities and, where it has one, its protocol.

    Features: image (its own encoded bytes), name ("person/image.jpg") and identity. The records
    keep the source's order; ``faces.tsv``, ``pairs.tsv`` and ``skipped.tsv`` lie beside them.
    """

    VERSION = tfds.core.Version("1.0.0")
    SPLIT: ClassVar[str] = "train"
    HOMEPAGE: ClassVar[str]
    CITATION: ClassVar[str]
    MANUAL_DOWNLOAD_INSTRUCTIONS = "python -m advface_jax prepare --help; docs/datasets.md"

    def __init__(self, *, source: Source | None = None, report: Report | None = None, **kwargs):
        """For a source as ``gather`` gives it, else tfds' own folder for manual downloads."""
        super().__init__(**kwargs)
        self._source = source
        self._report = report or (lambda done, total: None)

    @classmethod
    def gather(cls, path: Path, protocol: Path | None = None) -> Source:
        """The images of the user's copy under the set's own names, and its protocol's pairs.

        Raises:
          ValueError: the copy is not one of the set.
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
        images = in_order(lambda name: check(source.read, name), source.names)
        rows = zip(source.names, source.identities, images, strict=True)
        for done, (name, identity, image) in enumerate(rows, 1):
            try:
                example = {"image": image.result(), "name": name, "identity": identity}
            except ValueError as error:
                skipped.append((name, str(error)))
            else:
                yield len(kept), example
                kept.append((name, identity))
            self._report(done, len(source))
        if not kept:
            first = ": ".join(skipped[0]) if skipped else "there was none"
            raise ValueError(f"no image can be decoded; the first: {first}")
        folder = Path(self.data_path)  # still under its temporary name
        write_table(folder / FACES, ("file", "identity"), kept)
        one_line = [[" ".join(value.split()) for value in row] for row in skipped]
        write_table(folder / SKIPPED, ("file", "reason"), one_line)
        if source.pairs:
            rows = ((p.fold, int(p.same), p.left, p.right) for p in source.pairs)
            write_table(folder / PAIRS, ("fold", "same", "file1", "file2"), rows)
        self.info.metadata["fingerprint"] = fingerprint(source)  # type: ignore[index]


def check(read: Callable[[str], bytes], name: str) -> bytes:
    """The encoded image, once it was decoded to the last pixel; ValueError with the reason."""
    if set(name) & {"\t", "\n", "\r"}:
        raise ValueError("a tab or a line break in its name")

    def small(wide: int, high: int) -> None:
        if wide * high > _LARGEST:
            raise ValueError(f"too large: {wide}x{high}")

    try:
        data = read(name)
    except Exception as error:  # the sources raise a dozen kinds; each costs one image
        raise ValueError(pictures.reason(error)) from error
    pictures.decode(data, small)
    return data


def fingerprint(source: Source) -> str:
    """A hash of a source: names, identities, pairs, and the bytes of eight of the images."""
    digest = hashlib.sha256()
    for name, identity in zip(source.names, source.identities, strict=True):
        digest.update(f"{name}\t{identity}\n".encode())
    digest.update(repr(source.pairs).encode())
    for i in range(0, len(source), max(len(source) // 8, 1)):
        with contextlib.suppress(OSError, ValueError):  # a broken one is listed when it is built
            digest.update(source.read(source.names[i]))
    return digest.hexdigest()


def renamed(source: Source, pattern: re.Pattern[str], wanted: str) -> Source:
    """The source under the names and identities (groups 1 and 2) that a pattern finds in its own.

    Other files are skipped as not ``wanted``, and so are second files of one name; ValueError when
    none is left.
    """
    old: dict[str, str] = {}
    identities = []
    skipped = list(source.skipped)
    for name in source.names:
        found = pattern.fullmatch(name)
        if found is None:
            skipped.append((name, f"not {wanted}"))
        elif found[1] in old:
            skipped.append((name, f"a second {found[1]}"))
        else:
            old[found[1]] = name
            identities.append(found[2])
    if not old:
        first = f", the first: {source.names[0]!r}" if len(source) else ""
        raise ValueError(f"none of the {len(source):,} images is {wanted}{first}")

    def read(name: str) -> bytes:
        return source.read(old[name])

    return Source(tuple(old), tuple(identities), read, source.pairs, tuple(skipped))


def with_pairs(source: Source, pairs: Sequence[NamedPair]) -> Source:
    """The source with pairs, whose files may be named otherwise here (crops saved as .png).

    Raises:
      ValueError: no pair has both its files.
    """
    names = Names(source.names)

    def here(name: str) -> str:
        return names.one(name) or name

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
