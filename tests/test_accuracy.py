"""Table 2: recognition by defence, with another Ψ and with DuetFace's networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import Pooled, filled, pooled_system, system_of
from tables import given, small_sample, written
from test_channels import write_networks

from advface_jax.models import facenet
from experiments import accuracy
from experiments.measure import judging, paper
from experiments.measure.sample import Ascent
from experiments.measure.table import publish


class Blind(nnx.Module):
    """A Ψ that does not see where things are."""

    def __call__(self, z: jax.Array) -> jax.Array:
        pooled = z.mean((1, 2))
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)


class Coarser(Pooled):
    """The same E, another Ψ, of another length."""

    config = facenet.FaceNetConfig(embedding_size=64)

    def __init__(self, *, rngs: nnx.Rngs):
        super().__init__(rngs=rngs)
        self.server = Blind()


SYSTEM = pooled_system()


def retrained(seed=5):
    return system_of(filled(lambda: Coarser(rngs=nnx.Rngs(0)), seed), "01", "offline")


@pytest.fixture(scope="module")
def shadow(tmp_path_factory):
    return written(tmp_path_factory.mktemp("decoders"), "resrec", "shadow")


@pytest.mark.slow
def test_every_way_to_recognise_has_its_row_beside_the_paper_s(shadow, tmp_path):
    write_networks(tmp_path)
    published = small_sample(tmp_path / "out", preset="paper", set="agedb_30", batch=8)
    table = accuracy.table(
        SYSTEM,
        given("agedb_30"),
        published,
        Ascent(),  # the paper's 40 steps, so that its numbers stand beside ours
        retrained(),
        duetface=tmp_path,
        shadow=shadow,
    )
    names = [(r["method"], r.get("enrolled_only", False)) for r in table.rows]
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
    by = {r["method"]: r for r in table.rows if not r.get("enrolled_only")}
    assert by["DuetFace"]["epsilon"] is None and "cosine_to_unprotected" not in by["DuetFace"]
    for r in table.rows:
        assert r["set"] == "agedb_30" and r["n"] == 8 and r["ssim"] is None
        assert r["drop"] == pytest.approx(table.rows[0]["acc"] - r["acc"])
        low, high = r["drop_ci"]
        assert low <= r["drop"] <= high
    assert by["Unprotected"]["drop"] == 0 == by["Unprotected"]["drop_ci"][1]
    assert by["AdvFace (offline)"]["threshold"] != by["AdvFace"]["threshold"], "another Ψ"
    beside = table.notes["paper"]
    assert beside["Unprotected"] == paper.of("Unprotected", "agedb_30")["acc"] == 0.8757
    assert beside["AdvFace online"] == 0.8510 and beside["AdvFace offline"] == 0.8635
    assert beside["DuetFace"] == 0.8710
    lines = {line[0]: list(line[-2:]) for line in table.lines}
    assert lines["AdvFace online"] == ["85.10", "2.47"]
    assert lines["AdvFace offline"] == ["86.35", "1.22"]
    assert "; DuetFace none at all." in table.remarks[-1]
    assert table.settings["offline"] == {"source": "offline", "sha256": "01"}


def test_what_is_lost_is_counted_on_the_same_pairs(shadow, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    real = judging.measure

    def spoilt(faces, subject, **how):
        """What AdvFace stores, and only that, is recognised by chance."""
        found = real(faces, subject, **how)
        stored = found.judged.stored.copy()
        stored[-1] = rng.normal(size=stored[-1].shape)
        stored[-1] /= np.linalg.norm(stored[-1], axis=-1, keepdims=True)
        return found._replace(judged=found.judged._replace(stored=stored))

    monkeypatch.setattr(judging, "measure", spoilt)
    sample, ascent = small_sample(tmp_path, batch=8), Ascent(steps=1)
    table = accuracy.table(SYSTEM, given(), sample, ascent, shadow=shadow)
    both, only = [r for r in table.rows if r["method"] == "AdvFace"]
    assert only["enrolled_only"] and table.rows[0]["acc"] > both["acc"] and both["drop"] > 0
    assert both["acc"] != only["acc"] or both["threshold"] != only["threshold"]
    publish(table, tmp_path)
    text = (tmp_path / "accuracy.md").read_text()
    assert "only the enrolled image protected" in text
    assert table.rows[-1]["method"] == "AdvFace (offline)"
    assert "not measured: give --offline FOLDER" in text
    (duetface,) = [r for r in table.rows if r["method"] == "DuetFace"]
    assert duetface["acc"] is None and "--duetface FOLDER" in duetface["not_measured"]
    assert not table.notes["paper"] and table.rows[0]["set"] is None
    assert not list(tmp_path.glob(".batches*")), "embeddings of faces are not left behind"


def test_another_e_is_no_offline_mode(shadow, tmp_path):
    with pytest.raises(ValueError, match="offline holds a network with another E than random"):
        accuracy.table(
            SYSTEM, given(), small_sample(tmp_path), Ascent(), retrained(6), shadow=shadow
        )
