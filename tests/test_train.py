"""Training: the loss falls, the order follows from the seed, a killed run resumes bit by bit."""

import json
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from PIL import Image
from reference import weights

import advface_jax
from advface_jax.data import leaks, read_faces
from advface_jax.data.batches import step_indices
from advface_jax.models import decoders, facenet, state
from advface_jax.system import System
from advface_jax.training import train
from experiments import train_decoder

SMALL = decoders.DecoderConfig("transrec", width=4, depth=0)


class Client(nnx.Module):
    """As much of a recogniser as training a decoder needs."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.extractor = facenet.Extractor(rngs=rngs)


@pytest.fixture(scope="module", autouse=True)
def promotion():
    """Optax's Adam raises a float to the power of an integer step count."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module")
def system() -> System:
    def build():
        return Client(rngs=nnx.Rngs(0))

    network = state.fill(build, weights.fill(5, state.shapes(build)))
    return System(network, {"source": "random", "sha256": "00"})  # type: ignore[arg-type]


def test_training_lowers_the_loss_and_moves_the_stored_statistics(system):
    pixels = read_faces("synthetic", limit=4).images
    config = train.TrainConfig(learning_rate=2e-2, batch=4, flip=False)
    trainer, now = train.start(SMALL, config, len(pixels))
    fresh = state.flatten(train.finished(trainer, now))
    losses = []
    for _ in range(20):
        now, loss = train.train_step(now, pixels, system.extractor, trainer)
        losses.append(float(loss))
    assert np.mean(losses[-3:]) < 0.6 * losses[0], losses
    assert int(now.step) == 20
    trained = state.flatten(train.finished(trainer, now))
    assert all(not np.array_equal(fresh[name], trained[name]) for name in fresh)
    picture = train.reconstruct(pixels, system.extractor, train.finished(trainer, now))
    assert picture.shape == (4, 160, 160, 3) and 0 <= picture.min() <= picture.max() <= 1


def test_a_step_writes_its_state_over_the_last_one(system):
    pixels = read_faces("synthetic", limit=2).images
    trainer, now = train.start(SMALL, train.TrainConfig(batch=2), 2)
    program = train.train_step.lower(now, pixels, system.extractor, trainer).compile()
    told = program.memory_analysis()
    assert told and told.alias_size_in_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(now))


def test_the_loss_is_the_mean_absolute_error_of_batch_statistics(system):
    pixels = read_faces("synthetic", limit=2).images
    trainer, now = train.start(SMALL, train.TrainConfig(batch=2, flip=False), 2)
    decoder = train.finished(trainer, now)
    images = jnp.asarray(pixels, jnp.float32) / 255
    error = jnp.abs(decoder(system.extractor(images), "batch") - images).mean()
    _, loss = train.train_step(now, pixels, system.extractor, trainer)
    assert float(loss) == pytest.approx(float(error), rel=1e-4)


def test_the_order_follows_from_seed_epoch_and_step():
    config = train.TrainConfig(batch=3, seed=4)
    faces, per_epoch = 11, 3
    assert train.steps_per_epoch(faces, config) == per_epoch

    def epoch(number, config=config):
        steps = range(number * per_epoch, (number + 1) * per_epoch)
        return np.concatenate(
            [step_indices(step, faces, config.batch, config.seed) for step in steps]
        )

    for number in range(3):
        assert len(set(epoch(number))) == 9 and set(epoch(number)) <= set(range(faces))
        assert np.array_equal(epoch(number), epoch(number))
    assert not np.array_equal(epoch(0), epoch(1))
    assert not np.array_equal(epoch(0), epoch(0, train.TrainConfig(batch=3, seed=5)))
    assert set().union(*(epoch(number) for number in range(20))) == set(range(faces))


def test_fewer_faces_than_a_batch_are_refused():
    with pytest.raises(ValueError, match="got 3 faces for batches of 4; wanted at least one batch"):
        train.start(SMALL, train.TrainConfig(batch=4), 3)


# -- the experiment: nine faces, two held out, three steps an epoch ---------------------------

SETTINGS: dict[str, Any] = {
    "decoder": "transrec",
    "width": 4,
    "batch": 2,
    "epochs": 2,
    "limit": 9,
    "learning_rate": 1e-2,
    "schedule": "cosine",
    "save_every": 2,
}
FILES = (
    "transrec-shadow.safetensors",
    "transrec-shadow.json",
    "loss.png",
    "transrec-shadow.identities",
)


@pytest.fixture(scope="module")
def small(system):
    """The experiment without a download, two faces held out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advface_jax, "load", lambda weights: system)
        patch.setattr(train_decoder, "HELD_OUT", 2)
        yield


@pytest.fixture(scope="module")
def unbroken(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("unbroken")
    run(out)
    return out


def run(out, **changes: Any) -> None:
    train_decoder.main(out, **{**SETTINGS, **changes})


def history(out):
    card = json.loads((out / "checkpoint" / "card.json").read_text())
    return card["step"], card["losses"], card["quality"]


def test_a_run_leaves_a_decoder_its_card_and_a_curve(unbroken):
    assert all((unbroken / name).stat().st_size for name in FILES)
    card = json.loads((unbroken / FILES[1]).read_text())
    assert card["steps"] == 6 and card["quality"]["epoch"] == 2
    assert card["weights_sha256"] == "00" and card["train"]["seed"] == 0
    assert {"date", "hardware", "versions", "command"} <= card.keys()
    loading = json.loads((unbroken / "train_decoder.json").read_text())["notes"]["loading"]
    assert loading["loader_alone_faces_per_s"] > 0 and loading["training_faces_per_s"] > 0
    assert loading["read"] == "memory" and 0 <= loading["share_of_time_waiting_for_faces"] < 1
    step, losses, quality = history(unbroken)
    assert step == len(losses) == 6 and [q["epoch"] for q in quality] == [1, 2]


@pytest.mark.parametrize("survived", [1, 3, 5])
def test_a_killed_run_resumes_bit_by_bit(survived, small, unbroken, tmp_path, monkeypatch):
    """Killed before anything was saved; right after an epoch; between a save and an epoch."""
    steps = []
    train_step = train.train_step

    def mortal(*arguments):
        if len(steps) == survived:
            raise KeyboardInterrupt
        steps.append(1)
        return train_step(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", mortal)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert not (tmp_path / FILES[0]).exists()
    run(tmp_path)
    ours, theirs = (safetensors.numpy.load_file(out / FILES[0]) for out in (tmp_path, unbroken))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert history(tmp_path) == history(unbroken)


@pytest.fixture
def crops(tmp_path):
    """The unbroken run's faces as files."""
    faces = read_faces("synthetic", limit=9)
    for name, image in zip(faces.names, faces.images, strict=True):
        (tmp_path / "faces" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save((tmp_path / "faces" / name).with_suffix(".png"))
    return tmp_path / "faces"


def test_faces_from_the_disk_train_the_same_decoder(small, unbroken, crops, tmp_path):
    out = tmp_path / "out"
    run(out, faces=str(crops), read="disk")
    assert (out / FILES[0]).read_bytes() == (unbroken / FILES[0]).read_bytes()
    assert history(out) == history(unbroken)
    notes = json.loads((out / "train_decoder.json").read_text())["notes"]
    assert notes["loading"]["read"] == "disk" and notes["loading"]["workers"] == 2
    seen = leaks.read_identities(out / FILES[3])
    assert leaks.find_leaks(seen, read_faces("synthetic", limit=1)).identities
    assert not leaks.find_leaks(seen, ["somebody else"])


def test_broken_faces_of_a_large_set_are_replaced_and_listed(small, crops, tmp_path, monkeypatch):
    monkeypatch.setattr(train_decoder, "IN_MEMORY", 8)
    names = sorted(path.relative_to(crops).as_posix() for path in crops.rglob("*.png"))
    for name in (names[0], names[-1]):  # one in training, one held out
        (crops / name).write_bytes(b"broken")
    run(tmp_path / "out", faces=str(crops), epochs=1)
    document = json.loads((tmp_path / "out" / "train_decoder.json").read_text())
    assert document["notes"]["loading"]["read"] == "disk"
    assert document["notes"]["refused"].keys() == {names[0], names[-1]}
    assert document["rows"][0]["n"] == 1
    assert json.loads((tmp_path / "out" / FILES[1]).read_text())["faces_refused"] == 2


def test_a_folder_with_another_run_is_refused_and_left_alone(small, unbroken, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    with pytest.raises(ValueError, match=r"other settings \(train\): give another --out, or --res"):
        run(out, learning_rate=2e-2)
    assert history(out) == history(unbroken)
    run(out, learning_rate=2e-2, restart=True)
    assert history(out)[1] != history(unbroken)[1]


def test_a_finished_run_is_not_trained_again(small, unbroken, tmp_path, monkeypatch):
    out = tmp_path / "run"
    shutil.copytree(unbroken, out)
    monkeypatch.setattr(train, "train_step", None)  # would fail if it were called
    run(out)
    assert (out / FILES[0]).read_bytes() == (unbroken / FILES[0]).read_bytes()


def test_too_few_faces_and_bad_conditions_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="got 2 faces; wanted more than the 2 held out"):
        run(tmp_path, limit=2)
    with pytest.raises(ValueError, match="got --where lfw; wanted COLUMN=VALUE"):
        run(tmp_path, where=("lfw",))
    assert not list(tmp_path.iterdir())


def test_what_a_step_computes_has_not_changed(system):
    """The first losses of a run on features, as they were when decoders were trained for release
    (AMD EPYC, jax 0.10.2): other front ends than E must leave its training alone."""
    pixels = read_faces("synthetic", limit=4).images
    config = train.TrainConfig(1e-2, "cosine", batch=4, epochs=4, seed=3)
    trainer, now = train.start(SMALL, config, len(pixels))
    losses = []
    for _ in range(4):
        now, loss = train.train_step(now, pixels, system.extractor, trainer)
        losses.append(float(loss))
    assert losses == pytest.approx([0.17370726, 0.17265885, 0.15293565, 0.14754811], rel=1e-5)
