"""E, Ψ, protect and decoys as programs in a file, which run where only JAX is installed.

``write`` makes a file, ``load`` reads it. ``artefact`` alone is enough to load, and imports nothing
of this package; ``client`` writes E as ONNX for browsers and phones.
"""

import os

from advface_jax.export import artefact
from advface_jax.export.artefact import Program
from advface_jax.export.programs import PARTS, write
from advface_jax.untrusted import BadFile

__all__ = ["PARTS", "Program", "load", "write"]


def load(path: str | os.PathLike[str], *, sha256: str) -> Program:
    """``artefact.load``, whose error is the ``BadFile`` of all readers here."""
    try:
        return artefact.load(path, sha256=sha256)
    except ValueError as error:
        raise BadFile(str(error)) from error
