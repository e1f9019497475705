"""The paper's three sets: found where docs/datasets.md puts them, or reported as not available."""

import re

import numpy as np
import pytest
import set_files

from experiments.measure import evaluation_sets, inputs


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ADVFACE_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.mark.parametrize("name", ["cfp_fp", "agedb_30"])
def test_a_set_in_its_own_files_is_found_and_read(place, name):
    assert not evaluation_sets.available(name)
    getattr(set_files, name)(place)
    assert evaluation_sets.available(name)
    found = inputs.read("paper", None, None, None, None, 0, set=name)
    assert len(found.faces) == 20 and len(found.pairs) == 20
    assert found.origin["set"] == name and found.origin["folds"] == 10
    left = [found.faces.names[i] for i in found.pairs.left]
    right = [found.faces.names[i] for i in found.pairs.right]
    if name == "cfp_fp":
        assert all("frontal" in a and "profile" in b for a, b in zip(left, right, strict=True))
        who = np.array(found.faces.identities)
        assert ((who[found.pairs.left] == who[found.pairs.right]) == found.pairs.same).all()
    else:
        assert all("_20_" in a and "_55_" in b for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("name", ["cfp_fp", "agedb_30"])
def test_insightface_s_file_serves_where_there_are_no_crops(place, name):
    set_files.insightface(place, name)
    found = inputs.read("paper", None, None, None, None, 0, set=name)
    assert len(found.pairs) == 10 and found.origin["resized"] and found.origin["set"] == name
    getattr(set_files, name)(place)
    again = inputs.read("paper", None, None, None, None, 0, set=name)
    assert again.origin["faces"] != f"{name}.bin", "crops of FaceNet's framing go before it"


@pytest.mark.parametrize("name", ["lfw", "cfp_fp", "agedb_30"])
def test_a_set_that_is_not_there_is_not_available(place, name, monkeypatch):
    wanted = (
        re.escape(f"{evaluation_sets.TITLES[name]}'s data are not available")
        + ".*--faces.*ADVFACE_DATA"
    )
    with pytest.raises(ValueError, match=wanted):
        inputs.read("paper", None, None, None, None, 0, set=name)
    (place / "faces").mkdir(parents=True)
    (place / "faces" / f"{name}.zip").write_bytes(b"")
    with pytest.raises(ValueError, match=wanted):  # crops without a protocol
        evaluation_sets.find(name)
    monkeypatch.delenv("ADVFACE_DATA")
    with pytest.raises(ValueError, match=wanted):
        evaluation_sets.find(name)
    assert evaluation_sets.find(name, "a.zip", place / "b.txt") == ("a.zip", place / "b.txt")
    assert evaluation_sets.find(name, "a.bin") == ("a.bin", None)


def test_a_set_that_carries_its_pairs_wants_no_list(place):
    ready = place / "faces" / "cfp_fp" / "1.0.0"
    ready.mkdir(parents=True)
    assert evaluation_sets.find("cfp_fp") == (str(ready), None)
    assert evaluation_sets.find("cfp_fp", "tfds:cfp_fp") == ("tfds:cfp_fp", None)


def test_sets_belong_to_the_paper_preset():
    with pytest.raises(ValueError, match="got --set cfp_fp with --preset demo"):
        inputs.read("demo", None, None, None, None, 0, set="cfp_fp")
    with pytest.raises(ValueError, match="got set 'ijb'"):
        evaluation_sets.find("ijb")  # type: ignore[arg-type]
