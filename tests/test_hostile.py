"""Files made to hang, exhaust or crash a reader: one of each kind, refused with one error."""

import bz2
import io
import json
import os
import socket
import struct
import tracemalloc
import zipfile
import zlib

import face_files as ff
import h5py
import numpy as np
import pytest
import weight_files as wf
from PIL import Image

from advface_jax import system, untrusted
from advface_jax.data import crops, sources
from advface_jax.data.feature_sets import chunks
from advface_jax.data.formats import matlab, restricted_pickle
from advface_jax.data.tables import read_lines
from advface_jax.models import decoders
from advface_jax.untrusted import BadFile
from experiments import fuzz
from experiments.fuzzing import guard, readers, riegeli
from experiments.fuzzing.seeds import sets
from weights_convert import finding
from weights_convert.sources import keras_h5, tf_checkpoint, tflite, torch_file

WEIGHTS = ("pt", "pb", "tf-checkpoint", "tflite", "onnx", "safetensors", "h5", "whl")
COSTLY = ("features", "decoder", "duetface", "checkpoint")  # seconds to make or to import


@pytest.mark.filterwarnings("ignore:Duplicate name")  # of a member, which is the damage
@pytest.mark.parametrize("name", [r.name for r in readers.all_readers() if r.name not in COSTLY])
def test_damage_is_read_or_refused(name, tmp_path):
    """``python -m experiments.fuzz`` runs a hundred thousand of each, in guarded processes."""
    reader = readers.named(name)
    outcomes = set()
    for number in range(60):
        guard.write(tmp_path, guard.case(reader, 1, number))
        try:
            reader.read(tmp_path)
            outcomes.add("read")
        except BadFile as error:
            outcomes.add("refused")
            assert 0 < len(str(error)) < 4000
    only = {"crops.tsv": {"read"}}  # half a line is left out
    assert outcomes == only.get(name, {"read", "refused"})


def test_a_case_is_known_by_its_number():
    reader = readers.named("pt")
    assert guard.case(reader, 0, 40) == guard.case(reader, 0, 40) != guard.case(reader, 1, 40)


def test_sums_of_array_records_are_made_right_again():
    """Else no damage reaches what stands behind them."""
    (shard,) = (data for name, data in sets.prepared_set()[0].items() if "array_record" in name)
    found = [*riegeli.chunks(shard)]
    assert len(found) > 4
    for begin, size in found:
        total, _, of_data = struct.unpack_from("<3Q", shard, begin)
        assert riegeli.highway_hash(shard[begin + 8 : begin + 40]) == total
        assert riegeli.highway_hash(shard[begin + 40 : begin + 40 + size]) == of_data


def test_how_many_cases_a_reader_is_to_have():
    done = [
        guard.Counts(cases=n, timed=t, cpu=s)
        for n, t, s in (
            (0, 0, 0),
            (1000, 1000, 0.9),
            (1000, 1000, 1.1),
            (12_000, 2000, 3),
            (10_000, 0, 0),
            (100_000, 0, 0),
        )
    ]
    assert [*map(fuzz.wanted, done)] == [1000, 100_000, 10_000, 12_000, 11_000, 100_000]


@pytest.mark.slow
@pytest.mark.long
def test_the_guard_counts_and_finds(tmp_path):
    *_, counts = guard.fuzz(readers.named("pairs"), 0, 0, 150)
    assert counts.cases == 150 == counts.read + counts.refused and not counts.findings


@pytest.mark.parametrize("name", WEIGHTS)
def test_a_pipe_or_a_device_is_no_file(name, tmp_path):
    """To open a pipe that nobody writes to waits for ever."""
    reader = readers.named(name)
    place = tmp_path / ("w.index" if name == "tf-checkpoint" else "w")
    os.mkfifo(place)
    with pytest.raises(BadFile, match="not a regular file"):
        reader.read(tmp_path)
    place.unlink()
    place.symlink_to("/dev/zero")
    with pytest.raises(BadFile, match="not a regular file"):
        reader.read(tmp_path)


def test_pipes_sockets_and_folders_are_no_lists(tmp_path):
    os.mkfifo(tmp_path / "pipe.rec")
    (tmp_path / "pipe.idx").write_text("0\t0\n")
    (tmp_path / "pipe.bin").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        for name in ("pipe.rec", "pipe.bin", "socket", "."):
            with pytest.raises((BadFile, OSError)):
                read_lines(tmp_path / name)
    for name in ("pipe.rec", "pipe.bin"):
        with pytest.raises(BadFile):
            sources.open_source(tmp_path / name)
    with pytest.raises(BadFile, match="no path"):
        untrusted.read_bytes("a\0b")


def test_a_file_larger_than_its_limit_is_not_read(tmp_path, monkeypatch):
    with open(tmp_path / "w", "wb") as file:
        file.truncate(untrusted.TEXT_BYTES + 1)  # sparse: it has no block on the disk
    with pytest.raises(BadFile, match="more than 268,435,456"):
        read_lines(tmp_path / "w")


def zipped(method, data=b"", name="a/1.png"):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        archive.writestr(name, data)
    return out.getvalue()


def test_a_long_name_in_an_archive_makes_no_long_message():
    """zipfile tells both names where directory and header differ."""
    data = zipped(zipfile.ZIP_STORED, b"x", "a" * 5000)
    archive = untrusted.open_zip(io.BytesIO(data.replace(b"a" * 5000, b"b" * 5000, 1)))
    with pytest.raises(BadFile, match="File name in directory") as error:
        untrusted.read_member(archive, archive.infolist()[0], 100)
    assert len(str(error.value)) < 1000


def test_members_that_unpack_without_an_end(tmp_path):
    """bzip2 unpacks a whole piece at once, and LZMA allocates the window that it is told."""
    (tmp_path / "w.zip").write_bytes(zipped(zipfile.ZIP_LZMA, b"x" * 100))
    with pytest.raises(BadFile, match="method 14"):
        sources.open_source(tmp_path / "w.zip").read("a/1.png")
    bomb = bytearray(zipped(zipfile.ZIP_BZIP2, bytes(5 << 20)))
    archive = untrusted.open_zip(io.BytesIO(bomb))
    with pytest.raises(BadFile, match="more than 1 MiB"):
        untrusted.read_member(archive, archive.infolist()[0], 1 << 20)
    packed = len(bz2.compress(bytes(5 << 20)))
    assert packed < 4096  # smaller than the piece that is given at once


def test_a_state_dict_unpacks_to_no_more_than_its_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "MEMBER_BYTES", 1 << 20)
    value = wf.torch_value({"w": np.zeros(1 << 19, np.float32)})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("t/data.pkl", wf.pickled(value))
        archive.writestr("t/data/0", bytes(2 << 20))
    with pytest.raises(BadFile, match="more than 0 MiB"):
        torch_file.parse(out.getvalue(), "w")


def test_tensors_of_one_storage_unpack_it_once(tmp_path, monkeypatch):
    monkeypatch.setattr(untrusted, "MEMBER_BYTES", 20_000)
    values = wf.torch_value({f"w{i}": np.ones(1000, np.float32) for i in range(20)})
    for call in values.values():  # all of them views of the first
        call.arguments = (next(iter(values.values())).arguments[0], *call.arguments[1:])
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("t/data.pkl", wf.pickled(values))
        archive.writestr("t/data/0", np.ones(1000, np.float32).tobytes())
    assert len(torch_file.parse(out.getvalue(), "w")) == 20


def test_links_of_hdf5_lead_nowhere_else(tmp_path):
    path = tmp_path / "w.h5"
    for link in (h5py.SoftLink("/etc/passwd"), h5py.ExternalLink("/dev/zero", "/")):
        for form in ("earliest", "latest"):
            with h5py.File(path, "w", libver=form) as file:
                file["layer/kernel:0"] = np.ones(3, np.float32)
                file["layer/other"] = link
            with pytest.raises(BadFile, match="points elsewhere"):
                keras_h5.read(path)
    with h5py.File(path, "w") as file:
        file.create_dataset("l/w:0", (3,), "f4", external=[("/etc/passwd", 0, 12)])
    with pytest.raises(BadFile, match="points into another file"):
        keras_h5.read(path)
    with h5py.File(path, "w", libver="latest") as file:
        layout = h5py.VirtualLayout((3,), "f4")
        layout[:] = h5py.VirtualSource("/etc/passwd", "x", (3,))
        file.create_virtual_dataset("l/w:0", layout)
    with pytest.raises(BadFile, match="virtual"):
        keras_h5.read(path)


@pytest.mark.parametrize("form", ["earliest", "latest"])
@pytest.mark.parametrize("groups", [3, 40, 300])
def test_hdf5_of_both_forms_is_what_h5py_wrote(tmp_path, form, groups):
    """A group of many links is kept in trees and heaps; one that contains itself ends."""
    rng = np.random.default_rng(0)
    wanted = {}
    with h5py.File(tmp_path / "w.h5", "w", libver=form, track_order=form == "latest") as file:
        for i in range(groups):
            dtype = ("<f4", ">f8", "<f2", "<i8", "u1")[i % 5]
            array = (100 * rng.normal(size=(2, i % 7, 3))).astype(dtype)
            file[f"layer_{i}/kernel:0"] = wanted[f"layer_{i}/kernel"] = array
        if form == "earliest":
            kept = {"chunks": (4, 3), "compression": "gzip", "shuffle": True, "fletcher32": True}
            wanted["packed/kernel"] = np.arange(77, dtype=np.int32).reshape(11, 7)
            file.create_dataset("packed/kernel:0", data=wanted["packed/kernel"], **kept)
        file["packed/itself"] = file["/"]
    found = keras_h5.read(tmp_path / "w.h5")
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array)


def test_a_chunk_that_unpacks_without_an_end(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        item = file.create_dataset("l/w:0", (8,), "f4", chunks=(8,), compression="gzip")
        item.id.write_direct_chunk((0,), zlib.compress(bytes(1 << 22)))
    with pytest.raises(BadFile, match="does not unpack to its size"):
        keras_h5.read(tmp_path / "w.h5")


def test_what_is_pointed_at_many_times_is_counted(tmp_path, monkeypatch):
    """Overlapping tables and blocks: a few bytes stand for millions of visits."""
    monkeypatch.setattr(untrusted, "ITEMS", 2000)
    shared = wf.flat_tables([wf.flat_table({})] * 50)
    path = tmp_path / "w.tflite"
    wf.write_tflite(path, {"w": np.ones(1, np.float32)})
    out = bytearray(b"\0\0\0\0TFL3")
    model = wf.flat_table({2: wf.flat_tables([wf.flat_table({0: shared})] * 50), 4: shared})
    struct.pack_into("<I", out, 0, model(out))
    path.write_bytes(bytes(out))
    with pytest.raises(BadFile, match="more than"):
        tflite.read(path)
    index = tmp_path / "w.index"
    names = {f"v{i:03d}": np.ones(1 << 12, np.float32) for i in range(40)}
    wf.write_checkpoint(index, names)
    monkeypatch.setattr(untrusted, "ARRAY_BYTES", 1 << 18)
    with pytest.raises(BadFile, match="claims more than"):
        tf_checkpoint.read(index)


def test_a_key_that_grows_with_every_entry(tmp_path):
    entries = [(b"", wf.field(1, 1)), (b"a" * 5000, wf.field(1, 1))]
    block = wf.table_block(entries)
    out = block + bytes(5)
    handle = wf.varint(0) + wf.varint(len(block))
    top = wf.table_block([(b"z", handle)])
    footer = wf.varint(0) + wf.varint(0) + wf.varint(len(out)) + wf.varint(len(top))
    out += top + bytes(5) + footer.ljust(40, b"\0") + struct.pack("<Q", tf_checkpoint.MAGIC)
    (tmp_path / "w.index").write_bytes(out)
    with pytest.raises(BadFile, match="a name of more than"):
        tf_checkpoint.read(tmp_path / "w.index")


def test_a_picture_of_a_thousand_scans(monkeypatch):
    """Each scan of a progressive JPEG goes over all its pixels again."""
    out = io.BytesIO()
    Image.new("RGB", (400, 400)).save(out, "JPEG", progressive=True)
    assert crops.decode(out.getvalue()).shape == (400, 400, 3)
    data = out.getvalue()
    at = data.rindex(b"\xff\xda")
    many = data[:at] + data[at:-2] * 20_000 + data[-2:]
    with pytest.raises(BadFile, match="more scans"):
        crops.decode(many)


def test_json_is_small_flat_and_an_object(tmp_path):
    for text in ("[" * 5000 + "]" * 5000, '{"a":' * 100 + "1" + "}" * 100):
        with pytest.raises(BadFile, match="nested deeper|it holds"):
            untrusted.parse_json(text.encode())
    for text in (b"[]", b"1", b"\xff", b"{", b'{"a": 1' + b"0" * 5000 + b"}"):
        with pytest.raises(BadFile):
            untrusted.parse_json(text)
    with pytest.raises(BadFile, match="MiB of JSON"):
        untrusted.parse_json(bytes(untrusted.JSON_BYTES + 1))
    assert untrusted.parse_json(b'\xef\xbb\xbf{"a": [1, {}]}') == {"a": [1, {}]}


def test_cells_without_an_end(tmp_path, monkeypatch):
    """An empty cell is eight bytes in the file and a hundred in memory."""
    path = ff.agedb(tmp_path / "w.mat", [[("a.jpg", "b.jpg", 1)]])
    assert len(np.ravel(matlab.read(path, "splits"))) == 1
    monkeypatch.setattr(untrusted, "ITEMS", 20_000)
    n = 20_001
    parts = struct.pack("<IIII", 6, 8, 1, 0) + struct.pack("<IIii", 5, 8, n, 1)
    parts += struct.pack("<II8s", 1, 6, b"splits") + struct.pack("<II", 14, 0) * n
    head = path.read_bytes()[:128]
    packed = zlib.compress(struct.pack("<II", 14, len(parts)) + parts)
    path.write_bytes(head + struct.pack("<II", 15, len(packed)) + packed)
    assert path.stat().st_size < 2000
    with pytest.raises(BadFile, match="more than 20,000 parts"):
        matlab.read(path, "splits")


def test_variables_that_unpack_without_an_end(tmp_path, monkeypatch):
    """Each is small enough; the file as a whole is not."""
    monkeypatch.setattr(matlab, "_MOST", 1 << 20)
    path = tmp_path / "w.mat"

    def variable(name):
        parts = struct.pack("<IIII", 6, 8, 2, 0) + struct.pack("<IIii", 5, 8, 1, 1)
        parts += struct.pack("<II8s", 1, 8, name) + struct.pack("<II", 9, 300_000)
        parts += bytes(300_000)
        packed = zlib.compress(struct.pack("<II", 14, len(parts)) + parts)
        return struct.pack("<II", 15, len(packed)) + packed

    head = ff.agedb(path, [[("a.jpg", "b.jpg", 1)]]).read_bytes()[:128]
    for others in (2, 4):
        path.write_bytes(head + variable(b"another!") * others)
        with pytest.raises(BadFile, match="holds another!" if others == 2 else "more than 1 MiB"):
            matlab.read(path, "splits")


@pytest.mark.parametrize(
    ("begin", "message"),
    [
        (b"B" + struct.pack("<I", 300 << 20), "claims 314,572,800 bytes"),
        (b"\x8d" + struct.pack("<Q", 300 << 20), "claims 314,572,800 bytes"),
        (b"S'", "a line without an end"),
    ],
    ids=["bytes", "text", "line"],
)
def test_a_part_of_a_pickle_is_refused_before_it_is_read(begin, message, tmp_path):
    path = tmp_path / "w.bin"
    path.write_bytes(b"\x80\x04" + begin)
    os.truncate(path, 301 << 20)  # of zeros, which take no place on the disk
    tracemalloc.start()
    try:
        with pytest.raises(BadFile, match=message):
            restricted_pickle.read_pickle(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_verification_set_of_nothing_but_lists(tmp_path, monkeypatch):
    monkeypatch.setattr(restricted_pickle, "ITEMS", 1000)
    (tmp_path / "w.bin").write_bytes(b"\x80\x04" + b"]" * 2000 + b".")
    with pytest.raises(BadFile, match="more than 1,000 steps"):
        restricted_pickle.read_pickle(tmp_path / "w.bin")


@pytest.mark.parametrize(
    "config",
    [
        *({"width": 2**40}, {"width": "16"}, {"width": True}, {"depth": -1}, {"depth": None}),
        *({"kind": ["resrec"]}, {"kind": "other"}, {"bn_decay": "x"}, {"x": 1}),
        *({"kind": "channelrec"}, {"kind": "channelrec", "channels": 1.5}, [], "resrec", None),
    ],
)
def test_a_decoder_of_no_size(config):
    with pytest.raises(ValueError):
        decoders.read_config(config)


@pytest.mark.parametrize("changed", [{"embedding_size": 2**60}, {"classes": "x"}, {"folded": []}])
def test_a_recogniser_of_no_size(changed):
    fields = {"embedding_size": 512, "standardization": "fixed", "folded": True, "classes": None}
    assert system._config("w", fields).embedding_size == 512
    for more in (changed, {"standardization": {}}, {"embedding_size": None}):
        with pytest.raises(BadFile, match="a card that no recogniser has"):
            system._config("w", fields | more)


def test_a_chunk_of_features_that_claims_too_much(tmp_path):
    block = bytes(24)
    for packed, records, unpacked in ((0, 1, 1 << 40), (1 << 40, 1, 9), (9, 1 << 40, 9)):
        head = struct.pack("<8xQ8xQQ", packed, records << 8 | ord("r"), unpacked)
        (tmp_path / "w").write_bytes(block + head + bytes(100))
        with pytest.raises(BadFile, match="claims"):
            chunks.check(tmp_path / "w")


def test_a_zip_of_weights_says_what_it_is(tmp_path):
    (tmp_path / "w.pt").write_bytes(zipped(zipfile.ZIP_STORED, b"", "t/data.pkl"))
    assert finding.find(tmp_path / "w.pt")[1] == ".pt"
    with pytest.raises(BadFile):
        torch_file.read(tmp_path / "w.pt")
    assert json.dumps(str(BadFile("x"))) == '"x"' and issubclass(BadFile, ValueError)


def test_a_member_without_a_name(tmp_path):
    (tmp_path / "w.zip").write_bytes(zipped(zipfile.ZIP_STORED, b"x", "a").replace(b"a", b"\0"))
    with untrusted.open_zip(tmp_path / "w.zip") as archive:
        assert [member.filename for member in archive.infolist()] == [""]
    assert sources.open_source(tmp_path / "w.zip").names == ()
