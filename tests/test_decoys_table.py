"""The sweep of decoys: its cases, and what its readers read."""

import dataclasses
import functools
import json

import numpy as np
import pytest
from networks import Pool, small_decoder, small_extractor
from tables import given, is_picture, small_sample

import advface_jax
from advface_jax import System, data
from experiments import decoys, worst_case
from experiments.attack.public_faces import PublicFaces
from experiments.decoy import cases as decoy_cases
from experiments.decoy import competitors
from experiments.decoy import readings as decoy_readings
from experiments.decoy import rows as decoy_rows
from experiments.decoy.cases import Case
from experiments.decoy.rows import _replays, row, tar, unit
from experiments.measure import decoyed
from experiments.measure.sample import Ascent, Sample
from experiments.measure.table import publish

BASE = Case(0.2, 1.0, 2, 1, 2)


def system(name: str) -> System:
    return System.of(
        extractor=small_extractor(),
        server=Pool(),
        shadow=small_decoder(),
        attacker=small_decoder(seed=2),
        name=name,
    )


def test_the_base_its_key_and_then_one_change_at_a_time():
    axes = {
        "epsilon": (0.2, 0.1),
        "weight": (1.0,),
        "steps": (2,),
        "shadows": (1, 0),
        "parts": (2,),
    }
    found = decoy_cases.one_at_a_time(True, **axes)
    changes = (BASE, {"key": True}), (BASE, {"epsilon": 0.1}), (BASE, {"shadows": 0})
    assert found == [BASE, *(one._replace(**change) for one, change in changes)]
    assert decoy_cases.one_at_a_time(False, **axes) == [one for one in found if not one.key]
    assert len({one.label for one in found}) == 4
    changed = BASE.changed("epsilon=0.3, steps=48, key=1,evenness=0.25")
    assert changed == BASE._replace(epsilon=0.3, steps=48, key=True, evenness=0.25)
    assert "evenness 0.25" in changed.label and "48 steps" in changed.label
    for wrong in ("stepz=3", "steps", "steps=2.5", "key=2", "label=1"):
        with pytest.raises(ValueError, match="wanted NAME=NUMBER"):
            BASE.changed(wrong)


def test_noise_leaves_a_bias_and_moves_a_kernel():
    tree = {"kernel": np.arange(6, dtype="f4").reshape(2, 3), "bias": np.ones(3, "f4")}
    moved = decoy_cases.noisy(tree, 0.1, np.random.default_rng(0))
    np.testing.assert_array_equal(moved["bias"], tree["bias"])
    assert 0 < np.abs(moved["kernel"] - tree["kernel"]).max() < 1


def test_tars_have_intervals_by_person():
    rng = np.random.default_rng(0)
    people = [f"{i // 2}" for i in range(80)]
    centres = rng.normal(size=(40, 8)).repeat(2, 0)
    faces, noise = (unit(centres + s * rng.normal(size=(80, 8))) for s in (0.3, 9.0))
    read = {"recogniser": faces, "sibling": noise, "replayed": noise}
    found = decoy_readings.Measured(read, np.ones(80), {"ssim": np.ones(80)}, faces, None)
    drawn = data.Faces(
        tuple(map(str, range(80))), tuple(people), np.zeros((80, 160, 160, 3), np.uint8)
    )
    over = data.make_pairs(drawn, folds=2)
    line = row(
        "Decoy", None, 0.3, found, {"recogniser": faces, "sibling": faces}, people, over, 0.95
    )
    for name in ("tar", "tar_sibling"):
        low, high = line[f"{name}_ci"]
        assert 0 <= low <= line[name] <= high <= 1 and low < high
    assert line["tar"] > 0.5 > line["tar_sibling"]


def test_readings_are_judged_over_the_first_faces(monkeypatch):
    """As the table says: 1,500 of them, whichever row it is."""
    rng = np.random.default_rng(0)
    seen = unit(np.repeat(rng.normal(size=(40, 8)), 2, 0))
    seen[40:] = unit(rng.normal(size=(40, 8)))
    people = [f"{i // 2}" for i in range(80)]
    every = tar(seen, seen, people)
    assert every is not None and 0.4 < every < 0.8
    monkeypatch.setattr(decoy_rows, "JUDGED", 40)
    assert tar(seen, seen, people) == 1


@pytest.mark.slow
@pytest.mark.long
def test_everyone_reads_every_case(tmp_path, monkeypatch):
    monkeypatch.setattr(decoy_cases, "STITCHED", 3)
    monkeypatch.setattr(decoy_readings, "FOREIGN", 2)
    monkeypatch.setattr(decoyed, "DRAWN", 4)
    cases = [BASE, BASE._replace(key=True), BASE._replace(shadows=0, epsilon=0.0)]
    others = [system("other"), system("further")]
    public = PublicFaces("synthetic", public_faces=9)
    run = functools.partial(decoys.table, system("own"), others, given(), public)
    monkeypatch.setattr(competitors, "STEPS", 2)
    monkeypatch.setattr(competitors, "RANK", 3)
    table = run(small_sample(tmp_path), cases, beside=True, tuned=True)
    assert table.notes["left_out, too few items of one person"] == ["Ψ tuned"]
    bare, advface, base, key, still, minmax, ensemble, rank, noisy, start, floor = table.rows
    names = [r["method"] for r in table.rows]
    ours = ["Unprotected", "AdvFace", "Decoy", "Decoy with a key", "Decoy"]
    assert names[:5] == ours and names[-1] == "Mean face"
    assert minmax["cosine"] < 1 and ensemble["cosine"] != minmax["cosine"]
    assert rank["cosine"] > noisy["cosine"] and "tar_known" in start and start["parts"] == 1
    assert all(r["n"] == 8 for r in table.rows)
    assert abs(bare["cosine"] - 1) < 1e-5
    assert bare["refused"] is advface["refused"] is None and still["refused"] >= 0
    assert base["cosine"] > still["cosine"]  # the nudge
    assert {"rank1_sibling", "tar_known", "tar_Ψ ± 0.2", "rank1_decoy known ×8"} <= base.keys()
    assert {"tar_foreign", "rank1_less", "tar_Ψ", "tar_Ψ_known"} <= key.keys()
    assert "rank1_shadow" not in still and "ssim_decoy" in still and floor["ssim"] > 0
    assert "rank1_far, further" in base and base["refused_90"] >= 0 and "link_Ψ" in key
    kept = json.loads((tmp_path / decoys.PARTIAL).read_text())["rows"]
    assert [r["method"] for r in kept] == names[:-1]
    monkeypatch.setattr(decoy_readings, "_batch", None)  # a second run measures nothing again
    again = run(small_sample(tmp_path), cases, beside=True, tuned=True)
    assert [r["cosine"] for r in again.rows[:-1]] == [r["cosine"] for r in table.rows[:-1]]
    assert again.spent.earlier > 0 and again.spent.total > again.spent.now
    assert all(r["seconds"] > 0 for r in again.rows[:5]), "of the sitting that measured them"
    publish(table, tmp_path)
    assert is_picture(tmp_path / "decoys.png") and is_picture(tmp_path / "front.png")
    assert not (tmp_path / ".batches").exists(), "embeddings of faces"
    assert "| ε = 0.2, λ = 1, 2 steps, 1 shadows, 2 faces, key |" in (
        tmp_path / "decoys.md"
    ).read_text("utf-8")


@pytest.mark.parametrize("command", [decoys, worst_case])
def test_the_servers_own_recogniser_is_no_sibling_whatever_its_name(command, tmp_path, monkeypatch):
    own = system("own")
    monkeypatch.setattr(Sample, "open", lambda self, *sources: (own, given()))
    renamed = dataclasses.replace(own, card={**own.card, "source": "renamed"})
    monkeypatch.setattr(advface_jax, "load", lambda name: renamed)
    more = (Ascent(),) if command is worst_case else ()
    run = functools.partial(command.main, small_sample(tmp_path), *more, PublicFaces("synthetic"))
    with pytest.raises(ValueError, match="--sibling renamed, which is the server's own"):
        run(sibling=("renamed",))
    with pytest.raises(ValueError, match="--sibling nothing; wanted other"):
        run(sibling=())


def test_names_are_of_as_many_faces_as_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(decoy_cases, "STITCHED", 3)
    public = PublicFaces("synthetic", public_faces=9)
    with pytest.raises(ValueError, match="got 9 public faces for --names 10"):
        decoys.table(
            system("own"), [system("other")], given(), public, small_sample(tmp_path), [BASE],
            names=(3, 10),
        )  # fmt: skip


@pytest.mark.parametrize(
    "axis, message",
    [
        ({"epsilon": (-1.0,)}, "epsilon=-1"),
        ({"shadows": (9,)}, "shadows=9; wanted 0 to 8"),
        ({"parts": (0,)}, "parts=0; wanted 1 to 32"),
        ({"steps": ()}, "got no value of steps"),
        ({"weight": (-1.0,)}, "weight=-1"),
    ],
)
def test_bad_settings_are_refused(axis, message):
    axes = {name: (value,) for name, value in BASE._asdict().items() if name != "key"}
    with pytest.raises(ValueError, match=message):
        decoy_cases.checked(False, 0.95, "", (), **(axes | axis))


def test_equal_items_have_a_threshold():
    served = next(
        v / np.linalg.norm(v)
        for s in range(300)
        if (v := np.random.default_rng(s).normal(size=128).astype("f4")) is not None
        and 2 - 2 * np.float32((u := v / np.linalg.norm(v)) @ u) < 0
    )
    pairs = data.Pairs(np.array([0]), np.array([1]), np.array([True]), np.array([1]))
    served = np.repeat(served[None], 40, 0)
    assert _replays(served, served, ["a", "a", *map(str, range(38))], pairs)["_far_1e-2"] == 0
