"""Who is recognised over all pairs, against values counted by hand."""

import numpy as np
import pytest

from advface_jax import metrics

RNG = np.random.default_rng(0)


def at(*degrees):
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], 1)


def test_four_faces_of_two_people_by_hand():
    seen, known = at(0, 50, 90, 100), at(0, 10, 90, 41)
    people = ("a", "a", "b", "b")
    # Same: 0-10, 50-0, 90-41, 100-90 (10°, 50°, 49°, 10°); different: 90, 41, 40, 9, 90, 80, 100,
    # 90: the third smallest is 41°, the fourth 80°.
    found = metrics.identify(seen, known, people, fars=(0.375, 0.01))
    np.testing.assert_allclose(found.cosine, np.cos(np.radians([0, 40, 0, 59])), atol=1e-6)
    assert found.tar(0.375) == 1.0 and found.tar(0.01) is None, "eight pairs have no share of .01"
    np.testing.assert_array_equal(found.first, [1, 0, 1, 1])
    # 9° is below all four, 40° and 41° below 49° and 50°, the rest above all.
    assert found.auc == pytest.approx((4 * 8 - 4 - 2 - 2) / 32)


def test_the_share_that_is_accepted():
    # Person i stands at 60 i degrees; the second photograph of person 0 lies at person 1.
    people = [*"abcdef"] * 2
    seen = at(*(60 * i for i in range(6)), *(60 * i for i in range(6)))
    known = seen.copy()
    known[6] = seen[1]
    found = metrics.identify(seen, known, people, fars=(0.05,))
    # 120 different pairs; the two items of b match the moved photograph: fewer than 6 are at 0°.
    accepted = found.accepted[0.05]
    assert accepted is not None
    np.testing.assert_array_equal(accepted, [0, *[1] * 11])
    assert found.tar(0.05) == pytest.approx(11 / 12)


def test_ties_and_strangers():
    alike = np.tile(at(0), (4, 1))
    found = metrics.identify(alike, alike, ("a", "a", "b", "c"), fars=(0.5,))
    assert found.auc == 0.5 and found.tar(0.5) == 0.0, "equal embeddings tell nobody apart"
    assert np.isnan(found.first[2:]).all(), "who has one photograph cannot be found"


def test_a_gallery_of_25_people_by_drawing_many():
    people = np.repeat(np.arange(40).astype(str), 2)
    known = RNG.normal(size=(80, 8))
    seen = known[np.arange(80) ^ 1] + RNG.normal(size=(80, 8))  # near the partner's photograph
    seen, known = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (seen, known))
    found = metrics.identify(seen, known, people)
    alike = seen @ known.T
    for i in (0, 17, 79):
        others = [o for o in range(40) if o != i // 2]
        drawn = (RNG.choice(others, 24, replace=False) for _ in range(4000))
        best = [alike[i, 2 * who + RNG.integers(0, 2, 24)].max() for who in drawn]
        first = np.mean(alike[i, i ^ 1] > np.array(best))
        assert found.first_of_25[i] == pytest.approx(first, abs=0.03)
    assert found.first.mean() < found.first_of_25.mean() < 1
    few = metrics.identify(seen[:20], known[:20], people[:20])
    assert np.isnan(few.first_of_25).all(), "ten people are no gallery"


def test_what_means_nothing_is_at_chance():
    people = np.repeat(np.arange(100).astype(str), 4)
    some, other = (RNG.normal(size=(400, 16)) for _ in range(2))
    some, other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (some, other))
    found = metrics.identify(some, other, people)
    assert found.tar(1e-2) == pytest.approx(0.01, abs=0.01)
    assert found.first.mean() == pytest.approx(0.01, abs=0.015)
    assert found.auc == pytest.approx(0.5, abs=0.02)


def test_faces_of_one_person_are_not_independent():
    people = np.repeat(np.arange(10).astype(str), 50)
    by_person = np.repeat(np.arange(10) % 2, 50).astype(float)
    low, high = metrics.interval_by_person(by_person, people)
    assert high - low > 0.5, "ten people, not 500 faces"
    apart = metrics.interval_by_person(by_person, np.arange(500).astype(str))
    assert apart[1] - apart[0] < 0.1
    missing = np.where(np.arange(500) < 450, by_person, np.nan)
    assert metrics.interval_by_person(missing, people) != [low, high]
    assert metrics.interval_by_person(np.ones(500), people) == [1, 1]


@pytest.mark.parametrize(
    ("seen", "known", "people", "says"),
    [
        (at(0, 1), at(0), "aa", "shapes"),
        (2 * at(0, 1), at(0, 1), "aa", "lengths"),
        (at(0, 1), at(0, 1), "a", "one each"),
        (at(0, 1), at(0, 1), "ab", "two faces"),
        (at(0, 1), at(0, 1), "aa", "two faces"),
    ],
)
def test_what_does_not_fit_is_refused(seen, known, people, says):
    with pytest.raises(ValueError, match=says):
        metrics.identify(seen, known, tuple(people))
    with pytest.raises(ValueError, match="NaN"):
        metrics.interval_by_person(np.array([np.nan]), ["a"])
