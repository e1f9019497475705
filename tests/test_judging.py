"""What every table measures: several attackers, recognition alone, which side is protected."""

import dataclasses
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advface_jax import data, metrics
from experiments.measure import intervals, judging, table_rows
from experiments.measure.judging import Subject, judge
from experiments.measure.table_rows import row

PAIRS = data.Pairs(
    np.array([0, 1, 2, 0, 3, 1]),
    np.array([1, 2, 3, 3, 5, 4]),
    np.array([True, False, True, False, True, False]),
    np.array([0, 0, 0, 1, 1, 1]),
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Dim:
    """An attacker whose picture is what is stored, darker."""

    factor: jax.Array

    def __call__(self, stored):
        return jnp.clip(self.factor * stored, 0, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noisy:
    """What is stored: the image, and the image under two noises."""

    noises: jax.Array

    def __call__(self, item, keys, mask):
        drawn = jax.vmap(lambda key: jax.random.uniform(key, item.shape[1:]))(keys)
        return jnp.stack([(1 - s) * item + s * drawn for s in self.noises])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Same:
    def __call__(self, images):
        return images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Places:
    """A recogniser: brightness in 8×8 places."""

    def __call__(self, stored, images):
        pooled = stored.reshape(-1, 8, 20, 8, 20, 3).mean((2, 4)).reshape(len(stored), -1)
        pooled = pooled - 0.4
        return pooled / jnp.linalg.norm(pooled, axis=-1, keepdims=True)


def subject(attackers=(1.0, 0.5), **others):
    places = Places()
    return Subject(
        Same(),
        Noisy(jnp.array([0.2, 0.6])),
        tuple(Dim(jnp.float32(f)) for f in attackers),
        places,
        judging.Replay(Same(), places),
        **others,
    )


def faces(n):
    return data.read_faces("synthetic", limit=n)


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    keep = tmp_path_factory.mktemp("kept")
    return judge(faces(6), subject(), batch=4, keep=keep, settings={})


def test_every_attacker_sees_every_condition(judged):
    found, pictures, _, rate, _ = judged
    assert found.ssim.shape == (3, 2, 6) and found.stored.shape == (3, 6, 192)
    assert found.replayed.shape == (3, 2, 6, 192) and pictures.shape == (3, 2, 4, 160, 160, 3)
    images = faces(6).images / np.float32(255)
    assert (found.psnr[0, 0] == metrics.PSNR_CAP).all(), "unprotected, the first attacker sees all"
    assert np.allclose(found.mse[0, 1], ((images / 2) ** 2).mean((1, 2, 3)), rtol=1e-4)
    assert np.allclose(found.replayed[0, 0], found.stored[0], atol=1e-6)
    assert not np.allclose(found.replayed[0, 1], found.stored[0], atol=1e-2)
    assert np.abs(pictures[0, 0] - faces(4).images.astype(int)).max() <= 1
    assert (found.mse[1, 0] < found.mse[2, 0]).all() and rate > 0


def test_one_program_serves_all_batches_and_weights(judged, tmp_path):
    compiled = cast(Any, judging.judge_batch)
    before = compiled._cache_size()
    judge(faces(6), subject((0.9, 0.3)), batch=4, keep=tmp_path, settings={})
    assert compiled._cache_size() == before == 1


def test_padding_and_batches_change_no_number(judged, tmp_path):
    found = judge(faces(6), subject(), batch=3, keep=tmp_path, settings={}).judged
    for name, array in found._asdict().items():
        np.testing.assert_allclose(array, getattr(judged.judged, name), rtol=1e-4, atol=1e-5)


def test_without_attackers_recognition_is_measured_alone(judged, tmp_path):
    found, pictures, *_ = judge(faces(6), subject(()), batch=4, keep=tmp_path, settings={})
    assert found.ssim.shape == (3, 0, 6) and found.replayed.shape == (3, 0, 6, 192)
    assert pictures.shape == (3, 0, 4, 160, 160, 3)
    assert np.allclose(found.stored, judged.judged.stored, atol=1e-6)
    alone, attacked = (row("M", 0.2, j, 2, PAIRS) for j in (found, judged.judged))
    assert {alone[k] for k in ("ssim", "psnr", "mse", "srra")} == {None}
    assert "ssim_ci" not in alone and alone["acc"] == attacked["acc"] and alone["n"] == 6


def test_where_nothing_is_unprotected_the_store_alone_counts(judged, tmp_path):
    bare = subject(unprotected=False)
    found, *_ = judge(faces(6), bare, batch=4, keep=tmp_path, settings={})
    assert np.allclose(found.stored, judged.judged.stored[1:], atol=1e-6)
    line = row("DuetFace", None, found, 0, PAIRS, unprotected=None)
    assert "cosine_to_unprotected" not in line
    with pytest.raises(ValueError, match="stores nothing unprotected; .* protect both sides"):
        row("DuetFace", None, found, 0, PAIRS, unprotected=None, enrolled_only=True)


def test_rows_tell_their_attacker_and_side(judged):
    found = judged.judged
    first, second = (row("M", 0.2, found, 1, PAIRS, attacker=a) for a in (0, 1))
    assert first["acc"] == second["acc"] and first["ssim"] != second["ssim"]
    assert first["mse"] == pytest.approx(found.mse[1, 0].mean())


def test_of_a_pair_the_enrolled_image_alone_may_be_protected(judged):
    found = judged.judged
    left, right = np.array([0, 1, 2, 3]), np.array([0, 4, 2, 5])
    alternating = np.array([True, False, True, False])  # the same pairs are of one image
    pairs = data.Pairs(left, right, alternating, np.array([0, 0, 1, 1]))
    assert row("M", 0.2, found, 2, pairs)["threshold"] == 0.01, "one noise, one picture"
    line = row("M", 0.2, found, 2, pairs, enrolled_only=True, extra={"set": "lfw"})
    distances = ((found.stored[2][left] - found.stored[0][right]) ** 2).sum(1)
    assert line["threshold"] == np.ceil(distances[alternating].max() * 100) / 100 > 0.01
    assert line["enrolled_only"] and line["set"] == "lfw"
    shown = [row("M", None, found, 0, pairs, attacker=a) for a in (0, 1)]
    assert [r["srra_same_image"] for r in shown] == [1, 0], "each attacker shows its own pictures"
    assert [r["srra"] for r in shown] == [1, 0] and shown[0]["srra_ci"] == [1, 1]


def test_rows_carry_intervals_around_their_numbers(judged):
    line = row("M", 0.2, judged.judged, 2, PAIRS)
    for key in ("ssim", "psnr", "mse", "acc", "srra"):
        low, high = line[f"{key}_ci"]
        assert low <= line[key] <= high, key
    assert line["ssim_ci"][0] < line["ssim_ci"][1]
    assert line == row("M", 0.2, judged.judged, 2, PAIRS), "seeded"


def test_a_bootstrap_is_as_wide_as_theory_says():
    values = np.random.default_rng(1).normal(5, 2, 400)
    low, high = intervals.bootstrap(values)
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.03)


def test_folds_are_resampled_within_themselves():
    folds = np.repeat([0, 1], 100)
    assert intervals.bootstrap(folds.astype(float), folds) == pytest.approx([0.5, 0.5])
    wide = intervals.bootstrap(folds.astype(float))
    assert wide[1] - wide[0] > 0.1
    uneven = np.repeat([0, 1], [10, 90])
    weights = np.where(uneven, 0.5 / 90, 0.5 / 10)
    assert intervals.bootstrap(uneven.astype(float), uneven, weights) == pytest.approx([0.5, 0.5])


def test_spread_over_seeds_is_students():
    found = intervals.spread(np.array([1.0, 2.0, 3.0]))
    assert found["mean"] == 2 and found["sd"] == 1 and found["n"] == 3
    assert found["ci"] == pytest.approx([2 - 2.4841, 2 + 2.4841], abs=1e-3)
    assert intervals.spread(np.array([1.0]))["ci"] is None


def test_the_mean_face_is_the_same_picture_for_all(judged):
    line = table_rows.floor(faces(6), judged.judged, subject(), PAIRS)
    images = faces(6).images / np.float32(255)
    assert line["mse"] == pytest.approx(((images - images.mean(0)) ** 2).mean(), rel=1e-3)
    assert line["mse_ci"][0] < line["mse"] < line["mse_ci"][1] and line["acc"] is None
