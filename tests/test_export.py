"""Exported programs: the library's results, all platforms, jax alone, hostile files."""

import hashlib
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import Pool, new_extractor, small_decoder

import advface_jax
from advface_jax import export
from advface_jax.decoy import keyed
from advface_jax.export import artefact
from advface_jax.untrusted import BadFile

pytest.importorskip("flatbuffers", reason="jax.export needs flatbuffers: pip install flatbuffers")
DECOY = {"steps": 3, "threshold": 1}
ASCENT = {"steps": 3}


@pytest.fixture(scope="module")
def system():
    shadow, attacker = small_decoder(seed=1), small_decoder(seed=2)
    return advface_jax.System.of(
        extractor=new_extractor(), server=Pool(), shadow=shadow, attacker=attacker
    )


@pytest.fixture(scope="module")
def written(system, tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    for part in export.PARTS:
        config = ASCENT if part == "protect" else DECOY if "decoy" in part else None
        total = export.write(folder / part, part, system, config=config)
        assert total == artefact.stated((folder / part).read_bytes())
    return folder


def features(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, 77, 77, 64), np.float32)


def known(path):
    """Loaded by the sum that the file states, as if its maker had told it."""
    return export.load(path, sha256=artefact.stated(path.read_bytes()))


def test_programs_are_for_all_platforms_and_any_batch(system, written):
    images = np.random.default_rng(0).random((2, 160, 160, 3), np.float32)
    program = known(written / "extractor")
    assert program.card["platforms"] == ["cpu", "cuda", "tpu"]
    assert program.card["weights_sha256"] == system.card["sha256"]
    for n in (1, 2):
        ours = system.extractor(images[:n])
        np.testing.assert_allclose(program(images[:n]), ours, atol=2e-5)
    z = features(2)
    for part in ("server", "attacker"):
        ours = getattr(system, part)(jnp.asarray(z))
        np.testing.assert_allclose(known(written / part)(z), ours, atol=2e-5)


@pytest.mark.slow  # compiles each defence twice
@pytest.mark.long
def test_an_exported_defence_is_the_librarys(system, written):
    z, decoys = features(2), features(2, 1)
    how = {"extractor": system.extractor, "shadow": system.shadow, "epsilon": 0.2}
    ours = advface_jax.protect(z, **how, config={**ASCENT, "formulation": "plain"})
    away = np.abs(known(written / "protect")(z, np.float32(0.2)) - ours)
    assert np.mean(away > 1e-4) < 1e-3  # a sign may turn with rounding
    how = {"recogniser": system.server, "epsilon": 0.3, "config": DECOY}
    ours = advface_jax.protect_decoy(z, decoys, **how)
    stored, cosine = known(written / "decoy")(z, decoys, np.float32(0.3))
    np.testing.assert_allclose(stored, ours.stored, atol=1e-4)
    np.testing.assert_allclose(cosine, ours.cosine, atol=1e-5)
    pattern = 0.3 * np.random.default_rng(2).normal(size=z.shape[1:]).astype("f4")
    key = jax.random.split(jax.random.key(7), 2)
    ours = advface_jax.protect_decoy(z, decoys, pattern=pattern, key=key, **how)
    given = z, decoys, np.float32(0.3), pattern, jax.random.key_data(key)
    stored, cosine = known(written / "keyed-decoy")(*given)
    np.testing.assert_allclose(stored, ours.stored, atol=1e-4)
    private = keyed(system.server, pattern)
    read = (np.asarray(private(stored)) * np.asarray(private(jnp.asarray(z)))).sum(-1)
    np.testing.assert_allclose(cosine, read, atol=1e-5)


@pytest.mark.slow  # a process that imports JAX
@pytest.mark.long
def test_jax_alone_loads_a_program(written, system):
    """In a process where nothing else can be imported, from the one module, copied."""
    total = artefact.stated((written / "server").read_bytes())
    code = f"""
import importlib.metadata, sys
allowed = {{"jax", "jaxlib", "numpy", "ml_dtypes", "opt_einsum", "flatbuffers", "scipy"}}
others = {{*importlib.metadata.packages_distributions(), "advface_jax"}} - allowed
sys.modules.update(dict.fromkeys(others))  # an import of these fails
sys.path.insert(0, {str(written)!r})
import artefact, numpy as np
z = np.random.default_rng(0).random((2, 77, 77, 64), np.float32)
server = artefact.load({str(written / "server")!r}, sha256={total!r})
print(*server(z)[0, :3].tolist())
"""
    (written / "artefact.py").write_bytes(Path(artefact.__file__).read_bytes())
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours = np.asarray(system.server(jnp.asarray(features(2))))[0, :3]
    np.testing.assert_allclose([float(w) for w in done.stdout.split()], ours, atol=1e-5)


def test_arguments_of_a_program_are_checked(written):
    program = known(written / "decoy")
    z = features(1)
    with pytest.raises(ValueError, match="wanted 3: z, decoys, epsilon"):
        program(z)
    with pytest.raises(ValueError, match=r"got decoys of float32 \(1, 77, 77, 3\); wanted float32"):
        program(z, z[..., :3], np.float32(0.3))
    with pytest.raises(ValueError, match="got z of float16"):
        program(z.astype("f2"), z, np.float32(0.3))
    with pytest.raises(ValueError, match="b of 1 or more"):
        program(z[:0], z, np.float32(0.3))
    with pytest.raises(ValueError, match="wanted one size"):
        program(z, features(2), np.float32(0.3))


def signed(data: bytes) -> bytes:
    """With the sum that belongs to it, as who means harm would."""
    rest = data[artefact.HEAD - 8 :]
    return artefact.MAGIC + hashlib.sha256(rest).digest() + rest


def with_card(data: bytes, **changed) -> bytes:
    (length,) = struct.unpack_from("<Q", data, artefact.HEAD - 8)
    end = artefact.HEAD + length
    text = json.dumps(json.loads(data[artefact.HEAD : end]) | changed).encode()
    head = data[: artefact.HEAD - 8] + struct.pack("<Q", len(text))
    return signed(head + text + data[end:])


def test_a_damaged_or_hostile_file_is_refused_in_one_line(written, tmp_path):
    data, path = (written / "extractor").read_bytes(), tmp_path / "file"
    rng = np.random.default_rng(0)
    array = json.loads(json.dumps([{"dtype": "float32", "shape": [2**31, 2**31]}]))
    cases = {
        "empty": b"",
        "no program": b"x" * 1000,
        "cut": data[:-1],
        "longer": data + b"x",
        "a bit": data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
        "a long card": signed(data[:48] + struct.pack("<Q", 2**63) + data[56:]),
        "no card": signed(data[:48] + struct.pack("<Q", 3) + data[56:]),
        "no object": signed(data[:48] + struct.pack("<Q", 2) + b"[]"),
        "nested": signed(data[:48] + struct.pack("<Q", 100000) + b"[" * 100000),
        "format": with_card(data, format=2),
        "huge array": with_card(data, arrays=array),
        "object array": with_card(data, arrays=[{"dtype": "object", "shape": [1]}]),
        "negative": with_card(data, program_bytes=-1),
        "no program in it": with_card(data, program_bytes=0),
        "takes": with_card(data, takes=[{"name": "z"}]),
        "versions": with_card(data, versions=None),
        "a newer JAX": with_card(data, versions={"jax": "99.0"}),
        "long words": with_card(data, versions={"jax": "99." + "x" * 5000}),
        "random program": with_card(data[:-2000] + rng.bytes(2000), program_bytes=100),
    }
    for name, bad in cases.items():
        path.write_bytes(bad)
        with pytest.raises(ValueError, match="got .*file") as raised:
            known(path)
        assert "\n" not in str(raised.value) and len(str(raised.value)) < 1000, name
    with pytest.raises(ValueError, match="unreadable"):
        export.load(tmp_path / "none", sha256="0" * 64)
    os.mkfifo(tmp_path / "pipe")  # must not wait for a writer
    with pytest.raises(ValueError, match="wanted a file"):
        export.load(tmp_path / "pipe", sha256="0" * 64)


def test_another_sum_and_another_platform_are_refused(written, tmp_path, monkeypatch):
    path, here = written / "extractor", tmp_path / "file"
    total = artefact.stated(path.read_bytes())
    assert export.load(path, sha256=total.upper()).card["part"] == "extractor"
    made = jax.export.export(jax.jit(lambda arrays, x: x), platforms=["tpu"])(
        (), jax.ShapeDtypeStruct((3,), jnp.float32)
    )
    card = {"part": "x", "weights": "x", "gives": [], "versions": {"jax": jax.__version__}}
    card["takes"] = [{"name": "x", "shape": [3], "dtype": "float32"}]
    here.write_bytes(artefact.pack(card, made, []))
    with pytest.raises(ValueError, match="wanted one for cpu"):
        known(here)
    monkeypatch.setattr(artefact.export, "deserialize", None)  # XLA's reader, which may crash
    with pytest.raises(BadFile, match="another file"):
        export.load(path, sha256="0" * 64)
    with pytest.raises(BadFile, match="another file"):
        export.load(here, sha256=total)


def test_what_cannot_be_exported_is_said(system, tmp_path):
    with pytest.raises(ValueError, match="wanted 'extractor', 'server'"):
        export.write(tmp_path / "x", "psi", system)
    with pytest.raises(ValueError, match="a config for server"):
        export.write(tmp_path / "x", "server", system, config={"steps": 1})
    with pytest.raises(ValueError, match="shadows for protect"):
        export.write(tmp_path / "x", "protect", system, shadows=[Pool()])
    fixed = advface_jax.System.of(
        extractor=new_extractor(),
        server=jax.tree_util.Partial(lambda z: z.reshape(int(z.shape[0]), -1)),
        shadow=small_decoder(),
    )
    with pytest.raises(ValueError, match="any size of batch"):
        export.write(tmp_path / "x", "server", fixed)
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow  # imports onnx and its runtime
@pytest.mark.parametrize("standardization", ["fixed", "whiten"])
def test_the_clients_onnx_is_e(standardization, tmp_path):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    from flax import nnx

    from advface_jax.export.client import write_onnx
    from advface_jax.models import facenet

    config = facenet.FaceNetConfig(standardization=standardization, folded=True)
    extractor = facenet.Extractor(config, rngs=nnx.Rngs(0))
    system = advface_jax.System.of(extractor=extractor, server=Pool(), shadow=small_decoder())
    card = write_onnx(tmp_path / "e.onnx", system)
    images = np.random.default_rng(0).random((2, 160, 160, 3), np.float32)
    session = runtime.InferenceSession(str(tmp_path / "e.onnx"))
    assert session.get_modelmeta().custom_metadata_map == card
    (z,) = session.run(None, {"images": images})
    np.testing.assert_allclose(z, extractor(jnp.asarray(images)), atol=1e-4)
    own = advface_jax.System.of(extractor=new_extractor(), server=Pool(), shadow=small_decoder())
    with pytest.raises(ValueError, match="fold=True"):
        write_onnx(tmp_path / "e.onnx", own)
