"""Checkpoints come back as they went in, and failures say what is wrong."""

import errno
import json
import logging
import os
import subprocess
import sys
from unittest.mock import Mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from advface_jax import checkpoint

CARD = {"source": "made here", "embedding_size": 512, "classes": None}


def tree() -> checkpoint.Tree:
    return {
        "extractor": {"conv2d_1a": {"kernel": np.arange(12, dtype=np.float32).reshape(3, 4)}},
        "blocks": {"0": {"bias": jnp.ones(3)}, "10": {"bias": jnp.zeros(3)}},
        "half": np.array([0.5, -1], np.float16),
        "step": np.array(7, np.int32),
        "epoch": 3,
    }


def test_a_tree_and_its_card_come_back(tmp_path):
    checkpoint.save(tmp_path / "new" / "w", tree(), CARD)
    found, card = checkpoint.restore(tmp_path / "new" / "w")
    assert card == CARD
    text = (tmp_path / "new" / "w" / "card.json").read_text()
    assert text == json.dumps(CARD, indent=2) + "\n"  # for people too
    flat, wanted = checkpoint.flatten(found), checkpoint.flatten(tree())
    assert flat.keys() == wanted.keys()
    for name, array in wanted.items():
        assert isinstance(flat[name], np.ndarray)
        np.testing.assert_array_equal(flat[name], np.asarray(array), strict=True)
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["w"]


def test_names_nest_and_flatten():
    flat = {"a.0.kernel": 1, "a.0.bias": 2, "b": 3}
    nested = {"a": {"0": {"kernel": 1, "bias": 2}}, "b": 3}
    assert checkpoint.nest(flat) == nested
    assert checkpoint.flatten(nested) == flat
    for clash in ({"a": 1, "a.b": 2}, {"a.b": 2, "a": 1}):
        with pytest.raises(ValueError, match="already"):
            checkpoint.nest(clash)


def test_a_failed_save_leaves_the_older_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "w", tree(), CARD)

    monkeypatch.setattr("pathlib.Path.write_text", Mock(side_effect=OSError("no space left")))
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path / "w", {"only": np.ones(2)}, {})
    assert checkpoint.restore(tmp_path / "w")[1] == CARD
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_a_kill_between_the_renames_loses_nothing_and_a_save_replaces(tmp_path):
    checkpoint.save(tmp_path / "w", tree(), CARD)
    (tmp_path / "w").rename(tmp_path / ".w.old")
    assert checkpoint.restore(tmp_path / "w")[1] == CARD
    for n in (1, 2):
        checkpoint.save(tmp_path / "w", {"only": np.ones(n)}, {"n": n})
        found, card = checkpoint.restore(tmp_path / "w")
        assert list(found) == ["only"] and found["only"].size == n and card == {"n": n}
        assert [p.name for p in tmp_path.iterdir()] == ["w"]


def test_other_folders_are_not_overwritten(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for other in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="not a checkpoint.*give another folder"):
            checkpoint.save(other, tree(), CARD)
    (tmp_path / "empty").mkdir()
    checkpoint.save(tmp_path / "empty", tree(), CARD)


@pytest.mark.parametrize(
    ("bad", "card", "complaint"),
    [
        ({}, CARD, "an empty tree"),
        ({"a": np.zeros((0, 3))}, CARD, "cannot save a:"),
        ({"a": {"b": None}}, CARD, r"cannot save a\.b:"),
        ({"a": {3: np.ones(1)}}, CARD, r"a\.3: a key must be a string, got int"),
        ({"a": {"x.y": np.ones(1)}}, CARD, "must not contain"),
        (tree(), {"when": object()}, "card is not JSON"),
    ],
)
def test_what_cannot_be_kept_leaves_nothing(bad, card, complaint, tmp_path):
    with pytest.raises(ValueError, match=complaint):
        checkpoint.save(tmp_path / "w", bad, card)
    assert not list(tmp_path.iterdir())


def test_missing_and_other_folders_are_explained(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint folder at .*weights_convert"):
        checkpoint.restore(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"wanted card\.json and arrays/"):
        checkpoint.restore(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '"card"'])
def test_a_damaged_card_is_explained(content, tmp_path):
    checkpoint.save(tmp_path / "w", tree(), CARD)
    (tmp_path / "w" / "card.json").write_text(content)
    with pytest.raises(ValueError, match=r"card\.json"):
        checkpoint.restore(tmp_path / "w")


def test_damaged_arrays_are_explained(tmp_path):
    checkpoint.save(tmp_path / "w", tree(), CARD)
    for file in (tmp_path / "w" / "arrays").rglob("*"):
        if file.is_file() and file.name != "_CHECKPOINT_METADATA":
            file.write_bytes(b"\0" * 20)
    with pytest.raises(ValueError, match="cannot be read.*damaged: make it again"):
        checkpoint.restore(tmp_path / "w")


def test_orbax_keeps_quiet(tmp_path, capfd):
    logging.getLogger("absl").setLevel(logging.INFO)
    checkpoint.save(tmp_path / "w", tree(), CARD)
    checkpoint.restore(tmp_path / "w")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("absl").level == logging.INFO


def test_a_machine_without_the_backend_has_no_damaged_checkpoint(tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "w", tree(), CARD)
    monkeypatch.setattr(jax, "devices", Mock(side_effect=AssertionError))  # as CUDA's plugin does
    for call in (checkpoint.restore, lambda path: checkpoint.save(path, tree(), CARD)):
        with pytest.raises(ValueError, match="not .*: JAX cannot start its backend.*set it to cpu"):
            call(tmp_path / "w")
    assert [p.name for p in tmp_path.iterdir()] == ["w"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cuda", "gpu", "tpu", "nonsense"])
def test_each_absent_backend_is_called_absent(name, tmp_path):
    checkpoint.save(tmp_path / "w", tree(), CARD)
    code = f"from advface_jax import checkpoint; checkpoint.restore({str(tmp_path / 'w')!r})"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"JAX_PLATFORMS": name},
        capture_output=True,
        text=True,
    )
    if told.returncode == 0:
        pytest.skip(f"this machine has {name}")
    last = told.stderr.strip().splitlines()[-1]
    assert f"JAX cannot start its backend ({name}: " in last and "damaged" not in last


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EACCES, errno.EROFS])
def test_what_hinders_the_system_is_no_damage(code, tmp_path, monkeypatch):
    checkpoint.save(tmp_path / "w", tree(), CARD)
    word = os.strerror(code)
    told = ValueError(f'RESOURCE_EXHAUSTED: Error "a/0": {word} [os_error_code]\nSource: …')
    monkeypatch.setattr(checkpoint, "_orbax", Mock(side_effect=told))
    with pytest.raises(ValueError, match=f"cannot be read: {word}$"):
        checkpoint.restore(tmp_path / "w")
    with pytest.raises(ValueError, match=f"was not written: {word}$"):
        checkpoint.save(tmp_path / "w", tree(), CARD)


def test_a_card_nested_too_deeply_is_explained(tmp_path):
    checkpoint.save(tmp_path / "w", tree(), CARD)
    (tmp_path / "w" / "card.json").write_text("[" * 200_000 + "]" * 200_000)
    with pytest.raises(ValueError, match=r"json cannot be read \(nested deeper.*save it again"):
        checkpoint.restore(tmp_path / "w")


def test_a_save_clears_what_killed_ones_left(tmp_path):
    left = tmp_path / ".ck.abcdefgh"
    left.mkdir()
    os.utime(left, (1, 1))
    checkpoint.save(tmp_path / "ck", {"a": np.ones(3)}, {})
    assert [p.name for p in tmp_path.iterdir()] == ["ck"]
