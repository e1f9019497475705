"""Training: what a step computes, a run that is resumed, a decoder trained by the command."""

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from face_files import encoded, folder
from flat import call, mortal, promotion  # noqa: F401
from networks import pooled_system
from PIL import Image

import advface_jax
from advface_jax import data
from advface_jax.data import leaks, read_faces
from advface_jax.models import decoders, state
from advface_jax.training import step, train
from experiments import train_decoder
from experiments.train import faces
from experiments.train.run import Place, Run

SMALL = decoders.DecoderConfig("transrec", width=4, depth=0)


def test_a_step_is_that_of_the_releases_decoders():
    """The first losses of a run on features, as they were when decoders were trained for release
    (AMD EPYC, jax 0.10.2)."""
    pixels, extractor = read_faces("synthetic", limit=4).images, pooled_system().extractor
    config = train.TrainConfig(1e-2, "cosine", batch=4, epochs=4, seed=3)
    trainer, now = train.start(SMALL, config, len(pixels))
    fresh = step.finished(trainer, now)
    images, _ = step.images_of(jnp.asarray(pixels), True, config.seed, now.step)
    program = train.train_step.lower(now, pixels, extractor, trainer).compile()
    memory = program.memory_analysis()
    assert memory and memory.alias_size_in_bytes == sum(x.nbytes for x in jax.tree.leaves(now))
    losses = []
    for _ in range(4):
        now, loss = program(now, pixels, extractor)
        losses.append(float(loss))
    assert losses == pytest.approx([0.17370726, 0.17265885, 0.15293565, 0.14754811], rel=1e-4)

    error = jax.jit(lambda d, e, x: jnp.abs(d(e(x), "batch") - x).mean())(fresh, extractor, images)
    assert losses[0] == pytest.approx(float(error), rel=1e-4), "by the statistics of the batch"
    trained = step.finished(trainer, now)
    before, after = state.flatten(fresh), state.flatten(trained)
    assert int(now.step) == 4
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    picture = train.reconstruct(pixels, extractor, trained)
    assert picture.shape == (4, 160, 160, 3) and 0 <= picture.min() <= picture.max() <= 1


def test_half_of_the_images_are_mirrored_and_the_key_is_of_the_step():
    pixels = np.zeros((64, 2, 2, 3), np.uint8)
    pixels[:, :, 1] = 255
    images, key = step.images_of(jnp.asarray(pixels), True, 4, jnp.int32(7))
    mirrored = np.asarray(images)[:, 0, 0, 0] == 1
    assert 20 < mirrored.sum() < 44
    expected = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels) / 255
    np.testing.assert_array_equal(images, expected)
    assert np.array_equal(mirrored, jax.random.bernoulli(key, shape=(64, 1, 1, 1)).ravel())
    plain, same = step.images_of(jnp.asarray(pixels), False, 4, jnp.int32(7))
    assert np.array_equal(plain, pixels / 255) and key == same


def test_fewer_faces_than_a_batch_are_refused():
    assert step.steps_per_epoch(11, 3) == 3
    with pytest.raises(ValueError, match="got 3 faces for batches of 4; wanted at least one batch"):
        train.start(SMALL, train.TrainConfig(batch=4), 3)


# -- any run: eleven items, three steps an epoch ----------------------------------------------


class Numbers:
    """Items of a training; the sixth is broken."""

    def __len__(self) -> int:
        return 11

    def crop(self, index: int) -> np.ndarray:
        if index == 5:
            raise ValueError("broken")
        return np.full(2, index, np.float32)


class Mixing(Run):
    """A training whose state depends on the order of all that it saw."""

    SHOWN = "epoch {epoch}: {x}"
    dies_at = 99

    def __init__(self, out, settings, save_every: int = 2):
        now = step.TrainState({"x": jnp.zeros(2)}, {}, (), jnp.int32(0))  # type: ignore[arg-type]
        super().__init__(now, Numbers(), 3, 3, 3, 4, Place(out, settings, save_every, 2))

    def advance(self, one: data.Batch) -> tuple[jax.Array, jax.Array]:
        if self.step == self.dies_at:
            raise KeyboardInterrupt
        self.refused |= {str(i): why for i, why in one.refused}
        x = 0.5 * self.state.params["x"] + one.values.sum(0)  # type: ignore[operator]
        self.state = self.state._replace(params={"x": x}, step=self.state.step + 1)
        return x[0], one.values[0, 0]

    def judge(self) -> dict[str, float]:
        return {"epoch": self.step / self.per_epoch, "x": float(self.state.params["x"][0])}  # type: ignore[arg-type]

    def note(self) -> str:
        return f"{self.losses[-1][0]:.1f}"


@pytest.mark.parametrize("survived", [1, 3, 5])
def test_a_killed_run_resumes_bit_by_bit(survived, tmp_path):
    """Killed before anything was saved; right after an epoch; between a save and an epoch."""
    unbroken, killed = (Mixing(tmp_path / name, {"seed": 4}) for name in ("unbroken", "killed"))
    assert not unbroken.resume()
    unbroken.to_the_end()
    assert len(unbroken.losses) == 9 and unbroken.refused == {"5": "broken"}
    assert [q["epoch"] for q in unbroken.quality] == [2, 3], "every second, and the last"
    assert unbroken.rate and unbroken.rate > 0 and 0 <= unbroken.waiting <= 1
    killed.dies_at = survived
    with pytest.raises(KeyboardInterrupt):
        killed.to_the_end()
    resumed = Mixing(tmp_path / "killed", {"seed": 4})
    assert resumed.resume() == (survived > 1)
    assert resumed.step == len(resumed.losses) == {1: 0, 3: 3, 5: 4}[survived]
    earlier = resumed.seconds
    resumed.to_the_end()
    assert jax.tree.all(jax.tree.map(np.array_equal, resumed.state, unbroken.state))
    assert (resumed.losses, resumed.quality) == (unbroken.losses, unbroken.quality)
    assert resumed.refused == unbroken.refused and resumed.seconds > earlier


def test_another_run_is_refused_and_a_finished_one_is_left_alone(tmp_path, capsys):
    run = Mixing(tmp_path, {"seed": 4, "rate": 1.0})
    run.to_the_end()
    with pytest.raises(ValueError, match=r"other settings \(rate\): give another --out, or --res"):
        Mixing(tmp_path, {"seed": 4, "rate": 2.0}).resume()
    again = Mixing(tmp_path, {"seed": 4, "rate": 1.0})
    assert again.resume() and not again.is_finished("thing", "it"), "its file was never written"
    (tmp_path / "it").touch()
    assert again.is_finished("thing", "it")
    again.show_refused("it.json")
    assert "1 faces could not be read, the first: 5: broken; it.json" in capsys.readouterr().err
    with pytest.raises(ValueError, match="got save_every=0; wanted"):
        Mixing(tmp_path, {}, save_every=0)


def test_faces_are_compared_with_those_of_a_run_that_kept_their_names(tmp_path):
    old = {"seed": 4}
    new, other = ({"seed": 4, "names_sha256": names} for names in ("01", "02"))
    run = Mixing(tmp_path, old)
    run.to_the_end()
    again = Mixing(tmp_path, new)
    assert again.resume() and again.step == run.step, "an old run has no such entry"
    again.save()
    with pytest.raises(ValueError, match=r"other settings \(names_sha256\): give another --out"):
        Mixing(tmp_path, other).resume()


# -- the experiment: nine faces, two held out, three steps an epoch ---------------------------

SETTINGS: dict[str, Any] = {"decoder": "transrec", "width": 4, "batch": 2, "epochs": 2, "limit": 9}
SETTINGS |= {"learning_rate": 1e-2, "schedule": "cosine", "save_every": 2}
NAME = "transrec-shadow.safetensors"


@pytest.fixture(scope="module")
def small():
    """The experiment without a download, two faces held out."""
    system = pooled_system()
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
    call(train_decoder.main, out=out, **{**SETTINGS, **changes})


def history(out):
    card = json.loads((out / "checkpoint" / "card.json").read_text())
    return card["step"], card["losses"], card["quality"]


@pytest.fixture
def crops(tmp_path):
    """The unbroken run's faces as files."""
    chosen = read_faces("synthetic", limit=9)
    files = [encoded(Image.fromarray(image)) for image in chosen.images]
    return folder(tmp_path / "faces", dict(zip(chosen.names, files, strict=True)))


@pytest.mark.slow
def test_a_killed_training_leaves_the_same_decoder(small, unbroken, tmp_path, monkeypatch):
    stem = unbroken / "transrec-shadow"
    assert (unbroken / "loss.png").stat().st_size and stem.with_suffix(".identities").stat().st_size
    card = json.loads(stem.with_suffix(".json").read_text())
    assert card["steps"] == 6 and card["quality"]["epoch"] == 2
    assert card["weights_sha256"] == "00" and card["train"]["seed"] == 0
    assert {"date", "hardware", "versions", "command"} <= card.keys()
    loading = json.loads((unbroken / "train_decoder.json").read_text())["notes"]["loading"]
    assert loading["loader_alone_faces_per_s"] > 0 and loading["read"] == "memory"
    assert history(unbroken)[0] == len(history(unbroken)[1]) == 6

    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", mortal(train.train_step, 5))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    assert not (tmp_path / NAME).exists()
    run(tmp_path)
    ours, theirs = (safetensors.numpy.load_file(out / NAME) for out in (tmp_path, unbroken))
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[name], theirs[name]) for name in ours)
    assert history(tmp_path) == history(unbroken)
    with monkeypatch.context() as patch:
        patch.setattr(train, "train_step", None)  # would fail if it were called
        run(tmp_path)
        for file in ("loss.png", "train_decoder.json"):  # a kill between the decoder and these
            (tmp_path / file).unlink()
        run(tmp_path)
    assert (tmp_path / "loss.png").stat().st_size and (tmp_path / "train_decoder.json").exists()
    run(tmp_path, learning_rate=2e-2, restart=True)
    assert history(tmp_path)[1] != history(unbroken)[1]


@pytest.mark.slow
def test_faces_from_the_disk_train_the_same_decoder(small, unbroken, crops, tmp_path):
    out = tmp_path / "out"
    run(out, faces=str(crops), read="disk")
    assert (out / NAME).read_bytes() == (unbroken / NAME).read_bytes()
    assert history(out) == history(unbroken)
    loading = json.loads((out / "train_decoder.json").read_text())["notes"]["loading"]
    assert loading["read"] == "disk" and loading["workers"] == 2
    seen = leaks.read_identities((out / NAME).with_suffix(".identities"))
    assert leaks.find_leaks(seen, read_faces("synthetic", limit=1)).identities
    assert not leaks.find_leaks(seen, ["somebody else"])


@pytest.mark.slow
def test_broken_faces_of_a_large_set_are_replaced_and_listed(small, crops, tmp_path, monkeypatch):
    monkeypatch.setattr(faces, "IN_MEMORY", 8)
    names = sorted(path.relative_to(crops).as_posix() for path in crops.rglob("*.png"))
    for name in (names[0], names[-1]):  # one in training, one held out
        (crops / name).write_bytes(b"broken")
    run(tmp_path / "out", faces=str(crops), epochs=1)
    document = json.loads((tmp_path / "out" / "train_decoder.json").read_text())
    assert document["notes"]["loading"]["read"] == "disk"
    assert document["notes"]["refused"].keys() == {names[0], names[-1]}
    assert document["rows"][0]["n"] == 1


def test_a_run_is_of_its_faces(small, crops, tmp_path, monkeypatch):
    """Nine other faces in a folder of the same name are another run."""
    places = []

    def made(*given):
        places.append(given[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr(train_decoder, "DecoderTraining", made)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", faces=str(crops))
        first = next(crops.rglob("*.png"))
        first.rename(first.with_name("other.png"))
    one, other = (place.settings for place in places)
    assert {k for k in one if one[k] != other[k]} == {"names_sha256"}


def test_too_few_faces_and_bad_conditions_are_refused(small, tmp_path):
    with pytest.raises(ValueError, match="got 2 faces; wanted more than the 2 held out"):
        run(tmp_path, limit=2)
    with pytest.raises(ValueError, match="got --where lfw; wanted COLUMN=VALUE"):
        run(tmp_path, where=("lfw",))
    assert not list(tmp_path.iterdir())
