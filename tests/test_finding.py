"""Every way in which a user may name a weight file, and what is said of files that are none."""

import re
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import weight_files as wf

from weights_convert import conversion, finding
from weights_convert.sources import torch_file

ARRAYS = {"a": np.ones(3, np.float32), "b": np.zeros((2, 2), np.float32)}
CKPT = "model-2018.ckpt-275"


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A folder that is both the home and the place from which paths are seen."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    return tmp_path


WRITERS = {
    ".pt": wf.write_torch,
    ".safetensors": wf.write_safetensors,
    ".pb": wf.write_graph,
    ".index": wf.write_checkpoint,
    ".tflite": wf.write_tflite,
    ".h5": lambda path, arrays: wf.write_keras(path, {f"l/{k}:0": v for k, v in arrays.items()}),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_contents_decide_and_not_the_ending(kind, there):
    path = WRITERS[kind](there / f"w{kind}", ARRAYS)
    assert finding.find(path) == (path, kind) and conversion.KINDS[kind]
    for name in ("w", "w.bin", "w.txt", "w.pt.zip", "W.PT"):
        if kind != ".pb":  # protocol buffers have no mark
            other = there / "other" / name
            other.parent.mkdir(exist_ok=True)
            shutil.copy(path, other)
            assert finding.kind_of(other) == kind
    assert finding.find(Path("~") / path.name) == (path, kind)
    assert finding.find("w") == (Path(path.name), kind), "an ending may be left out"


def test_the_forms_of_keras_3_and_the_old_one_of_torch(there):
    keras = wf.write_keras3(there / "w.keras", {"l/kernel": np.ones((2, 2), np.float32)})
    assert finding.kind_of(keras) == ".h5"
    legacy = Path(__file__).parent / "goldens" / "tiny_legacy.pt"
    shutil.copy(legacy, there / "weights")
    assert finding.kind_of(there / "weights") == ".pt"


@pytest.mark.parametrize(
    "name",
    [CKPT, f"{CKPT}.index", f"{CKPT}.meta", f"{CKPT}.data-00000-of-00001", "checkpoint", "", "~/"],
)
def test_a_checkpoint_of_tensorflow_by_any_of_its_files(name, there):
    index = wf.write_checkpoint(there / f"{CKPT}.index", ARRAYS)
    for beside in (".meta", "-270.index"):
        (there / f"{CKPT}{beside}").write_bytes(b"graph")
    text = f'model_checkpoint_path: "/home/trainer/{CKPT}"\nall_model_checkpoint_paths: "x"\n'
    (there / "checkpoint").write_text(text)
    found, kind = finding.find(name if name.startswith("~") else there / name)
    assert (found, kind) == (index, ".index")


def test_a_saved_model_by_its_folder_or_its_graph(there):
    (there / "saved" / "variables").mkdir(parents=True)
    index = wf.write_checkpoint(there / "saved" / "variables" / "variables.index", ARRAYS)
    (there / "saved" / "saved_model.pb").write_bytes(b"graph")
    for name in ("saved", "saved/saved_model.pb", "saved/variables"):
        assert finding.find(there / name) == (index, ".index")
    index.unlink()
    with pytest.raises(ValueError, match="no variables/variables.index"):
        finding.find(there / "saved")


def test_a_folder_with_one_weight_file_stands_for_it(there):
    folder = there / "download"
    folder.mkdir()
    path = wf.write_torch(folder / "w.pt", ARRAYS)
    (folder / "README.md").write_text("read me")
    assert finding.find(f"{folder}/") == (path, ".pt")
    wf.write_torch(folder / "x.pt", ARRAYS)
    with pytest.raises(ValueError, match=r"wanted one weight file .*found 2 \(w\.pt, x\.pt\)"):
        finding.find(folder)
    with pytest.raises(ValueError, match="wanted one weight file .*found none"):
        (there / "empty").mkdir()
        finding.find(there / "empty")
    (there / "empty" / "card.json").touch()
    with pytest.raises(ValueError, match="is a checkpoint already"):
        finding.find(there / "empty")


@pytest.mark.parametrize(
    ("name", "contents", "complaint"),
    [
        ("w.pt", b"", "an empty file; fetch it again"),
        (
            "w.pt",
            b"version https://git-lfs.github.com/spec/v1\n",
            "a pointer of Git LFS; fetch .*git lfs pull",
        ),
        ("w.pt", b"<!DOCTYPE html><html>", "a web page; .*in a browser"),
        ("w.tar.gz", b"\x1f\x8b\x08", "a gzip archive; unpack it"),
        ("w.npz", struct.pack("<Q", 7), r"unknown ending '\.npz'.*wanted one of \.tflite"),
        ("w.meta", b"graph", r"beside it w\.index is missing"),
        ("checkpoint", b"what", "unknown ending ''"),
    ],
)
def test_files_that_are_no_weights(name, contents, complaint, there):
    (there / name).write_bytes(contents)
    with pytest.raises(ValueError, match=f"{re.escape(name)}: {complaint}"):
        finding.find(there / name)


def test_an_archive_is_to_be_unpacked(there):
    with zipfile.ZipFile(there / "w.zip", "w") as archive:
        archive.writestr("20180402/20180402.pb", b"x")
    with pytest.raises(
        ValueError, match=r"zip archive with weights \(20180402/20180402\.pb\); unp"
    ):
        finding.find(there / "w.zip")


def test_a_damaged_zip_is_answered_by_its_reader(there):
    path = wf.write_torch(there / "w.pt", ARRAYS)
    path.write_bytes(path.read_bytes()[:-30])
    assert finding.kind_of(path) == ".pt"
    with pytest.raises(ValueError, match="or a damaged one"):
        torch_file.read(path)


def test_a_name_of_nothing_is_answered_with_the_known_ones(there):
    with pytest.raises(
        ValueError, match="w.pt: no such file, seen from .*no known name .*vggface2"
    ):
        finding.find("w.pt")
