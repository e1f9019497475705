"""Our networks against independent PyTorch twins, through goldens that the twins wrote.

`reference/make_goldens.py` says how to write them anew. Weights and inputs are random; FaceNet's
are converted like a facenet-pytorch file, so that its rule table is tested too.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import cases, weights

from advface_jax.models import decoders, facenet, state
from advface_jax.protect import ProtectConfig, protect, shadow_round_trip
from weights_convert import rules, tables

pytestmark = pytest.mark.usefixtures("full_float32")


def pictures(of: tuple) -> np.ndarray:
    return weights.images(of[2], cases.BATCH)


def network(name: str) -> facenet.InceptionResNetV1:
    embedding_size, standardization, seed = cases.FACENETS[name]
    config = facenet.FaceNetConfig(embedding_size, standardization, classes=cases.CLASSES)  # type: ignore[arg-type]

    def build():
        return facenet.InceptionResNetV1(config, rngs=nnx.Rngs(0))

    flat = weights.fill(seed, weights.facenet_shapes(embedding_size, cases.CLASSES))
    return state.fill(build, rules.convert(flat, tables.torch(), state.shapes(build)))


def decoder(name: str) -> decoders.Decoder:
    kind, size, seed = cases.DECODERS[name]
    depth = size.get("blocks", size.get("depth", 0))
    config = decoders.DecoderConfig(kind, width=size.get("width", 32), depth=depth)  # type: ignore[arg-type]
    flat = weights.fill(seed, weights.decoder_shapes(kind, **size))
    return state.fill(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), flat)


@pytest.fixture(scope="module")
def networks():
    return functools.cache(network)


@pytest.fixture(scope="module")
def goldens():
    return functools.cache(lambda name: dict(np.load(cases.GOLDENS / f"{name}.npz")))


QUICK = {"xla_backend_optimization_level": 0}  # compiling is what takes the time here
apply = jax.jit(lambda module, x: module(x))


@pytest.mark.parametrize(
    "name", ["facenet_512", pytest.param("facenet_128", marks=pytest.mark.slow)]
)
def test_every_stage_and_the_embedding(name, networks, goldens):
    @functools.partial(jax.jit, compiler_options=QUICK)
    def stages(model, x):
        client = dict(model.extractor.stages(x))
        return client | dict(model.server.stages(client["conv2d_2b"]))

    found = stages(networks(name), pictures(cases.FACENETS[name]))
    assert set(found) == set(cases.STAGES)
    worst = {s: np.abs(cases.sample(found[s]) - goldens(name)[s]).max() for s in cases.STAGES}
    assert max(worst.values()) <= 1e-4, worst
    logits = networks(name).logits(found["bottleneck"])
    np.testing.assert_allclose(cases.sample(logits), goldens(name)["logits"], rtol=0, atol=1e-4)


@pytest.mark.slow
def test_the_folded_network_embeds_alike(networks, goldens):
    name = "facenet_512"
    folded = facenet.fold_batch_norm(networks(name))
    embedding = apply(folded, pictures(cases.FACENETS[name]))
    assert np.abs(cases.sample(embedding) - goldens(name)["embedding"]).max() <= 1e-5


LARGE = "resrec_w64_b2"


@pytest.mark.parametrize(
    "name",
    [*(n for n in cases.DECODERS if n != LARGE), pytest.param(LARGE, marks=pytest.mark.slow)],
)
def test_reconstructions_and_padding_that_leaves_them_alone(name, goldens):
    z = weights.features(cases.DECODERS[name][2], cases.BATCH)
    padded = np.concatenate([z, np.full_like(z[:1], 9.0)])
    mask = np.arange(len(padded)) < cases.BATCH

    @functools.partial(jax.jit, compiler_options=QUICK)
    def decode(model, z, padded, mask):
        images = {how: model(z, how) for how in cases.STATISTICS}
        return images, model(padded, "batch", mask)

    images, masked = decode(decoder(name), z, padded, mask)
    assert masked.shape == (cases.BATCH + 1, 160, 160, 3)
    for how, image in [*images.items(), ("batch", masked[: cases.BATCH])]:
        np.testing.assert_allclose(cases.sample(image), goldens(name)[how], rtol=0, atol=1e-5)


@jax.jit
def first_gradient(shadow, x_tilde, q):
    """∇ ‖S(q) - x~‖₁, Eq. 5 before its sign."""
    return jax.grad(lambda q: jnp.abs(shadow(q, "batch") - x_tilde).sum())(q)


def relative_l2(gradient, golden) -> float:
    truth = golden["gradient"][2:]
    return float(np.linalg.norm(cases.sample(gradient)[2:] - truth) / np.linalg.norm(truth))


def share_of_equal_signs(ascent, golden) -> float:
    return 1 - np.unpackbits(cases.signs(ascent) ^ golden["gradient_signs"]).mean()


# One output on the other side of its target, or one ReLU, changes the gradient by up to 5e-3. In
# the two larger decoders float32 (PyTorch's as well) puts a few on the wrong side: 3e-3 with plain
# convolutions, 1e-2 with Winograd's, which round differently. In float64, below, none is.
FLOAT32_L2 = {"transrec": 1e-3, "resrec_w32_b1": 1e-3, "resrec_w64_b2": 2e-2, "urec_w32_d2": 2e-2}


@pytest.mark.slow
@pytest.mark.parametrize("name", cases.DECODERS)
def test_first_gradient(name, networks, goldens):
    """At q = z~: autodiff's gradient in L2, and the signs that `protect` itself steps by."""
    extractor, shadow = networks("facenet_512").extractor, decoder(name)
    z = apply(extractor, pictures(cases.DECODERS[name]))
    x_tilde, z_tilde = shadow_round_trip(z, extractor=extractor, shadow=shadow)
    gradient = first_gradient(shadow, x_tilde, z_tilde)
    assert relative_l2(gradient, goldens(name)) <= FLOAT32_L2[name]
    norm = np.linalg.norm(np.asarray(gradient, np.float64))
    np.testing.assert_allclose(norm, goldens(name)["gradient_norm"], rtol=1e-3)
    how = {"epsilon": 0.1, "config": ProtectConfig(method="fgsm")}
    z_adv = protect(z, extractor=extractor, shadow=shadow, **how)
    assert share_of_equal_signs(z_adv - z_tilde, goldens(name)) >= 0.999


@pytest.mark.slow
@pytest.mark.parametrize(  # those that float32 rounds
    "name", [pytest.param("resrec_w64_b2", marks=pytest.mark.long), "urec_w32_d2"]
)
def test_first_gradient_in_float64(name, networks, goldens):
    """Without float32's rounding nothing falls on the wrong side: the same gradient, all of it."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("standard"):
        given = networks("facenet_512").extractor, decoder(name), pictures(cases.DECODERS[name])
        extractor, shadow, x = jax.tree.map(lambda a: jnp.asarray(np.asarray(a), "f8"), given)
        x_tilde = shadow(apply(extractor, x), "batch")
        gradient = first_gradient(shadow, x_tilde, apply(extractor, x_tilde))
    assert gradient.dtype == np.float64
    assert relative_l2(gradient, goldens(name)) <= 1e-5
    assert share_of_equal_signs(gradient, goldens(name)) >= 0.99999
