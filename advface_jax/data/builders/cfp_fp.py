"""CFP with its frontal-to-profile protocol."""

from __future__ import annotations

import re
from pathlib import Path

from advface_jax.data.builders.base import FaceBuilder, renamed, with_pairs
from advface_jax.data.sources import Source, open_source

_NAME = re.compile(r"(?:.*/)?(([^/]+)/(?:frontal|profile)/[^/]+)", re.DOTALL)


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
        from advface_jax.data.formats.protocols import read_cfp

        source = renamed(source, _naming, "PERSON/frontal/IMAGE or PERSON/profile/IMAGE")
        return with_pairs(source, read_cfp(protocol or path))


def _naming(name: str) -> tuple[str, str] | None:
    found = _NAME.fullmatch(name)
    return (found[1], found[2]) if found else None
