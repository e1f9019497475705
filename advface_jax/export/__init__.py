"""E, Ψ, protect and decoys as programs in a file, which run where only JAX is installed.

``write`` makes a file, ``load`` reads it. ``artefact`` alone is enough to load, and imports nothing
of this package; ``client`` writes E as ONNX for browsers and phones.
"""

from advface_jax.export.artefact import Program, load
from advface_jax.export.programs import PARTS, write

__all__ = ["PARTS", "Program", "load", "write"]
