"""CFP's and AgeDB's own protocol files, and pairs by whatever path they come."""

import numpy as np
import pytest
from face_files import CFP_PAIRS, agedb, folder, small_cfp, struct_of, table
from scipy.io import loadmat, savemat

from advface_jax.data import NamedPair, read_pairs
from advface_jax.data.formats import matlab
from advface_jax.data.formats.protocols import read_agedb, read_cfp


@pytest.fixture
def cfp(tmp_path):
    return small_cfp(tmp_path / "cfp")[0].parent


def test_cfp_s_numbers_become_files(cfp):
    assert read_cfp(cfp) == read_cfp(cfp / "Protocol") == list(CFP_PAIRS)
    first, second, third, fourth = small_cfp(cfp)[1][:4]
    assert read_cfp(cfp, protocol="FF") == [
        NamedPair(first, second, True, 1),
        NamedPair(first, third, False, 1),
        NamedPair(second, fourth, False, 1),
    ]


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


def test_cfp_after_windows(cfp):
    for path in (cfp / "Protocol").rglob("*.txt"):
        text = path.read_text().replace("/", "\\")
        path.write_bytes(("\ufeff" + "\r\n".join(text.split("\n")) + "\r\n").encode())
    assert read_cfp(cfp) == list(CFP_PAIRS)


def test_an_incomplete_cfp_is_refused(cfp, tmp_path):
    with pytest.raises(ValueError, match="wanted 'FP' or 'FF'"):
        read_cfp(cfp, "PP")  # type: ignore[arg-type]
    (cfp / "Protocol" / "Split" / "FP" / "02" / "diff.txt").unlink()
    with pytest.raises(ValueError, match="diff.txt does not exist: give CFP"):
        read_cfp(cfp)
    with pytest.raises(ValueError, match="Pair_list_F.txt does not exist: give CFP's folder"):
        read_cfp(tmp_path)


def cell(**fields):
    row = np.empty((1, len(fields)), object)
    row[0] = list(fields.values())
    return row


FOLDS = [
    [("1_AbeVigoda_30_m", "2_AbeVigoda_60_m", 1), ("1_AbeVigoda_30_m", "9_Other_61_f", -1)],
    [("9_Other_31_f", "8_Other_61_f.jpg", 1), ("9_Other_31_f", "2_AbeVigoda_60_m", -1)],
]


@pytest.mark.parametrize("image", [struct_of, cell])
def test_agedb_s_folds(tmp_path, image):
    path = agedb(tmp_path / "04_FINAL_protocol_30_years.mat", FOLDS, image=image)
    pairs = read_agedb(path)
    assert pairs == read_agedb(tmp_path)
    assert pairs[1] == NamedPair("1_AbeVigoda_30_m.jpg", "9_Other_61_f.jpg", False, 1)
    assert pairs[2] == NamedPair("9_Other_31_f.jpg", "8_Other_61_f.jpg", True, 2)
    assert [pair.same for pair in pairs] == [True, False] * 2


@pytest.mark.parametrize(
    ("fold", "message"),
    [
        ([("a", "b", 7), ("a", "c", 1)], "fold 1: pair 1 has the label 7"),
        ([("a", "b", 1), ("a", "../c", 1)], r"fold 1: pair 2 has '\.\./c'"),
        ([(5.0, "b", 1), ("a", "c", 1)], "pair 1 has 5.0 where a file's name"),
    ],
)
def test_a_wrong_pair_of_agedb_is_named(tmp_path, fold, message):
    with pytest.raises(ValueError, match=message):
        read_agedb(agedb(tmp_path / "x.mat", [fold]))


def test_another_mat_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds other; wanted AgeDB's protocol"):
        read_agedb(agedb(tmp_path / "a.mat", FOLDS, "other"))
    savemat(tmp_path / "d.mat", {"splits": np.ones((2, 1))})
    with pytest.raises(ValueError, match="fold 1: not a struct"):
        read_agedb(tmp_path / "d.mat")
    (tmp_path / "e.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match="not a MATLAB file of level 5; wanted AgeDB's protocol"):
        read_agedb(tmp_path / "e.mat")
    (tmp_path / "f.mat").write_bytes(b"MATLAB 7.3 MAT-file" + bytes(200))
    with pytest.raises(ValueError, match="save it in MATLAB with -v7"):
        read_agedb(tmp_path / "f.mat")
    (tmp_path / "g.mat").write_bytes(agedb(tmp_path / "a.mat", FOLDS).read_bytes()[:-90])
    with pytest.raises(ValueError, match="cut short or damaged"):
        read_agedb(tmp_path / "g.mat")
    with pytest.raises(ValueError, match="0 files"):
        read_agedb(tmp_path)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_mat_file_is_read_as_scipy_reads_it(tmp_path, compressed):
    path = tmp_path / "x.mat"
    cell = np.array([["één", np.arange(6.0).reshape(2, 3)], [struct_of(a="b"), "."]], object)
    savemat(path, {"first": 1, "x": cell}, do_compression=compressed)
    theirs, ours = loadmat(path)["x"], matlab.read(path, "x")
    assert ours.shape == (2, 2) and ours[0, 0] == theirs[0, 0][0] and ours[1, 1] == "."
    np.testing.assert_array_equal(ours[0, 1], theirs[0, 1])
    assert ours[1, 0] == ("b",)


def test_every_byte_of_a_mat_file_may_be_wrong(tmp_path):
    whole = agedb(tmp_path / "x.mat", FOLDS).read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for _ in range(300):
        data = bytearray(whole)
        for at in rng.integers(128, len(data), rng.integers(1, 4)):
            data[at] = (0, 255, rng.integers(256))[rng.integers(3)]
        (tmp_path / "x.mat").write_bytes(data)
        try:
            assert all(isinstance(pair, NamedPair) for pair in read_agedb(tmp_path / "x.mat"))
        except ValueError as error:
            assert "x.mat" in str(error)
            refused += 1
    assert 100 < refused < 300


def test_pairs_are_read_by_whatever_path_they_come(cfp, tmp_path):
    assert read_pairs(cfp) == read_cfp(cfp)
    mat = agedb(tmp_path / "AgeDB" / "list" / "04_FINAL_protocol_30_years.mat", FOLDS)
    (mat.parent / f"._{mat.name}").write_bytes(b"a Mac's")
    assert read_pairs(mat) == read_agedb(mat) == read_pairs(tmp_path / "AgeDB")
    listed = table(tmp_path / "pairs.tsv", "fold same file1 file2", "1 1 a.jpg b.jpg")
    assert read_pairs(listed) == [NamedPair("a.jpg", "b.jpg", True, 1)]
    with pytest.raises(ValueError, match="carries no pairs"):
        read_pairs(folder(tmp_path / "people", {"a/1.jpg": b""}))
    (tmp_path / "noise.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be read as text: save it as UTF-8"):
        read_pairs(tmp_path / "noise.txt")
    with pytest.raises(ValueError, match="does not exist"):
        read_pairs(tmp_path / "none.txt")
