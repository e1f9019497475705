"""Verification of a recogniser: on faces, on packs with their pairs, on shared features."""

import io
import json
import pickle
import zipfile

import flat
import jax.numpy as jnp
import numpy as np
import pytest
import set_files
from networks import pooled_system
from PIL import Image
from tables import given, small_sample, written

import advface_jax
from advface_jax import data
from advface_jax.commands import features
from experiments import verify
from experiments.measure import inputs

SYSTEM = pooled_system()


@pytest.fixture(autouse=True)
def loaded(monkeypatch):
    monkeypatch.setattr(advface_jax, "load", lambda weights: SYSTEM)


def measured(out, **flags):
    flat.call(verify.main, out=out, batch=3, **flags)
    document = json.loads((out / "verify.json").read_text())
    return document["rows"][0], document


def test_the_embedding_may_take_the_mirror_image(tmp_path):
    sample = small_sample(tmp_path)
    table = verify.table(SYSTEM, given(), sample, flip=True)
    (row,) = table.rows
    assert row["n"] == 8 and row["weights"] == "random" and 0.4 < row["acc"] <= 1
    assert table.settings["flip"]
    faces = given().faces
    plain, both = (verify._embeddings(SYSTEM, faces, 3, flip) for flip in (False, True))
    mirrored = (faces.images[:, :, ::-1] / 255).astype(np.float32)
    want = plain + SYSTEM.embed(mirrored)
    assert np.allclose(both, want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-5)
    assert not np.allclose(both, plain, atol=1e-3)


def test_verify_takes_the_pairs_that_the_faces_come_with(tmp_path):
    faces = data.read_faces("synthetic", names=data.synthetic_names(4, 2))
    encoded = []
    for i in (0, 1, 2, 3, 0, 2, 1, 3):  # two same pairs, two different; 112x112 as insightface's
        file = io.BytesIO()
        Image.fromarray(faces.images[i]).resize((112, 112)).save(file, "PNG")
        encoded.append(file.getvalue())
    pack = tmp_path / "small.bin"
    pack.write_bytes(pickle.dumps((encoded, [True, True, False, False])))
    carried = data.read_pairs(pack)
    rows = "".join(f"{i % 2 + 1}\t{p.same:d}\t{p.left}\t{p.right}\n" for i, p in enumerate(carried))
    (tmp_path / "pairs.tsv").write_text("fold\tsame\tfile1\tfile2\n" + rows)
    row, document = measured(tmp_path, faces=str(pack), pairs=tmp_path / "pairs.tsv")
    assert row["pairs"] == 4 and row["n"] == 8 and document["config"]["resized"]
    (crops, over, origin) = inputs.read("demo", str(pack), None, None, None, 0)
    assert (
        origin["pairs"] == "those of the faces" and over.same.tolist() == [True] * 2 + [False] * 2
    )
    assert crops.names[over.right[1]] == carried[1].right


def test_pairs_without_a_face_are_refused_or_counted(tmp_path, monkeypatch):
    place = tmp_path / "data"
    set_files.cfp_fp(place)
    with zipfile.ZipFile(place / "faces" / "cfp_fp.zip") as archive:
        archive.extractall(place / "faces" / "cfp_fp")
    (place / "faces" / "cfp_fp.zip").unlink()
    (place / "faces" / "cfp_fp" / "003" / "profile" / "01.jpg").unlink()  # of a same, a different
    monkeypatch.setenv("ADVFACE_DATA", str(place))
    flags = {"preset": "paper", "set": "cfp_fp"}
    with pytest.warns(UserWarning, match="not there"), pytest.raises(ValueError) as refused:
        measured(tmp_path, **flags)
    assert "'003/profile/01.jpg'" in str(refused.value) and "--missing drop" in str(refused.value)
    with pytest.warns(UserWarning) as said:
        row, document = measured(tmp_path, **flags, missing="drop")
    assert any("2 of 20 pairs are left out" in str(warning.message) for warning in said)
    assert row["pairs"] == 18 and row["n"] == 19 and row["acc"] > 0
    assert document["config"]["pairs_left_out"] == 2
    assert "2 pairs of the list are left out" in (tmp_path / "verify.md").read_text()


@pytest.mark.slow
def test_shared_features_verify_as_those_in_memory(tmp_path):
    """Written in batches of three and read back, they are recognised as what protect returns."""
    out, pairs = tmp_path / "features", tmp_path / "pairs.tsv"
    shadow_file = written(tmp_path, "transrec", "shadow")
    features.main(
        "synthetic",
        out,
        shadow=shadow_file,
        steps=2,
        batch=3,
        shard_size=3,
        limit=8,
        names=True,
        dtype="f32",
    )
    crops = data.read_faces("synthetic", limit=8)
    names = data.open_features(out).names
    assert names == crops.names
    rows = [(1, 1, 0, 1), (1, 0, 0, 4), (2, 1, 5, 6), (2, 0, 1, 5)]
    text = "".join(f"{f}\t{s}\t{names[a]}\t{names[b]}\n" for f, s, a, b in rows)
    pairs.write_text("fold\tsame\tfile1\tfile2\n" + text)
    row, _ = measured(tmp_path, faces=str(out), pairs=pairs)
    assert row["epsilon"] == 0.2 and row["method"] == "AdvFace" and row["pairs"] == 4
    z = SYSTEM.extractor(jnp.asarray(crops.images[:3] / 255, jnp.float32))
    shadow = SYSTEM.read_decoder(shadow_file)
    config = advface_jax.ProtectConfig(steps=2)
    z_adv = advface_jax.protect(z, extractor=SYSTEM.extractor, shadow=shadow, config=config)
    read = verify._embeddings(SYSTEM, data.open_features(out), 3, False)[:3]
    assert np.allclose(read, SYSTEM.server(z_adv), atol=1e-3)
    with pytest.raises(ValueError, match="cannot be mirrored"):
        measured(tmp_path, faces=str(out), pairs=pairs, flip=True)
    card = json.loads((out / "card.json").read_text())
    del card["weights_sha256"]
    (out / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="lacks weights_sha256"):
        measured(tmp_path, faces=str(out), pairs=pairs)


def test_train_test_overlap_is_refused_when_asked(tmp_path):
    (who, *_) = given().faces.identities
    listing = tmp_path / "people.tsv"
    listing.write_text(f"file\tidentity\n1.jpg\t{who}\n")
    sample = small_sample(tmp_path, on_leak="refuse")
    with pytest.raises(ValueError, match="the training of the recogniser"):
        verify.table(SYSTEM, given(), sample, trained_on=listing)
