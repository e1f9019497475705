"""The cache folder, and what is said of each thing that a user may give as weights."""

import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import platformdirs
import pytest

from advface_jax import checkpoint, weights

KNOWN = ("facenet-512-q8", "vggface2")


@pytest.fixture
def there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("ADVFACE_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def converter(monkeypatch):
    """The converter, replaced: writes a checkpoint, or fails as it is told."""

    def run(command, **_):
        checkpoint.save(command[-1], {"a": np.ones(1)}, {"kind": command[3]})
        return subprocess.CompletedProcess(command, 0, "", "")

    run = Mock(side_effect=run)
    monkeypatch.setattr(weights.subprocess, "run", run)
    return run


def test_the_cache_folder_is_the_users_or_the_one_that_is_set(there, monkeypatch):
    assert weights.cache_dir() == there / "cache"
    monkeypatch.setenv("ADVFACE_CACHE", "~/elsewhere")
    assert weights.cache_dir() == there / "elsewhere"
    monkeypatch.setenv("ADVFACE_CACHE", "relative")
    with pytest.raises(ValueError, match="ADVFACE_CACHE is 'relative', no absolute path"):
        weights.cache_dir()
    monkeypatch.delenv("ADVFACE_CACHE")
    assert weights.cache_dir() == Path(platformdirs.user_cache_dir("advface_jax"))


@pytest.mark.parametrize("told", [RuntimeError("no home"), ["~/.cache/advface_jax"]])
def test_a_user_without_a_home_is_told_what_to_set(told, monkeypatch):
    """Newer versions of platformdirs raise, older ones give ~ as it is."""
    monkeypatch.delenv("ADVFACE_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_dir", Mock(side_effect=told))
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ValueError, match="this user has no home; set ADVFACE_CACHE to the path"):
        weights.folder("vggface2", KNOWN)


@pytest.mark.parametrize("name", ["vggface2", "VGGFace2", " vggface2/"])
def test_a_known_name_is_converted_once(name, there, converter):
    place = there / "cache" / "checkpoints" / "vggface2"
    assert weights.folder(name, KNOWN) == weights.folder("vggface2", KNOWN) == place
    assert checkpoint.restore(place)[1] == {"kind": "vggface2"}
    assert converter.call_count == 1 and [p.name for p in place.parent.iterdir()] == ["vggface2"]
    assert weights.folder("FaceNet_512-Q8", KNOWN).name == "facenet-512-q8"


def test_a_folder_of_that_name_comes_before_another_spelling(there, converter):
    (there / "VGGFace2").mkdir()
    (there / "VGGFace2" / "card.json").touch()
    assert weights.folder("VGGFace2", KNOWN) == Path("VGGFace2")


def test_another_process_may_be_faster(there, converter):
    place = there / "cache" / "checkpoints" / "vggface2"
    ours = converter.side_effect

    def faster(command, **settings):
        checkpoint.save(place, {"a": np.ones(1)}, {"kind": "theirs"})
        return ours(command, **settings)

    converter.side_effect = faster
    assert weights.folder("vggface2", KNOWN) == place
    assert checkpoint.restore(place)[1] == {"kind": "theirs"}
    assert [p.name for p in place.parent.iterdir()] == ["vggface2"]


def test_what_the_converter_says_is_in_the_error(there, converter):
    """Not only on the terminal, which a notebook does not show."""
    converter.side_effect = None
    converter.return_value = subprocess.CompletedProcess([], 1, "", "error: no route to the index")
    with pytest.raises(ValueError, match="vggface2: no route to the index\nIf you have the weight"):
        weights.folder("vggface2", KNOWN)
    assert not list((there / "cache" / "checkpoints").iterdir())


def test_a_notebooks_stderr_has_no_file_behind_it(there, converter, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Mock(spec=["write", "flush"]))
    assert weights.folder("vggface2", KNOWN).is_dir()


def test_a_cache_that_cannot_be_written_is_named(there, converter, monkeypatch):
    (there / "cache").write_text("a file")
    with pytest.raises(
        ValueError, match="cannot keep vggface2 in .*; set ADVFACE_CACHE to a folder"
    ):
        weights.folder("vggface2", KNOWN)
    (there / "cache").unlink()
    (there / "cache" / "checkpoints" / "vggface2" / "arrays").mkdir(parents=True)
    with pytest.raises(ValueError, match="is no whole checkpoint .*: delete that folder"):
        weights.folder("vggface2", KNOWN)


def test_a_checkpoint_by_any_of_its_parts(there):
    checkpoint.save(there / "runs" / "mine", {"a": np.ones(1)}, {})
    for name in ("runs/mine", "runs/mine/", "runs/mine/card.json", "runs/mine/arrays", "runs"):
        assert weights.folder(name, KNOWN).resolve() == there / "runs" / "mine"
    assert weights.folder("~/runs/mine", KNOWN) == there / "runs" / "mine"
    checkpoint.save(there / "runs" / "other", {"a": np.ones(1)}, {})
    with pytest.raises(ValueError, match=r"runs holds 2 checkpoints \(mine, other\); give one"):
        weights.folder("runs", KNOWN)
    (there / "runs" / "mine").rename(there / "runs" / ".mine.old")  # a save that was killed
    assert checkpoint.restore(weights.folder("runs/mine", KNOWN))[1] == {}


def test_a_weight_file_is_answered_with_the_command_that_converts_it(there):
    for name in ("20180402-vggface2.pt", "my weights.h5", "20180402.pb"):
        (there / name).touch()
    convert = "python -m weights_convert"
    with pytest.raises(
        ValueError, match=rf"file; .*`{convert} 20180402-vggface2\.pt -o weights/2018"
    ):
        weights.folder("20180402-vggface2.pt", KNOWN)
    with pytest.raises(ValueError, match=rf'`{convert} "my weights\.h5" -o "weights/my weights"`'):
        weights.folder("my weights.h5", KNOWN)
    with pytest.raises(ValueError, match=rf"holds weights .*`{convert} .*{there.name}"):
        weights.folder(there, KNOWN)
    (there / "saved").mkdir()
    (there / "saved" / "saved_model.pb").touch()
    with pytest.raises(
        ValueError, match=rf"\(saved_model\.pb\)\. .*`{convert} saved -o weights/saved`"
    ):
        weights.folder("saved", KNOWN)


def test_a_file_that_is_not_there_is_called_missing(there):
    message = r"no file 20180402-vggface2\.pt, seen from .*did you mean 'vggface2'.*releases"
    with pytest.raises(ValueError, match=message):
        weights.folder("20180402-vggface2.pt", KNOWN)
    with pytest.raises(
        ValueError, match=r"no weights called 'facenet512' \(did you mean 'facenet-5"
    ):
        weights.folder("facenet512", KNOWN)
    with pytest.raises(ValueError, match=r"'vgface' \(did you mean 'vggface2'\?\)"):
        weights.folder("vgface", KNOWN)
    with pytest.raises(ValueError, match="no weights called ''"):
        weights.folder("", KNOWN)


def test_a_decoder_is_no_recogniser(there):
    for ending in (".safetensors", ".json"):
        (there / f"resrec{ending}").touch()
    with pytest.raises(
        ValueError, match=r"such as a decoder, and no recogniser.*\.read_decoder\('re"
    ):
        weights.folder("resrec.safetensors", KNOWN)
    assert weights.folder(there, KNOWN) == there, "restore says what it is not"
