"""Attacks without training: who is read off what is stored, and which picture."""

import jax
import jax.numpy as jnp
import networks
import numpy as np
import pytest
from flat import promotion  # noqa: F401

from advface_jax import attacks, data
from advface_jax.attacks import cleaning, pictures, reading
from advface_jax.attacks.stitching import stitch

# A recogniser of small features: their means over places, not normalised.
mean = jax.tree_util.Partial(lambda z: z.mean((1, 2)))


def features(seed: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(n, 6, 6, 5)).astype("f4")


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_what_is_stored_is_read_as_it_is_or_cleaned():
    stored = features(0) - 0.5
    read = reading.read("psi", mean, ("recogniser",))
    np.testing.assert_allclose(read(stored), unit(stored.mean((1, 2))), rtol=1e-4)
    clipped = reading.read("psi", mean, ("recogniser",), cleaning.clip)
    np.testing.assert_allclose(clipped(stored), unit(stored.clip(0).mean((1, 2))), rtol=1e-4)


def test_an_amplified_step_from_a_start_gives_its_goal():
    start, goal = features(0, 5), features(1, 5)
    stored = start + 0.25 * (goal - start)
    attack = reading.amplified("known", mean, ("start",), 4.0)
    wanted = unit(goal.mean((1, 2)))
    np.testing.assert_allclose(attack(stored, start=start, batch=2), wanted, rtol=1e-4)
    for wrong, message in (
        ({}, "got no start .* wanted one"),
        ({"start": start[:2]}, "got 2 start"),
    ):
        with pytest.raises(ValueError, match=message):
            attack(stored, **wrong)  # type: ignore[arg-type]
    guess = jax.tree_util.Partial(lambda start, stored: start[: len(stored)], jnp.asarray(start))
    guessed = reading.amplified("guessed", mean, ("extractor",), 4.0, guess)
    np.testing.assert_allclose(guessed(stored), wanted, rtol=1e-4)
    with pytest.raises(ValueError, match="got a start for the attack guessed; wanted none"):
        guessed(stored, start=start)
    for knows, given in ((("start",), guess), ((), None)):
        with pytest.raises(ValueError, match='wanted "start" in knows, or an estimate'):
            reading.moved("mine", mean, knows, given)


def test_the_direction_that_an_embedding_moved():
    start, stored = features(0), features(1)
    attack = reading.moved("moved", mean, ("start",))
    wanted = unit(unit(stored.mean((1, 2))) - unit(start.mean((1, 2))))
    np.testing.assert_allclose(attack(stored, start=start), wanted, rtol=1e-3, atol=1e-5)
    still = attack(stored, start=stored)  # nothing moved: still of length 1
    np.testing.assert_allclose(np.linalg.norm(still, axis=1), 1, rtol=1e-5)


def test_several_keys_minus_what_is_read_without():
    stored = features(0)
    turned = jax.tree_util.Partial(lambda z: z.mean((1, 2))[:, ::-1])
    read = reading.averaged("keys", [mean, turned], ("recogniser",), minus=mean)(stored)
    own = unit(stored.mean((1, 2)))
    np.testing.assert_allclose(read, unit(own[:, ::-1] - own), rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="got no recognisers"):
        reading.averaged("keys", [], ())


def test_a_blur_keeps_what_is_smooth_and_removes_noise():
    flat = np.full((2, 8, 8, 3), 0.4, "f4")
    np.testing.assert_allclose(jax.jit(cleaning.blur(1.5))(flat), flat, rtol=1e-5)
    noise = np.random.default_rng(0).normal(size=(1, 40, 40, 1)).astype("f4")
    assert float(jax.jit(cleaning.blur(1.0))(noise).std()) == pytest.approx(
        1 / (2 * np.pi**0.5), rel=0.15
    )


def test_a_map_learnt_on_pairs_undoes_an_offset():
    z = features(0, 4)
    stored = z * 0.5 - 0.2
    undo = stitch(stored, z, patch=1, ridge=1e-9)
    np.testing.assert_allclose(undo(jnp.asarray(stored)), z, atol=1e-3)


@pytest.fixture(scope="module")
def world():
    """E, faces (3,160,160,3) made of large squares, and a decoder that undoes E."""
    extractor = networks.small_extractor()
    squares = np.random.default_rng(0).uniform(size=(3, 5, 5, 3)).astype("f4")
    faces = squares.repeat(32, 1).repeat(32, 2)
    return extractor, jnp.asarray(faces)


def test_the_picture_of_a_decoder_is_clipped(world):
    _, faces = world
    draw = jax.tree_util.Partial(lambda faces, z: (faces + z[:1, :1, :1, :1])[: len(z)], faces)
    attack = pictures.decoded("R", draw, ("defense",), cleaning.clip)
    picture = attack(np.full((3, 7, 7, 4), -1, "f4"))
    np.testing.assert_allclose(picture, faces, atol=1e-6)
    assert pictures.decoded("R", draw, ())(np.full((3, 7, 7, 4), -1, "f4")).max() == 0


def test_pixels_are_solved_from_features(world):
    extractor, faces = world
    z = extractor(faces)
    attack = pictures.solved("pixels", extractor, steps=60, rate=0.05, smooth=0.0)
    picture = attack(z, batch=2)
    seen = np.s_[:, 3:157:2, 3:157:2]  # what that E looks at
    np.testing.assert_allclose(picture[seen], faces[seen], atol=0.02)
    assert attack.cost == {"passes of E": 60}


def test_a_drawn_face_comes_nearer_by_evolution(world):
    extractor, _ = world
    wanted = np.asarray(extractor(jnp.asarray(data.synthetic_faces(2, 1).images / np.float32(255))))

    def apart(rounds: int) -> np.ndarray:
        attack = attacks.evolved("drawn", extractor, parts=2, gallery=8, rounds=rounds, children=2)
        return np.abs(np.asarray(extractor(jnp.asarray(attack(wanted)))) - wanted).mean((1, 2, 3))

    assert (apart(6) < apart(1)).all() and (apart(6) < 0.15).all()
    with pytest.raises(ValueError, match="rounds"):
        attacks.evolved("drawn", extractor, rounds=0)


def test_psi_alone_gives_a_picture_that_psi_takes_for_the_person(world):
    extractor, faces = world
    psi = networks.Pool()
    z = extractor(faces)
    attack = pictures.solved("Ψ", extractor, ("recogniser",), steps=60, recogniser=psi)
    cosine = (psi(extractor(jnp.asarray(attack(z)))) * psi(z)).sum(-1)
    assert float(cosine.min()) > 0.98


def test_a_replayed_picture_is_read_by_a_recogniser(world):
    extractor, faces = world
    draw = jax.tree_util.Partial(lambda faces, z: faces[: len(z)], faces)
    picture = pictures.decoded("R", draw, ("defense",))
    psi = jax.tree_util.Partial(lambda e, x: e(x).mean((1, 2)), extractor)
    attack = pictures.replayed(picture, psi, ("public recogniser", "defense"))
    assert attack.knows == ("defense", "public recogniser") and attack.name == "R, replayed"
    wanted = unit(np.asarray(extractor(faces)).mean((1, 2)))
    np.testing.assert_allclose(attack(np.zeros((3, 4), "f4")), wanted, rtol=1e-3, atol=1e-5)
    with pytest.raises(ValueError, match="which reads an identity; wanted a picture"):
        pictures.replayed(attack, psi)


def test_a_start_is_estimated_as_the_features_of_the_decoders_picture(world):
    extractor, faces = world
    draw = jax.tree_util.Partial(lambda faces, z: faces[: len(z)] * 2 - 0.5, faces)
    start = reading.estimated(extractor, draw)(jnp.zeros((2, 4)))
    wanted = extractor(jnp.clip(faces[:2] * 2 - 0.5, 0, 1))
    np.testing.assert_allclose(start, wanted, rtol=1e-5)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="got gain=0"):
        reading.amplified("a", mean, ("start",), 0.0)
    with pytest.raises(ValueError, match="got deviation=-1"):
        cleaning.blur(-1.0)
    for how in ({"steps": 0}, {"rate": 0.0}, {"smooth": -1.0}):
        with pytest.raises(ValueError, match=f"got {next(iter(how))}="):
            pictures.solved("p", mean, **how)  # type: ignore[arg-type]
