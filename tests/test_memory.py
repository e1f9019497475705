"""How many faces fit: what the compiler counts, and what is refused before it runs."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from networks import filled

from advface_jax import ProtectConfig, memory, protect
from advface_jax.models import decoders, facenet
from advface_jax.protect import lowered


@pytest.fixture(scope="module")
def networks():
    config = decoders.DecoderConfig("transrec", width=4, depth=0)
    return {
        "extractor": filled(lambda: facenet.Extractor(rngs=nnx.Rngs(0)), 5),
        "shadow": filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), 7),
    }


def program(networks, batch, steps=2):
    z = jax.ShapeDtypeStruct((batch, 77, 77, 64), "float32")
    return lowered(z, 0.1, **networks, config=ProtectConfig(steps=steps)).compile()


@pytest.fixture(scope="module")
def size(networks):
    return memory.footprint(**networks, config=ProtectConfig(steps=2))


def test_two_small_programs_tell_of_a_larger_one(networks, size):
    assert size.of(24) == pytest.approx(memory.needed(program(networks, 24)), rel=0.02)
    assert size.per_face > 2 * 77 * 77 * 64 * 4, "less than z and z_adv themselves"


def test_several_epsilon_take_more(networks, size):
    several = memory.footprint(**networks, config=ProtectConfig(steps=2), n_epsilon=3)
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


def test_what_does_not_fit_is_told_with_its_numbers(networks, size):
    with pytest.raises(ValueError, match="not one face fits: .* MB of a device, .* room for 1 MB"):
        memory.largest_batch(**networks, config=ProtectConfig(steps=2), room=1e6)
    four = program(networks, 4)
    memory.check(four, 4, room=size.of(4) + 1)
    with pytest.raises(ValueError, match="got a batch of 4 .* about 2 fit"):
        memory.check(four, 4, room=size.of(2))


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
    assert memory._left_in_group(tmp_path) is None
    (tmp_path / "memory.max").write_text("5000\n")
    assert memory._left_in_group(tmp_path) == 4000
    monkeypatch.setattr(memory, "_left_in_group", lambda: 4000)
    assert memory.available(cpu) == 4000  # type: ignore[arg-type]


def test_what_was_lowered_and_compiled_is_not_compiled_again(networks, caplog):
    z = jnp.broadcast_to(jnp.linspace(0, 1, 64)[None, None, None], (1, 77, 77, 64))
    config = ProtectConfig(steps=3)
    with jax.log_compiles():
        lowered(z, 0.1, **networks, config=config).compile()
        before = sum("Compiling jit(_protect)" in r.getMessage() for r in caplog.records)
        protect(z, **networks, epsilon=0.1, config=config)
    after = sum("Compiling jit(_protect)" in r.getMessage() for r in caplog.records)
    assert (before, after) == (1, 1)
