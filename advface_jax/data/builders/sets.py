"""The sets that can be prepared: CASIA-WebFace to train on, CFP-FP and AgeDB-30 to verify on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from advface_jax.data.builders.base import FaceBuilder, renamed, with_pairs
from advface_jax.data.formats.protocols import read_agedb, read_cfp
from advface_jax.data.records import NamedPair, Source
from advface_jax.data.sources import open_source


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


class _Verification(FaceBuilder, skip_registration=True):
    """A set with a protocol. ``NAME`` finds (a file's own name, its person) in a path."""

    SPLIT = "test"
    NAME: ClassVar[re.Pattern[str]]
    WANTED: ClassVar[str]  # in words
    read_protocol: ClassVar[Callable[[Path], list[NamedPair]]]

    @classmethod
    def gather(cls, path: Path, protocol: Path | None = None) -> Source:
        source = open_source(path)
        if source.pairs and protocol is None:  # a .bin
            return source
        source = renamed(source, cls.NAME, cls.WANTED)
        return with_pairs(source, cls.read_protocol(protocol or path))


class CfpFp(_Verification):
    """Celebrities in frontal and profile views: 7,000 images of 500 people, 7,000 pairs.

    From the original folder (Data/Images/001/frontal/01.jpg, Protocol/Split/FP), from crops of it
    that kept the names (with the protocol's folder), or from insightface's cfp_fp.bin.
    """

    HOMEPAGE = "http://www.cfpw.io"
    CITATION = "Sengupta et al., Frontal to profile face verification in the wild, WACV 2016"
    NAME = re.compile(r"(?:.*/)?(([^/]+)/(?:frontal|profile)/[^/]+)", re.DOTALL)
    WANTED = "PERSON/frontal/IMAGE or PERSON/profile/IMAGE"
    read_protocol = staticmethod(read_cfp)


class Agedb30(_Verification):
    """AgeDB: 16,488 images of 568 people, and the 6,000 pairs of its thirty-year protocol.

    From the original folder (0_MariaCallas_35_f.jpg ...; the protocol's .mat in it or named), from
    crops of it that kept the names, or from insightface's agedb_30.bin.
    """

    name = "agedb_30"  # tensorflow-datasets would derive "agedb30"
    HOMEPAGE = "https://ibug.doc.ic.ac.uk/resources/agedb/"
    CITATION = "Moschoglou et al., AgeDB: the first manually collected, in-the-wild age database"
    NAME = re.compile(r"(?:.*/)?(\d+_([^/]+)_\d+_[mf](?:\.[^./]+)?)", re.IGNORECASE | re.DOTALL)
    WANTED = "named as in 0_MariaCallas_35_f.jpg"
    read_protocol = staticmethod(read_agedb)


BUILDERS = {"casia-webface": CasiaWebface, "cfp-fp": CfpFp, "agedb-30": Agedb30}
