"""Every reader: files in the true format, damaged files, malicious files."""

import functools
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import weight_files as wf

from weights_convert.sources import graphdef, keras_h5, tf_checkpoint, tflite, torch_file, wire

GOLDENS = Path(__file__).parent / "goldens"
RNG = np.random.default_rng(7)
ARRAYS = {
    "net/first/kernel:0": RNG.normal(size=(3, 2, 4, 5)).astype(np.float32),
    "net/first/bias:0": RNG.normal(size=5).astype(np.float32),
    "net/second/kernel:0": RNG.normal(size=(5, 7)).astype(np.float32),
}
KERAS = {name.partition("/")[2].removesuffix(":0"): array for name, array in ARRAYS.items()}

write_snappy = functools.partial(wf.write_checkpoint, compressed=True)
READERS: dict[str, tuple[Callable, Callable, wf.Arrays]] = {
    ".pt": (wf.write_torch, torch_file.read, ARRAYS),
    ".pb": (wf.write_graph, graphdef.read, ARRAYS),
    ".index": (wf.write_checkpoint, tf_checkpoint.read, ARRAYS),
    ".snappy.index": (write_snappy, tf_checkpoint.read, ARRAYS),
    ".tflite": (wf.write_tflite, tflite.read, ARRAYS),
    ".h5": (wf.write_keras, keras_h5.read, KERAS),
}
kinds = pytest.mark.parametrize("kind", READERS)


def assert_same(found: wf.Arrays, wanted: wf.Arrays) -> None:
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
        assert found[name].dtype == array.dtype


@kinds
def test_arrays_come_back_under_their_own_names(kind, tmp_path):
    write, read, arrays = READERS[kind]
    assert_same(read(write(tmp_path / f"w{kind}", arrays)), arrays)


@kinds
def test_damage_is_explained_or_harmless(kind, tmp_path):
    """Cut anywhere, or with bytes changed: a ValueError that names the file, or a read."""
    write, read, arrays = READERS[kind]
    path = write(tmp_path / f"w{kind}", arrays)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    cuts = [whole[: int(n)] for n in rng.integers(0, len(whole), 60)]
    for _ in range(0 if kind == ".h5" else 300):  # HDF5 has its own reader
        spoilt = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            spoilt[place] = rng.integers(0, 256)
        cuts.append(bytes(spoilt))
    refused = 0
    for content in cuts:
        path.write_bytes(content)
        try:
            read(path)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused >= 50
    path.write_text("these are no weights at all, only words\n" * 9)
    with pytest.raises(ValueError, match=r"w\..*: not .*or a damaged one .*; (give|fetch)"):
        read(path)


@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_real_torch_files(form):
    found = torch_file.read(GOLDENS / f"tiny_{form}.pt")
    assert list(found)[:2] == ["0.weight", "1.weight"]
    assert found["0.weight"].shape == (4, 3, 3, 3)
    assert abs(found["0.weight"]).max() < 27**-0.5 + 1e-6  # PyTorch's own bound on fresh weights
    numbers = np.arange(12, dtype=np.float32)
    np.testing.assert_array_equal(found["matrix"], numbers.reshape(3, 4).T)
    np.testing.assert_array_equal(found["tail"], numbers[8:])
    np.testing.assert_array_equal(found["half"], np.array([0.5, -2], np.float16))
    np.testing.assert_array_equal(found["parameter"], [[1, 2]])
    np.testing.assert_array_equal(found["1.running_var"], np.ones(4))
    assert found["1.num_batches_tracked"].dtype == np.int64


class _Shell:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_a_pickle_that_calls_a_shell_is_refused_and_not_run(form, protocol, tmp_path):
    evil = pickle.dumps({"weight": _Shell(tmp_path / "ran")}, protocol)
    path = tmp_path / "evil.pt"
    wf.write_torch(path, {}, evil) if form == "zip" else path.write_bytes(evil)
    with pytest.raises(ValueError, match="state dict"):
        torch_file.read(path)
    assert not (tmp_path / "ran").exists()
    pickle.loads(evil)
    assert (tmp_path / "ran").exists()  # or it was no test


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (wf.Call(wf.Named("builtins", "eval"), "1"), "builtins eval.*nothing was run"),
        (wf.Call(wf.Named("torch._utils", "_rebuild_tensor_v2"), 1, 0, (1,), (1,)), "storage"),
        (wf.Named("os", "system"), "not a named tensor"),
        (wf.Persistent(("module", "Net", "net.py", "…")), "not the module"),
        ([1, 2], "not a named tensor"),
    ],
)
def test_a_state_dict_holds_tensors_only(value, complaint, tmp_path):
    path = wf.write_torch(tmp_path / "w.pt", {}, wf.pickled({"weight": value}))
    with pytest.raises(ValueError, match=complaint):
        torch_file.read(path)


@pytest.mark.parametrize(
    ("offset", "shape", "strides"),
    [(0, (9,), (1,)), (8, (1,), (1,)), (0, (2, 2), (1, 7)), (-1, (1,), (1,)), (4, (2,), (-1,))],
)
def test_a_tensor_stays_inside_its_storage(offset, shape, strides, tmp_path):
    arrays = {"w": np.arange(8, dtype=np.float32)}
    value = wf.torch_value(arrays)
    storage = value["w"].arguments[0]
    value["w"].arguments = (storage, offset, shape, strides, False, None)
    path = wf.write_torch(tmp_path / "w.pt", arrays, wf.pickled(value))
    with pytest.raises(ValueError, match="tensor"):
        torch_file.read(path)


def test_an_unfrozen_graph_has_no_weights(tmp_path):
    path = tmp_path / "graph.pb"
    path.write_bytes(wf.node("weights", "VariableV2"))
    with pytest.raises(ValueError, match="no constants.*frozen"):
        graphdef.read(path)


def test_a_constant_may_spell_its_values_out(tmp_path):
    """float_val packed and short (the last value repeats), int_val single and negative."""
    short = wf.field(1, 1) + wf.field(2, wf.shape_proto((2, 2)))
    short += wf.field(5, np.array([1, 2], "<f4").tobytes())
    single = wf.field(1, 3) + wf.field(2, wf.shape_proto((1,))) + wf.field(7, 2**64 - 3)
    path = tmp_path / "graph.pb"
    path.write_bytes(wf.node("a", "Const", tensor=short) + wf.node("b", "Const", tensor=single))
    found = graphdef.read(path)
    np.testing.assert_array_equal(found["a"], np.array([[1, 2], [2, 2]], np.float32))
    np.testing.assert_array_equal(found["b"], np.array([-3], np.int32))


def test_snappy_copies_overlap_and_numbers_end():
    packed = wf.varint(12) + bytes([2 << 2]) + b"abc" + bytes([(5 - 4) << 2 | 1, 3])
    packed += bytes([(4 - 1) << 2 | 2, 2, 0])  # "abc", 5 bytes from 3 back, 4 bytes from 2 back
    assert bytes(tf_checkpoint._unsnappy(memoryview(packed))) == b"abc" + b"abcab" + b"abab"
    with pytest.raises(ValueError, match="ten bytes"):
        wire.varint(memoryview(b"\xff" * 20), 0)


def test_a_checkpoint_needs_its_data_file(tmp_path):
    path = wf.write_checkpoint(tmp_path / "w.index", ARRAYS)
    data = tmp_path / "w.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-4])
    with pytest.raises(ValueError, match="too short"):
        tf_checkpoint.read(path)
    data.unlink()
    with pytest.raises(ValueError, match=r"w\.data-00000-of-00001 is missing"):
        tf_checkpoint.read(path)


def test_eight_bit_tensors_are_dequantised(tmp_path):
    q = np.arange(256, dtype=np.uint8).reshape(4, 2, 4, 8)
    arrays = {"q": q, "plain": np.arange(3, dtype=np.int32)}
    path = wf.write_tflite(tmp_path / "w.tflite", arrays, {"q": (0.25, 100)})
    found = tflite.read(path)
    np.testing.assert_array_equal(found["q"], (q.astype(np.float32) - 100) * np.float32(0.25))
    assert found["q"].dtype == np.float32
    np.testing.assert_array_equal(found["plain"], [0, 1, 2])


def test_keras_weights_alone_are_read_too(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in KERAS.items():
            file[f"{name.partition('/')[0]}/{name}"] = array
    assert_same(keras_h5.read(tmp_path / "w.h5"), KERAS)


def test_keras_files_do_not_reach_into_others(tmp_path):
    secret = wf.write_keras(tmp_path / "secret.h5", KERAS)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["first/kernel:0"] = h5py.ExternalLink(str(secret), "model_weights/first/first/bias:0")
    with pytest.raises(ValueError, match="no weights"):
        keras_h5.read(tmp_path / "w.h5")
