"""Table 2 end to end: made AgeDB-30 and faces of nobody, a small recogniser, a small S."""

import json

import flat
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import set_files
from flax import nnx
from networks import Pooled, filled

import advface_jax
from advface_jax.models import decoders
from advface_jax.models.duetface import DuetFace, DuetFaceConfig
from advface_jax.system import System, write_decoder
from advface_jax.training.duetface import write_duetface
from experiments import accuracy
from experiments.measure import inputs, judging, paper


class Coarser(Pooled):
    """The same E; a Ψ of another length, blind to where things stand."""

    def server(self, z: jax.Array) -> jax.Array:
        pooled = z.mean((1, 2))
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)


Coarser.config = Pooled.config.__class__(embedding_size=64)


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """The flags of a quick run, and the folders of two retrained recognisers."""

    def system(network, sha):
        return System(network, {"source": sha, "sha256": sha})  # type: ignore[arg-type]

    known = {
        "facenet-512-q8": system(filled(lambda: Pooled(rngs=nnx.Rngs(0))), "00"),
        "offline": system(filled(lambda: Coarser(rngs=nnx.Rngs(0))), "01"),
        "foreign": system(filled(lambda: Coarser(rngs=nnx.Rngs(0)), 6), "02"),
    }
    monkeypatch.setattr(advface_jax, "load", lambda place: known[getattr(place, "name", place)])
    monkeypatch.setattr(inputs, "DEMO_PEOPLE", 4)
    monkeypatch.setattr(inputs, "DEMO_PICTURES", 2)
    config = decoders.DecoderConfig("resrec", width=4, depth=0)
    decoder = filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), 1)
    card = {"weights": "00", "weights_sha256": "00"}
    write_decoder(tmp_path / "resrec-shadow.safetensors", decoder, card)
    return {
        "out": tmp_path / "out",
        "shadow": str(tmp_path / "resrec-shadow.safetensors"),
        "steps": 1,
        "batch": 8,
    }


def measured(flags, **others):
    flat.call(accuracy.main, **flags | others)
    document = json.loads((flags["out"] / "accuracy.json").read_text())
    return document["rows"], document, (flags["out"] / "accuracy.md").read_text()


def test_agedb_30_in_its_own_files_stands_beside_the_paper_s_agedb_30(flags, monkeypatch, tmp_path):
    set_files.agedb_30(tmp_path / "data")
    monkeypatch.setenv("ADVFACE_DATA", str(tmp_path / "data"))
    card = {"weights": "00", "weights_sha256": "00", "training": "none at all", "steps": 0}
    model = DuetFace(DuetFaceConfig(width=4, depth=0), rngs=nnx.Rngs(0))
    card |= {"command": "python", "date": "2026-01-01"}
    write_duetface(tmp_path / "duetface" / "duetface.safetensors", model, card)
    trained = {"offline": tmp_path / "offline", "duetface": tmp_path / "duetface"}
    real = accuracy.ProtectConfig  # one step, as if that were the paper's: forty take long
    monkeypatch.setattr(accuracy, "ProtectConfig", lambda *a, **k: real(*a, **k) if a else real(1))
    rows, document, text = measured(flags, preset="paper", set="agedb_30", **trained)
    names = [(r["method"], r.get("enrolled_only", False)) for r in rows]
    assert names == [
        ("Unprotected", False),
        ("Random (ball)", False),
        ("Random (walk)", False),
        ("Laplace", False),
        ("DuetFace", False),
        ("AdvFace", False),
        ("AdvFace", True),
        ("AdvFace (offline)", False),
        ("Unprotected" + accuracy.BY_OFFLINE, False),
    ]
    assert all(r["set"] == "agedb_30" for r in rows)
    by = {r["method"]: r for r in rows if not r.get("enrolled_only")}
    assert by["DuetFace"]["epsilon"] is None and "cosine_to_unprotected" not in by["DuetFace"]
    for r in rows:
        assert r["pairs"] == 20 and r["n"] == 20 and r["ssim"] is None
        assert r["drop"] == pytest.approx(rows[0]["acc"] - r["acc"])
        low, high = r["drop_ci"]
        assert low <= r["drop"] <= high
    assert by["Unprotected"]["drop"] == 0 == by["Unprotected"]["drop_ci"][1]
    assert by["AdvFace (offline)"]["threshold"] != by["AdvFace"]["threshold"], "another Ψ"
    beside = document["notes"]["paper"]
    assert beside["Unprotected"] == paper.of("Unprotected", "agedb_30")["acc"] == 0.8757
    assert beside["AdvFace online"] == 0.8510 and beside["AdvFace offline"] == 0.8635
    assert "| 85.10 | 2.47 |" in text and "86.35 | 1.22 |" in text
    assert "; DuetFace none at all." in text and beside["DuetFace"] == 0.8710
    assert document["config"]["offline"] == {"source": "01", "sha256": "01"}


def test_what_is_lost_is_counted_on_the_same_pairs(flags, monkeypatch):
    rng = np.random.default_rng(0)
    kept: list[judging.Measured] = []
    real = accuracy.table.measure

    def spoilt(faces, subject, **how):
        """What AdvFace stores, and only that, is recognised by chance."""
        found = real(faces, subject, **how)
        stored = found.judged.stored.copy()
        stored[-1] = rng.normal(size=stored[-1].shape)
        stored[-1] /= np.linalg.norm(stored[-1], axis=-1, keepdims=True)
        kept.append(found._replace(judged=found.judged._replace(stored=stored)))
        return kept[-1]

    monkeypatch.setattr(accuracy.reconstruction, "measure", spoilt)
    rows, document, text = measured(flags)
    both, only = [r for r in rows if r["method"] == "AdvFace"]
    assert only["enrolled_only"] and "only the enrolled image protected" in text
    assert rows[0]["acc"] > both["acc"] and both["drop"] > 0
    assert both["acc"] != only["acc"] or both["threshold"] != only["threshold"]
    assert rows[-1]["method"] == "AdvFace (offline)"
    assert "not measured: give --offline FOLDER" in text
    (duetface,) = [r for r in rows if r["method"] == "DuetFace"]
    assert duetface["acc"] is None and "--duetface FOLDER" in duetface["not_measured"]
    assert not document["notes"]["paper"] and rows[0]["set"] is None
    assert not list(flags["out"].glob(".batches*")), "embeddings of faces are not left behind"


def test_another_e_is_no_offline_mode(flags, tmp_path):
    with pytest.raises(ValueError, match="holds a network with another E than 00"):
        flat.call(accuracy.main, **flags, offline=tmp_path / "foreign")
