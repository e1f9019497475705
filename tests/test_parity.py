"""Our networks against independent PyTorch twins, through goldens that the twins wrote.

`reference/make_goldens.py` says how to write them anew. Weights and inputs are random; FaceNet's
take the way of a facenet-pytorch file, so that the rule table stands under test too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import weights
from reference.cases import (
    BATCH,
    CLASSES,
    DECODERS,
    FACENETS,
    GOLDENS,
    STAGES,
    STATISTICS,
    sample,
    signs,
)

from advface_jax.models import decoders, facenet, state
from advface_jax.protect import ProtectConfig, protect, shadow_round_trip
from weights_convert import rules, tables


@pytest.fixture(autouse=True)
def full_float32():
    """Accelerators multiply in fewer bits by default; parity is stated for float32."""
    with jax.default_matmul_precision("highest"):
        yield


def network(name: str) -> facenet.InceptionResNetV1:
    embedding_size, standardization, seed = FACENETS[name]
    config = facenet.FaceNetConfig(embedding_size, standardization, classes=CLASSES)  # type: ignore[arg-type]

    def build():
        return facenet.InceptionResNetV1(config, rngs=nnx.Rngs(0))

    flat = weights.fill(seed, weights.facenet_shapes(embedding_size, CLASSES))
    return state.fill(build, rules.convert(flat, tables.torch(), state.shapes(build)))


def decoder(name: str) -> decoders.Decoder:
    kind, size, seed = DECODERS[name]
    depth = size.get("blocks", size.get("depth", 0))
    config = decoders.DecoderConfig(kind, width=size.get("width", 32), depth=depth)  # type: ignore[arg-type]
    flat = weights.fill(seed, weights.decoder_shapes(kind, **size))
    return state.fill(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), flat)


@pytest.fixture(scope="module")
def networks() -> dict[str, facenet.InceptionResNetV1]:
    return {name: network(name) for name in FACENETS}


@pytest.fixture(scope="module")
def goldens() -> dict[str, dict[str, np.ndarray]]:
    return {name: dict(np.load(GOLDENS / f"{name}.npz")) for name in (*FACENETS, *DECODERS)}


apply = jax.jit(lambda module, x: module(x))


@pytest.mark.parametrize("name", FACENETS)
def test_every_stage_and_the_embedding(name, networks, goldens):
    images = weights.images(FACENETS[name][2], BATCH)
    stages = jax.jit(lambda model, x: model.stages(x))(networks[name], images)
    assert set(stages) == set(STAGES)
    worst = {s: np.abs(sample(stages[s]) - goldens[name][s]).max() for s in STAGES}
    assert max(worst.values()) <= 1e-4, worst
    logits = networks[name].logits(stages["bottleneck"])
    np.testing.assert_allclose(sample(logits), goldens[name]["logits"], rtol=0, atol=1e-4)


def test_the_two_halves_and_the_folded_network_embed_alike(networks, goldens):
    name = "facenet_512"
    images = weights.images(FACENETS[name][2], BATCH)
    extractor, server = facenet.split(networks[name])
    folded = facenet.fold_batch_norm(networks[name])
    for embedding in (apply(server, apply(extractor, images)), apply(folded, images)):
        assert np.abs(sample(embedding) - goldens[name]["embedding"]).max() <= 1e-5


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("name", DECODERS)
def test_reconstructions(name, statistics, goldens):
    z = weights.features(DECODERS[name][2], BATCH)
    images = jax.jit(lambda model, z: model(z, statistics))(decoder(name), z)
    assert images.shape == (BATCH, 160, 160, 3)
    np.testing.assert_allclose(sample(images), goldens[name][statistics], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_padding_leaves_the_batch_statistics_alone(name, goldens):
    z = weights.features(DECODERS[name][2], BATCH)
    padded = np.concatenate([z, np.full_like(z[:1], 9.0)])
    mask = np.arange(len(padded)) < BATCH
    images = jax.jit(lambda model, z, m: model(z, "batch", m))(decoder(name), padded, mask)
    np.testing.assert_allclose(sample(images[:BATCH]), goldens[name]["batch"], rtol=0, atol=1e-5)


@jax.jit
def first_gradient(shadow, x_tilde, q):
    """∇ ‖S(q) - x~‖₁, Eq. 5 before its sign."""
    return jax.grad(lambda q: jnp.abs(shadow(q, "batch") - x_tilde).sum())(q)


def relative_l2(gradient, golden) -> float:
    truth = golden["gradient"][2:]
    return float(np.linalg.norm(sample(gradient)[2:] - truth) / np.linalg.norm(truth))


def share_of_equal_signs(ascent, golden) -> float:
    return 1 - np.unpackbits(signs(ascent) ^ golden["gradient_signs"]).mean()


# One output on the other side of its target, or one ReLU, changes the gradient by up to 5e-3. The
# two larger decoders have so many that float32 (PyTorch's as well) puts a few on the wrong side:
# 3e-3 by plain convolutions, 1e-2 by Winograd's, whose last digits are others. In float64, below,
# both are the same.
FLOAT32_L2 = {"transrec": 1e-3, "resrec_w32_b1": 1e-3, "resrec_w64_b2": 2e-2, "urec_w32_d2": 2e-2}


@pytest.mark.parametrize("name", DECODERS)
def test_first_gradient(name, networks, goldens):
    """At q = z~: autodiff's gradient in L2, and the signs that `protect` itself steps by."""
    extractor, shadow = networks["facenet_512"].extractor, decoder(name)
    z = apply(extractor, weights.images(DECODERS[name][2], BATCH))
    x_tilde, z_tilde = shadow_round_trip(z, extractor=extractor, shadow=shadow)
    gradient = first_gradient(shadow, x_tilde, z_tilde)
    assert relative_l2(gradient, goldens[name]) <= FLOAT32_L2[name]
    norm = np.linalg.norm(np.asarray(gradient, np.float64))
    np.testing.assert_allclose(norm, goldens[name]["gradient_norm"], rtol=1e-3)
    z_adv = protect(
        z, extractor=extractor, shadow=shadow, epsilon=0.1, config=ProtectConfig(method="fgsm")
    )
    assert share_of_equal_signs(z_adv - z_tilde, goldens[name]) >= 0.999


@pytest.mark.parametrize("name", DECODERS)
def test_first_gradient_in_float64(name, networks, goldens):
    """Without float32's rounding nothing falls on the wrong side: the same gradient, all of it."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        extractor, shadow, x = jax.tree.map(
            lambda a: jnp.asarray(np.asarray(a), jnp.float64),
            (
                networks["facenet_512"].extractor,
                decoder(name),
                weights.images(DECODERS[name][2], BATCH),
            ),
        )
        x_tilde = shadow(apply(extractor, x), "batch")
        gradient = first_gradient(shadow, x_tilde, apply(extractor, x_tilde))
    assert gradient.dtype == np.float64
    assert relative_l2(gradient, goldens[name]) <= 1e-5
    assert share_of_equal_signs(gradient, goldens[name]) >= 0.99999
