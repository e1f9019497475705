"""Whole sets protected: the same records whatever the devices, workers, stops; one writer."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import processes
import pytest
from face_files import folder, picture
from networks import Pool, small_decoder, small_extractor

from advface_jax import ProtectConfig, System, cli, defenses, detection, lock, stopping
from advface_jax.bulk import engine, estimate, ray_engine
from advface_jax.bulk.job import Job, Settings
from advface_jax.commands import protect
from advface_jax.data import open_features
from advface_jax.data.feature_sets import encoding
from advface_jax.data.feature_sets.shards import REASONS, Fate
from advface_jax.defenses import Defense

ROOT = Path(__file__).parents[1]
pytest.importorskip("array_record", reason="the extra `data` is not installed")


def system() -> System:
    """Small networks of FaceNet's shapes."""
    return System.of(extractor=small_extractor(), server=Pool(), shadow=small_decoder())


def _halved(z, keys, epsilon, mask, settings, networks):
    return z / 2


def halved(system) -> Defense:
    return Defense("Halved", _halved)


def _divided(z, keys, epsilon, mask, settings, networks):
    return z / settings


DIVISOR = 2.0


def divided(system) -> Defense:
    return Defense("Divided", _divided, settings=DIVISOR)


def decoys(system) -> Defense:
    """As docs/bulk.md has it, without a key."""
    faces = np.random.default_rng(0).random((4, 160, 160, 3), np.float32)
    return defenses.decoy(recogniser=system.server, extractor=system.extractor, faces=faces)


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Ten faces of five people, the fourth unreadable."""
    files = {f"p{i // 2}/{i}.png": b"broken" if i == 3 else picture(20 * i) for i in range(10)}
    return str(folder(tmp_path_factory.mktemp("bulk") / "faces", files))


def settings(faces, out, **changes) -> Settings:
    small = {"config": ProtectConfig(steps=2), "batch": 2, "shard_size": 4, "seed": 3, "workers": 0}
    return Settings(faces, out, weights="test_bulk:system", **(small | changes))


def contents(out) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(out).iterdir()}


@pytest.fixture(scope="module")
def whole(faces, tmp_path_factory):
    """The set by one device, without a stop."""
    out = tmp_path_factory.mktemp("bulk") / "whole"
    ended = engine.protect(Job(settings(faces, out)))
    assert [reason for _, reason in ended.refused] == ["unreadable: not an image that is read here"]
    assert ended.items == 10 and 0 <= ended.share <= 1
    return contents(out)


def test_records_do_not_depend_on_workers(faces, whole, tmp_path):
    engine.protect(Job(settings(faces, tmp_path / "set", workers=3)))
    assert contents(tmp_path / "set") == whole
    found = open_features(tmp_path / "set")
    found.check()
    assert len(found) == 9 and found.card["left_out"] == 1


@pytest.mark.slow
@pytest.mark.long
def test_records_do_not_depend_on_devices(faces, whole, tmp_path):
    code = """
import sys
from test_bulk import Job, Path, engine, settings
job = Job(settings(sys.argv[1], Path(sys.argv[2])))
engine.protect(job)
print(len(job.devices))
"""
    assert processes.answer(processes.start(code, faces, tmp_path / "set", devices=3)) == 3
    assert contents(tmp_path / "set") == whole


@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_stopped_run_keeps_its_batches_and_ends_the_same(faces, whole, tmp_path, after):
    job, calls = Job(settings(faces, tmp_path / "set")), []

    class Preempted(Job):
        def step(self, one, device):
            if len(calls) == after:
                os.kill(os.getpid(), signal.SIGTERM)  # the run ends at its next good moment
                while not stopping.asked():
                    time.sleep(0.001)
            calls.append(1)
            return super().step(one, device)

    job.__class__ = Preempted
    before = signal.getsignal(signal.SIGTERM)
    stopping.listen()
    try:
        with pytest.raises(stopping.Stopped):
            engine.protect(job)
    finally:
        signal.signal(signal.SIGTERM, before)
        stopping._asked.clear()
    assert not (tmp_path / "set" / "card.json").exists()
    progress: list[int] = []
    job.__class__ = Job
    engine.protect(job, progress.append)
    assert progress[0] == min(2 * (after + 1), 10), "not a batch that was begun is lost"
    assert contents(tmp_path / "set") == whole


def test_half_a_shard_is_written_anew(faces, whole, tmp_path):
    job = Job(settings(faces, tmp_path / "set"))
    again = tmp_path / "again"
    with pytest.raises(KeyboardInterrupt):
        running_until(job, again, batches=3)
    first = again / "features-00000.array_record"
    first.write_bytes(first.read_bytes()[:100])
    engine.protect(Job(settings(faces, again)))
    assert contents(again) == whole


def running_until(job, out, batches):
    """A run that is interrupted."""
    object.__setattr__(job.settings, "out", out)
    calls = []

    def step(one, device, real=job.step):
        if len(calls) == batches:
            raise KeyboardInterrupt
        calls.append(1)
        return real(one, device)

    job.step = step
    engine.protect(job)


def test_two_writers_are_refused(faces, tmp_path):
    code = "import sys, time; from advface_jax import lock\nwith lock.only_writer(sys.argv[1]):\n"
    code += " print('holds', flush=True); time.sleep(60)"
    out = tmp_path / "set"
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, env=surroundings
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == b"holds\n"
        job = Job(settings(faces, out))
        with pytest.raises(ValueError, match=f"another process \\({other.pid}\\)"):
            engine.protect(job)
    finally:
        other.kill()  # its lock goes with it
        other.communicate()
    with lock.only_writer(out), pytest.raises(ValueError, match=str(os.getpid())):
        engine.protect(job)
    assert not list(out.iterdir())


@pytest.mark.slow
def test_eight_bits_are_off_by_half_a_scale(tmp_path, faces, whole):
    z = np.random.default_rng(0).normal(size=(3, 7, 5, 4)).astype(np.float32)
    z[1, :, :, 2] = 0
    scales, rounded = encoding.encode(z, "int8")
    assert rounded.dtype == np.int8 and scales.shape == (3, 1, 1, 4)
    for i in range(3):
        record = scales[i].tobytes() + rounded[i].tobytes()
        assert len(record) == encoding.size("int8", z.shape[1:])
        back = encoding.decode(record, "int8", z.shape[1:])
        assert np.all(np.abs(back - z[i]) <= scales[i] * 0.5001)
    engine.protect(Job(settings(faces, tmp_path / "set", dtype="int8")))
    engine.protect(Job(settings(faces, tmp_path / "f32", dtype="f32")))
    ours, exact = (open_features(tmp_path / n).features(range(9)) for n in ("set", "f32"))
    assert np.all(np.abs(ours - exact) <= np.abs(exact).max((1, 2), keepdims=True) / 127 * 0.501)
    assert not np.array_equal(ours, exact)


@pytest.mark.slow
@pytest.mark.long
def test_features_are_protected_like_the_faces_they_came_from(faces, tmp_path):
    changes = {"names": True, "config": ProtectConfig(steps=2, statistics="example")}
    bare = {**changes, "defense": "none", "dtype": "f32"}
    engine.protect(Job(settings(faces, tmp_path / "z", **bare)))
    engine.protect(Job(settings(str(tmp_path / "z"), tmp_path / "two", **changes)))
    engine.protect(Job(settings(faces, tmp_path / "one", **changes)))
    two, direct = (open_features(tmp_path / name) for name in ("two", "one"))
    assert two.names == direct.names and two.identities == direct.identities
    same = np.isclose(two.features(range(9)), direct.features(range(9)), atol=1e-2)
    assert same.mean() > 0.99
    with pytest.raises(ValueError, match="protected already"):
        Job(settings(str(tmp_path / "one"), tmp_path / "x"))
    with pytest.raises(ValueError, match="takes images"):
        Job(settings(str(tmp_path / "z"), tmp_path / "x", defense="duetface"))


@pytest.mark.slow
@pytest.mark.long
def test_any_defence_by_name_or_function(faces, tmp_path):
    z = {}
    for name in ("none", "ball", "test_bulk:halved", "dctdp", "test_bulk:decoys"):
        out, changes = tmp_path / name.replace(":", "_"), {"names": True, "dtype": "f32"}
        engine.protect(Job(settings(faces, out, defense=name, limit=3, **changes)))
        z[name] = open_features(out).features(range(3))
    assert np.array_equal(z["test_bulk:halved"], z["none"] / 2)
    noise = np.abs(z["ball"] - z["none"])
    assert 0.1 < noise.max() <= 0.2 + 1e-6 and not np.allclose(noise[0], noise[1])
    far = np.abs(z["test_bulk:decoys"] - z["none"]).mean((1, 2, 3))
    assert np.all(far > 0.1), "decoys are features of somebody else"
    assert z["dctdp"].shape[1:] == defenses.dctdp().stores


def test_another_setting_of_a_defence_is_another_set(faces, tmp_path, monkeypatch):
    """Also where its networks are the same: budget, steps and the like count."""
    changes = {"defense": "test_bulk:divided", "limit": 2}
    engine.protect(Job(settings(faces, tmp_path / "set", **changes)))
    engine.protect(Job(settings(faces, tmp_path / "set", **changes)))  # finished
    monkeypatch.setattr(sys.modules[__name__], "DIVISOR", 3.0)
    with pytest.raises(ValueError, match="another set of features .other defense_sha256"):
        engine.protect(Job(settings(faces, tmp_path / "set", **changes)))


def test_how_pictures_are_read_is_a_setting_where_it_is_set(faces, tmp_path, monkeypatch):
    monkeypatch.setattr(detection, "load_detector", lambda: None)
    ways: list[dict[str, bool]] = [{}, {"resize": True}, {"crop": True}]
    bare, *others = (Job(settings(faces, tmp_path / "x", **way)).card for way in ways)
    assert not {"crop", "resize"} & bare.keys(), "sets that are begun go on"
    assert others == [bare | way for way in ways[1:]]


def test_what_is_not_finite_is_left_out(faces, tmp_path):
    job = Job(settings(faces, tmp_path / "set", names=True))

    def step(one, device):
        fates, parts = Job.step(job, one, device)
        return np.where(one.indices == 5, Fate.NOT_FINITE, fates), parts

    job.step = step
    ended = engine.protect(job)
    assert ("p2/5.png", REASONS[Fate.NOT_FINITE]) in ended.refused
    assert "p2/5.png" not in open_features(tmp_path / "set").names


def _same(z, keys, epsilon, mask, settings, networks):
    return z


def _first(z, stored, settings, networks):
    return np.arange(len(z)) == 0


def first_recognised(system) -> Defense:
    return Defense("First", _same, accepts=_first)


def test_what_the_server_does_not_recognise_is_left_out(faces, tmp_path):
    job = Job(settings(faces, tmp_path / "set", names=True, defense="test_bulk:first_recognised"))
    ended = engine.protect(job)
    lost = [name for name, reason in ended.refused if reason == REASONS[Fate.REFUSED]]
    kept = open_features(tmp_path / "set")
    assert len(lost) == 4 and len(kept.names) == 5 and kept.card["left_out"] == 5  # one unreadable
    assert not {*lost} & {*kept.names}


def test_a_dry_run_writes_nothing_and_counts_the_steps(faces, tmp_path, run):
    words = ("--weights", "test_bulk:system", "--batch", "2", "--workers", "0", "--dry-run")
    code, text = run(
        lambda: sys.exit(cli.start(protect.main, "x")),
        *(faces, "-o", tmp_path / "set", "--steps", "2", *words),
    )
    assert code is None and "GFLOP an item" in text and "on each device" in text, text
    assert not (tmp_path / "set").exists()

    def flops(steps):
        changes = {"config": ProtectConfig(steps=steps)}
        job = Job(settings(faces, tmp_path / "set", **changes))
        return estimate.operations(job.traced().jaxpr)

    few, more, most = map(flops, (1, 2, 5))
    assert few > 0 and most - more == pytest.approx(3 * (more - few))


def test_operations_are_those_of_the_textbook():
    x, k = np.zeros((2, 8, 8, 3), np.float32), np.zeros((3, 3, 3, 5), np.float32)

    def program(x, k):
        y = jax.lax.conv_general_dilated(
            x, k, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.lax.fori_loop(0, 4, lambda i, m: m @ m, y.reshape(6, -1)[:, :6])

    want = 2 * 2 * 6 * 6 * 3 * 3 * 3 * 5 + 4 * 2 * 6**3
    assert estimate.operations(jax.make_jaxpr(program)(x, k).jaxpr) == want


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--defense", "prayer"), "got --defense prayer; wanted one of advface, none"),
        (("--steps", "3", "--defense", "ball"), "got --steps for ball"),
        (("--hosts", "auto", "--engine", "ray"), "wanted one of them"),
        (("--address", "auto"), "without --engine ray"),
        (("--shard-size", "7"), "wanted shards of whole batches"),
        (("--epsilon", "-1"), "epsilon"),
        (("--seed", "-1"), "got seed=-1; wanted 0 or more"),
        (("--workers", "-1"), "got workers=-1; wanted 0 or more"),
    ],
)
def test_what_does_not_fit_is_told_before_anything_is_loaded(words, said, run, monkeypatch):
    monkeypatch.setattr("advface_jax.load", None)
    code, text = run(lambda: cli.start(protect.main, "x"), "synthetic", "-o", "here", *words)
    assert code == 1 and said in text and len(text.splitlines()) < 4, text


def test_a_signal_waits_for_a_good_moment():
    before = signal.getsignal(signal.SIGTERM)
    stopping.listen()
    try:
        with stopping.at_good_moments():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)  # nothing is raised here
            assert stopping.asked()
            with pytest.raises(stopping.Stopped):
                stopping.check()
        stopping._asked.clear()
        with pytest.raises(stopping.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    finally:
        signal.signal(signal.SIGTERM, before)
        stopping._asked.clear()


@pytest.mark.slow
@pytest.mark.long
def test_two_hosts_write_one_set(faces, tmp_path):
    code = """
import sys
from advface_jax import cli
from advface_jax.commands import protect
sys.argv = ["x", *sys.argv[1:]]
cli.start(protect.main, "x")
print(1)
"""
    words = ("--weights", "test_bulk:system", "--batch", "2", "--shard-size", "2", "--steps", "2")
    out, port = tmp_path / "set", processes.free_port()
    hosts = [f"127.0.0.1:{port},2,{i}" for i in range(2)]
    words = (*words, "--workers", "0", "--seed", "3", "-o", out)
    both = [processes.start(code, faces, *words, "--hosts", one, devices=1) for one in hosts]
    assert [processes.answer(one) for one in both] == [1, 1]
    engine.protect(Job(settings(faces, tmp_path / "one", shard_size=2)))
    assert contents(out) == contents(tmp_path / "one")


def test_ray_s_actors_are_given_absolute_paths(tmp_path, monkeypatch):
    """They work in another folder. What is known by name stays a name."""
    monkeypatch.chdir(tmp_path)
    for name in ("faces", "mine", "resrec", "facenet-512-q8"):
        (tmp_path / name).mkdir()
    for name in ("list.tsv", "s.safetensors"):
        (tmp_path / name).touch()
    own = {"listing": Path("list.tsv"), "shadow": "s.safetensors", "weights": "mine"}
    one, other = Settings("faces", Path("set"), **own), Settings("synthetic", Path("set"))  # type: ignore[arg-type]
    assert ray_engine._absolute(one) == {
        "source": str(tmp_path / "faces"),
        "out": tmp_path / "set",
        "listing": tmp_path / "list.tsv",
        "shadow": str(tmp_path / "s.safetensors"),
        "weights": str(tmp_path / "mine"),
    }
    assert ray_engine._absolute(other) == {"out": tmp_path / "set"}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.filterwarnings("ignore")  # Ray's own, about itself
def test_a_ray_node_dies_and_the_records_are_the_same(faces, whole, tmp_path, monkeypatch):
    """Three nodes of a local cluster, one of them killed when the first shard is there."""
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster  # type: ignore

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests")]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    killed = []

    def progress(done: int) -> None:
        if done >= 2 and not killed:
            killed.append(nodes[0])
            cluster.remove_node(nodes[0], allow_graceful=False)

    try:
        ray.init(cluster.address, log_to_driver=False)
        out = tmp_path / "set"
        job = Job(settings(faces, out, shard_size=2))
        ended = ray_engine.protect(job, progress=progress)
        assert killed and len(ended.refused) <= 1
    finally:
        ray.shutdown()
        cluster.shutdown()
    engine.protect(Job(settings(faces, tmp_path / "one", shard_size=2)))
    assert contents(out) == contents(tmp_path / "one")
    open_features(out).check()
