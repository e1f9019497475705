"""The experiments end to end: a few synthetic faces, a small recogniser, small decoders."""

import io
import json
import pickle

import flat
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import Pooled, filled
from PIL import Image

import advface_jax
from advface_jax import data
from advface_jax.commands import features
from advface_jax.data import leaks
from advface_jax.models import decoders
from advface_jax.system import System, write_decoder
from experiments import tradeoff, verify
from experiments.measure import inputs, judging, paper

FIELDS = {"method", "epsilon", "ssim", "psnr", "mse", "acc", "srra", "n"}


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """The flags of a quick run: two folds of two people, two bounds, two steps."""
    network = filled(lambda: Pooled(rngs=nnx.Rngs(0)))
    system = System(network, {"source": "random", "sha256": "00"})  # type: ignore[arg-type]
    monkeypatch.setattr(advface_jax, "load", lambda weights: system)
    monkeypatch.setattr(inputs, "DEMO_PEOPLE", 4)
    monkeypatch.setattr(inputs, "DEMO_PICTURES", 2)
    config = decoders.DecoderConfig("transrec", width=4, depth=0)
    for role, seed in (("shadow", 1), ("attacker", 2)):
        decoder = filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), seed)
        card = {"weights": "random", "weights_sha256": "00"}
        write_decoder(tmp_path / f"transrec-{role}.safetensors", decoder, card)
    return {
        "out": tmp_path / "out",
        "shadow": str(tmp_path / "transrec-shadow.safetensors"),
        "attacker": str(tmp_path / "transrec-attacker.safetensors"),
        "epsilons": (0.0, 0.2),
        "steps": 2,
        "batch": 3,  # of 8 faces: the last batch is padded
    }


def test_tradeoff_leaves_a_table_and_pictures(flags):
    flat.call(tradeoff.main, **flags)
    document = json.loads((flags["out"] / "tradeoff.json").read_text())
    rows = document["rows"]
    assert [(r["method"], r["epsilon"]) for r in rows] == [
        ("Unprotected", None),
        ("AdvFace", 0.0),
        ("AdvFace", 0.2),
        ("Mean face (floor)", None),
    ]
    assert all(r.keys() >= FIELDS and r["n"] == 8 for r in rows)
    bare, still, moved, floor = rows
    assert bare["cosine_to_unprotected"] == pytest.approx(1, abs=1e-5)
    assert moved["mse"] != still["mse"] and 0 <= bare["acc"] <= 1 and floor["acc"] is None
    assert document["config"]["seed"] == 0 and document["config"]["weights"] == "random"
    assert {"command", "date", "hardware", "versions", "seconds"} <= document.keys()
    text = (flags["out"] / "tradeoff.md").read_text()
    assert f"{bare['ssim']:.3f}" in text and "Mean face" in text and "in the paper" not in text
    for name in ("tradeoff.png", "reconstructions.png"):
        with Image.open(flags["out"] / name) as picture:
            assert min(picture.size) > 100
            assert np.asarray(picture.convert("L")).std() > 5, "an empty picture"


def test_padding_and_batches_change_no_unprotected_number(flags):
    flat.call(tradeoff.main, **flags)
    whole = flags | {"out": flags["out"].with_name("whole"), "batch": 8}
    flat.call(tradeoff.main, **whole)
    first, second = (
        json.loads((f["out"] / "tradeoff.json").read_text())["rows"][0] for f in (flags, whole)
    )
    for key in ("ssim", "psnr", "mse", "acc", "srra"):
        assert first[key] == pytest.approx(second[key], rel=1e-4)


def test_a_stopped_tradeoff_takes_up_where_it_was(flags, monkeypatch):
    real, batches = judging.judge_batch, []

    def counted(*arguments):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(judging, "judge_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        flat.call(tradeoff.main, **flags)
    monkeypatch.setattr(judging, "judge_batch", lambda *a: batches.append(a) or real(*a))
    other = flags["out"] / ".batches" / "another" / "000000.npz"  # of a run that was stopped, too
    other.parent.mkdir()
    other.touch()
    flat.call(tradeoff.main, **flags)
    assert len(batches) == 3, "8 faces in batches of 3: each batch once, none twice"
    rows = json.loads((flags["out"] / "tradeoff.json").read_text())["rows"]
    left = list((flags["out"] / ".batches").rglob("*.npz"))
    assert left == [other], "embeddings of faces are not left behind, but those of stopped runs"
    fresh = flags | {"out": flags["out"].with_name("fresh")}
    flat.call(tradeoff.main, **fresh)
    assert rows == json.loads((fresh["out"] / "tradeoff.json").read_text())["rows"]


def test_a_damaged_batch_is_measured_again(flags, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(tradeoff, "discard", lambda *folders: None)
        flat.call(tradeoff.main, **flags)
    rows = json.loads((flags["out"] / "tradeoff.json").read_text())["rows"]
    files = list((flags["out"] / ".batches").rglob("*.npz"))
    assert len(files) == 3
    for file in files:
        file.write_bytes(file.read_bytes()[:1000])
    flat.call(tradeoff.main, **flags)
    assert rows == json.loads((flags["out"] / "tradeoff.json").read_text())["rows"]


def test_the_paper_preset_says_what_it_wants(flags, monkeypatch):
    monkeypatch.delenv("ADVFACE_DATA", raising=False)
    with pytest.raises(ValueError, match="give --faces .* and --pairs .*ADVFACE_DATA"):
        flat.call(tradeoff.main, **flags, preset="paper")
    with pytest.raises(ValueError, match="no decoder at .*nowhere"):
        flat.call(tradeoff.main, **flags | {"shadow": "nowhere.safetensors"})


def test_another_decoder_of_the_same_name_is_measured_anew(flags, monkeypatch, tmp_path):
    monkeypatch.setattr(tradeoff, "discard", lambda *folders: None)
    flat.call(tradeoff.main, **flags)
    first = json.loads((flags["out"] / "tradeoff.json").read_text())["rows"][0]
    other = tmp_path / "other" / "transrec-attacker.safetensors"
    config = decoders.DecoderConfig("transrec", width=4, depth=0)
    decoder = filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), 9)
    write_decoder(other, decoder, {"weights": "random", "weights_sha256": "00"})
    flat.call(tradeoff.main, **flags | {"attacker": str(other)})
    second = json.loads((flags["out"] / "tradeoff.json").read_text())["rows"][0]
    assert first["psnr"] != second["psnr"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilons": (-0.1,)}, "got epsilon=-0.1"),
        ({"epsilons": ()}, "got epsilons of shape"),
        ({"batch": 0}, "got batch=0"),
        ({"steps": 0}, "got steps=0"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, wrong, message):
    with pytest.raises(ValueError, match=message):
        flat.call(tradeoff.main, **flags | wrong)


def test_limit_limits_the_faces_too(flags):
    flat.call(tradeoff.main, **flags | {"limit": 4})
    row = json.loads((flags["out"] / "tradeoff.json").read_text())["rows"][0]
    assert row["pairs"] == 4 and row["n"] < 8


def test_the_paper_stands_beside_our_rows():
    assert paper.beside("AdvFace", 0.2, "resrec", "resrec")["psnr"] == 6.97
    assert paper.beside("AdvFace", 0.2, "urec", "transrec") == {
        "acc": 0.9642,
        "ssim": 0.24,
        "psnr": 6.73,
    }
    assert paper.beside("Unprotected", None, "urec", "resrec")["srra"] == 0.974
    assert not paper.beside("AdvFace", 0.1, "resrec", "resrec")
    assert not paper.beside("Mean face (floor)", None, "resrec", "resrec")


def test_verify_measures_the_recogniser(flags):
    flat.call(verify.main, out=flags["out"], batch=3)
    (row,) = json.loads((flags["out"] / "verify.json").read_text())["rows"]
    assert row["n"] == 8 and row["weights"] == "random"
    flat.call(tradeoff.main, **flags)
    bare = json.loads((flags["out"] / "tradeoff.json").read_text())["rows"][0]
    assert row["acc"] == pytest.approx(bare["acc"])


def measured(out):
    document = json.loads((out / "verify.json").read_text())
    return document["rows"][0], document


def test_verify_takes_the_pairs_that_the_faces_come_with(flags, tmp_path):
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
    flat.call(verify.main, out=flags["out"], faces=str(pack), pairs=tmp_path / "pairs.tsv")
    row, document = measured(flags["out"])
    assert row["pairs"] == 4 and row["n"] == 8 and document["config"]["resized"]
    (crops, over, origin) = inputs.read("demo", str(pack), None, None, None, 0)
    assert (
        origin["pairs"] == "those of the faces" and over.same.tolist() == [True] * 2 + [False] * 2
    )
    assert crops.names[over.right[1]] == carried[1].right


def test_the_mirror_image_joins_the_embedding(flags):
    flat.call(verify.main, out=flags["out"], flip=True)
    row, document = measured(flags["out"])
    assert document["config"]["flip"] and row["n"] == 8
    faces = data.read_faces("synthetic", names=data.synthetic_names(4, 2))
    system = advface_jax.load("random")
    plain, both = (verify._embeddings(system, faces, 3, flip) for flip in (False, True))
    mirrored = (faces.images[:, :, ::-1] / 255).astype(np.float32)
    want = plain + system.embed(mirrored)
    assert np.allclose(both, want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-5)
    assert not np.allclose(both, plain, atol=1e-3)


def test_shared_features_verify_as_those_in_memory(flags, tmp_path):
    """Written in batches of three and read back, they are recognised as what protect returns."""
    out, pairs = tmp_path / "features", tmp_path / "pairs.tsv"
    features.main(
        "synthetic",
        out,
        shadow=flags["shadow"],
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
    flat.call(verify.main, out=flags["out"], faces=str(out), pairs=pairs, batch=3)
    row, _ = measured(flags["out"])
    assert row["epsilon"] == 0.2 and row["method"] == "AdvFace" and row["pairs"] == 4
    system = advface_jax.load("random")
    z = system.extractor(jnp.asarray(crops.images[:3] / 255, jnp.float32))
    shadow = system.read_decoder(flags["shadow"])
    config = advface_jax.ProtectConfig(steps=2)
    z_adv = advface_jax.protect(z, extractor=system.extractor, shadow=shadow, config=config)
    read = verify._embeddings(system, data.open_features(out), 3, False)[:3]
    assert np.allclose(read, system.server(z_adv), atol=1e-3)
    with pytest.raises(ValueError, match="cannot be mirrored"):
        flat.call(verify.main, out=flags["out"], faces=str(out), pairs=pairs, flip=True)
    card = json.loads((out / "card.json").read_text())
    del card["weights_sha256"]
    (out / "card.json").write_text(json.dumps(card))
    with pytest.raises(ValueError, match="lacks weights_sha256"):
        flat.call(verify.main, out=flags["out"], faces=str(out), pairs=pairs)


def test_people_seen_in_training_are_counted_or_refused(flags, tmp_path):
    (who, *_) = data.read_faces("synthetic", limit=1).identities
    leaks.write_identities(tmp_path / "transrec-attacker.identities", [who.upper(), "else"])
    with pytest.warns(
        UserWarning, match="the training of attacker .*1 of the evaluation's 4 people"
    ):
        flat.call(tradeoff.main, **flags)
    notes = json.loads((flags["out"] / "tradeoff.json").read_text())["notes"]
    assert notes["seen_in_training"]["shadow"] is None
    assert notes["seen_in_training"]["attacker"]["shared_identities"] == 1
    with pytest.raises(ValueError, match="1 of the evaluation's 4 people were seen in training"):
        flat.call(tradeoff.main, **flags, on_leak="refuse")
    listing = tmp_path / "people.tsv"
    listing.write_text(f"file\tidentity\n1.jpg\t{who}\n")
    with pytest.raises(ValueError, match="the training of the recogniser"):
        flat.call(verify.main, out=flags["out"], trained_on=listing, on_leak="refuse")
