"""The benchmark: what its numbers mean. Nothing here asserts how long anything takes."""

import dataclasses
import functools
import importlib.metadata
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import filled, small_decoder, system_of
from processes import free_port, start
from reference import weights
from tables import is_picture

import advface_jax
from advface_jax import memory, sharding
from advface_jax.models import decoders, facenet
from advface_jax.system import write_decoder
from experiments import throughput
from experiments.benchmark import cases, peer, roofline, timing, tpu_estimate
from experiments.benchmark.cases import Case
from experiments.benchmark.timing import Entry, Sample

CASE = Case("transrec", 4, 40, "float32", "default", 1, 1)
GPU, CPU = (SimpleNamespace(platform=p, device_kind="a device") for p in ("gpu", "cpu"))
FIELDS = {"impl", "decoder", "batch", "steps", "dtype", "precision", "devices", "n_epsilon"}
FIELDS |= {"device", "faces_per_s", "core_ms_per_iteration_face", "roofline_share", "compile_s"}


# -- the arithmetic of a row --------------------------------------------------------------------

WHOLE, ITERATION = [Sample(2.0, 3.0)], [Sample(0.04, 0.06)]


def row(whole=WHOLE, iteration=ITERATION, device=GPU, **case):
    case = dataclasses.replace(CASE, **case)
    entry = Entry("advface_jax", case, lambda steps: Sample(0, 0), {"compile_s": 1.0})
    return cases.row(entry, whole, iteration, roofline.Work(2e6, 1e5), 1e9, 1e8, device)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, {"faces_per_s": 2, "core_ms_per_iteration_face": 15, "n": 1}),
        ({}, {"wall_ms_per_iteration_face": 10, "flop_per_s": 2e8, "bytes_per_s": 1e7}),
        # At best 2 ms for the arithmetic, 1 ms for the bytes, side by side; it took 10.
        ({}, {"roofline_share": 0.2, "bound_by": "arithmetic"}),
        # Several bounds are more work for the same faces.
        ({"n_epsilon": 3}, {"faces_per_s": 2, "core_ms_per_iteration_face": 5}),
        # More devices have higher ceilings, unless a CPU is divided into them.
        ({"devices": 2}, {"roofline_share": 0.1}),
        ({"devices": 2, "device": CPU}, {"roofline_share": 0.2}),
        (
            {"whole": [Sample(4 / rate, 1) for rate in (1, 2, 3, 4, 100)]},
            {"faces_per_s": 3, "faces_per_s_quartiles": [2, 4], "n": 5},
        ),
        # Below the noise there is no rate.
        ({"iteration": [Sample(-0.1, 0.01)]}, {"roofline_share": None, "flop_per_s": None}),
    ],
)
def test_a_row_is_for_one_face_and_one_iteration(changed, expected):
    found = row(**changed)
    assert found.keys() >= FIELDS and (found["impl"], found["batch"]) == ("advface_jax", 4)
    for field, value in expected.items():
        assert found[field] == pytest.approx(value), field
    json.dumps(found, allow_nan=False)


def test_an_iteration_is_the_difference_of_two_runs():
    long, short = [Sample(5, 9), Sample(6, 9)], [Sample(1, 1), Sample(4, 5)]
    assert timing.marginal(long, short, 4) == [Sample(1, 2), Sample(0.5, 1)]
    few = [dataclasses.replace(CASE, steps=n).few for n in (1, 2, 9, 40)]
    assert few == [0, 1, 1, 8]


def test_runs_take_turns_there_and_back_after_a_warm_up():
    said = []
    runs = {k: lambda k=k: said.append(k) or Sample(len(said), 0) for k in "abc"}
    found = timing.interleaved(runs, 2, "time")
    assert "".join(said) == "abc" + "abc" + "cba"
    assert [s.wall for s in found["a"]] == [4, 9], "the warm-up does not count"


@pytest.mark.parametrize("kind", decoders.KINDS)
def test_the_work_of_an_iteration_is_what_xla_counts(kind):
    config = decoders.DecoderConfig.of(kind)
    decoder = filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), 1)
    work = roofline.iteration(decoder)
    by_xla = roofline.counted(decoder)
    assert by_xla and 0.96 < work.flops / by_xla < 1, "all but batch norm and the like"
    assert work.bytes > 8 * 77 * 77 * 64 * 4
    half = roofline.iteration(decoder, "bfloat16")
    assert (half.flops, half.bytes) == (work.flops, work.bytes / 2)


def test_a_convolution_is_counted_by_hand():
    """3×3 of 2 channels over 4×4 places, padded: 16·9 products less those on the edge's zeros; and
    the mirror of stride 2, where each of 3×3 inputs meets each of 9 taps."""
    how = {"window_strides": (1, 1), "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    conv = functools.partial(jax.lax.conv_general_dilated, **how)

    def both(x, k):
        same = conv(x, k, padding=((1, 1), (1, 1)))
        return same, conv(x[:, :3, :3], k, padding=((2, 2), (2, 2)), lhs_dilation=(2, 2))

    jaxpr = jax.make_jaxpr(jax.jit(both))(jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5)))
    counts = [roofline._multiplications(e) for e in roofline._convolutions(jaxpr.jaxpr)]
    assert counts == [10 * 10 * 2 * 5, 9 * 9 * 2 * 5]


def test_the_slower_of_arithmetic_and_memory_sets_the_least_time():
    work = roofline.Work(100.0, 10.0)
    assert work.least_seconds(10, 10) == 10 and work.bound(10, 10) == "arithmetic"
    assert work.least_seconds(1000, 1) == 10 and work.bound(1000, 1) == "memory"


@pytest.fixture
def quick(monkeypatch):
    """Ceilings of small operations."""
    for name, value in (("LONG_ENOUGH", 0.0), ("MATRIX", 64), ("COPY", 4096)):
        monkeypatch.setattr(roofline, name, value)


def test_ceilings_are_of_what_runs(quick, monkeypatch):
    product, copy = roofline.matmul("float32"), roofline.copy()
    assert product.amount == 2 * 64**3 and product.run().shape == (64, 64)
    before = float(copy.run()[0])
    assert float(copy.run()[0]) == before + 1, "each run writes the array anew"
    assert copy.amount == 2 * 4 * copy.run().size
    monkeypatch.setattr(roofline, "LONG_ENOUGH", 1e9)
    monkeypatch.setattr(roofline, "LARGEST_MATRIX", 256)
    assert roofline.matmul("float32").amount == 2 * 256**3, "doubled while it is too quick"


class Plain(nnx.Module):
    """A recogniser of which only E is used."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.extractor = facenet.Extractor(facenet.FaceNetConfig(folded=True), rngs=rngs)


def plain_system():
    return system_of(filled(lambda: Plain(rngs=nnx.Rngs(0))))


@pytest.fixture
def flags(tmp_path, monkeypatch, quick):
    system = plain_system()
    monkeypatch.setattr(advface_jax, "load", lambda weights: system)
    path = tmp_path / "small.safetensors"
    write_decoder(path, small_decoder(), {"weights": "random", "weights_sha256": "00"})
    small = {"decoder": (str(path),), "steps": (2,), "repeats": 1, "latency": 1}
    return {**small, "out": tmp_path / "out"}


@pytest.mark.slow
def test_a_tiny_run_leaves_rows_a_table_and_pictures(flags, monkeypatch, capsys):
    monkeypatch.setattr(memory, "footprint", lambda **_: memory.Footprint(0, 1e6))
    monkeypatch.setattr(throughput, "MOST", 2)
    with jax.numpy_dtype_promotion("standard"):  # Adam's, as in test_train
        throughput.main(**flags, batch=("auto",), training=(2,))
    document = json.loads((flags["out"] / "throughput.json").read_text())
    first, online, trained, attacking = document["rows"]
    assert first.keys() >= FIELDS and first["decoder"] == "small", "no path of a machine"
    assert first["temp_mb_per_face"] > 1 and first["iteration_from_steps"] == [1, 2]
    assert (first["batch"], online["batch"], trained["batch"]) == (2, 1, 2)
    assert online["latency_ms_p95"] >= online["latency_ms_p50"] > 0
    assert online["statistics"] == "example" and trained["work"] == "training"
    assert attacking["stored"] and not trained["stored"]
    rates = [first["faces_per_s"], trained["trained_faces_per_s"], trained["core_ms_per_face"]]
    rates += [attacking["trained_faces_per_s"]]
    ceilings = document["notes"]["ceilings"]
    rates += ceilings["matmul_flop_per_s"]["float32 default"] + ceilings["copy_bytes_per_s"]
    assert min(rates) > 0
    assert document["notes"]["work_of_an_iteration"].keys() == {"small float32"}
    text = (flags["out"] / "throughput.md").read_text()
    for shown in (f"{rates[0]:.2f}", "p95", f"{rates[1]:.2f}"):
        assert shown in text
    assert text.splitlines()[0] in capsys.readouterr().out
    assert all(is_picture(flags["out"] / f"{name}.png") for name in ("throughput", "roofline"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": ("0",)}, "got --batch 0; wanted numbers from 1, or auto"),
        ({"batch": ("many",)}, "got --batch many"),
        ({"batch": ("auto",), "aot": ("v5e:1x1",)}, r"got --batch auto; .*\(without --aot\)"),
        ({"devices": (1000,)}, "got --devices 1000; here are"),
        ({"devices": (2,), "hosts": "auto"}, "got --hosts with --devices"),
        ({"repeats": 0}, "got repeats=0"),
        ({"decoder": ("a/transrec", "b/transrec")}, "got --shadows .*; wanted each name once"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_loaded(monkeypatch, wrong, message):
    monkeypatch.setattr(advface_jax, "load", None)
    with pytest.raises(ValueError, match=message):
        throughput.main(**wrong)


def test_estimates_for_tpus_need_no_run(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(tpu_estimate, "row", lambda *what, **how: asked.append((*what, how)) or {})
    monkeypatch.setattr(tpu_estimate, "table", lambda rows: f"{len(rows)} rows")
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "9")
    monkeypatch.setattr(advface_jax, "load", None)  # no weights either
    throughput.main(decoder=("urec", "resrec"), aot=("v5e:1x1",), out=tmp_path)
    assert asked == [
        ("v5e:1x1", decoders.DecoderConfig.of(kind), 8, how)
        for kind in ("urec", "resrec")
        for form in ("plain", "packed")
        for how in [{"dtype": "bfloat16", "steps": 40, "formulation": form}]
    ]
    assert len(json.loads((tmp_path / "throughput_aot.json").read_text())["rows"]) == 4
    assert "4 rows" in (tmp_path / "throughput_aot.md").read_text()
    asked.clear()
    throughput.main(decoder=("urec",), aot=("v5e:1x1",), formulation=("packed",), out=tmp_path)
    assert [how["formulation"] for *_, how in asked] == ["packed"]


def test_what_does_not_fit_is_refused_before_it_runs(flags, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device=None: 1e6)
    with pytest.raises(ValueError, match="got a batch of 2 for a device: .* room for 1 MB"):
        throughput.main(**flags, batch=("2",))


HOST = """
import advface_jax
from advface_jax import cli
from experiments import throughput
from experiments.benchmark import roofline
from test_throughput import plain_system

advface_jax.load = lambda weights: plain_system()
roofline.LONG_ENOUGH = 0.0
cli.start(throughput.main, "experiments.throughput")
"""


@pytest.mark.slow
@pytest.mark.long
def test_two_hosts_share_a_batch_and_the_first_writes(flags):
    given = f"--decoder {flags['decoder'][0]} --batch 1 4 --steps 2 --repeats 1 --latency 1"
    given += f" --hosts 127.0.0.1:{free_port()},2,"
    hosts = [
        start(HOST, *f"{given}{i} --out {flags['out']}{i}".split(), devices=2) for i in range(2)
    ]
    told = [host.communicate(timeout=300) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], told
    document = json.loads((Path(f"{flags['out']}0") / "throughput.json").read_text())
    assert [(r["batch"], r["devices"]) for r in document["rows"]] == [(1, 1), (4, 4), (1, 1)]
    assert "faces/s" in told[0][0] and "faces/s" not in told[1][0] and not told[1][1]
    assert not Path(f"{flags['out']}1").exists()


def test_a_case_takes_the_devices_that_can_share_its_batch():
    alone, two = (dataclasses.replace(CASE, batch=0, devices=n) for n in (0, 2))
    assert throughput._sized(None, "3", alone).devices == sharding.most(3, len(jax.devices()))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="got --batch 3 for --devices 2; wanted a multiple"):
        throughput._sized(None, "3", two)  # type: ignore[arg-type]


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A program in the place of ``peer_torch``."""
    file = tmp_path / "peer.py"
    monkeypatch.setattr(peer, "SCRIPT", file)
    return file


def test_a_python_without_torch_is_refused(script):
    script.write_text("raise ImportError('No module named torch')")
    ended, no_python = (
        r"ended: .*No module named torch.*--peer-python",
        "cannot start --peer-python",
    )
    for python, message in ((None, ended), (script / "no", no_python)):
        with pytest.raises(ValueError, match=message), peer.start(python):
            pass


def test_the_answers_of_the_other_side_become_an_entry(script):
    script.write_text(
        "import json, sys\nprint(json.dumps({'torch': '9'}), flush=True)\n"
        "for line in sys.stdin:\n"
        "    steps = json.loads(line).get('steps', 0)\n"
        "    answer = {'equal_signs': 1, 'gradient_error': 0, 'wall': steps, 'cpu': 2}\n"
        "    if steps == 1: answer = {'error': 'out of luck'}\n"
        "    print(json.dumps({'peak_bytes': 3e6, **answer}), flush=True)\n"
    )
    with peer.start(Path(sys.executable)) as (other, folder):
        assert other.about["torch"] == "9"
        entry = other.entry("protect", "torch", CASE, folder / "x.npz")
        assert entry.run(7) == Sample(7, 2) and entry.figures["peak_mb"] == 3
        with pytest.raises(ValueError, match="failed: out of luck"):
            entry.run(1)


@pytest.mark.parametrize(("signs", "error"), [(0.5, 1e-6), (1.0, 0.9), (1.0, float("nan"))])
def test_other_work_is_not_timed(signs, error):
    peer.refuse_disagreement({"equal_signs": 1.0, "gradient_error": 1e-6}, "float32", "torch")
    found = {"equal_signs": signs, "gradient_error": error}
    with pytest.raises(ValueError, match="torch computes something else: .* it is not timed"):
        peer.refuse_disagreement(found, "float32", "torch")


@pytest.fixture
def torch_python():
    """A Python with torch: ADVFACE_TORCH_PYTHON, or this one."""
    named = os.environ.get("ADVFACE_TORCH_PYTHON")
    python = named or sys.executable
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode:
        give_up = pytest.fail if named else pytest.skip
        give_up(f"no torch in {python}; ADVFACE_TORCH_PYTHON may name a Python that has it")
    return Path(python)


@pytest.mark.slow
def test_torch_computes_what_we_compute(torch_python, tmp_path):
    extractor = plain_system().extractor
    z = jax.jit(lambda e, x: e(x))(extractor, weights.images(1, 2))
    file = tmp_path / "case.npz"
    how = {"precision": "highest", "alpha": 0.2, "epsilon": 0.2, "dtype": "float32"}
    with peer.start(torch_python) as (other, _):
        for kind in decoders.KINDS:
            case = dataclasses.replace(CASE, decoder=kind)
            shadow = small_decoder(kind, depth=int(kind != "transrec"))
            peer.write(file, z, extractor=extractor, shadow=shadow)
            how["kind"] = kind
            for variant in ("eager", "step+channels_last"):
                entry = other.entry("protect", variant, case, file, variant=variant, **how)
                found = entry.figures
                assert found["equal_signs"] > 0.999 and found["gradient_error"] < 1e-2
                assert max(found["x_tilde_error"], found["z_tilde_error"]) < 1e-4
                sample = entry.run(2)
                assert sample.wall > 0 and sample.cpu > 0 and found["peak_mb"] > 1
        arrays = dict(np.load(file))
        arrays["shadow.conv_1a.kernel"] = arrays["shadow.conv_1a.kernel"][::-1]
        np.savez(file, **arrays)
        with pytest.raises(ValueError, match="mirrored, protect urec computes something else"):
            other.entry("protect", "mirrored", case, file, variant="eager", **how)
