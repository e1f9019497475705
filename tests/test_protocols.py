"""CFP's and AgeDB's own protocol files, and pairs by whatever path they come."""

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from advface_jax.data import NamedPair, read_pairs
from advface_jax.data.formats.protocols import read_agedb, read_cfp


@pytest.fixture
def cfp(tmp_path):
    """Two people, two frontal and one profile picture each, two folds."""
    root = tmp_path / "cfp-dataset"
    protocol = root / "Protocol"
    frontal = [f"{p:03d}/frontal/{i:02d}.jpg" for p in (1, 2) for i in (1, 2)]
    profile = [f"{p:03d}/profile/01.jpg" for p in (1, 2)]
    protocol.mkdir(parents=True)
    for name, files in (("Pair_list_F.txt", frontal), ("Pair_list_P.txt", profile)):
        lines = [f"{n} ../Data/Images/{file}" for n, file in enumerate(files, 1)]
        (protocol / name).write_text("\r\n".join(lines) + "\r\n")
    splits = {
        "FP/01": ("1,1", "1,2\n2,2"),
        "FP/02": ("4,2\n", "3,1"),
        "FF/01": ("1,2", "1,3"),
        "FF/02": ("3,4", "2,4"),
    }
    for place, (same, diff) in splits.items():
        folder = protocol / "Split" / place
        folder.mkdir(parents=True)
        (folder / "same.txt").write_text(same)
        (folder / "diff.txt").write_text(diff)
    return root


def test_cfp_s_numbers_become_files(cfp):
    want = [
        NamedPair("001/frontal/01.jpg", "001/profile/01.jpg", True, 1),
        NamedPair("001/frontal/01.jpg", "002/profile/01.jpg", False, 1),
        NamedPair("001/frontal/02.jpg", "002/profile/01.jpg", False, 1),
        NamedPair("002/frontal/02.jpg", "002/profile/01.jpg", True, 2),
        NamedPair("002/frontal/01.jpg", "001/profile/01.jpg", False, 2),
    ]
    assert read_cfp(cfp) == read_cfp(cfp / "Protocol") == want
    frontal = read_cfp(cfp, "FF")
    assert frontal[0] == NamedPair("001/frontal/01.jpg", "001/frontal/02.jpg", True, 1)
    assert [pair.same for pair in frontal] == [True, False, True, False]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Split/FP/02/same.txt", "4,2\n4,9", r"same.txt, line 2: .*have no 9; got '4,9'"),
        ("Split/FP/02/same.txt", "4;2", "line 1: wanted two numbers"),
        ("Split/FP/01/diff.txt", " \n", "diff.txt is empty"),
        ("Pair_list_F.txt", "1 Data/001.jpg", "Pair_list_F.txt, line 1: wanted a new number"),
        ("Pair_list_P.txt", "1 ../Data/Images/../../../etc/x.jpg", "line 1: wanted a new number"),
        ("Pair_list_P.txt", "1 a/Images/1.jpg\n1 a/Images/2.jpg", "line 2: wanted a new number"),
    ],
)
def test_a_wrong_line_of_cfp_is_named(cfp, file, text, message):
    (cfp / "Protocol" / file).write_text(text)
    with pytest.raises(ValueError, match=message):
        read_cfp(cfp)


def test_an_incomplete_cfp_is_refused(cfp, tmp_path):
    with pytest.raises(ValueError, match="wanted 'FP' or 'FF'"):
        read_cfp(cfp, "PP")  # type: ignore[arg-type]
    (cfp / "Protocol" / "Split" / "FP" / "02" / "diff.txt").unlink()
    with pytest.raises(ValueError, match="diff.txt cannot be read"):
        read_cfp(cfp)
    with pytest.raises(ValueError, match="Pair_list_F.txt cannot be read.*give CFP's folder"):
        read_cfp(tmp_path)


def struct(**fields):
    record = np.empty((1, 1), [(name, object) for name in fields])
    for name, value in fields.items():
        record[name][0, 0] = value
    return record


def cell(**fields):
    row = np.empty((1, len(fields)), object)
    row[0] = list(fields.values())
    return row


def agedb(path: Path, folds, variable="splits", image=struct) -> Path:
    """A protocol file as MATLAB writes it: folds of (name, name, label)."""
    splits = np.empty((len(folds), 1), object)
    for f, fold in enumerate(folds):
        images, labels = np.empty((2, len(fold)), object), np.zeros((1, len(fold)))
        for i, (left, right, label) in enumerate(fold):
            images[0, i], images[1, i] = image(name=left, age=30.0), image(name=right, age=60.0)
            labels[0, i] = label
        splits[f, 0] = struct(pair=images, same=labels)
    savemat(path, {variable: splits})
    return path


FOLDS = [
    [("1_AbeVigoda_30_m", "2_AbeVigoda_60_m", 1), ("1_AbeVigoda_30_m", "9_Other_61_f", -1)],
    [("9_Other_31_f", "8_Other_61_f.jpg", 1), ("9_Other_31_f", "2_AbeVigoda_60_m", -1)],
]


@pytest.mark.parametrize("image", [struct, cell])
def test_agedb_s_folds(tmp_path, image):
    path = agedb(tmp_path / "04_FINAL_protocol_30_years.mat", FOLDS, image=image)
    pairs = read_agedb(path)
    assert pairs == read_agedb(tmp_path)
    assert pairs[1] == NamedPair("1_AbeVigoda_30_m.jpg", "9_Other_61_f.jpg", False, 1)
    assert pairs[2] == NamedPair("9_Other_31_f.jpg", "8_Other_61_f.jpg", True, 2)
    assert [pair.same for pair in pairs] == [True, False] * 2


def test_another_mat_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds other; wanted AgeDB's protocol"):
        read_agedb(agedb(tmp_path / "a.mat", FOLDS, "other"))
    with pytest.raises(ValueError, match="fold 1: pair 1 has the label 7"):
        read_agedb(agedb(tmp_path / "b.mat", [[("a", "b", 7), ("a", "c", 1)]]))
    with pytest.raises(ValueError, match=r"fold 1: pair 2 has '\.\./c'"):
        read_agedb(agedb(tmp_path / "c.mat", [[("a", "b", 1), ("a", "../c", 1)]]))
    with pytest.raises(ValueError, match="pair 1 has 5.0 where a file's name"):
        read_agedb(agedb(tmp_path / "f.mat", [[(5.0, "b", 1), ("a", "c", 1)]]))
    savemat(tmp_path / "d.mat", {"splits": np.ones((2, 1))})
    with pytest.raises(ValueError, match="fold 1: not a struct"):
        read_agedb(tmp_path / "d.mat")
    (tmp_path / "e.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match="cannot be read as a MATLAB file"):
        read_agedb(tmp_path / "e.mat")
    with pytest.raises(ValueError, match="0 files"):
        (tmp_path / "empty").mkdir()
        read_agedb(tmp_path / "empty")


def test_pairs_are_read_by_whatever_path_they_come(cfp, tmp_path):
    assert read_pairs(cfp) == read_cfp(cfp)
    mat = agedb(tmp_path / "04_FINAL_protocol_30_years.mat", FOLDS)
    assert read_pairs(mat) == read_agedb(mat)
    table = tmp_path / "pairs.tsv"
    table.write_text("fold\tsame\tfile1\tfile2\n1\t1\ta.jpg\tb.jpg\n")
    assert read_pairs(table) == [NamedPair("a.jpg", "b.jpg", True, 1)]
    (tmp_path / "people" / "a").mkdir(parents=True)
    (tmp_path / "people" / "a" / "1.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="carries no pairs"):
        read_pairs(tmp_path / "people")
    (tmp_path / "noise.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is no list of pairs"):
        read_pairs(tmp_path / "noise.txt")
    with pytest.raises(ValueError, match="does not exist"):
        read_pairs(tmp_path / "none.txt")
