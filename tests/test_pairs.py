"""Pairs: both formats, indices into faces, honest subsets, pairs made from identities."""

import numpy as np
import pytest
from face_files import table, valued

from advface_jax.data import Faces, NamedPair, Pairs, read_faces, read_pairs
from advface_jax.data.pairs import index_pairs, make_pairs, pair_names, subset


def named_like(names) -> Faces:
    return Faces(names, names, np.zeros((len(names), 160, 160, 3), np.uint8))


OFFICIAL = "2\t1\nAda\t1\t2\nAda\t1\tBo\t3\nCy\t1\t4\nCy\t4\tBo\t12\n"
NAMED = [
    NamedPair("Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", True, 1),
    NamedPair("Ada/Ada_0001.jpg", "Bo/Bo_0003.jpg", False, 1),
    NamedPair("Cy/Cy_0001.jpg", "Cy/Cy_0004.jpg", True, 2),
    NamedPair("Cy/Cy_0004.jpg", "Bo/Bo_0012.jpg", False, 2),
]


def test_both_formats_say_the_same(tmp_path):
    (tmp_path / "pairs.txt").write_text(OFFICIAL)
    rows = [f"{p.fold} {p.same:d} {p.left} {p.right}" for p in NAMED]
    assert read_pairs(tmp_path / "pairs.txt") == NAMED
    assert read_pairs(table(tmp_path / "p.tsv", "fold same file1 file2", *rows)) == NAMED
    (tmp_path / "dev.txt").write_text("1\nAda\t1\t2\nAda\t1\tBo\t3\n")  # without folds
    assert read_pairs(tmp_path / "dev.txt") == NAMED[:2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line"),
        ("Ada 1 2\n", "first line"),
        (OFFICIAL + "Cy 1 2\n", "5 lines"),
        (OFFICIAL.replace("Cy\t1\t4", "Cy\t1\tBo\t4"), "'Name i j', got 'Cy 1 Bo 4'"),
        (OFFICIAL.replace("Bo\t3", "Bo\tx"), "'Name i Other j'"),
        ("fold\tsame\tfile1\tfile2\n1\t1\ta\tb\n1\tyes\ta\tb\n", "line 3"),
        ("fold\tsame\tfile1\tfile2\n1\t1\ta\n", "line 2"),
        ("same\tfile1\tfile2\n1\ta\tb\n", "line 2"),
        ("fold\tsame\tfile1\tfile2\n" + "x" * 200_000, "no list of pairs"),
    ],
)
def test_pairs_that_cannot_be_read_are_an_error(tmp_path, text, message):
    (tmp_path / "pairs").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "pairs")


def test_index_pairs_points_at_the_named_faces():
    names = pair_names(NAMED)
    assert names[:3] == ("Ada/Ada_0001.jpg", "Ada/Ada_0002.jpg", "Bo/Bo_0003.jpg")
    assert len(names) == len(set(names)) == 6
    shuffled = tuple(reversed(names))
    faces = named_like(shuffled)
    pairs = index_pairs(NAMED, faces)
    assert [shuffled[i] for i in pairs.left] == [pair.left for pair in NAMED]
    assert [shuffled[i] for i in pairs.right] == [pair.right for pair in NAMED]
    assert pairs.same.tolist() == [True, False, True, False] and pairs.fold.tolist() == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="2 of the 6 faces .*'Ada/Ada_0001.jpg'"):
        index_pairs(NAMED, faces.select(range(4)))


def test_pairs_that_lack_a_face_are_dropped_on_request_and_counted():
    faces = named_like(pair_names(NAMED)[1:])  # without Ada/Ada_0001.jpg
    with pytest.warns(UserWarning, match="2 of 4 pairs are left out: 1 of the 6 .*'Ada/Ada_0001"):
        pairs = index_pairs(NAMED, faces, missing="drop")
    assert [faces.names[i] for i in pairs.left] == [pair.left for pair in NAMED[2:]]
    assert pairs.fold.tolist() == [2, 2] and pairs.dropped == subset(pairs, 2).dropped == 2
    assert index_pairs(NAMED[2:], faces, missing="drop").dropped == 0
    with pytest.raises(ValueError, match="1 of the 3 faces"):
        index_pairs(NAMED[:2], faces, missing="drop")
    with pytest.raises(ValueError, match="'refuse' or 'drop'"):
        index_pairs(NAMED, faces, missing="skip")  # type: ignore[arg-type]


def many(folds: int, each: int) -> list[NamedPair]:
    return [
        NamedPair(f"{f}{s}{k}l", f"{f}{s}{k}r", s, f)
        for f in range(1, folds + 1)
        for s in (True, False)
        for k in range(each)
    ]


@pytest.mark.parametrize(("n", "each"), [(10**6, 5), (20, 5), (19, 4), (8, 2), (4, 1)])
def test_subset_takes_the_first_of_each_fold(n, each):
    named = many(2, 5)
    small = subset(named, n)
    assert small == [pair for pair in named if int(pair.left[-2]) < each]
    names = pair_names(named)
    indexed = subset(index_pairs(named, named_like(names)), n)
    assert [names[i] for i in indexed.left] == [pair.left for pair in small]
    assert indexed.same.mean() == 0.5 and np.bincount(indexed.fold)[1:].tolist() == [2 * each] * 2


def test_subset_is_balanced_or_an_error():
    named = many(2, 5)
    assert subset(named, None) is named
    assert len(subset(named[:-2], 20)) == 12, "the poorest group of all sets the number"
    with pytest.raises(ValueError, match="ask for n >= 4"):
        subset(named, 3)
    with pytest.raises(ValueError, match="without a same or a different pair"):
        subset([pair for pair in named if pair.same], 20)
    with pytest.raises(ValueError, match="0 folds"):
        subset([], 20)


def test_made_pairs_are_balanced_distinct_and_of_separate_people():
    who = [f"p{i}" for i in range(23) for _ in range(1 + i % 4)]
    faces = valued(*who)
    pairs = make_pairs(faces, folds=4, seed=1)
    identity = np.array(faces.identities)
    assert ((identity[pairs.left] == identity[pairs.right]) == pairs.same).all()
    assert len({frozenset(p) for p in zip(pairs.left, pairs.right, strict=True)}) == len(pairs)
    assert (pairs.left != pairs.right).all()
    people = []
    for fold in range(1, 5):
        rows = pairs.fold == fold
        assert rows.any() and pairs.same[rows].mean() == 0.5
        people.append(set(identity[pairs.left[rows]]) | set(identity[pairs.right[rows]]))
    assert sum(map(len, people)) == len(set.union(*people))
    assert pairs.same.sum() == sum(k * (k - 1) // 2 for k in (1 + i % 4 for i in range(23)))


def test_made_pairs_follow_from_the_seed():
    faces = valued(*(f"p{i // 3}" for i in range(60)))

    def flat(pairs: Pairs) -> list:
        return [pairs.left.tolist(), pairs.right.tolist(), pairs.same.tolist(), pairs.fold.tolist()]

    assert flat(make_pairs(faces)) == flat(make_pairs(faces))
    assert flat(make_pairs(faces)) != flat(make_pairs(faces, seed=1))
    assert make_pairs(faces, per_identity=1).same.sum() == 20
    # balanced also where different pairs are few
    pairs = make_pairs(valued(*"aaaaaab"), folds=1)
    assert pairs.same.sum() == (~pairs.same).sum() == 4


def test_made_pairs_need_enough_people():
    with pytest.raises(ValueError, match="folds=0"):
        make_pairs(valued(*"aabb"), folds=0)
    with pytest.raises(ValueError, match="do not fill 10 folds"):
        make_pairs(valued(*"aabbccdd"))
    with pytest.raises(ValueError, match="0 of them with two images"):
        make_pairs(valued(*"abcdef"), folds=2)


def test_real_lfw(advface_data):
    data = advface_data
    named = read_pairs(data / "lists/lfw_pairs.tsv")
    assert named == read_pairs(data / "lists/lfw_pairs_official.txt") and len(named) == 6000
    some = subset(named, 200)
    listing = data / "lists/lfw_pairs_160.tsv"
    faces = read_faces(data / "faces/lfw_pairs_160.zip", listing=listing, names=pair_names(some))
    assert faces.skipped == () and len(index_pairs(some, faces)) == 200
    identity = np.array(faces.identities)
    pairs = index_pairs(some, faces)
    assert ((identity[pairs.left] == identity[pairs.right]) == pairs.same).all()
