"""How many faces fit: what the compiler counts, and what is refused before it runs."""

from types import SimpleNamespace

import jax
import pytest
from networks import small_decoder, small_extractor

from advface_jax import ProtectConfig, memory
from advface_jax.protect import lowered

CONFIG = ProtectConfig(steps=2)


@pytest.fixture(scope="module")
def networks():
    return {"extractor": small_extractor(), "shadow": small_decoder()}


@pytest.fixture(scope="module")
def size(networks):
    return memory.footprint(**networks, config=CONFIG)


@pytest.fixture(scope="module")
def twelve(networks):
    z = jax.ShapeDtypeStruct((12, 77, 77, 64), "float32")
    return lowered(z, 0.1, **networks, config=CONFIG).compile()


def test_two_small_programs_give_the_size_of_a_larger_one(twelve, size):
    assert size.of(12) == pytest.approx(memory.needed(twelve), rel=0.02)
    assert size.per_face > 2 * 77 * 77 * 64 * 4, "less than z and z_adv themselves"


@pytest.mark.slow
def test_several_epsilon_take_more(networks, size):
    several = memory.footprint(**networks, config=CONFIG, n_epsilon=3)
    assert several.per_face > size.per_face + 1.9 * 77 * 77 * 64 * 4, "three results instead of one"


def test_more_room_never_fits_fewer_faces(networks, monkeypatch):
    size = memory.Footprint(fixed=1e6, per_face=1e7)
    monkeypatch.setattr(memory, "footprint", lambda **_: size)
    rooms = [1.1e7, 3e7, 3.2e7, 1e9, 1e10]
    batches = [memory.largest_batch(**networks, room=room) for room in rooms]
    assert batches == [1, 2, 3, 99, 999]
    assert all(size.of(b) <= room < size.of(b + 1) for b, room in zip(batches, rooms, strict=True))
    assert memory.largest_batch(**networks, room=1e10, most=64) == 64
    assert memory.largest_batch(**networks, room=3.2e7, devices=4) == 12, "three on each"
    assert memory.largest_batch(**networks, room=1e10, devices=4, most=10) == 8
    with pytest.raises(ValueError, match="got most=1 for 2 devices; wanted a face for each"):
        memory.largest_batch(**networks, room=1e10, devices=2, most=1)


def test_the_error_says_what_does_not_fit(networks, twelve, size, monkeypatch):
    memory.check(twelve, 12, room=1.1 * size.of(12))
    with pytest.raises(ValueError, match="got a batch of 12 .* about 6 fit"):
        memory.check(twelve, 12, room=size.of(6))
    monkeypatch.setattr(memory, "footprint", lambda **_: size)
    with pytest.raises(ValueError, match="not one face fits: .* MB of a device, .* room for 1 MB"):
        memory.largest_batch(**networks, room=1e6)


def test_the_room_of_a_device(monkeypatch):
    def device(platform, stats):
        return SimpleNamespace(platform=platform, memory_stats=lambda: stats)

    told = device("gpu", {"bytes_limit": 100, "bytes_in_use": 30})
    silent = device("gpu", None)
    assert memory.available(told) == 70 and memory.available(silent) is None  # type: ignore[arg-type]
    monkeypatch.setattr(memory, "available", lambda device=None: None)
    with pytest.raises(ValueError, match="give room="):
        memory._room()


def test_a_group_of_processes_may_have_a_limit_of_its_own(tmp_path, monkeypatch):
    cpu = SimpleNamespace(platform="cpu", memory_stats=lambda: None)
    free = memory.available(cpu)  # type: ignore[arg-type]
    assert free and free > 1e8, "this machine runs tests: it has memory"
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("1000\n")
    none = tmp_path / "none"  # a system that does not say its groups
    assert memory._left_in_group(tmp_path, none) is None
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory._left_in_group(tmp_path, none) == 4000
    monkeypatch.setattr(memory, "_left_in_group", lambda: 4000)
    assert memory.available(cpu) == 4000  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "top", "limit", "used"),
    [
        ("0::/{}", ".", "memory.max", "memory.current"),
        ("5:cpu,memory:/{}", "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_the_least_of_all_limits_above_a_process_counts(tmp_path, line, top, limit, used):
    """A batch system limits the job's group, which lies under the root of all groups."""
    own, job = tmp_path / "own", "system.slice/slurm/job_7"
    own.write_text("3:cpuset:/else\n" + line.format(f"{job}/step_0") + "\n")
    limits = {
        "": "max",
        "system.slice": "9000",
        job: "5000",
        "else": "1001",
        f"{job}/step_0": "max",
    }
    for group, most in limits.items():
        folder = tmp_path / "groups" / top / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / limit).write_text(most + "\n")
        (folder / used).write_text("1000\n")
    assert memory._left_in_group(tmp_path / "groups", own) == 4000
    own.write_text(line.format("docker/abc") + "\n")  # from within a container it is not there
    (tmp_path / "groups" / top / limit).write_text("3000\n")
    assert memory._left_in_group(tmp_path / "groups", own) == 2000
