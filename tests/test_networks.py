"""Anybody's recogniser: every kind of network, any shape of z, a system of one's own."""

import dataclasses
import functools
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import advface_jax
from advface_jax import defenses, memory, networks, protect, protect_sweep, shadow_round_trip
from advface_jax.system import System
from experiments import tradeoff
from experiments.measure.sample import Ascent, Sample

DOCS = Path(__file__).parents[1] / "docs"
TWO = {"steps": 2, "alpha": 0.05}
KERNEL = jax.random.normal(jax.random.key(0), (12, 5)) / 3
BACK = jax.random.normal(jax.random.key(1), (5, 12))
Z = jax.nn.relu(jax.random.normal(jax.random.key(2), (3, 4, 4, 5)))  # of images (3,8,8,3)


def extract(kernel, images):
    b, h, w, _ = images.shape
    cells = images.reshape(b, h // 2, 2, w // 2, 2, 3).transpose(0, 1, 3, 2, 4, 5)
    return jax.nn.relu(cells.reshape(b, h // 2, w // 2, 12) @ kernel)


def rebuild(kernel, z):
    b, h, w, _ = z.shape
    cells = jax.nn.sigmoid(z @ kernel).reshape(b, h, w, 2, 2, 3)
    return cells.transpose(0, 1, 3, 2, 4, 5).reshape(b, 2 * h, 2 * w, 3)


class OfNnx(nnx.Module):
    def __init__(self, f: Any, kernel: jax.Array):
        self.f, self.kernel = f, nnx.Param(kernel)

    def __call__(self, x):
        return self.f(self.kernel[...], x)

    def encode(self, x):
        return self(x)


class OfLinen(linen.Module):
    f: Any
    shape: tuple[int, ...]

    @linen.compact
    def __call__(self, x):
        return self.f(self.param("kernel", linen.initializers.zeros, self.shape), x)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LikeEquinox:
    """A callable pytree with a function and a flag among its leaves, as Equinox's modules are."""

    f: Any
    kernel: jax.Array
    flag: bool = True

    def __call__(self, x):
        return self.f(self.kernel, x) if self.flag else x


def linen_pair(f, kernel):
    return OfLinen(f, kernel.shape), {"params": {"kernel": kernel}}


KINDS = {
    "nnx": OfNnx,
    "nnx method": lambda f, kernel: OfNnx(f, kernel).encode,
    "linen": linen_pair,
    "linen, bound": lambda f, kernel: OfLinen(f, kernel.shape).bind(linen_pair(f, kernel)[1]),
    "linen's apply": lambda f, kernel: functools.partial(
        linen_pair(f, kernel)[0].apply, linen_pair(f, kernel)[1]
    ),
    "equinox-like": LikeEquinox,
    "Partial": jax.tree_util.Partial,
    "partial": functools.partial,
    "function": lambda f, kernel: lambda x: f(kernel, x),
}
PLAIN: Any = {"extractor": KINDS["Partial"](extract, KERNEL), "shadow": OfNnx(rebuild, BACK)}


@pytest.mark.parametrize("kind", KINDS)
def test_networks_of_every_kind_give_one_result(kind):
    make = KINDS[kind]
    given: Any = {"extractor": make(extract, KERNEL), "shadow": make(rebuild, BACK)}
    expected = protect(Z, **PLAIN, config=TWO)
    assert expected.shape == Z.shape
    np.testing.assert_allclose(protect(Z, **given, config=TWO), expected, atol=1e-6)
    defense = defenses.advface(**given, config=TWO)
    np.testing.assert_allclose(defense(Z, epsilon=0.2), expected, atol=1e-6)
    x_tilde, z_tilde = shadow_round_trip(Z, **given)
    assert x_tilde.shape == (3, 8, 8, 3) and z_tilde.shape == Z.shape
    assert np.abs(np.asarray(expected - z_tilde)).max() <= np.float32(0.2)


@pytest.mark.parametrize("kind", ["nnx", "nnx method", "linen", "equinox-like", "partial"])
def test_new_weights_count_and_compile_nothing(kind, compilations):
    make = KINDS[kind]

    def of_protect():
        return [name for name in compilations() if "protect" in name]

    def run(kernel):
        given: Any = {"extractor": make(extract, kernel), "shadow": make(rebuild, BACK)}
        return protect(Z, **given, config=TWO)

    first = run(KERNEL)
    before = of_protect()
    assert np.abs(np.asarray(run(2 * KERNEL) - first)).max() > 0.1
    assert of_protect() == before


@pytest.mark.parametrize("shape", [(2, 10), (1, 6, 10), (2, 2, 3, 4, 10)])
def test_z_has_any_shape(shape):
    z = jax.random.normal(jax.random.key(0), shape)
    given: Any = {"extractor": lambda x: jnp.tanh(2 * x), "shadow": lambda z: jnp.sin(z)}
    assert protect(z, **given, config=TWO).shape == shape
    assert protect_sweep(z, [0.0, 0.1], **given, config=TWO).shape == (2, *shape)
    key = jax.random.key(1)
    for defense in (defenses.none(), defenses.ball(2), defenses.laplace()):
        assert defense(z, key=key, epsilon=None).shape == shape


class Masked(OfNnx):
    """An S with the statistics of its batch."""

    def __call__(self, z, mask=None, statistics="running"):
        weight = jnp.ones(len(z)) if mask is None else mask
        mean = (z * weight[:, None, None, None]).sum(0, keepdims=True) / weight.sum()
        return rebuild(self.kernel[...], z - mean if statistics == "batch" else z)


def test_a_decoder_that_takes_them_gets_statistics_and_mask():
    given: Any = PLAIN | {"shadow": Masked(rebuild, BACK)}
    alone = protect(Z[:2], **given, config=TWO)
    padded = protect(Z.at[2].set(9.0), **given, config=TWO, mask=np.array([1, 1, 0]))
    np.testing.assert_allclose(padded[:2], alone, atol=1e-6)
    running = protect(Z, **given, config=TWO | {"statistics": "running"})
    assert np.abs(np.asarray(running[:2] - alone)).max() > 0.01
    with pytest.raises(ValueError, match="^got statistics='running' for a decoder that has no"):
        protect(Z, **PLAIN, config=TWO | {"statistics": "running"})


def test_memory_is_of_any_network_with_a_shape():
    size = memory.footprint(**PLAIN, config=TWO, shape=Z.shape[1:])  # type: ignore[arg-type]
    assert size.of(4) > size.of(1) > 0
    with pytest.raises(ValueError, match=r"does not state the shape of z; wanted shape=z.shape"):
        memory.footprint(**PLAIN)


def fails(x):
    raise RuntimeError("out of order")


BAD = {
    "a system": (System(None, {}), "^got extractor of type System, which cannot be called; wanted"),
    "a number": (3, "^got extractor of type int, which cannot be called; wanted a callable: a Fl"),
    "Linen alone": (
        OfLinen(extract, (1, 1)),
        r"^got extractor=OfLinen\(…\), a Linen module without its v",
    ),
    "an unhashable part": (LikeEquinox(extract, KERNEL, {1}), "^got extractor .*nor hashable"),  # type: ignore[arg-type]
    "another shape": (lambda x: x, r"got E\(S\(z\)\) of shape \(3, 8, 8, 3\) \(S\(z\) has shape"),
    "a failure": (fails, r"got RuntimeError from E\(S\(z\)\) .*out of order; wanted"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_refused_in_one_sentence(case):
    extractor, message = BAD[case]
    with pytest.raises(ValueError, match=f"(?s){message}") as refused:
        protect(Z, extractor=extractor, shadow=PLAIN["shadow"])
    assert len(str(refused.value)) < 500


def test_a_part_of_a_system_is_named():
    system: Any = System.of(**PLAIN, server=lambda z: z)
    with pytest.raises(ValueError, match=r"wanted one of its parts: \.extractor"):
        protect(Z, extractor=system, shadow=PLAIN["shadow"])


@pytest.mark.slow  # it trains a decoder
def test_the_example_of_the_page_runs():
    text = (DOCS / "own-recogniser.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]
    assert len(code.splitlines()) <= 40
    names: dict[str, Any] = {}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):  # users' own
        exec(code, names)
    assert names["z_adv"].shape == (4, 28, 28, 64) and names["images"].shape == (4, 112, 112, 3)
    decoded, before = names["shadow"](names["z_adv"]), names["shadow"](names["z"])
    moved, error = (jnp.abs(x - names["images"]).mean() for x in (decoded, before))
    assert error < 0.08 and moved > 2 * error, "S decodes z and no longer z_adv"


def server(z):
    return z.reshape(len(z), -1)


def own_system() -> System:
    extractor = jax.tree_util.Partial(extract, KERNEL)
    rebuilt = OfNnx(rebuild, BACK)
    return System.of(
        extractor=extractor, server=server, shadow=rebuilt, attacker=rebuilt, image_size=32
    )


def test_a_system_of_ones_own_embeds_and_has_its_decoders():
    system = advface_jax.load(f"{__name__}:own_system")
    images = np.random.default_rng(0).random((3, 32, 32, 3), np.float32)
    embeddings = system.embed(images, batch=2)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    z = system.extractor(images)
    np.testing.assert_allclose(embeddings, system.server(z), atol=1e-5)
    assert system.shadow(z).shape == images.shape and system.kinds == ("own",)
    assert system.card == own_system().card, "the same weights have the same sum"
    with pytest.raises(ValueError, match="got kind='resrec'; wanted"):
        system.decoder("resrec")
    lacking = System.of(**PLAIN, server=server)
    with pytest.raises(ValueError, match=r"has no attacker; wanted System.of\(…, attacker=…\)"):
        _ = lacking.attacker
    for source in ("no_such_module:f", f"{__name__}:nothing", f"{__name__}:Z.shape"):
        with pytest.raises(ValueError):
            advface_jax.load(source)
    with pytest.raises(ValueError, match="returned a tuple; wanted an advface_jax.System"):
        advface_jax.load(f"{__name__}:pair")


def pair():
    return 1, 2


def test_the_tradeoff_runs_on_a_system_of_ones_own(tmp_path):
    sample = Sample(out=tmp_path, limit=24, batch=8)
    ascent = Ascent(steps=2, alpha=0.05)
    done = tradeoff.table(own_system(), sample.read(), sample, ascent, epsilons=(0.0, 0.2))
    assert [row["method"] for row in done.rows] == [
        "Unprotected",
        *["AdvFace"] * 2,
        "Mean face (floor)",
    ]
    plain, still, moved, floor = (row["ssim"] for row in done.rows)
    assert plain == pytest.approx(still, abs=0.5) and moved < still and 0 < floor < 1
    assert done.settings["shadow"] == "own" and done.settings["weights"] == "own"


def test_the_digest_is_of_values_and_places():
    a, b = {"x": np.zeros(2), "y": np.ones(2)}, {"x": np.ones(2), "y": np.zeros(2)}
    assert networks.digest(a) == networks.digest(dict(a)) != networks.digest(b)


def test_the_digest_knows_functions_apart():
    one, other = (networks.network(f, "f") for f in (extract, rebuild))
    assert networks.digest(one) != networks.digest(other)


def plain_parts(seed=0, scale=1.0):
    """A system's parts as functions whose arrays lie in their closures."""
    kernel, back = (np.random.default_rng(seed).random(s, np.float32) for s in ((12, 5), (5, 12)))
    return {
        "extractor": lambda x: scale * extract(kernel, x),
        "server": jax.jit(lambda z: server(z) @ jnp.resize(kernel, (1280, 3))),
        "shadow": lambda z: rebuild(back, z),
        "attacker": functools.partial(lambda z: rebuild(back, z)),
    }


def sum_of(**parts: Any) -> str:
    return System.of(**parts, image_size=32).card["sha256"]


def test_the_sum_of_a_system_sees_the_arrays_of_plain_functions():
    ours = plain_parts()
    total = sum_of(**ours)
    assert total == sum_of(**plain_parts()), "the same functions, made twice"
    for role, part in plain_parts(seed=1).items():
        assert sum_of(**ours | {role: part}) != total, role
    assert sum_of(**plain_parts(scale=2.0)) != total


def test_the_sum_of_a_system_sees_an_array_beside_a_networks_own():
    def with_bias(bias):
        return jax.tree_util.Partial(lambda kernel, x: extract(kernel, x) + bias, KERNEL)

    others = {"server": OfNnx(lambda k, z: server(z), BACK), "shadow": OfNnx(rebuild, BACK)}
    biases = (np.full((1, 1, 1, 5), b, np.float32) for b in (1, 2))
    one, other = (sum_of(extractor=with_bias(b), **others) for b in biases)
    assert one != other


def test_the_sum_of_a_system_without_closures_is_that_of_its_arrays():
    """As it was before functions counted: what was measured with such systems resumes."""
    parts = {"extractor": jax.tree_util.Partial(extract, KERNEL), "server": OfNnx(server_of, BACK)}
    system = System.of(**parts, shadow=OfNnx(rebuild, BACK), image_size=32)
    assert system.card["sha256"] == networks.digest(system.network)


def server_of(kernel, z):
    return server(z)


def test_a_function_that_does_not_take_its_images_is_named():
    with pytest.raises(ValueError, match=r"got shadow, which cannot be traced \(.*one image \(32"):
        System.of(extractor=lambda x: x, server=server, shadow=lambda z: z @ BACK, image_size=32)
    with pytest.raises(ValueError, match="got extractor, which cannot"):
        System.of(extractor=fails, server=server, shadow=server, image_size=32)


def test_a_failure_is_tried_again():
    """It may have come of a setting of JAX, which the user has changed since."""
    failing = [True]

    def extractor(x):
        if failing:
            raise RuntimeError("not yet")
        return x

    given: Any = {"extractor": extractor, "shadow": jnp.sin}
    z = jnp.ones((2, 3))
    with pytest.raises(ValueError, match="not yet"):
        shadow_round_trip(z, **given)
    failing.clear()
    assert shadow_round_trip(z, **given)[1].shape == z.shape


@pytest.mark.parametrize("value", [20, 1e-4])
def test_embeddings_in_half_precision_have_length_1(value):
    unit = networks.Normalised(lambda z: z)(jnp.full((1, 512), value, jnp.float16))
    assert abs(float(jnp.linalg.norm(unit.astype(jnp.float32))) - 1) < 1e-2
