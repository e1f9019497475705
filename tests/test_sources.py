"""Sources: every format in small real files, and the broken files that people have."""

import os
import pickle
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from face_files import (
    archive,
    bin_set,
    bin_set_of_python2,
    folder,
    noise,
    picture,
    rec_pack,
    record,
)

from advface_jax.data import open_faces, open_source, read_faces
from advface_jax.data.formats.folders import identity_of
from advface_jax.data.formats.restricted_pickle import read_pickle

IMAGES = [noise(i, (112, 112)) for i in range(8)]


def contents(source):
    """What a source reads, also after a trip to a worker process."""
    there = pickle.loads(pickle.dumps(source))
    assert [there.read(name) for name in there.names] == [source.read(n) for n in source.names]
    return [source.read(name) for name in source.names]


FILES = {"b/2.jpg": IMAGES[2], "b/1.png": IMAGES[1], "a/x/1.jpg": IMAGES[0], "flat.webp": b"?"}


@pytest.mark.parametrize("pack", [folder, archive])
def test_folders_and_archives(tmp_path, pack):
    source = open_source(pack(tmp_path / "f.zip", FILES))
    assert source.names == ("a/x/1.jpg", "b/1.png", "b/2.jpg", "flat.webp")
    assert source.identities == ("x", "b", "b", "flat") and source.pairs == source.skipped == ()
    assert contents(source) == [*IMAGES[:3], b"?"] and len(source) == 4


@pytest.mark.parametrize("pack", [folder, archive])
def test_hidden_files_and_folders_do_not_count(tmp_path, pack):
    hidden = (".a/1.jpg", "a/.ipynb_checkpoints/1.jpg", "a/._1.jpg", "__MACOSX/a/1.jpg", "a/1.txt")
    source = open_source(pack(tmp_path / "f.zip", dict.fromkeys(hidden, b"") | {"a/1.jpg": b"1"}))
    assert source.names == ("a/1.jpg",) and source.skipped == ()
    empty = pack(tmp_path / "e.zip", dict.fromkeys(hidden, b""))
    with pytest.raises(ValueError, match="no face is left"):
        open_faces(empty)


READ = ("photo.jpg", "A.JPG", "b.jpe", "c.jfif", "d.tif", "e.TIFF", "f.gif", "g.pgm", "h.mpo")
NOT_READ = ("IMG_1.HEIC", "a.avif", "b.jp2", "c.dng", "d.npy")
BARE = {"copy.jpg_large": noise(), "IMG 7": picture(), "e.bin2": b"\0\0\0\x18ftypmif1"}
NO_PICTURES = {
    "Thumbs.db": b"\xd0\xcf\x11\xe0", ".DS_Store": b"\0", "._photo.jpg": b"\0\5\x16\7",
    "__MACOSX/a/1.jpg": b"1", "desktop.ini": b"[", "photo.jpg.tmp": b"", "list.txt": b"a 1",
    "photo.jpg.json": b"{}", "clip.MOV": b"\0\0\0\x14ftypqt  ", "@eaDir/photo.jpg/S.jpg": noise(),
    "$RECYCLE.BIN/x.jpg": noise(), "README": b"JPEG", "empty": b"",
}  # fmt: skip


@pytest.mark.parametrize("pack", [folder, archive])
def test_photographs_are_read_or_listed_and_nothing_else_is(tmp_path, pack):
    files = dict.fromkeys((*READ, *NOT_READ), noise()) | BARE | NO_PICTURES
    source = open_source(pack(tmp_path / "f.zip", files))
    assert source.names == tuple(sorted(READ))
    why = {name: f"not read as .{name[-4:].strip('.').lower()}: save it as" for name in NOT_READ}
    why |= dict.fromkeys(BARE, "a picture without a picture's ending: rename it")
    assert dict(source.skipped).keys() == why.keys() and len(source.skipped) == len(why)
    assert all(reason.startswith(why[name]) for name, reason in source.skipped)


def test_names_of_archives_made_on_a_mac_or_windows(tmp_path):
    path = tmp_path / "f.zip"
    members = ("Zoë/1.jpg", "M\u00fcller\\2.jpg", "Je\u0301/3.jpg")
    with zipfile.ZipFile(path, "w") as out:
        for name in members:
            out.writestr(name, name.encode())
    data = bytearray(path.read_bytes())
    for mark, place in ((b"PK\3\4", 7), (b"PK\1\2", 9)):  # the flag that the name is UTF-8
        at = -1
        while (at := data.find(mark, at + 1)) >= 0:
            data[at + place] &= ~8
    path.write_bytes(data)
    source = open_source(path)
    assert set(source.names) == {name.replace("\\", "/") for name in members}
    assert [data.decode().replace("\\", "/") for data in contents(source)] == list(source.names)


def test_views_that_cfp_keeps_apart_are_one_person():
    names = ("Data/Images/001/frontal/01.jpg", "001/profile/02.jpg", "frontal/01.jpg", "x.jpg")
    assert [identity_of(name) for name in names] == ["001", "001", "frontal", "x"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_links_are_followed_once_and_pipes_never(tmp_path):
    where = folder(tmp_path / "f", {"a/1.jpg": b"1"})
    folder(tmp_path / "elsewhere", {"2.jpg": b"2"})
    (where / "b").symlink_to(tmp_path / "elsewhere")
    (where / "a" / "up").symlink_to(where)
    (where / "gone.jpg").symlink_to(tmp_path / "nothing")
    os.mkfifo(where / "pipe.jpg")
    source = open_source(where)
    assert source.names == ("a/1.jpg", "b/2.jpg", "gone.jpg", "pipe.jpg")
    assert source.skipped == (("a/up", "a link to a folder that was read already"),)
    assert source.read("b/2.jpg") == b"2"
    wrong = {"gone.jpg": "does not exist", "pipe.jpg": "not a regular file"}
    for name, message in (wrong | {"../elsewhere/2.jpg": "leads out"}).items():
        with pytest.raises((OSError, ValueError), match=message):
            source.read(name)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_names_that_are_no_text_are_skipped_and_shown(tmp_path):
    pack = folder(tmp_path / "faces", {"Zoë/größe 1.png": picture()})
    os.makedirs(os.fsencode(pack) + b"/bad\xff")
    with open(os.fsencode(pack) + b"/bad\xff/a.png", "wb") as file:
        file.write(picture())
    source = open_source(pack)
    assert source.names == ("Zoë/größe 1.png",)
    assert source.skipped == (("bad\\xff/a.png", "a name that is not UTF-8: rename it"),)
    "".join(map("".join, source.skipped)).encode()


def test_unreadable_members_are_skipped_with_their_reason(tmp_path):
    path = tmp_path / "f.zip"
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "w") as out:
        for name, data in (("a/1.jpg", b"first"), ("A/1.jpg", b"other"), ("a/1.jpg", b"second")):
            out.writestr(name, data)
        for name in ("../up.jpg", "/etc/x.jpg", "..\\up.jpg", "c\\1.jpg", "locked.jpg"):
            out.writestr(zipfile.ZipInfo(name), name)
        out.infolist()[-1].flag_bits |= 1
    source = open_source(path)
    assert source.names == ("A/1.jpg", "a/1.jpg", "c/1.jpg"), "names that differ by case are two"
    assert source.identities == ("A", "a", "c")
    assert contents(source) == [b"other", b"first", b"c\\1.jpg"]
    assert dict(source.skipped) == {
        "a/1.jpg": "a second file of that name in the archive",
        "../up.jpg": "with an unsafe path",
        "/etc/x.jpg": "with an unsafe path",
        "locked.jpg": "encrypted: unpack the archive with its password",
    }
    assert len(source.skipped) == 5
    with pytest.warns(UserWarning, match="3 with an unsafe path, 1 a second .* 1 encrypted"):
        assert len(open_faces(path)) == 3
    assert not (tmp_path.parent / "up.jpg").exists()


def test_a_member_larger_than_any_image_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("advface_jax.untrusted.IMAGE_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "f.zip", "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("a/1.jpg", bytes(1001))
        out.writestr("a/2.jpg", bytes(1000))
    source = open_source(tmp_path / "f.zip")
    assert source.names == ("a/2.jpg",) and "for one image" in source.skipped[0][1]
    there = open_source(folder(tmp_path / "f", {"a/1.jpg": bytes(1001)}))
    with pytest.raises(ValueError, match="more than 1,000"):
        there.read("a/1.jpg")


def test_a_damaged_member_is_an_error_of_that_member(tmp_path):
    path = archive(tmp_path / "f.zip", {"a/1.jpg": IMAGES[0], "b/1.jpg": IMAGES[1]})
    data = bytearray(path.read_bytes())
    data[data.index(IMAGES[0]) + 60] ^= 255
    path.write_bytes(data)
    source = open_source(path)
    with pytest.raises(ValueError, match="Bad CRC"):
        source.read("a/1.jpg")
    assert source.read("b/1.jpg") == IMAGES[1]
    with pytest.raises(ValueError, match="is not in"):
        source.read("c/1.jpg")


def test_archives_that_are_none(tmp_path):
    whole = archive(tmp_path / "f.zip", FILES).read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="neither a folder nor a zip .*cut short"):
        open_source(tmp_path / "cut.zip")
    torn = bytearray(whole)
    torn[whole.rindex(b"PK\1\2") + 1] ^= 255  # an entry of the directory
    (tmp_path / "torn.zip").write_bytes(torn)
    with pytest.raises(ValueError, match="cannot be read as a zip"):
        open_source(tmp_path / "torn.zip")
    with pytest.raises(ValueError, match="does not exist"):
        open_source(tmp_path / "none.zip")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_reader_does_not_move_its_parents_file(tmp_path):
    path = archive(tmp_path / "f.zip", {f"{i}.jpg": IMAGES[i] for i in range(8)})
    # In another process: once a test has run JAX here, its threads forbid a fork.
    script = """
import multiprocessing, os, sys, zipfile
from advface_jax.data import open_source
source = open_source(sys.argv[1])
source.read("0.jpg")
parent = dict(source.read.opened)
def read(name):
    return source.read(name)  # the one that was opened before the fork: a pickled one is new
with multiprocessing.get_context("fork").Pool(1) as pool:
    images = pool.map(read, source.names)
assert images == [zipfile.ZipFile(sys.argv[1]).read(name) for name in source.names]
assert source.read.opened == parent and os.getpid() in parent
"""
    subprocess.run([sys.executable, "-c", script, path], check=True)


PEOPLE = {0: IMAGES[:3], 1: IMAGES[3:4], 7: IMAGES[4:]}
PACK_NAMES = ["0/0000001.jpg", "0/0000002.jpg", "0/0000003.jpg", "1/0000004.jpg"]
PACK_NAMES += [f"7/000000{i}.jpg" for i in (5, 6, 7, 8)]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_record_pack(tmp_path, ranges):
    path = rec_pack(tmp_path / "pack", PEOPLE, ranges)
    source = open_source(path)
    assert list(source.names) == PACK_NAMES and source.skipped == source.pairs == ()
    assert source.identities == ("0", "0", "0", "1", "7", "7", "7", "7")
    assert contents(source) == IMAGES
    assert open_source(path.parent).names == source.names, "the pack's folder does as well"
    faces = read_faces(path, resize=True)
    assert faces.images.shape == (8, 160, 160, 3)
    with pytest.raises(ValueError, match="no face is left .*not 160x160: 112x112"):
        read_faces(path)


def lines_of(path):
    return path.with_suffix(".idx").read_text().splitlines()


def test_labels_inside_a_range_are_checked_where_its_ends_disagree(tmp_path):
    path = rec_pack(tmp_path / "pack", {0: IMAGES[:3]})
    data = bytearray(path.read_bytes())
    at = int(lines_of(path)[3].split()[1])  # the last image of the person
    data[at + 12 : at + 16] = struct.pack("<f", 5)
    path.write_bytes(data)
    source = open_source(path)
    assert source.identities == ("0", "0", "5") and source.skipped == ()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_pack_cut_short_loses_only_its_end(tmp_path, ranges):
    """Also where the people's own records, at its end, are lost with it."""
    path = rec_pack(tmp_path / "pack", PEOPLE, ranges)
    offsets = {key: int(at) for key, at in map(str.split, lines_of(path))}
    path.write_bytes(path.read_bytes()[: offsets["6"] + 100])  # inside of an image
    source = open_source(path)
    assert list(source.names) == PACK_NAMES[:6] and source.identities[-1] == "7"
    past = "past the end of the file: there is no record at byte"
    assert source.skipped == tuple((f"record {key}", f"{past} {offsets[key]}") for key in "78")
    assert source.read(PACK_NAMES[4]) == IMAGES[4]
    with pytest.raises(ValueError, match="cut short: 68 of"):
        source.read(PACK_NAMES[5])


def test_keys_that_the_pack_promises_and_the_index_lacks_or_points_elsewhere(tmp_path):
    path = rec_pack(tmp_path / "pack", PEOPLE)
    lines = lines_of(path)
    lines[4:6] = f"4\t{path.stat().st_size + 4}", f"5\t{10**17}"  # no file is that long
    del lines[6:8], lines[2]  # images 6, 7 and 2
    lines.append(lines[1])
    path.with_suffix(".idx").write_text("\n".join(lines))
    source = open_source(path)
    assert list(source.names) == [n for n in PACK_NAMES if n[-5] not in "24567"]
    past = [name for name, why in source.skipped if "past the end" in why]
    assert past == ["record 4", "record 5"]
    assert source.skipped[0] == ("record 1", "listed twice in the .idx")
    lost = [name for name, why in source.skipped if why == "not in the .idx"]
    assert lost == ["record 2", "records 6 to 7"] and len(source.skipped) == 5


def test_records_that_are_none(tmp_path):
    path = rec_pack(tmp_path / "pack", PEOPLE, ranges=False)
    offsets = [int(line.split()[1]) for line in lines_of(path)]
    data = bytearray(path.read_bytes())
    data[offsets[1]] ^= 255  # the magic number
    data[offsets[2] + 7] |= 1 << 5  # the first part of a split record
    data[offsets[3] + 8 : offsets[3] + 12] = struct.pack("<I", 1 << 30)  # as many labels
    data[offsets[4] + 12 : offsets[4] + 16] = struct.pack("<f", float("nan"))
    data[offsets[5] + 4 : offsets[5] + 8] = struct.pack("<I", 24)  # a header alone
    path.write_bytes(data)
    source = open_source(path)
    assert list(source.names) == [PACK_NAMES[0], *PACK_NAMES[5:]]
    reasons = [reason for _, reason in source.skipped]
    parts = ("no record begins", "split into parts", "claims", "label is nan")
    assert all(part in reason for reason, part in zip(reasons, parts, strict=True))
    with pytest.raises(ValueError, match="without an image"):
        source.read(PACK_NAMES[5])


def test_a_pack_that_claims_billions_of_images_takes_neither_time_nor_memory(tmp_path):
    path = tmp_path / "train.rec"
    path.write_bytes(record([1, 2.0**31 - 128]))
    path.with_suffix(".idx").write_text(f"0\t0\n{2**31}\t0\n")
    with pytest.raises(ValueError, match="has no image"):
        open_source(path)
    parts = [record([2.0**30, 2.0**30 + 128]), *[record(7, b"x")] * 2, record([1, 2.0**30])]
    offsets = np.cumsum([0, *map(len, parts)])
    path.write_bytes(b"".join(parts))
    keys = (0, 1, 2**30 - 1, 2**30)
    lines = (f"{key}\t{at}\n" for key, at in zip(keys, offsets, strict=False))
    path.with_suffix(".idx").write_text("".join(lines))
    assert open_source(path).names == ("7/0000001.jpg", "7/1073741823.jpg")


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "no train.idx beside"),
        ("", "is empty"),
        ("1\t0\nx\t5\n", "line 2: wanted 'key offset', got 'x"),
        ("1 -4\n", "line 1"),
        ("1 99999999999999999999\n", "line 1"),
        ("\xff\xfe", "not a text file"),
        ("5\t3\n", "no image that train.idx points at .*do the two belong together"),
    ],
)
def test_an_index_that_is_none(tmp_path, index, message):
    path = rec_pack(tmp_path / "pack", PEOPLE)
    path.with_suffix(".idx").unlink()
    if index is not None:
        path.with_suffix(".idx").write_text(index, encoding="latin-1")
    with pytest.raises(ValueError, match=message):
        open_source(path)


SAME = [True, False, True, False]


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5, "of Python 2"])
def test_a_verification_set(tmp_path, protocol):
    path = tmp_path / "x.bin"
    images = [IMAGES[0], b"short", *IMAGES[2:]]
    if protocol == "of Python 2":
        bin_set_of_python2(path, images, SAME)
    else:
        bin_set(path, images, SAME, protocol)
    source = open_source(path)
    assert source.names == tuple(f"0000{i}.jpg" for i in range(8))
    assert contents(source) == images
    want = zip(source.names[::2], source.names[1::2], SAME, strict=True)
    assert [pair[:3] for pair in source.pairs] == list(want)
    who = dict(zip(source.names, source.identities, strict=True))
    assert all((who[p.left] == who[p.right]) == p.same for p in source.pairs)
    assert len(set(who.values())) == 6


def test_the_folds_of_a_verification_set_are_those_of_kfold(tmp_path):
    """As scikit-learn's KFold(10) deals 47 pairs: in their order, the first seven one larger."""
    path = bin_set(tmp_path / "x.bin", [b"x"] * 94, [i % 2 == 0 for i in range(47)])
    folds = [pair.fold for pair in open_source(path).pairs]
    assert folds == sorted(folds) and np.bincount(folds)[1:].tolist() == [5] * 7 + [4] * 3


class Hostile:
    def __init__(self, function, *arguments):
        self.what = function, arguments

    def __reduce__(self):
        return self.what


@pytest.mark.parametrize("protocol", [1, 2, 4])
@pytest.mark.parametrize("place", ["images", "same", "all"])
def test_a_hostile_pickle_is_named_and_nothing_of_it_runs(tmp_path, protocol, place):
    trap = Hostile(os.system, f"touch {tmp_path / 'ran'}")
    value = {"images": ([trap], [True]), "same": ([b"x"], [trap]), "all": trap}[place]
    data = pickle.dumps(value, protocol)
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(ValueError, match=r"asks for (posix|nt)\.system, and nothing but data"):
        open_source(tmp_path / "x.bin")
    assert not (tmp_path / "ran").exists()
    pickle.loads(data)
    assert (tmp_path / "ran").exists(), "the trap does work"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (pickle.dumps(([b"x"] * 2, [True]))[:-8], "exhausted|no end|remain|end"),
        (pickle.dumps((IMAGES, SAME))[:9000], "expected .* bytes|only .* remain"),
        (b"no pickle at all", "no verification set"),
        (picture(), "no verification set"),
        (pickle.dumps(([b"x"] * 3, [True])), "3 images for 1 pairs"),
        (pickle.dumps(([], [])), "0 images for 0 pairs"),
        (pickle.dumps([b"x"]), "not fit together|unpack"),
        (pickle.dumps(([b"x", "y"], [True])), "something else than bytes"),
        (pickle.dumps(([b"x", b"y"], [1])), "holds BININT1"),
        (pickle.dumps(([b"x", b"y"], [b"1"])), "something else than booleans"),
        (pickle.dumps(([np.zeros(3, np.uint8)] * 2, [True])), "asks for numpy"),
        (pickle.dumps({"bins": b""}), "holds EMPTY_DICT"),
        (pickle.dumps(([bytearray(b"x")] * 2, [True]), 5), "holds BYTEARRAY8"),
        (b"\x80\x04]\x8e" + b"\xff" * 7 + b"\x0f.", "no verification set"),  # a length of 2^60
        (b"\x80\x02c_codecs\nencode\n(]X\x06\x00\x00\x00latin1tR.", "calls a function"),
        (b"\x80\x02e.", "no verification set"),  # an empty stack
    ],
)
def test_pickles_of_anything_else(tmp_path, data, message):
    (tmp_path / "x.bin").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_source(tmp_path / "x.bin")


def test_every_byte_of_a_verification_set_may_be_wrong(tmp_path):
    """A damaged file is read as images and booleans, or refused with its path."""
    whole = pickle.dumps(([b"abc", b"d" * 300], [True]), 2)
    path, rng = tmp_path / "x.bin", np.random.default_rng(0)
    refused = 0
    for _ in range(150):
        data = bytearray(whole)
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            data[at] = rng.integers(256)
        path.write_bytes(data)
        try:
            images, same = read_pickle(path)
            assert all(type(yes) is bool for yes in same) and all(b.length >= 0 for b in images)
        except ValueError as error:
            assert str(path) in str(error)
            refused += 1
    assert 10 < refused < 140
