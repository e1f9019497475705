"""Batches of people × images: every image once an epoch, groups of one person, one order a seed."""

import pickle

import numpy as np
import pytest
from face_files import Numbers, valued

from advface_jax.data import Chosen, Grouped, batches
from advface_jax.data.grouped import group_order

LABELS = np.array([0, 1, 2, 0, 1, 0, 0, 0, 3, 2, 2])  # five, two, three of one, and a single one


def test_every_image_comes_once_and_some_again_where_a_group_is_not_full():
    groups = group_order(LABELS, 2, seed=3, epoch=1)
    assert groups.shape == (7, 2)  # 3 + 1 + 2 + 1
    assert all(len(set(LABELS[group])) == 1 for group in groups)
    counts = np.bincount(groups.ravel(), minlength=len(LABELS))
    assert counts.min() == 1 and counts[8] == 2, "the single one stands beside itself"
    assert counts.sum() == 14 and counts.max() == 2


def test_the_order_follows_from_seed_and_epoch():
    def order(seed, epoch):
        return group_order(LABELS, 2, seed, epoch).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1) and order(0, 0) != order(1, 0)
    pairs = {tuple(sorted(g)) for epoch in range(30) for g in order(0, epoch) if LABELS[g[0]] == 2}
    assert {(2, 9), (2, 10), (9, 10)} <= pairs, "groups are drawn anew"


def test_what_is_read_is_what_rows_say_from_any_step_and_after_pickling():
    training = Grouped(Numbers(11), LABELS, people=3, images=2, epochs=4, seed=5)
    assert training.per_epoch == 2 and len(training) == 4 * 2 * 6 and training.batch == 6
    every = list(batches(training, batch=6, workers=0))
    assert len(every) == 8
    for one in every:
        assert np.array_equal(training.rows(one.indices), one.values.ravel())
    twin = pickle.loads(pickle.dumps(training))
    late = list(batches(twin, batch=6, start=5, workers=0))
    assert [one.step for one in late] == [5, 6, 7]
    assert all(np.array_equal(a.values, b.values) for a, b in zip(every[5:], late, strict=True))
    # backwards too: an epoch left behind is made again
    assert np.array_equal(training.rows(range(6)), every[0].values.ravel())


def test_a_broken_item_is_masked():
    training = Grouped(Numbers(11, broken=(8,)), LABELS, people=3, images=2, epochs=9, seed=0)
    refused = [one for one in batches(training, batch=6, workers=0) if one.refused]
    assert refused
    for one in refused:
        assert set(training.rows(one.indices)[~one.mask]) == {8}


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match=r"11 faces of 4 people, which make 5 groups of 4; wanted"):
        Grouped(Numbers(11), LABELS, people=6, images=4, epochs=1, seed=0)


def test_the_chosen_are_those_rows():
    some = Chosen(valued("A", "B", "C"), np.array([2, 0]))
    assert len(some) == 2 and some.identities == ("C", "A")
    assert some.crop(0)[0, 0, 0] == 2
