"""The types of stored features: whose sets are taken up, and in which precision they are made."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from networks import Pool, small_decoder, small_extractor
from tables import given, small_sample

from advface_jax import System
from advface_jax.data import open_features
from experiments import dtypes
from experiments.measure.sample import Ascent

pytest.importorskip("array_record", reason="the extra `data` is not installed")


@pytest.fixture(scope="module")
def system():
    return System.of(
        extractor=small_extractor(),
        server=Pool(),
        shadow=small_decoder(),
        attacker=small_decoder(seed=2),
    )


def faces(sum="00"):
    made = given()
    return made._replace(origin={**made.origin, "faces_sha256": sum})


def run(system, out, of=None, **ascent: Any):
    sample = small_sample(out)
    return dtypes.table(system, of or faces(), sample, Ascent(**{"steps": 1, **ascent}))


def test_sets_of_other_faces_or_settings_are_not_taken_up(system, tmp_path):
    first = run(system, tmp_path)
    assert [r["method"] for r in first.rows] == ["f32", "bf16", "int8"]
    assert first.rows[0]["error"] == 0 < first.rows[1]["error"] < 0.1
    assert run(system, tmp_path).rows == first.rows, "read again"
    with pytest.raises(ValueError, match="set-f32 holds another set"):
        run(system, tmp_path, faces("01"))
    for file in (tmp_path / "set-f32").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="set-bf16 holds another set"):
        run(system, tmp_path, steps=2)


def test_half_the_precision_is_half_the_precision(system, tmp_path):
    for precision in ("float32", "bfloat16"):
        run(system, tmp_path / precision, precision=precision)
    full, half = (
        open_features(tmp_path / one / "set-f32").features(range(8))
        for one in ("float32", "bfloat16")
    )
    assert full.dtype == half.dtype == np.float32
    assert not np.array_equal(half, full)
    assert np.array_equal(half, half.astype(jnp.bfloat16).astype(np.float32)), "none has more bits"
