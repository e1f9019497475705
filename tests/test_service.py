"""The plug-in: its store, gate and HTTP: sealed, erased, whole after a kill, closed to harm."""

import contextlib
import io
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from PIL import Image

import advface_jax

pytest.importorskip("cryptography", reason="seals need cryptography: pip install cryptography")

from advface_jax import sealing
from advface_jax.service import calibrate, uploads
from advface_jax.service import gate as gates
from advface_jax.service.gate import Gate
from advface_jax.service.store import Enrolment, Store, StoreError

KEY, OTHER = bytes(range(32)), bytes(32)
SETTINGS = {"weights_sha256": "00", "protection": "decoy"}


def everything(folder: Path) -> bytes:
    """All bytes of a store's files, and their names."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return b"".join(path.name.encode() + path.read_bytes() for path in files)


def item(seed: int = 0, n: int = 3000) -> np.ndarray:
    return np.random.default_rng(seed).random(n).astype("f4")


def put(store: Store, id: str, name: str, seed: int = 0) -> None:
    store.put(Enrolment(id, 1, name, False), item(seed), "enrol")


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "store", KEY, SETTINGS)
    yield store
    store.close()


def test_a_store_keeps_and_erases(store, tmp_path):
    put(store, "a", "Ada Lovelace", 1)
    put(store, "b", "Bertha", 2)
    np.testing.assert_array_equal(store.item("a"), item(1).astype("f2").astype("f4"))
    sealed = {id: store.sealed(id) for id in "ab"}
    on_disk = everything(tmp_path / "store")
    for kind in ("<f2", "<f4"):
        assert item(1).astype(kind).tobytes()[:64] not in on_disk
    assert b"Ada" not in on_disk and store.secret not in on_disk and KEY not in on_disk
    assert sealed["a"][-64:] in on_disk and sealed["b"][-64:] in on_disk
    store.revoke("a")
    store.delete("b")
    gone = everything(tmp_path / "store")
    for one in sealed.values():  # no part of what was sealed is left, either
        assert not any(one[i : i + 16] in gone for i in range(0, len(one) - 16, 16))
    assert store.enrolments() == [Enrolment("a", 1, "Ada Lovelace", True)]
    for id in "ab":
        with pytest.raises(KeyError):
            store.item(id)
    with pytest.raises(KeyError):
        store.delete("b")
    assert [(event, id) for _, event, id, _ in store.audit()] == [
        ("enrol", "a"),
        ("enrol", "b"),
        ("revoke", "a"),
        ("delete", "b"),
    ]


def test_a_store_opens_again_by_its_key_alone(store, tmp_path):
    put(store, "a", "Ada")
    secret = store.secret
    with pytest.raises(StoreError, match="another process has open"):
        Store(tmp_path / "store", KEY, SETTINGS)
    store.close()
    with pytest.raises(StoreError, match="a key that does not open"):
        Store(tmp_path / "store", OTHER, SETTINGS)
    with pytest.raises(StoreError, match="other settings .protection"):
        Store(tmp_path / "store", KEY, {**SETTINGS, "protection": "advface"})
    again = Store(tmp_path / "store", KEY, SETTINGS)
    assert again.secret == secret and len(again.enrolments()) == 1
    again.rotate(OTHER)
    np.testing.assert_array_equal(again.item("a"), item().astype("f2").astype("f4"))
    again.close()
    with pytest.raises(StoreError, match="a key that does not open"):
        Store(tmp_path / "store", KEY, SETTINGS)
    rotated = Store(tmp_path / "store", OTHER, SETTINGS)
    assert rotated.secret == secret and rotated.enrolments()[0].name == "Ada"
    rotated.close()


def test_a_rotation_that_fails_changes_nothing(store, monkeypatch):
    put(store, "a", "Ada")
    monkeypatch.setattr(store, "_seal", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.rotate(OTHER)
    monkeypatch.undo()
    assert store.enrolments()[0].name == "Ada" and store.item("a").size


def test_records_cannot_be_exchanged_or_changed(store, tmp_path):
    put(store, "a", "Ada", 1)
    put(store, "b", "Bertha", 2)
    store.close()
    db = sqlite3.connect(tmp_path / "store" / "enrolments.sqlite")
    items = dict(db.execute("select id, item from enrolments"))
    for changed in (items["b"], items["a"][:-1] + b"x", b"", b"short"):
        db.execute("update enrolments set item = ? where id = 'a'", (changed,))
        db.commit()
        opened = Store(tmp_path / "store", KEY, SETTINGS)
        with pytest.raises(StoreError, match="changed by somebody"):
            opened.item("a")
        opened.close()
    db.close()


def damage(folder: Path, id: str, **columns: object) -> None:
    with contextlib.closing(sqlite3.connect(folder / "enrolments.sqlite")) as db:
        for column, value in columns.items():
            db.execute(f"update enrolments set {column} = ? where id = ?", (value, id))
        db.commit()


@pytest.mark.parametrize("value", [5, 0.5, "text", b"short"])
def test_a_column_of_another_type_is_damage(value, store, tmp_path):
    put(store, "a", "Ada")
    put(store, "b", "Bertha")
    store.close()
    damage(tmp_path / "store", "a", about=value, item=value)
    opened = Store(tmp_path / "store", KEY, SETTINGS)
    damaged, whole = Enrolment("a", 0, "(damaged)", True), Enrolment("b", 1, "Bertha", False)
    assert opened.enrolments() == [damaged, whole]
    for use in (lambda: opened.item("a"), lambda: opened.rotate(OTHER)):
        with pytest.raises(StoreError, match="enrolment a changed by somebody"):
            use()
    opened.delete("a")
    assert opened.enrolments() == [whole]
    opened.close()
    with pytest.raises(ValueError, match="does not open"):
        sealing.unseal(value, KEY)


def test_what_is_no_store_is_refused(tmp_path):
    folder = tmp_path / "store"
    folder.mkdir(mode=0o700)
    file = folder / "enrolments.sqlite"
    file.write_bytes(b"no database" * 1000)
    with pytest.raises(StoreError, match="SQLite cannot use"):
        Store(folder, KEY, SETTINGS)
    file.unlink()
    with sqlite3.connect(file) as db:
        db.execute("create table t (x)")
    db.close()
    with pytest.raises(StoreError, match="something else"):
        Store(folder, KEY, SETTINGS)
    folder.chmod(0o755)
    with pytest.raises(StoreError, match="chmod 700"):
        Store(folder, KEY, SETTINGS)


def test_a_key_comes_from_a_private_place(tmp_path, monkeypatch):
    monkeypatch.delenv("ADVFACE_KEY", raising=False)
    with pytest.raises(ValueError, match="got no key"):
        sealing.read_key()
    monkeypatch.setenv("ADVFACE_KEY", KEY.hex())
    assert sealing.read_key() == KEY
    monkeypatch.setenv("ADVFACE_KEY", "secret words")
    with pytest.raises(ValueError, match="64 hexadecimal") as raised:
        sealing.read_key()
    assert "secret words" not in str(raised.value)
    file = tmp_path / "key"
    file.write_text(KEY.hex() + "\n")
    file.chmod(0o600)
    assert sealing.read_key(file) == KEY
    for mode in (0o640, 0o604):
        file.chmod(mode)
        with pytest.raises(ValueError, match="chmod 600"):
            sealing.read_key(file)
    with pytest.raises(ValueError, match="unreadable"):
        sealing.read_key(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ValueError, match="no plain file"):
        sealing.read_key(tmp_path / "pipe")


KILLED = """
import sys
import numpy as np
from advface_jax.service.store import Enrolment, Store
store = Store(sys.argv[1], bytes(range(32)), {"weights_sha256": "00", "protection": "decoy"})
def item(seed, n):
    return np.random.default_rng(seed).random(n).astype("f4")
for i in range(10**6):
    store.put(Enrolment(f"{i:06}", 1, f"name {i}", False), item(i, 300_000), "enrol")
    print(i, flush=True)  # told: from now on it may not be lost
"""


@pytest.mark.slow
def test_a_killed_process_loses_nothing_and_leaves_nothing_half(tmp_path):
    told = 0
    for round in range(4):
        folder = tmp_path / str(round)
        line = [sys.executable, "-c", KILLED, str(folder)]
        with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as run:
            assert run.stdout is not None
            last = [int(run.stdout.readline()) for _ in range(3)][-1]
            time.sleep(0.003 * round)  # in the middle of another one
            run.send_signal(signal.SIGKILL)
            last = max([last, *map(int, run.stdout.read().split())])
        told += last + 1
        store = Store(folder, KEY, SETTINGS)
        kept = store.enrolments()
        assert len(kept) in (last + 1, last + 2)  # the last may have been kept and not yet told
        assert len(store.audit()) == len(kept)
        for i, one in enumerate(kept):
            assert one.name == f"name {i}"
            np.testing.assert_array_equal(store.item(one.id)[:9], item(i).astype("f2")[:9])
        store.close()
    assert told


def mixed(kernel, images):  # E: (b,160,160,3) -> z (b,8,8,16)
    return jnp.maximum(images.reshape(-1, 8, 20, 8, 20, 3).mean((2, 4)) @ kernel, 0)


def projected(kernel, z):  # Ψ
    return jnp.maximum(z.reshape(z.shape[0], -1) @ kernel, 0)


def painted(kernel, z):  # S and R
    return jax.nn.sigmoid(z.repeat(20, 1).repeat(20, 2) @ kernel)


@pytest.fixture(scope="module")
def system():
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=size).astype("f4") for size in ((3, 16), (1024, 64), (16, 3))]
    e, psi, s = map(Partial, (mixed, projected, painted), kernels)
    return advface_jax.System.of(extractor=e, server=psi, shadow=s, attacker=s)


@pytest.fixture(scope="module")
def opened(system, tmp_path_factory):
    """A gate with decoys over a small recogniser, and where its store lies."""
    folder = tmp_path_factory.mktemp("gate") / "store"
    store = Store(folder, KEY, gates.settings(system, "decoy"))
    gate = Gate(system, store, threshold=0.9)
    gate.enrols = True
    yield gate, folder
    store.close()


def faces() -> np.ndarray:
    from advface_jax import data

    return data.synthetic_faces(2, 2).images.astype(np.float32) / 255  # a, a, b, b


def test_from_enrolment_to_deletion_nothing_raw_is_on_the_disk(opened):
    gate, folder = opened
    x = faces()
    z = [gate.features(one[None]) for one in x]
    one = gate.enrol("Ada", z[0])
    assert gate.verify(one.id, z[0]).accepted
    assert gate.identify(z[0]).enrolment == one
    stored, sealed = gate.stored(one.id), gate.store.sealed(one.id)
    assert np.abs(stored - z[0]).max() > 0.5  # it is another face's
    secrets = {"embedding": gate._known[one.id], "face's": gate.embed(z[0])}
    secrets |= {"feature": z[0], "stored": stored, "picture": x[0]}
    secrets["pixels"] = (255 * x[0]).round().astype(np.uint8)
    secrets["png"] = np.frombuffer(uploads.png(secrets["pixels"]), np.uint8)

    def leaks() -> list[str]:
        found, on_disk = [], everything(folder)
        for name, array in secrets.items():
            for kind in {array.dtype.str, *(("<f2", "<f4", "<f8") if array.dtype != "u1" else ())}:
                data = array.astype(kind).tobytes()
                middle = len(data) // 2 // 64 * 64
                found += [name for at in (0, middle) if data[at : at + 64] in on_disk]
        return found

    assert not leaks()
    again = gate.renew(one.id, z[0])
    assert again.generation == 2 and sealed[100:164] not in everything(folder)
    assert np.abs(gate.stored(one.id) - stored).max() > 0.1  # another decoy
    assert gate.verify(one.id, z[0]).accepted
    gate.revoke(one.id)
    assert not gate.verify(one.id, z[0]).accepted and not gate.identify(z[0]).accepted
    assert gate.renew(one.id, z[0]).generation == 3 and gate.verify(one.id, z[0]).accepted
    sealed = gate.store.sealed(one.id)
    gate.delete(one.id)
    assert not leaks() and sealed[100:164] not in everything(folder)
    assert gate.people() == [] and not gate.identify(z[0]).accepted
    log = [(event, outcome) for _, event, _, outcome in gate.store.audit()]
    assert ("verify", "accepted") in log and ("verify", "refused") in log
    assert log[-2:] == [("delete", "done"), ("identify", "nobody")]


def test_a_damaged_enrolment_leaves_the_others_their_door(system, tmp_path, capsys):
    folder, settings = tmp_path / "store", gates.settings(system, "advface")
    store = Store(folder, KEY, settings)
    gate = Gate(system, store, "advface", threshold=0.5)
    z = gate.features(faces()[:1])
    unnamed, emptied, whole = (gate.enrol(name, z) for name in ("Ada", "Bertha", "Cleo"))
    store.close()
    damage(folder, unnamed.id, about="text")
    damage(folder, emptied.id, item=7)
    store = Store(folder, KEY, settings)
    gate = Gate(system, store, "advface", threshold=0.5)
    assert gate.verify(whole.id, z).accepted and gate.identify(z).enrolment == whole
    told = capsys.readouterr().out
    log = [(event, id) for _, event, id, outcome in store.audit() if "damaged" in outcome]
    assert sorted(log) == sorted([("open", unnamed.id), ("open", emptied.id)])
    for one in (unnamed, emptied):
        assert not gate.verify(one.id, z).accepted and f"{one.id} is damaged" in told
    assert [one.revoked for one in gate.people()] == [True, True, False]
    with pytest.raises(ValueError, match="got a damaged enrolment; wanted it deleted"):
        gate.renew(unnamed.id, z)
    assert gate.renew(emptied.id, z).generation == 2 and gate.verify(emptied.id, z).accepted
    gate.delete(unnamed.id)
    store.close()


@pytest.mark.parametrize(
    ("protection", "message"),
    [("advface", "a face that is not recognised once it is"), ("decoy", "a face that 4 decoys do")],
)
def test_a_refusal_names_its_own_defence(protection, message, store):
    z = np.ones((1, 8), "f4")
    gate = gate_of(store, lambda z, *_: -np.asarray(z))
    gate.protection = protection
    with pytest.raises(ValueError, match=message):
        gate.enrol("Ada", z)
    assert ("decoy" in store.audit()[-1][3]) == (protection == "decoy")


def test_a_calibration_takes_little_memory():
    """Of every pair's difference it would take 2 GB at the command's limit."""
    rng = np.random.default_rng(0)
    faces = np.repeat(rng.normal(size=(250, 512)), 2, axis=0) + rng.normal(size=(500, 512))
    faces = (faces / np.linalg.norm(faces, axis=1, keepdims=True)).astype("f4")
    gate: Any = SimpleNamespace(features=lambda x: 255 * x, embed=lambda z: z[0])
    names = np.repeat(np.arange(250), 2).astype(str).tolist()
    tracemalloc.start()
    try:
        found = calibrate.thresholds(gate, faces, names)
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()
    one, other = np.triu_indices(500, 1)
    same = np.array(names)[one] == np.array(names)[other]
    cosines = np.sort((faces @ faces.T)[one, other][~same])
    for row in found:
        assert (cosines >= row.cosine - 1e-6).mean() == pytest.approx(row.far, rel=0.2)
        assert row.tar > 0.9


def test_advface_can_be_stored_instead(system, tmp_path):
    store = Store(tmp_path / "store", KEY, gates.settings(system, "advface"))
    gate = Gate(system, store, "advface", threshold=0.5)
    z = gate.features(faces()[:1])
    one = gate.enrol("Ada", z)
    assert gate.verify(one.id, z).accepted
    centre = system.extractor(system.shadow(z))
    assert 0.19 < np.abs(gate.stored(one.id) - centre).max() < 0.201  # ε, in half precision
    store.close()


def test_a_threshold_is_that_of_the_stores_own_recogniser(opened, monkeypatch):
    from advface_jax.service import calibrate

    gate, _ = opened
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3)).repeat(20, 1).repeat(20, 2)
    images[1::2] = 0.7 * images[::2] + 0.3 * images[1::2]  # two of each person
    people = [f"{i // 2}" for i in range(10)]
    with pytest.raises(ValueError, match="5 pairs of one person and 40 of two"):
        calibrate.thresholds(gate, images, people)
    monkeypatch.setattr(calibrate, "RATES", (0.25,))
    ((_, cosine, tar),) = calibrate.thresholds(gate, images, people)
    e = np.stack([gate.embed(gate.features(x[None].astype("f4") / 255)) for x in images])
    alike, pairs = e @ e.T, [(i, j) for i in range(10) for j in range(i)]
    others = [alike[i, j] > cosine + 1e-5 for i, j in pairs if people[i] != people[j]]
    same = [alike[i, j] > cosine + 1e-5 for i, j in pairs if people[i] == people[j]]
    assert sum(others) == 10 and np.mean(same) == tar == 1


def test_another_face_renews_nothing(opened, monkeypatch):
    gate, _ = opened
    z = gate.features(faces()[:1])
    one = gate.enrol("Ada", z)
    monkeypatch.setattr(gate, "threshold", 1.5)
    with pytest.raises(ValueError, match="another face"):
        gate.renew(one.id, z)
    monkeypatch.undo()
    assert gate.people() == [one]
    gate.delete(one.id)


def test_a_face_that_no_decoy_stands_for_is_refused_and_counted(opened, monkeypatch):
    gate, _ = opened
    monkeypatch.setattr(gate, "_protect", lambda z, enrolment: np.zeros((1, 8, 8, 16), "f4"))
    with pytest.raises(ValueError, match="another photograph"):
        gate.enrol("Ada", gate.features(faces()[:1]))
    assert gate.people() == []
    assert gate.store.audit()[-1][1:] == ("enrol", None, "no decoy stands for it")


def png(image: Image.Image, kind: str = "PNG") -> bytes:
    out = io.BytesIO()
    image.save(out, kind)
    return out.getvalue()


def bomb() -> bytes:
    """A small PNG that claims 40,000 × 40,000 pixels."""
    data = bytearray(png(Image.new("RGB", (8, 8))))
    data[16:24] = (40000).to_bytes(4, "big") * 2
    import zlib

    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def test_hostile_pictures_and_features_are_refused():
    assert uploads.picture(png(Image.new("RGB", (160, 160))), 160).shape == (1, 160, 160, 3)
    good = png(Image.new("RGB", (160, 160)))
    bad = [b"", b"\x89PNG\r\n\x1a\n", good[:60], b"GIF89a" + good, b"RIFF" + bytes(50), bomb()]
    bad += [png(Image.new("RGB", (160, 160)), kind) for kind in ("GIF", "BMP", "TIFF", "PPM")]
    for data in bad:
        with pytest.raises(ValueError) as raised:
            uploads.picture(data, 160)
        assert "\n" not in str(raised.value)
    shape = (2, 3)
    z = np.ones(shape, "<f4")
    np.testing.assert_array_equal(uploads.feature(z.tobytes(), shape), z[None])
    for wrong in (z.tobytes()[:-1], b"", (z * np.nan).tobytes(), (z * 1e9).tobytes()):
        with pytest.raises(ValueError, match="got a feature"):
            uploads.feature(wrong, shape)


@pytest.fixture(scope="module")
def served(opened):
    pytest.importorskip("fastapi", reason="the service needs fastapi: pip install fastapi")
    testing = pytest.importorskip("fastapi.testclient", reason="needs httpx")
    from advface_jax.service import app

    gate, _ = opened
    limits = app.Limits(rate=1000, upload=200_000)
    built = app.build(gate, ("testserver",), limits, client={"extractor.onnx": b"onnx"})
    return testing.TestClient(built, raise_server_exceptions=False), app, gate


PNG = {"Content-Type": "image/png"}


def test_the_service_from_enrolment_to_deletion(served):
    client, _, gate = served
    a, _, b, _ = (uploads.png((255 * x).astype(np.uint8)) for x in faces())
    made = client.post("/api/enrolments", content=a, headers={**PNG, "Name": "Ad%C3%A4"})
    assert made.status_code == 201, made.text
    one = made.json()["enrolment"]
    assert one["name"] == "Adä" and made.json()["stored"]["thief"].startswith("data:image/png")
    path = f"/api/enrolments/{one['id']}"
    assert client.get("/api/enrolments").json() == [one]
    assert client.get("/api/health").json() == {
        "enrolments": 1,
        "protection": "decoy",
        "enrols": True,
    }
    assert client.post("/api/identify", content=a, headers=PNG).json()["enrolment"] == one
    z = gate.features(faces()[:1]).astype("<f4").tobytes()
    feature = {"Content-Type": "application/octet-stream"}
    assert client.post(f"{path}/verify", content=z, headers=feature).json()["accepted"]
    seen = client.get(f"{path}/stored").json()
    assert len(seen["numbers"]) == 48 and bytes.fromhex(seen["sealed"])
    assert (
        client.post(f"{path}/renew", content=a, headers=PNG).json()["enrolment"]["generation"] == 2
    )
    assert client.post(f"{path}/revoke").status_code == 200
    assert not client.post(f"{path}/verify", content=a, headers=PNG).json()["accepted"]
    assert client.get(f"{path}/stored").status_code == 404
    assert client.delete(path).status_code == 200
    for gone in (client.delete(path), client.post(f"{path}/verify", content=a, headers=PNG)):
        assert gone.status_code == 404 and "no such enrolment" in gone.json()["error"]
    page = client.get("/")
    assert "script-src 'self' 'nonce-" in page.headers["Content-Security-Policy"]
    assert "NONCE" not in page.text and "http://" not in page.text and "https://" not in page.text


def test_what_is_hostile_gets_a_line_and_changes_nothing(served):
    client, _, gate = served
    small = png(Image.new("RGB", (160, 160)))
    before = gate.people()

    def ask(status, path="/api/identify", content: bytes = small, **headers):
        given = {"Content-Type": "image/png"} | {k.replace("_", "-"): v for k, v in headers.items()}
        answer = client.post(path, content=content, headers=given)
        assert answer.status_code == status, answer.text
        assert answer.json()["error"] and "Traceback" not in answer.text

    ask(413, content=bytes(200_001))
    ask(413, content=iter([bytes(100_000)] * 3))  # type: ignore[arg-type]  # no length is stated
    ask(413, Content_Length="1" * 30)
    ask(415, Content_Type="application/x-python-pickle")
    ask(415, Content_Type="multipart/form-data; boundary=x")
    ask(422, content=bomb())
    ask(422, content=b"\x80\x04\x95pickle")
    ask(422, content=bytes(4), Content_Type="application/octet-stream")
    ask(422, "/api/enrolments")
    ask(422, "/api/enrolments", Name="a%0Ab")
    ask(422, "/api/enrolments", Name="a" * 101)
    ask(403, Host="evil.example")
    ask(403, Origin="http://evil.example")
    ask(403, Origin="null")
    ask(404, "/api/enrolments/..%2f..%2fetc%2fpasswd/verify")
    ask(404, "/api/enrolments/' or 1=1 --/revoke")
    for path in ("/client/..%2fpyproject.toml", "/client/%2fetc%2fpasswd", "/client/x", "/docs"):
        assert client.get(path).status_code == 404
    assert client.get("/client/extractor.onnx").content == b"onnx"
    assert gate.people() == before


def test_before_its_program_is_compiled_an_enrolment_is_put_off(served, monkeypatch):
    client, _, gate = served
    monkeypatch.setattr(gate, "enrols", False)
    picture = uploads.png((255 * faces()[0]).astype(np.uint8))
    early = client.post("/api/enrolments", content=picture, headers={**PNG, "Name": "Ada"})
    assert early.status_code == 503 and early.headers["Retry-After"] == "5"
    assert client.post("/api/identify", content=picture, headers=PNG).status_code == 200


def test_too_many_requests_are_refused_and_others_served(served):
    client, app, gate = served
    built = app.build(gate, ("testserver",), app.Limits(rate=3))
    few = type(client)(built)
    answers = [few.get("/api/health").status_code for _ in range(9)]
    assert answers[:3] == [200] * 3 and 429 in answers
    assert few.get("/").status_code == 200


def test_without_the_page_only_the_decision_is_said(served):
    client, app, gate = served
    bare = type(client)(app.build(gate, ("testserver",), show=False))
    picture = uploads.png((255 * faces()[0]).astype(np.uint8))
    made = bare.post("/api/enrolments", content=picture, headers={**PNG, "Name": "Ada"}).json()
    assert [*made] == ["enrolment"]
    path = f"/api/enrolments/{made['enrolment']['id']}"
    answer = bare.post(f"{path}/verify", content=picture, headers=PNG).json()
    assert answer == {"accepted": True, "enrolment": made["enrolment"]}
    assert bare.get("/").status_code == bare.get(f"{path}/stored").status_code == 404
    bare.delete(path)


def test_a_broken_store_is_said_and_its_place_is_not(served, monkeypatch):
    client, _, gate = served
    picture = uploads.png((255 * faces()[0]).astype(np.uint8))

    def broken(*_):
        raise StoreError("got /secret/place, which SQLite cannot use (disk full)")

    monkeypatch.setattr(gate.store, "record", broken)
    answer = client.post("/api/identify", content=picture, headers=PNG)
    assert answer.status_code == 503 and "/secret" not in answer.text


def test_until_it_is_ready_it_says_what_it_loads(served):
    client, _, _ = served
    from advface_jax.service.opening import Opening

    opening = Opening(("testserver",))
    opening.loading = "reading <10> faces"
    early = type(client)(opening)
    for path, said in (("/api/health", "reading <10> faces"), ("/", "reading &lt;10&gt; faces")):
        answer = early.get(path)
        assert answer.status_code == 503 and answer.headers["Retry-After"] and said in answer.text
        assert early.get(path, headers={"Host": "evil.example"}).status_code == 403
        assert early.get(path, headers={"Origin": "http://evil.example"}).status_code == 403
    opening.app = client.app
    assert early.get("/api/health").status_code == 200


def test_the_command_serves_decoys_with_a_shadow_recogniser(served, system, tmp_path, monkeypatch):
    """In this process, and else as it is run."""
    import http.client
    import threading

    import uvicorn
    from processes import free_port

    from advface_jax.commands import serve

    running, port = [], free_port()

    class Server(uvicorn.Server):
        def __init__(self, config):
            super().__init__(config)
            running.append(self)

    def ask(method: str, path: str, *given) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        with contextlib.closing(connection):
            connection.request(method, path, *given)
            answer = connection.getresponse()
            return answer.status, answer.read()

    def absent():
        raise ValueError("got no network")

    monkeypatch.setattr(serve.detection, "load_detector", absent)  # which crops do not need
    monkeypatch.setenv("ADVFACE_KEY", KEY.hex())
    monkeypatch.setattr(uvicorn, "Server", Server)
    monkeypatch.setattr(serve.system, "load", lambda name: system)
    public = np.random.default_rng(0).integers(0, 256, (60, 20, 20, 3), np.uint8)
    for i, face in enumerate(public.repeat(8, 1).repeat(8, 2)):
        path = tmp_path / "public" / f"{i // 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face).save(path)
    how = {"public": tmp_path / "public", "threshold": 0.9, "port": port}
    service = threading.Thread(target=serve.main, args=(tmp_path / "store",), kwargs=how)
    service.start()
    health: dict = {}
    while not health.get("enrols"):
        time.sleep(0.05)
        with contextlib.suppress(OSError):  # it does not listen yet
            health = json.loads(ask("GET", "/api/health")[1])
        assert service.is_alive()
    assert health == {"enrolments": 0, "protection": "decoy", "enrols": True}
    picture = uploads.png((255 * faces()[0]).astype(np.uint8))
    assert ask("POST", "/api/enrolments", picture, {**PNG, "Name": "Ada"})[0] == 201
    status, said = ask("POST", "/api/identify", picture, PNG)
    assert json.loads(said)["enrolment"]["name"] == "Ada"
    status, said = ask("POST", "/api/identify", png(Image.new("RGB", (200, 200))), PNG)
    assert status == 422 and "wanted one" in json.loads(said)["error"]
    assert b"What a thief gets" in ask("GET", "/")[1]
    with pytest.raises(ValueError, match=f"got port {port}, which cannot be used"):
        serve.main(tmp_path / "other", port=port)
    running[0].should_exit = True
    service.join()
    Store(tmp_path / "store", KEY, gates.settings(system, "decoy")).close()  # nobody holds it


@pytest.mark.slow  # starts the service five times
@pytest.mark.long
def test_a_killed_service_keeps_what_it_told_and_no_other_opens_its_store(tmp_path):
    from experiments.fault import serving

    pictures = [uploads.png((255 * x).astype(np.uint8)) for x in faces()]
    words = ("--weights", "experiments.fault.small:system", "--threshold", "0.9")
    with serving.Service(tmp_path / "store", *words) as service:
        made = service.enrol(pictures[0], "Ada")
        assert made.status == 201
        second = serving.Service(tmp_path / "store", *words)
        second.key = service.key
        with pytest.raises(ValueError, match="another process has open"):
            second.start()
        rows = serving.kills(service, {json.loads(made.answer)["enrolment"]["id"]: pictures[0]}, 2)
        assert all(row["lost"] == row["broken"] == 0 for row in rows)
        assert rows[-1]["told"] > 1
        assert {"compiling", "ready", "first"} <= {one["line"].split()[0] for one in service.told}
        # What a thief of the file finds: no piece of a picture, nor of its raw feature.
        on_disk = everything(tmp_path / "store")
        assert not any(pictures[0][i : i + 32] in on_disk for i in range(64, 4000, 32))
        service.key, right = OTHER.hex(), service.key
        service.end(service.run.terminate)
        with pytest.raises(ValueError, match="a key that does not open"):
            service.start()
        service.key = right
        service.start()


def test_what_became_of_requests_is_counted():
    from experiments.fault.serving import Sent
    from experiments.service_load import summary

    row = summary([Sent(200, 0.1), Sent(200, 0.3), Sent(503, 0.05), Sent(0, 9.0)], 2.0)
    assert (row["sent"], row["answered"], row["refused"], row["failed"]) == (4, 2, 1, 1)
    assert row["answered_per_s"] == 1 and row["p50_ms"] == pytest.approx(200) and not row["held"]
    assert summary([Sent(503, 0.05)], 1.0)["p50_ms"] is None


@pytest.mark.parametrize("protection", ["decoy", "advface"])
def test_decoys_without_public_faces_are_said_to_be_so(
    protection, system, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("fastapi", reason="the service needs fastapi: pip install fastapi")
    from advface_jax.commands import serve

    def stopped(*_, **__):
        raise ValueError("far enough")

    monkeypatch.setenv("ADVFACE_KEY", KEY.hex())
    monkeypatch.setattr(serve.system, "load", lambda name: system)
    monkeypatch.setattr(serve.gates, "Gate", stopped)
    with pytest.raises(ValueError, match="far enough"):
        serve.main(tmp_path / "store", protection=protection, calibrate=tmp_path)
    told = "without --public the decoys have no shadow recogniser" in capsys.readouterr().err
    assert told == (protection == "decoy")


def gate_of(store, protect):
    gate = object.__new__(Gate)
    gate.store, gate.protection, gate.threshold, gate._defense = store, "advface", 0.5, None
    gate._lock, gate._people, gate._known = threading.RLock(), {}, {}
    gate.embed = lambda z: (np.ravel(z) / np.linalg.norm(z)).astype("f4")
    gate._protect = protect
    return gate


@pytest.mark.parametrize("change, error", [("delete", KeyError), ("revoke", ValueError)])
def test_what_is_erased_while_it_is_renewed_stays_erased(store, change, error):
    z = np.ones((1, 8), "f4")
    gate = gate_of(store, lambda z, *_: np.asarray(z))
    one = gate.enrol("Ada", z)

    def slow(z, *_):
        getattr(gate, change)(one.id)
        return np.asarray(z)

    gate._protect = slow  # type: ignore[method-assign]
    with pytest.raises(error):
        gate.renew(one.id, z)
    with pytest.raises(KeyError):
        store.item(one.id)


def test_an_enrolment_during_a_rotation_opens(store):
    change = store._change

    def between(event, *rest):
        if event == "enrol":
            store._change = change
            worker = threading.Thread(target=store.rotate, args=(OTHER,))
            worker.start()
            worker.join(1)
        return change(event, *rest)

    store._change = between
    store.put(Enrolment("a", 1, "Ada", False), np.ones(8, "f4"), "enrol")
    time.sleep(0.2)
    assert store.item("a").tolist() == [1] * 8 and store.enrolments()[0].name == "Ada"


def test_a_full_disk_is_named(store):
    pages = store._db.execute("pragma page_count").fetchone()[0]
    store._db.execute(f"pragma max_page_count = {pages + 2}").fetchall()
    with pytest.raises(StoreError, match="is full"):
        store.put(Enrolment("a", 1, "Ada", False), np.zeros(100_000, "f4"), "enrol")
