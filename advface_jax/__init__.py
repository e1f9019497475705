"""Feature-level face privacy in JAX: AdvFace (CVPR 2023), attacks on it, and their metrics.

Conventions, everywhere: images are NHWC, RGB, float32 in [0,1], (b,160,160,3); features z are
(b,77,77,64); embeddings are L2-normalised, (b,512) or (b,128). Arguments that do not fit raise
ValueError with what came, what was wanted and what to do.

    import advface_jax
    system = advface_jax.load("facenet-512-q8")
    z = system.extractor(images)
    z_adv = advface_jax.protect(z, extractor=system.extractor, shadow=system.shadow, epsilon=0.2)
"""

import importlib
from typing import TYPE_CHECKING

from advface_jax import starting  # noqa: F401  (first of all: it says that JAX is loading)
from advface_jax.decoy import DecoyConfig, protect_decoy
from advface_jax.gradient import PGDConfig, fgsm, mifgsm, pgd
from advface_jax.protect import ProtectConfig, protect, protect_sweep, shadow_round_trip

if TYPE_CHECKING:
    from advface_jax import (
        attacks,
        cropping,
        data,
        decoy_faces,
        defenses,
        detection,
        export,
        keys,
        memory,
        metrics,
        models,
        sealing,
        service,
        sharding,
        system,
        training,
    )
    from advface_jax.system import System, load

__version__ = "0.1.0"  # pyproject.toml reads it here

__all__ = [
    "DecoyConfig",
    "PGDConfig",
    "ProtectConfig",
    "System",
    "attacks",
    "cropping",
    "data",
    "decoy_faces",
    "defenses",
    "detection",
    "export",
    "fgsm",
    "keys",
    "load",
    "memory",
    "metrics",
    "mifgsm",
    "models",
    "pgd",
    "protect",
    "protect_decoy",
    "protect_sweep",
    "sealing",
    "service",
    "shadow_round_trip",
    "sharding",
    "system",
    "training",
]


def __getattr__(name: str):
    # The rest waits for its first use: Flax, Orbax and the readers take a second to import, and
    # protecting arrays does not need them.
    if name in ("System", "load"):
        return getattr(importlib.import_module(f"{__name__}.system"), name)
    if name in __all__:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
