"""CASIA-WebFace, to train on."""

from __future__ import annotations

from pathlib import Path

from advface_jax.data.builders.base import FaceBuilder
from advface_jax.data.sources import Source, open_source


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
