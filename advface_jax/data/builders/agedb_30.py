"""AgeDB with its protocol of thirty years between the two pictures of a pair."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from advface_jax.data.builders.base import FaceBuilder, renamed, with_pairs
from advface_jax.data.sources import Source, open_source

_NAME = re.compile(r"\d+_(.+)_\d+_[mf]", re.IGNORECASE | re.DOTALL)


class Agedb30(FaceBuilder):
    """AgeDB: 16,488 images of 568 people, and the 6,000 pairs of its thirty-year protocol.

    From the original folder (0_MariaCallas_35_f.jpg ...; the protocol's .mat in it or named), from
    crops of it that kept the names, or from insightface's agedb_30.bin.
    """

    name = "agedb_30"  # which the class's name would not become
    SPLIT = "test"
    HOMEPAGE = "https://ibug.doc.ic.ac.uk/resources/agedb/"
    CITATION = "Moschoglou et al., AgeDB: the first manually collected, in-the-wild age database"

    @classmethod
    def gather(cls, path: Path, protocol: Path | None = None) -> Source:
        source = open_source(path)
        if source.pairs and protocol is None:  # a .bin
            return source
        from advface_jax.data.formats.protocols import read_agedb

        source = renamed(source, _naming, "named as in 0_MariaCallas_35_f.jpg")
        return with_pairs(source, read_agedb(protocol or path))


def _naming(name: str) -> tuple[str, str] | None:
    path = PurePosixPath(name)
    found = _NAME.fullmatch(path.stem)
    return (path.name, found[1]) if found else None
