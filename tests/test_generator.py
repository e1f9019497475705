"""The generator: its shapes, its file, its training's pieces, and the choice of people."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from reference import weights

import advface_jax
from advface_jax import data, detection
from advface_jax.data import synthetic
from advface_jax.models import facenet, state
from experiments import generator, nobody, train_generator
from experiments import generator_training as training

NORMALS = [0.7418433, 1.629124, 1.5439198]
SIZES = generator.GeneratorConfig(identity=6, nuisance=3, widths=(8, 8, 8, 8, 8))


def made(seed=0):
    rng = np.random.default_rng(seed)
    net = generator.Generator(SIZES, rngs=nnx.Rngs(seed))
    axes = rng.normal(size=(16, 6))
    return generator.Nobody(net, np.zeros(3), np.eye(3), 0.1 * np.ones(16), axes, {})


def test_spread_is_the_inverse_of_gather():
    x = jnp.arange(2 * 4 * 6 * 3.0).reshape(2, 4, 6, 3)
    assert (generator.spread(generator.gather(x)) == x).all()
    assert generator.gather(x)[0, 0, 1].tolist() == x[0, :2, 2:4].ravel().tolist()


def test_doubling_is_linear_between_centres():
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 2)).astype(np.float32)
    wanted = jax.image.resize(x, (2, 8, 6, 2), "linear")
    np.testing.assert_allclose(generator.double(jnp.asarray(x)), wanted, atol=1e-6)
    constant = jnp.ones((1, 4, 6, 2))
    assert (training.halve(generator.double(constant)) == constant).all()


def test_pictures_lie_in_range_and_follow_both_codes():
    net = made().generator
    identity, nuisance = jnp.zeros((2, 6)).at[1].set(1), jnp.zeros((2, 3))
    images = generator.generate(net, identity, nuisance)
    assert images.shape == (2, 160, 160, 3) and images.dtype == jnp.float32
    assert images.min() > 0 and images.max() < 1
    assert jnp.abs(images[0] - images[1]).max() > 1e-3
    assert jnp.abs(generator.generate(net, identity, nuisance + 1) - images).max() > 1e-3


def test_its_file_gives_it_back(tmp_path):
    first = made()
    generator.write_generator(tmp_path / "g.safetensors", first)
    second = generator.read_generator(tmp_path / "g.safetensors")
    assert second.generator.config == SIZES and second.card["dtype"] == "float16"
    shots = [(0, 0), (3, 1)]
    one, two = (generator.draw(n, 0, shots).astype(int) for n in (first, second))
    assert np.abs(one - two).max() <= 2
    np.testing.assert_allclose(second.axes, first.axes, rtol=1e-3)


def test_drawn_people_are_chosen_into_the_packages_list(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "VETTED", tmp_path / "nobody" / "people.json")
    monkeypatch.setattr(nobody, "ALIKE", 1.1)
    known = Told().embed(synthetic.draw(0, [(0, 0)]) / 255)
    bounds = {"evaluation": 0.9, "training": 0.9}
    nobody.choose(Told(), None, known, bounds, 2, 40)  # type: ignore[arg-type]
    people = json.loads(synthetic.VETTED.read_text())["people"]
    assert len(people) == 2 and 0 not in people
    first = data.synthetic_faces(1, 1).images[0]
    assert (first == synthetic.draw(0, [(people[0], 0)])[0]).all()
    synthetic._vetted.cache_clear()


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (lambda f: f.unlink(), "no generator at"),
        (lambda f: f.write_bytes(f.read_bytes()[:100]), "damaged"),
        (lambda f: f.with_suffix(".json").write_text("{"), "damaged"),
        (lambda f: f.with_suffix(".json").write_text('{"config": {}}'), "damaged"),
    ],
)
def test_a_harmed_file_is_told(tmp_path, harm, says):
    generator.write_generator(tmp_path / "g.safetensors", made())
    harm(tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match=says):
        generator.read_generator(tmp_path / "g.safetensors")


def test_wrong_widths_are_told():
    with pytest.raises(ValueError, match="five positive"):
        generator.GeneratorConfig(widths=(8, 8))


def test_codes_stand_for_embeddings():
    rng = np.random.default_rng(0)
    people = np.repeat(rng.normal(size=(30, 5)) @ rng.normal(size=(5, 16)), 2, 0)
    people /= np.linalg.norm(people, axis=1, keepdims=True)
    codes = training.fit_codes(people, np.repeat(np.arange(30), 2), 5)
    code = codes.code(jnp.asarray(people, jnp.float32))
    np.testing.assert_allclose(code.std(0), 1, rtol=0.05)
    np.testing.assert_allclose(codes.embedding(code), people, atol=1e-3)
    with pytest.raises(ValueError, match="more than 30 people"):
        training.fit_codes(people, np.repeat(np.arange(30), 2), 30)


def test_threshold_is_the_quantile_over_pairs_of_different_people():
    rng = np.random.default_rng(1)
    e = rng.normal(size=(700, 8)).astype(np.float32)
    e /= np.linalg.norm(e, axis=1, keepdims=True)
    who = tuple(str(i // 2) for i in range(700))
    cosines = e @ e.T
    pairs = [cosines[i, j] for i in range(700) for j in range(i + 1, 700) if who[i] != who[j]]
    found = nobody.threshold(e, who)
    assert (np.array(pairs) > found).mean() == pytest.approx(1e-3, rel=0.05)
    with pytest.raises(ValueError, match="two people"):
        nobody.threshold(e[:2], ("a", "a"))


class Recogniser(nnx.Module):
    """E, and in place of Ψ means over places, which compile at once."""

    class Server(nnx.Module):
        def stages(self, z):
            places = z.reshape(-1, 7, 11, 7, 11, 64).mean((2, 4))  # (b, 7, 7, 64)
            yield "repeat_1", places
            flat = places.reshape(z.shape[0], -1)
            yield "embedding", flat / jnp.linalg.norm(flat, axis=-1, keepdims=True)

    config = facenet.FaceNetConfig(embedding_size=64 * 49)

    def __init__(self, *, rngs: nnx.Rngs):
        self.extractor = facenet.Extractor(rngs=rngs)
        self.server = self.Server()

    def __call__(self, images):
        return dict(self.server.stages(self.extractor(images)))["embedding"]


@pytest.fixture
def system(monkeypatch):
    def network():
        return Recogniser(rngs=nnx.Rngs(0))

    drawn = state.fill(network, weights.fill(5, state.shapes(network)))
    system = advface_jax.System(drawn, {"source": "random", "sha256": "00"})  # type: ignore[arg-type]
    monkeypatch.setattr(advface_jax, "load", lambda weights: system)
    return system


@pytest.fixture
def promotion():
    """optax itself mixes integers with floats (Adam's bias correction)."""
    with jax.numpy_dtype_promotion("standard"):
        yield


def test_training_goes_down_and_resumes(tmp_path, system, promotion, monkeypatch):
    """All three phases once; a run that was stopped goes on where it was."""
    faces = data.synthetic_faces(8, 2)
    e = system.embed(faces.images / np.float32(255))
    monkeypatch.setattr(train_generator, "read", lambda *_: faces)
    monkeypatch.setattr(train_generator, "embed", lambda *_: e)
    monkeypatch.setattr(train_generator, "POOL", 200)
    monkeypatch.setattr(train_generator, "GeneratorConfig", lambda: SIZES)
    seen, real = [], training.step

    def counted(*arguments):
        if len(seen) == 9:
            raise KeyboardInterrupt
        seen.append(arguments[-1])
        return real(*arguments)

    monkeypatch.setattr(training, "step", counted)
    flags: dict[str, Any] = {"out": tmp_path, "faces": ("x",), "steps": (10, 1, 1), "save_every": 3}
    with pytest.raises(KeyboardInterrupt):
        train_generator.main(**flags)
    monkeypatch.setattr(training, "step", lambda *a: seen.append(a[-1]) or real(*a))
    train_generator.main(**flags)
    assert seen == [1] * 10 + [2, 3]
    losses = json.loads((tmp_path / "losses.json").read_text())
    assert len(losses) == 12 and losses[9]["pixels"] < losses[0]["pixels"]
    assert losses[-1].keys() >= {"pixels", "kl", "stem", "judge", "middle", "identity", "nearest"}
    nobody_ = generator.read_generator(tmp_path / "generator.safetensors")
    assert nobody_.card["steps_done"] == 12 and nobody_.axes.shape == (64 * 49, 6)
    with pytest.raises(ValueError, match="other settings"):
        train_generator.main(**flags, seed=1)


def test_normal_numbers_are_those_of_every_numpy():
    x = generator.normals((3, 1, 4), 20_001)
    np.testing.assert_allclose(x[:3], NORMALS, atol=1e-6)
    assert x.shape == (20_001,) and abs(x.mean()) < 0.03 and abs(x.std() - 1) < 0.03
    assert abs(np.mean(x**4) - 3) < 0.3 and abs(x[:10_000] @ x[10_001:]) < 400


class Told:
    """A recogniser that knows a picture by its mean brightness: two numbers."""

    card = {"source": "told"}

    def __init__(self, steep=60):
        self.steep = steep

    def embed(self, images, *, batch=32):
        angle = self.steep * images.mean((1, 2, 3))
        return np.stack([np.cos(angle), np.sin(angle)], 1).astype(np.float32)


def test_those_who_resemble_somebody_are_not_chosen(tmp_path):
    told = Told(3000)  # the pictures of fresh weights differ little
    path = tmp_path / "g.safetensors"
    first = made()._replace(centre=np.array([0.1, 0.1]), axes=np.ones((2, 6)))
    generator.write_generator(path, first)
    known = told.embed(generator.draw(first, 0, [(0, 0)]) / 255)
    bounds = {"evaluation": 0.9, "training": 0.8}
    nobody.choose(told, path, known, bounds, 2, 40)  # type: ignore[arg-type]
    card = generator.read_generator(path).card
    people = card["people"]
    assert len(set(people)) == 2 and card["people_chosen"]["largest_cosine_allowed"] == 0.79
    for person in people:
        e = told.embed(generator.draw(first, 0, [(person, j) for j in range(4)]) / 255)
        assert (e @ known.T).max() <= 0.8
    with pytest.raises(ValueError, match="resemble nobody; wanted 30"):
        nobody.choose(told, path, known, bounds, 30, 40)  # type: ignore[arg-type]


def test_each_criterion_is_judged(system, monkeypatch):
    monkeypatch.setattr(
        detection, "detect", lambda image: detection.Detections(*np.zeros((3, 1, 4)))
    )
    people = data.synthetic_faces(20, 2)
    e = np.concatenate([system.embed(people.images[i : i + 1] / np.float32(255)) for i in (0, 3)])
    rows = nobody.judge(system, people, e, 0.9, people, seed=0)
    held = {row["criterion"].split(",")[0]: row["holds"] for row in rows}
    assert held["pictures"] == "no" and held["found by MTCNN"] == "yes"
    assert [held[f"E's features: {k}"] for k in ("mean", "std", "zeros")] == ["yes"] * 3
    like = rows[-1]
    assert like["holds"] == "no" and like["value"] >= 2, "two of them are in the training set"
