"""Fine-tuning: what changes and what does not, a killed run, the weights that it leaves."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from face_files import encoded, folder
from flat import call, mortal, promotion  # noqa: F401
from flax import nnx
from networks import Tiny, small_decoder, small_system, system_of
from PIL import Image

import advface_jax
from advface_jax import checkpoint, data, sharding
from advface_jax.data.feature_sets.writing import write_features
from advface_jax.data.leaks import find_leaks, read_identities
from advface_jax.models import compact, facenet, state
from advface_jax.system import load, write_decoder
from advface_jax.training import finetune, step
from experiments import finetune as experiment
from experiments.train import faces, recogniser
from experiments.train.recogniser_weights import publish, weights_sum

SHAPE = (77, 77, 64)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """13 people, 3 images each: a person's feature is one picture with noise."""
    folder = tmp_path_factory.mktemp("features")
    crops = data.Faces(
        tuple(f"{i}.png" for i in range(39)),
        tuple(f"p{i % 13}" for i in range(39)),
        np.arange(39, dtype=np.uint8)[:, None, None, None] * np.ones((1, 160, 160, 3), np.uint8),
    )

    def protect(pixels, mask):
        z = []
        for number in pixels[:, 0, 0, 0]:
            person = np.random.default_rng(number % 13).random(SHAPE, np.float32)
            z.append(person + np.random.default_rng(number).random(SHAPE, np.float32))
        return np.stack(z)

    how: dict[str, Any] = {"batch": 13, "dtype": "bf16", "seed": 0, "shard_size": 13, "workers": 0}
    for name, labels in (("set", "original"), ("unlabelled", "none")):
        write_features(
            folder / name,
            crops,
            protect,
            labels=labels,  # type: ignore[arg-type]
            card={"epsilon": 0.2, "weights": "random", "weights_sha256": "00"},
            **how,
        )
    return folder


SETTINGS: dict[str, Any] = {
    "people": 4,
    "images": 3,
    "held_people": 4,
    "workers": 0,
    "save_every": 1,
}
SETTINGS |= {"classifier_epochs": 3, "epochs": 3, "classifier_rate": 0.05, "learning_rate": 0.02}


@pytest.fixture(scope="module")
def small():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advface_jax, "load", lambda weights, fold: small_system())
        yield


def run(out, **changes: Any):
    call(experiment.main, out=out, **{**SETTINGS, **changes})
    return checkpoint.restore(out)


@pytest.fixture(scope="module")
def unbroken(small, features, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "offline"
    run(out, features=features / "set")
    return out


@pytest.mark.slow
def test_offline_mode_changes_the_server_and_leaves_e(unbroken):
    tree, card = checkpoint.restore(unbroken)
    arrays, before = checkpoint.flatten(tree), state.flatten(small_system().network)
    assert arrays.keys() == before.keys()
    for name, old in before.items():
        assert np.array_equal(old, arrays[name]) == name.startswith("extractor."), name
    assert card["sha256"] == weights_sum(arrays) != "00"
    assert card["features_sha256"] == "00" and card["base"] == {"source": "random", "sha256": "00"}
    assert card["embedding_size"] == 8 and card["folded"] is False and card["classes"] is None
    assert {"date", "hardware", "command", "training"} <= card.keys()
    seen = read_identities(unbroken / "weights.identities")
    assert len(find_leaks(seen, [f"p{i}" for i in range(13)]).identities) == 9


@pytest.mark.slow
def test_what_a_run_reports_and_that_it_is_not_trained_again(unbroken, features, monkeypatch):
    document = json.loads((unbroken / "finetune.json").read_text())
    notes = document["notes"]
    assert len(notes["losses"]) == 6 and len(notes["classifier_cross_entropy"]) == 3
    assert [q["epoch"] for q in notes["quality"]] == [0, 1, 2, 3]
    entropy = [e for _, e in notes["losses"]]
    assert np.mean(entropy[-2:]) < 0.7 * entropy[0], entropy
    assert notes["classifier_cross_entropy"][-1] < notes["classifier_cross_entropy"][0]
    assert notes["quality"][-1]["separation"] > notes["quality"][0]["separation"]
    before, after = document["rows"]
    assert before["acc"] == notes["quality"][0]["acc"] and after["pairs"] == 24
    config = document["config"]
    assert (config["people"], config["faces_trained"], config["faces_held"]) == (9, 27, 12)
    assert not (unbroken / ".classifier").exists(), "embeddings of people are not for keeping"
    assert "held-out people, after" in (unbroken / "finetune.md").read_text()
    with pytest.raises(ValueError, match=r"other settings \(finetune\): give another --out"):
        run(unbroken, features=features / "set", learning_rate=0.1)
    monkeypatch.setattr(finetune, "train_step", None)  # would fail if it were called
    before = (unbroken / "card.json").read_bytes()
    run(unbroken, features=features / "set")
    assert (unbroken / "card.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("where, survived", [("bottleneck", 1), ("advance", 2), ("train_step", 3)])
def test_a_killed_run_resumes(where, survived, unbroken, features, tmp_path, monkeypatch):
    """Killed while the frozen network is run, in the classifier's epochs, in the steps."""
    of = finetune.ClassifierTraining if where == "advance" else finetune
    original = getattr(of, where)
    monkeypatch.setattr(recogniser, "EMBEDDED", 20)  # two batches
    monkeypatch.setattr(recogniser, "SAVE_SECONDS", -1)
    out = tmp_path / "offline"
    with monkeypatch.context() as patch:
        patch.setattr(of, where, mortal(original, survived))
        with pytest.raises(KeyboardInterrupt):
            run(out, features=features / "set")
    assert not (out / "card.json").exists()
    counted = []
    monkeypatch.setattr(of, where, lambda *a: (counted.append(1), original(*a))[1])
    run(out, features=features / "set")
    ours, theirs = (checkpoint.flatten(checkpoint.restore(o)[0]) for o in (out, unbroken))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    ours, theirs = (json.loads((o / "finetune.json").read_text())["notes"] for o in (out, unbroken))
    assert ours["losses"] == theirs["losses"]
    assert ours["classifier_cross_entropy"] == theirs["classifier_cross_entropy"]
    if where == "advance":
        assert len(counted) == 1, "the epochs before the kill were kept"
    if where == "train_step":
        assert len(counted) == 6 - survived


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    rng, files = np.random.default_rng(0), {}
    for person in range(8):
        base = rng.integers(0, 200, (8, 8, 3))
        for i in range(3):
            pixels = (base + rng.integers(0, 50, (8, 8, 3))).repeat(20, 0).repeat(20, 1)
            files[f"p{person}/{i}.png"] = encoded(Image.fromarray(pixels.astype(np.uint8)))
    return folder(tmp_path_factory.mktemp("faces"), files)


SMALLER = {"classifier_epochs": 0, "epochs": 1, "people": 2, "images": 2}


@pytest.mark.slow
@pytest.mark.parametrize("part", ["server", "all"])
def test_pictures_train_the_server_or_e_too(part, small, crops, tmp_path):
    tree, card = run(tmp_path / part, faces=str(crops), part=part, **SMALLER)
    arrays, before = checkpoint.flatten(tree), state.flatten(small_system().network)
    for name, old in before.items():
        kept = part == "server" and name.startswith("extractor.")
        assert np.array_equal(old, arrays[name]) == kept, name
    assert card.get("features_sha256") == ("00" if part == "server" else None), "E's decoders fit"


@pytest.mark.slow
def test_a_broken_picture_is_listed_and_has_no_part(small, crops, tmp_path, monkeypatch):
    monkeypatch.setattr(faces, "IN_MEMORY", 0)  # read from the disk as they are needed
    place = shutil.copytree(crops, tmp_path / "faces")
    broken = [f"p{i}/1.png" for i in range(8)]  # of those held out and of the others
    folder(place, dict.fromkeys(broken, b"broken"))
    run(tmp_path / "out", faces=str(place), **SMALLER | {"classifier_epochs": 1})
    document = json.loads((tmp_path / "out" / "finetune.json").read_text())
    assert document["notes"]["refused"].keys() == set(broken)
    assert document["rows"][0]["pairs"] < 24
    assert np.isfinite(document["notes"]["losses"]).all()


def test_bad_input_is_one_sentence(small, features, crops, tmp_path):
    def refused(match, **flags):
        with pytest.raises(ValueError, match=match):
            run(tmp_path / "out", **flags)

    given = features / "set"
    refused("written without labels, which a training needs", features=features / "unlabelled")
    refused("holds no set of features", features=tmp_path)
    refused("either --features FOLDER .* or --faces")
    refused("either --features FOLDER .* or --faces", features=given, faces=str(crops))
    refused("cannot be trained on them: give --part server", features=given, part="all")
    refused("choose pictures: leave them out", features=given, where=("a=b",))
    refused(r"12 faces of 4 people, 4 of .* --held-people 4; wanted", faces=str(crops), limit=12)
    refused("of 1 people", faces=str(crops), limit=1)
    refused("wanted 2 or more, else there is no triplet", features=given, people=1)
    refused("got learning_rate=0; wanted a positive", features=given, learning_rate=0)
    with pytest.raises(ValueError, match="holds features of random; these weights are x"):
        experiment.features_with_labels(system_of(None, "1", "x"), given)
    checkpoint.save(tmp_path / "else", {"a": np.ones(1)}, {})
    with pytest.raises(ValueError, match="checkpoint of something else: give another --out"):
        run(tmp_path / "else", features=given)
    assert not (tmp_path / "out").exists()


def test_the_rate_falls_by_the_factor_after_each_epoch():
    rate = finetune.rate(2.0, 0.94, 7)
    rates = [float(np.asarray(rate(step))) for step in (0, 6, 7, 13, 14)]
    assert rates == pytest.approx([2, 2, 2 * 0.94, 2 * 0.94, 2 * 0.94**2])


def tiny_step(mesh, z, labels, mask):
    """The losses of one step, and the weights after it."""
    learner = finetune.Learner(Tiny(rngs=nnx.Rngs(0)), 8, 2, 0)  # type: ignore[arg-type]
    tuner, now = finetune.start(learner, finetune.FinetuneConfig(), 1)
    now, given = sharding.replicate(now, mesh), sharding.split((z, labels, mask), mesh)
    now, told = finetune.train_step(now, *given, None, tuner)
    return [float(x) for x in told], jax.tree.leaves((now.params, now.statistics))


def test_features_of_a_stand_in_change_nothing():
    """Neither its loss counts, nor what it is in batch norm: the step is that of the others."""
    z = np.random.default_rng(0).random((6, *SHAPE), np.float32)
    labels, mask = np.array([0, 0, 1, 1, 0, 1]), np.array([1, 1, 1, 1, 0, 0], np.float32)
    ours, params = tiny_step(None, z, labels, mask)
    theirs, expected = tiny_step(None, z[:4], labels[:4], mask[:4])
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
    for a, b in zip(params, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


ACROSS = """
import jax, numpy as np
from advface_jax import sharding
from test_finetune import SHAPE, tiny_step

rng = np.random.default_rng(0)
given = rng.random((4, *SHAPE), np.float32), np.array([0, 1, 0, 1]), np.ones(4, np.float32)
mesh = sharding.across(4)
assert mesh is not None and len(mesh.devices) == 4
(one, params), (four, split) = (tiny_step(place, *given) for place in (None, mesh))
np.testing.assert_allclose(four, one, rtol=1e-4)
assert one[0] > 0, "people of the batch's ends make triplets"
for a, b in zip(split, params, strict=True):
    assert a.sharding.is_fully_replicated
    np.testing.assert_allclose(a, b, atol=1e-6)
"""


@pytest.mark.slow
def test_a_batch_across_devices_is_one_batch():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    here, env = Path(__file__).parent, {**os.environ, **flags}
    subprocess.run([sys.executable, "-c", ACROSS], check=True, cwd=here, env=env)


@pytest.mark.slow
def test_the_weights_left_are_read_by_load_with_their_decoders(tmp_path):
    shapes = state.shapes(lambda: facenet.InceptionResNetV1(rngs=nnx.Rngs(0)))
    card = {"source": "offline", "sha256": "11", "embedding_size": 512, "classes": None}
    card |= {"standardization": "fixed", "folded": False, "features_sha256": "00"}
    file = tmp_path / "transrec-shadow.safetensors"
    write_decoder(file, small_decoder(width=2), {"weights": "base", "weights_sha256": "00"})
    publish(tmp_path / "offline", {"earlier": np.ones(1)}, {})
    (tmp_path / "offline" / "notes.txt").touch()
    publish(tmp_path / "offline", {k: np.zeros(s, np.float32) for k, s in shapes.items()}, card)
    system = load(tmp_path / "offline", fold=False)
    assert system.read_decoder(file).config.width == 2, "E is that of the base"
    assert (tmp_path / "offline" / "notes.txt").exists(), "what else lies there stays"


def test_the_sum_knows_names_and_numbers():
    a = {"x": np.ones(2, np.float32), "y": np.zeros(2, np.float32)}
    assert weights_sum(a) == weights_sum(dict(reversed(a.items())))
    assert weights_sum(a) != weights_sum({"x": a["y"], "y": a["x"]})


@pytest.mark.slow
def test_the_compact_network_is_small_and_its_gradients_are_fast():
    server = compact.Compact(rngs=nnx.Rngs(0))
    count = sum(np.size(v) for k, v in state.flatten(server).items() if ".bn." not in k)
    assert 6e5 < count < 8e5
    learner = finetune.Learner(server, 128, 2, 0)
    tuner, now = finetune.start(learner, finetune.FinetuneConfig(learning_rate=3e-3), 1)
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 1, 1])
    z = rng.random((2, *SHAPE), np.float32)[labels] + rng.random((4, *SHAPE), np.float32)
    given = (z, labels, np.ones(4, np.float32), None, tuner)
    program = finetune.train_step.lower(now, *given).compile()
    text, costs = program.as_text() or "", program.cost_analysis() or {}
    assert text and "wrapped_convolution" not in text and "01oi" not in text
    cost = costs["flops"] / len(z) / 1e9
    assert cost < 0.45, f"{cost} GFLOP a face and step"
    values = []
    for _ in range(4):
        now, told = program(now, *given[:-1])
        values.append(float(sum(told)))
    assert values[-1] < 0.8 * values[0], values
    embedding = np.asarray(jax.jit(lambda s, z: s(z))(step.finished(tuner, now).server, z))
    assert embedding.shape == (4, 128)
    np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, rtol=1e-5)
    with pytest.raises(ValueError, match="features z"):
        server(jnp.zeros((1, 3, 3, 64)))
