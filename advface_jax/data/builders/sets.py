"""The sets that can be prepared: CASIA-WebFace to train on, CFP-FP and AgeDB-30 to verify on."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from advface_jax.data.builders.base import FaceBuilder, renamed, with_pairs
from advface_jax.data.formats.protocols import read_agedb, read_cfp
from advface_jax.data.opening import open_source
from advface_jax.data.records import Source

_CFP_NAME = re.compile(r"(?:.*/)?(([^/]+)/(?:frontal|profile)/[^/]+)", re.DOTALL)
_AGEDB_NAME = re.compile(r"\d+_(.+)_\d+_[mf]", re.IGNORECASE | re.DOTALL)


class CasiaWebface(FaceBuilder):
    """CASIA-WebFace: 494,414 images of 10,575 people, as collected from the web.

    From the original folder `person/image.jpg` (or a zip of it), or from insightface's pack of
    112x112 alignments (train.rec with train.idx).
    """

    HOMEPAGE = "https://arxiv.org/abs/1411.7923"
    CITATION = "Yi et al., Learning face representation from scratch, 2014"

    @classmethod
    def gather(cls, path: Path, protocol: Path | None = None) -> Source:
        if protocol is not None:
            raise ValueError("CASIA-WebFace has no verification protocol: leave --protocol out")
        source = open_source(path)
        if not len(source) or source.pairs:
            what = "is a verification set" if source.pairs else "has no images"
            raise ValueError(f"{path} {what}: wanted person/image.jpg, or train.rec")
        return source


class CfpFp(FaceBuilder):
    """Celebrities in frontal and profile views: 7,000 images of 500 people, 7,000 pairs.

    From the original folder (Data/Images/001/frontal/01.jpg, Protocol/Split/FP), from crops of it
    that kept the names (with the protocol's folder), or from insightface's cfp_fp.bin.
    """

    SPLIT = "test"
    HOMEPAGE = "http://www.cfpw.io"
    CITATION = "Sengupta et al., Frontal to profile face verification in the wild, WACV 2016"

    @classmethod
    def gather(cls, path: Path, protocol: Path | None = None) -> Source:
        source = open_source(path)
        if source.pairs and protocol is None:  # a .bin
            return source

        def naming(name: str) -> tuple[str, str] | None:
            found = _CFP_NAME.fullmatch(name)
            return (found[1], found[2]) if found else None

        source = renamed(source, naming, "PERSON/frontal/IMAGE or PERSON/profile/IMAGE")
        return with_pairs(source, read_cfp(protocol or path))


class Agedb30(FaceBuilder):
    """AgeDB: 16,488 images of 568 people, and the 6,000 pairs of its thirty-year protocol.

    From the original folder (0_MariaCallas_35_f.jpg ...; the protocol's .mat in it or named), from
    crops of it that kept the names, or from insightface's agedb_30.bin.
    """

    name = "agedb_30"  # tensorflow-datasets would derive "agedb30"
    SPLIT = "test"
    HOMEPAGE = "https://ibug.doc.ic.ac.uk/resources/agedb/"
    CITATION = "Moschoglou et al., AgeDB: the first manually collected, in-the-wild age database"

    @classmethod
    def gather(cls, path: Path, protocol: Path | None = None) -> Source:
        source = open_source(path)
        if source.pairs and protocol is None:  # a .bin
            return source

        def naming(name: str) -> tuple[str, str] | None:
            path = PurePosixPath(name)
            found = _AGEDB_NAME.fullmatch(path.stem)
            return (path.name, found[1]) if found else None

        source = renamed(source, naming, "named as in 0_MariaCallas_35_f.jpg")
        return with_pairs(source, read_agedb(protocol or path))


BUILDERS = {"casia-webface": CasiaWebface, "cfp-fp": CfpFp, "agedb-30": Agedb30}
