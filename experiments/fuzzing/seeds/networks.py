"""Decoders, checkpoints and exported programs."""

from __future__ import annotations

import functools

import numpy as np

from experiments.fuzzing.seeds import Files, written


def decoder() -> list[Files]:
    from flax import nnx

    from advface_jax import system
    from advface_jax.models import decoders

    config = decoders.DecoderConfig("transrec", 1, 0)
    made = decoders.decoder(config, rngs=nnx.Rngs(0))
    card = {"weights": "tiny", "weights_sha256": "0" * 64}
    return [written("w.safetensors", lambda p: system.write_decoder(p, made, card))]


def duetface() -> list[Files]:
    from flax import nnx

    from advface_jax.models.duetface import DuetFace, DuetFaceConfig
    from advface_jax.training import duetface as training

    made = DuetFace(DuetFaceConfig(mixed=1, width=1, depth=0, client=1), rngs=nnx.Rngs(0))
    card = {"weights": "tiny", "weights_sha256": "0" * 64}
    return [written("w.safetensors", lambda p: training.write_duetface(p, made, card))]


def checkpoint() -> list[Files]:
    from advface_jax import checkpoint as folder

    tree = {"a": {"b": np.arange(4, dtype=np.float32)}, "c": np.ones((2, 2), np.float32)}
    return [written("w", lambda path: folder.save(path, tree, {"kind": "tiny"}))]


@functools.cache
def exported() -> list[Files]:
    import jax
    from jax import export

    from advface_jax.export import artefact

    weights = np.ones((2, 3), np.float32)
    (b,) = export.symbolic_shape("b")
    z = jax.ShapeDtypeStruct((b, 2), np.float32)
    program = export.export(jax.jit(lambda arrays, z: jax.nn.relu(z @ arrays[0])))((weights,), z)
    card = {"part": "server", "weights": "tiny", "versions": {"jax": jax.__version__}}
    card |= {"takes": [{"name": "z", "shape": ["b", 2], "dtype": "float32"}]}
    card |= {"gives": [{"name": "embedding", "shape": ["b", 3], "dtype": "float32"}]}
    return [{"w": artefact.pack(card, program, [weights])}]


def sum_of_exported() -> str:
    from advface_jax.export import artefact

    return artefact.stated(exported()[0]["w"])
