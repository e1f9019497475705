"""A recogniser from packaged features: packaged, trained and measured on synthetic faces."""

import json
import shutil

import face_files
import numpy as np
import pytest
from face_files import encoded
from flat import promotion  # noqa: F401
from networks import Tiny, small_decoder, small_system
from PIL import Image

import advface_jax
from advface_jax import data
from advface_jax.commands import features
from advface_jax.system import write_decoder
from experiments import reuse
from experiments.measure import inputs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The flags of a quick run over a set that the features command packaged."""
    folder = tmp_path_factory.mktemp("reuse")
    system = small_system()
    shadow = folder / "transrec-shadow.safetensors"
    write_decoder(shadow, small_decoder(), {"weights": "random", "weights_sha256": "00"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advface_jax, "load", lambda weights: system)
        patch.setattr(reuse, "Compact", Tiny)
        patch.setattr(inputs, "DEMO_PEOPLE", 4)
        patch.setattr(inputs, "DEMO_PICTURES", 2)
        faces = data.read_faces("synthetic")
        seven = np.argsort(faces.names)[-28:]  # seven people that demo does not measure
        files = {faces.names[i]: encoded(Image.fromarray(faces.images[i])) for i in seven}
        pictures = str(face_files.folder(folder / "faces", files))
        common = {"shadow": str(shadow), "batch": 8, "workers": 0}
        given = {"steps": 1, "labels": "original", "seed": 0, "shard_size": 32}
        features.main(pictures, folder / "set", **common, **given)  # type: ignore[arg-type]
        flags = {"epochs": 2, "people": 4, "images": 2, "held_people": 4, "faces": pictures}
        yield {"out": folder / "out", "features": folder / "set", **common, **flags}


@pytest.mark.slow
@pytest.mark.long
def test_both_networks_are_measured_on_both_kinds_of_features(place, monkeypatch):
    reuse.main(**place)
    document = json.loads((place["out"] / "reuse.json").read_text())
    rows = document["rows"]
    assert [(r["trained_on"], r["measured_on"]) for r in rows] == [
        (trained, measured)
        for trained in ("protected", "raw", "facenet")
        for measured in ("raw", "protected")
    ]
    assert all(0 <= r["acc"] <= 1 and r["n"] == 8 and r["pairs"] for r in rows)
    assert [r["epsilon"] for r in rows] == [None, 0.2] * 3
    assert document["config"]["steps"] == 1, "protected as the set was"
    trainings = document["notes"]["trainings"]
    ours, raw = trainings["protected"], trainings["raw"]
    assert all(ours[k] == raw[k] for k in ("faces", "people", "steps"))
    losses = [training["losses_of_every_tenth_step"] for training in (ours, raw)]
    assert losses[0] != losses[1] and len(losses[0]) == -(-ours["steps"] // 10)
    assert [q["epoch"] for q in ours["held_out"]] == [0, 2]
    text = (place["out"] / "reuse.md").read_text()
    assert "far too little" in text and text.count("FaceNet's Ψ") == 1
    assert not list(place["out"].glob(".batches*")), "embeddings are not for keeping"

    # Again: nothing is trained, and the numbers are the same.
    monkeypatch.setattr(reuse.finetune, "train_step", None)
    reuse.main(**place)
    again = json.loads((place["out"] / "reuse.json").read_text())["rows"]
    assert [r["acc"] for r in again] == [r["acc"] for r in rows]


@pytest.mark.slow
@pytest.mark.long  # after the one that trains
def test_a_training_on_features_protected_otherwise_is_not_taken_up(place, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(place["features"], other)
    card = json.loads((other / "card.json").read_text())
    (other / "card.json").write_text(json.dumps(card | {"epsilon": 0.3}))
    with pytest.raises(ValueError, match=r"other settings \(protection\)"):
        reuse.main(**place | {"features": other})
    (other / "card.json").write_text(json.dumps(card | {"labels": "pseudonyms"}))
    with pytest.raises(ValueError, match="written with labels 'pseudonyms'; wanted 'original'"):
        reuse.main(**place | {"features": other})


@pytest.mark.slow
def test_people_of_the_training_among_the_measured_are_refused(place, tmp_path):
    flags = place | {"out": tmp_path / "out", "measured": place["faces"], "epochs": 1}
    with pytest.raises(ValueError, match="7 people were seen in training"):
        reuse.main(**flags, on_leak="refuse")


@pytest.mark.slow
def test_other_faces_or_another_s_are_refused(place, tmp_path):
    def refused(match, **flags):
        with pytest.raises(ValueError, match=match):
            reuse.main(**place | {"out": tmp_path / "out"} | flags)

    file = tmp_path / "other-shadow.safetensors"
    write_decoder(file, small_decoder(width=2), {"weights": "random", "weights_sha256": "00"})
    refused("protected with another S", shadow=str(file))
    faces = face_files.folder(tmp_path / "faces", {"somebody/1.png": face_files.picture()})
    refused("wanted the same faces", faces=str(faces))
    refused("holds no set of features", features=tmp_path)
    assert not (tmp_path / "out").exists()
