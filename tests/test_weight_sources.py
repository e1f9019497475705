"""Every reader: files in the true format, damaged files, malicious files."""

import functools
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import h5py
import ml_dtypes
import numpy as np
import pytest
import weight_files as wf

from advface_jax import untrusted
from weights_convert.sources import (
    graphdef,
    keras_h5,
    safetensors_file,
    tf_checkpoint,
    tflite,
    torch_file,
    wire,
)

GOLDENS = Path(__file__).parent / "goldens"
RNG = np.random.default_rng(7)
ARRAYS = {
    "net/first/kernel:0": RNG.normal(size=(3, 2, 4, 5)).astype(np.float32),
    "net/first/bias:0": RNG.normal(size=5).astype(np.float32),
    "net/second/kernel:0": RNG.normal(size=(5, 7)).astype(np.float32),
}
KERAS = {name.partition("/")[2].removesuffix(":0"): array for name, array in ARRAYS.items()}
KERAS3 = {  # variables in the order of their layers
    "first/kernel": ARRAYS["net/first/kernel:0"],
    "first/bias": ARRAYS["net/first/bias:0"],
    "first_BatchNorm/beta": RNG.normal(size=5).astype(np.float32),
    "first_BatchNorm/moving_mean": RNG.normal(size=5).astype(np.float32),
    "first_BatchNorm/moving_variance": RNG.normal(size=5).astype(np.float32),
    "second/kernel": ARRAYS["net/second/kernel:0"],
    "third/kernel": ARRAYS["net/second/kernel:0"],
}

write_snappy = functools.partial(wf.write_checkpoint, compressed=True)
READERS: dict[str, tuple[Callable, Callable, wf.Arrays]] = {
    ".pt": (wf.write_torch, torch_file.read, ARRAYS),
    ".pb": (wf.write_graph, graphdef.read, ARRAYS),
    ".index": (wf.write_checkpoint, tf_checkpoint.read, ARRAYS),
    ".snappy.index": (write_snappy, tf_checkpoint.read, ARRAYS),
    ".tflite": (wf.write_tflite, tflite.read, ARRAYS),
    ".h5": (wf.write_keras, keras_h5.read, KERAS),
    ".weights.h5": (wf.write_keras3, keras_h5.read, KERAS3),
    ".keras": (wf.write_keras3, keras_h5.read, KERAS3),
    ".safetensors": (wf.write_safetensors, safetensors_file.read, ARRAYS),
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
    hdf5 = kind.endswith((".h5", ".keras"))
    for _ in range(0 if hdf5 else 300):  # HDF5 has its own reader
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
        (3, "not a named tensor"),
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


def wrapped_in_modules(arrays: wf.Arrays, **more: object) -> wf.Built:
    """A whole module, as ``torch.save(module)`` writes it: its class, and its attributes."""
    values = wf.torch_value(arrays)
    parts: dict[str, dict] = {}
    for name, value in values.items():
        parts.setdefault(name.partition(":")[0], {})[name.partition(":")[2]] = value
    inner = {
        part: wf.Built(wf.Named("net", "Block"), {"_parameters": {**own, "none": None}})
        for part, own in parts.items()
    }
    odd = wf.Call(wf.Named("builtins", "set"), [])
    return wf.Built(wf.Named("net", "Net"), {"_modules": inner, "_odd": odd, **more})


FEW = {f"a:{i}": np.full(3, i, np.float32) for i in range(3)}
HELD: dict[str, Callable[[dict], object]] = {
    "state_dict": lambda own: {"state_dict": own, "epoch": 3, "best": 0.5, "none": None},
    "model, with an optimiser": lambda own: {
        "optimizer": {"state": {0: {"step": own["a:0"]}}, "param_groups": [{"params": [0]}]},
        "model": own,
    },
    "Lightning's": lambda own: {
        "hyper_parameters": wf.Built(wf.Named("lightning", "AttributeDict"), {"lr": 0.1}),
        "callbacks": {"ModelCheckpoint": {"path": wf.Call(wf.Named("pathlib", "Path"), "/x")}},
        "state_dict": own,
    },
    "a copy of itself": lambda own: {"model": own, "same": own},
    "an OrderedDict of pairs": lambda own: wf.Call(
        wf.Named("collections", "OrderedDict"), [list(pair) for pair in own.items()]
    ),
}


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
def test_the_state_dict_in_a_trainings_checkpoint_is_found(held, tmp_path):
    path = tmp_path / "w.pt"
    wf.write_torch(path, FEW, wf.pickled(held(wf.torch_value(FEW))))
    assert_same(torch_file.read(path), FEW)


def test_a_whole_module_is_read_and_not_made(tmp_path):
    path = wf.write_torch(tmp_path / "w.pt", FEW, wf.pickled(wrapped_in_modules(FEW)))
    wanted = {name.replace(":", "."): array for name, array in FEW.items()}
    assert_same(torch_file.read(path), wanted)


def test_two_state_dicts_in_one_file_are_a_question(tmp_path):
    both = {"model": wf.torch_value(FEW), "ema": wf.torch_value(FEW)}
    path = wf.write_torch(tmp_path / "w.pt", FEW, wf.pickled(both))
    with pytest.raises(ValueError, match=r"several state dicts \((ema|model), (ema|model)\); save"):
        torch_file.read(path)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read(dtype, tmp_path):
    arrays = {"w": np.array([0.5, -2, 3], dtype)}
    assert_same(torch_file.read(wf.write_torch(tmp_path / "w.pt", arrays)), arrays)
    path = wf.write_safetensors(tmp_path / "w.safetensors", arrays)
    assert_same(safetensors_file.read(path), arrays)


def test_programs_and_the_oldest_form_of_torch_are_named_with_the_way_out(tmp_path):
    path = wf.write_torch(tmp_path / "w.pt", FEW)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tiny/constants.pkl", b"")
    with pytest.raises(ValueError, match=r"w\.pt: a TorchScript program; .*state_dict\(\), FILE"):
        torch_file.read(path)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        tar.addfile(tarfile.TarInfo("storages"))
    with pytest.raises(ValueError, match=r"w\.pt: a tar, as PyTorch before 0\.1\.10 wrote; load"):
        torch_file.read(path)


def test_no_small_file_claims_all_the_memory(tmp_path, monkeypatch):
    """A stride of 0, repeated constants, chunks that were never written."""
    monkeypatch.setattr(untrusted, "ARRAY_BYTES", 4 << 20)
    arrays = {"w": np.zeros(1, np.float32)}
    value = wf.torch_value(arrays)
    storage = value["w"].arguments[0]
    value["w"].arguments = (storage, 0, (4000, 4000), (0, 0), False, None)
    torch = wf.write_torch(tmp_path / "w.pt", arrays, wf.pickled(value))
    big = wf.field(1, 1) + wf.field(2, wf.shape_proto((1 << 18,))) + wf.field(5, b"\0\0\0\0")
    graph = tmp_path / "w.pb"
    graph.write_bytes(b"".join(wf.node(f"v{i}", "Const", tensor=big) for i in range(5)))
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file.create_dataset("l/w:0", shape=(1 << 40,), dtype="f4", chunks=(1024,))
    calls = ((torch_file, torch), (graphdef, graph), (keras_h5, tmp_path / "w.h5"))
    for reader, path in calls:
        with pytest.raises(ValueError, match="claims more than 4 MiB of numbers"):
            reader.read(path)


def test_a_pickle_that_doubles_itself_is_answered_at_once(tmp_path):
    """40 times a tuple of the last one twice: to print or to hash it takes for ever."""
    doubled = b"\x80\x02)q\0" + b"".join(
        b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(40)
    )
    pairs = b"ccollections\nOrderedDict\n]h(K\1\x86a\x85R."  # OrderedDict([(key, 1)])
    for end, complaint in ((b")R.", "calls a tuple"), (b"}h(K\1s.", "keys"), (pairs, "keys")):
        path = wf.write_torch(tmp_path / "w.pt", {}, doubled + end)
        with pytest.raises(ValueError, match=complaint):
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


def test_a_scale_for_each_channel_is_refused(tmp_path):
    path = wf.write_tflite(tmp_path / "w.tflite", {"q": np.zeros((2, 2), np.uint8)}, {"q": (0, 0)})
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack("<If", 1, 0.0) + struct.pack("<Iq", 1, 0))
    data[at : at + 4] = struct.pack("<I", 2)  # two scales: the second is what follows
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"w\.tflite: its tensor 'q' has 2 scales, .*made from"):
        tflite.read(path)


def test_keras_puts_a_number_behind_a_name_that_it_used_before(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in KERAS.items():
            layer, word = name.split("/")
            file[f"model_weights/{layer}/{layer}_1/{word}:0"] = array
    assert_same(keras_h5.read(tmp_path / "w.h5"), KERAS)


def test_an_older_keras_3_names_its_layers_in_the_config_alone(tmp_path):
    path = wf.write_keras3(tmp_path / "w.keras", KERAS3, names=False)
    assert_same(keras_h5.read(path), KERAS3)
    path = wf.write_keras3(tmp_path / "w.weights.h5", KERAS3, names=False)
    with pytest.raises(ValueError, match=r"no names of layers in it; .*model\.save\('facenet\.h5'"):
        keras_h5.read(path)


def test_tensorflows_other_checkpoints_are_named_with_the_way_out(tmp_path):
    path = wf.write_checkpoint(tmp_path / "w.index", ARRAYS, header=wf.field(1, b"version 1"))
    with pytest.raises(ValueError, match=r"w\.index: a checkpoint of TensorFlow's version 1; load"):
        tf_checkpoint.read(path)
    path = wf.write_checkpoint(tmp_path / "w.index", ARRAYS, header=wf.field(1, 1 << 40))
    with pytest.raises(ValueError, match="needs 1099511627776 data files and beside it are 1"):
        tf_checkpoint.read(path)
    path = wf.write_checkpoint(tmp_path / "w.index", ARRAYS, parted="net/first/bias:0")
    with pytest.raises(ValueError, match="keeps the variable 'net/first/bias:0' in several parts"):
        tf_checkpoint.read(path)
    more = {"_CHECKPOINTABLE_OBJECT_GRAPH": np.zeros(1, np.float32)}
    path = wf.write_checkpoint(tmp_path / "w.index", ARRAYS | more)
    with pytest.raises(ValueError, match=r"TensorFlow 2, which names objects.*\.h5"):
        tf_checkpoint.read(path)


def test_no_permission_is_no_damage(tmp_path, monkeypatch):
    path = wf.write_keras(tmp_path / "w.h5", KERAS)
    monkeypatch.setattr(os, "open", Mock(side_effect=PermissionError(13, "Permission denied")))
    with pytest.raises(PermissionError):
        keras_h5.read(path)


def test_keras_weights_alone_are_read_too(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        for name, array in KERAS.items():
            file[f"{name.partition('/')[0]}/{name}"] = array
    assert_same(keras_h5.read(tmp_path / "w.h5"), KERAS)


def test_keras_files_do_not_reach_into_others(tmp_path):
    secret = wf.write_keras(tmp_path / "secret.h5", KERAS)
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["first/kernel:0"] = h5py.ExternalLink(str(secret), "model_weights/first/first/bias:0")
    with pytest.raises(ValueError, match="points elsewhere"):
        keras_h5.read(tmp_path / "w.h5")
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["model_weights"] = h5py.ExternalLink(str(secret), "/model_weights")
    with pytest.raises(ValueError, match="points elsewhere"):
        keras_h5.read(tmp_path / "w.h5")
