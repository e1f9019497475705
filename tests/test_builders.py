"""Builders: the user's copy goes in, the same bytes come out of a prepared set, with the pairs."""

import io
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import face_files
import numpy as np
import pytest
from face_files import CFP_PAIRS, archive, bin_set, folder, full_disk, noise, picture, rec_pack
from PIL import Image

from advface_jax import lock
from advface_jax.commands import prepare as command
from advface_jax.data import NamedPair, index_pairs, open_faces, open_source, read_faces
from advface_jax.data.formats import prepared as reading
from advface_jax.untrusted import BadFile
from experiments.fuzzing import guard
from experiments.fuzzing.seeds import sets

if sys.platform == "win32":
    pytest.skip("array_record has no wheel for Windows", allow_module_level=True)

import tensorflow_datasets as tfds

from advface_jax.data.builders.preparing import prepare

ROOT = Path(__file__).parents[1]
IMAGES = [noise(i) for i in range(8)]
PEOPLE = {f"{i // 3:07d}/{i:03d}.jpg": image for i, image in enumerate(IMAGES)}


def contents(source):
    return {name: source.read(name) for name in source.names}


def test_casia_from_a_folder_a_zip_and_a_pack(tmp_path):
    copies = [folder(tmp_path / "CASIA", PEOPLE), archive(tmp_path / "c.zip", PEOPLE)]
    for i, path in enumerate(copies):
        made = prepare("casia-webface", path, tmp_path / str(i))
        assert made.fresh and made.folder == tmp_path / str(i) / "casia_webface/1.0.0"
        source = open_source(made.folder)
        assert contents(pickle.loads(pickle.dumps(source))) == PEOPLE, "bytes as they were"
        assert source.identities == ("0000000",) * 3 + ("0000001",) * 3 + ("0000002",) * 2
        assert source.pairs == source.skipped == ()
    # plain tensorflow-datasets reads it as well
    builder: Any = tfds.builder_from_directory(str(tmp_path / "0/casia_webface/1.0.0"))
    assert builder.info.citation and "CASIA" in builder.info.description
    example = builder.as_data_source("train")[4]
    with Image.open(io.BytesIO(IMAGES[4])) as image:
        assert (example["image"] == np.asarray(image)).all()
    assert (example["name"], example["identity"]) == (b"0000001/004.jpg", b"0000001")
    pack = rec_pack(tmp_path / "pack", {3: IMAGES[:5], 9: IMAGES[5:]})
    source = prepare("casia-webface", pack.parent, tmp_path / "2").source
    assert list(contents(source).values()) == IMAGES and set(source.identities) == {"3", "9"}


def test_a_picture_stored_on_its_side_is_upright_in_a_prepared_set(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 6
    with Image.open(io.BytesIO(picture())) as image:
        image.paste((255, 0, 0), (0, 0, 160, 80))  # a red upper half
        data = face_files.encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
    made = prepare("casia-webface", folder(tmp_path / "c", {"a/1.png": data}), tmp_path / "d")
    crop = open_faces(made.folder).crop(0)
    assert (crop[:80] == (255, 0, 0)).all() and (crop[80:] == (128, 20, 200)).all()


def test_a_prepared_set_is_found_by_name_and_read_as_faces(tmp_path, monkeypatch):
    prepare("casia-webface", folder(tmp_path / "c", PEOPLE), tmp_path / "d")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "d"))
    lazy, eager = open_faces("tfds:casia-webface"), read_faces(tmp_path / "c")
    assert lazy.names == eager.names and (lazy.images == eager.images).all()
    some = read_faces("tfds:casia_webface", names=[eager.names[5]])
    assert (some.images == eager.images[5]).all()
    with pytest.raises(ValueError, match=rf"tfds:cfp_fp is not in {tmp_path}.*prepare it"):
        open_source("tfds:cfp-fp")
    (old,) = (tmp_path / "d/casia_webface").glob("1.0.0")
    shutil.copytree(old, tmp_path / "d/casia_webface/0.9.0")
    assert len(open_source("tfds:casia-webface:0.*.*")) == len(open_source(old)) == len(eager.names)
    for config in ("a", "b"):
        shutil.copytree(old, tmp_path / f"d/other/{config}/1.0.0")
    assert open_source("tfds:other/a").names == eager.names
    with pytest.raises(ValueError, match="name one of tfds:other/a, tfds:other/b"):
        open_source("tfds:other")
    monkeypatch.setitem(sys.modules, "array_record.python", None)
    with pytest.raises(ValueError, match="pip install array_record"):
        open_source("tfds:casia-webface")


def test_broken_images_are_left_out_counted_and_listed(tmp_path):
    files = dict(PEOPLE)
    files["0000001/003.jpg"] = IMAGES[3][:-2000]
    files["0000002/x.jpg"] = b"<html>not found</html>"
    files["0000002/a\tb.jpg"] = picture()
    made = prepare("casia-webface", folder(tmp_path / "c", files), tmp_path / "d")
    assert len(made.source) == 7 and "0000001/003.jpg" not in made.source.names
    reasons = dict(made.source.skipped)
    assert "truncated" in reasons["0000001/003.jpg"]
    assert reasons["0000002/x.jpg"] == "unreadable: not an image that is read here"
    assert reasons["0000002/a b.jpg"] == "a tab or a line break in its name"
    with pytest.warns(UserWarning, match="7 faces read, 3 skipped"):
        open_faces(made.folder)
    with pytest.raises(ValueError, match="no image can be decoded; the first: 1.jpg: unreadable"):
        prepare("casia-webface", folder(tmp_path / "b", {"1.jpg": b"?"}), tmp_path / "e")
    assert not list((tmp_path / "e").rglob("*.tsv"))


def test_a_finished_set_is_not_built_twice_and_never_mixed_up(tmp_path):
    copy = folder(tmp_path / "c", PEOPLE)
    made = prepare("casia-webface", copy, tmp_path / "d")
    (records,) = made.folder.glob("*.array_record*")
    before = records.stat().st_mtime_ns
    again = prepare("casia-webface", archive(tmp_path / "c.zip", PEOPLE), tmp_path / "d")
    assert not again.fresh and records.stat().st_mtime_ns == before
    assert contents(again.source) == PEOPLE
    (copy / "0000000/000.jpg").write_bytes(noise(99))  # the same names, another picture
    with pytest.raises(ValueError, match="made of other files: remove it"):
        prepare("casia-webface", copy, tmp_path / "d")
    unfinished = tmp_path / "e/casia_webface/1.0.0"
    unfinished.mkdir(parents=True)
    with pytest.raises(ValueError, match="is no finished data set"):
        prepare("casia-webface", copy, tmp_path / "e")


def test_a_run_that_was_stopped_starts_again(tmp_path):
    copy = folder(tmp_path / "c", PEOPLE)

    def stop(done, total):
        assert total == 8
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare("casia-webface", copy, tmp_path / "d", report=stop)
    assert not [path for path in (tmp_path / "d").rglob("*") if path.is_file()]
    left = tmp_path / "d/casia_webface/incomplete.OLD_1.0.0/part"
    left.parent.mkdir(parents=True)  # a killed run cannot tidy up
    left.write_bytes(b"")
    with lock.only_writer(left.parents[1]), pytest.raises(ValueError, match="another process"):
        prepare("casia-webface", copy, tmp_path / "d")
    assert left.exists(), "it may be at work"
    assert contents(prepare("casia-webface", copy, tmp_path / "d").source) == PEOPLE
    there = {path.name for path in (tmp_path / "d/casia_webface").iterdir()}
    assert there == {"1.0.0"}


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    pack = folder(tmp_path / "f", {f"a/{i}.png": noise(i, kind="PNG") for i in range(3)})
    wanted = pytest.raises(ValueError, match="casia_webface.* cannot be written: .*too large")
    with full_disk(1 << 16), wanted:
        prepare("casia-webface", pack, tmp_path / "o")
    assert not [path for path in (tmp_path / "o").rglob("*") if path.is_file()]
    assert len(prepare("casia-webface", pack, tmp_path / "o").source) == 3


def cfp(root: Path) -> Path:
    names = face_files.small_cfp(root)[1]
    files = {f"Images/{name}": IMAGES[i] for i, name in enumerate(sorted(names))}
    folder(root / "Data", files | {"Fiducials/001/frontal/01.txt": b"", "logo.png": picture()})
    return root


def test_cfp_fp_by_the_command_from_the_original_folder(tmp_path, capsys):
    root, made = cfp(tmp_path / "cfp-dataset"), tmp_path / "d/cfp_fp/1.0.0"
    (root / "Data/Images/002/profile/01.jpg").write_bytes(b"?")
    command.main("cfp-fp", root, tmp_path / "d")
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == [str(made), "5 images, 2 identities, 4 pairs"]
    assert out[2].startswith("2 left out (1 not PERSON/frontal") and "skipped.tsv" in out[2]
    assert out[-1] == "2 of the pairs need an image that is not there"
    command.main("cfp-fp", root, tmp_path / "d")
    assert "(prepared before)" in capsys.readouterr().out
    source = open_source(made)
    assert source.pairs == CFP_PAIRS and source.identities == ("001",) * 3 + ("002",) * 2
    assert source.skipped == (
        ("Data/logo.png", "not PERSON/frontal/IMAGE or PERSON/profile/IMAGE"),
        ("002/profile/01.jpg", "unreadable: not an image that is read here"),
    )
    with pytest.warns(UserWarning, match="1 not PERSON"):
        faces = open_faces(made)
    assert index_pairs([faces.pairs[0], faces.pairs[3]], faces).same.tolist() == [True, False]
    with pytest.raises(ValueError, match="none of the 7 images is named as in"):
        command.main("agedb-30", root, tmp_path / "e")


def test_cfp_fp_from_crops_that_kept_the_names(tmp_path):
    root = cfp(tmp_path / "cfp-dataset")
    names = ("001/frontal/01", "001/profile/01", "002/frontal/01", "002/profile/01")
    path = archive(tmp_path / "crops.zip", {f"{name}.png": picture() for name in names})
    source = prepare("cfp-fp", path, tmp_path / "d", protocol=root).source
    assert source.pairs[0] == NamedPair("001/frontal/01.png", "001/profile/01.png", True, 1)
    assert source.pairs[1].left == "001/frontal/02.jpg", "a pair is kept though a picture is not"
    with pytest.raises(ValueError, match=r"give CFP's folder, with Protocol"):
        prepare("cfp-fp", path, tmp_path / "e")
    with pytest.raises(ValueError, match="none of the 4 pairs .* do they belong together"):
        other = folder(tmp_path / "o", {"x/frontal/1.jpg": picture()})
        prepare("cfp-fp", other, tmp_path / "e", protocol=root)
    with pytest.raises(ValueError, match="none of the 8 images is PERSON/frontal"):
        prepare("cfp-fp", folder(tmp_path / "w", PEOPLE), tmp_path / "e", protocol=root)


def test_agedb_from_the_original_folder(tmp_path):
    names = ["0_MariaCallas_35_f", "1_MariaCallas_65_f", "2_A_B_20_m", "3_A_B_50_M"]
    files = {f"{name}.jpg": IMAGES[i] for i, name in enumerate(names)}
    root = folder(tmp_path / "AgeDB", files | {"cover.jpg": picture()})
    folds = [[(0, 1, 1), (0, 2, -1)], [(3, 2, 1), (1, 3, -1)]]
    named = [[(names[a], names[b], label) for a, b, label in fold] for fold in folds]
    face_files.agedb(root / "test_splits_30_years.mat", named)
    source = prepare("agedb-30", root, tmp_path / "d").source
    assert source.names[2] == "2_A_B_20_m.jpg" and len(source) == 4
    assert source.identities == ("MariaCallas", "MariaCallas", "A_B", "A_B")
    assert source.skipped == (("cover.jpg", "not named as in 0_MariaCallas_35_f.jpg"),)
    assert [(p.same, p.fold) for p in source.pairs] == [(1, 1), (0, 1), (1, 2), (0, 2)]
    who = dict(zip(source.names, source.identities, strict=True))
    assert all((who[p.left] == who[p.right]) == p.same for p in source.pairs)


@pytest.mark.parametrize("name", ["cfp-fp", "agedb-30"])
def test_verification_sets_of_insightface(tmp_path, name):
    path = bin_set(tmp_path / "x.bin", IMAGES, [True, False, True, False])
    made = prepare(name, path, tmp_path / "d")
    assert list(contents(made.source).values()) == IMAGES
    assert made.source.pairs == open_source(path).pairs and len(made.source.pairs) == 4
    with pytest.raises(ValueError, match="is a verification set: wanted person/image.jpg"):
        prepare("casia-webface", path, tmp_path / "d")
    with pytest.raises(ValueError, match="has no verification protocol"):
        prepare("casia-webface", path, tmp_path / "d", protocol=path)


def theirs(path: Path, features: dict, examples: list[dict], split="train") -> Path:
    """A set as tensorflow-datasets' own builders leave it: shuffled, without lists beside it."""

    class Theirs(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("0.1.1")

        def _info(self):
            told: Any = tfds.features.FeaturesDict(features)  # type: ignore[arg-type]
            return tfds.core.DatasetInfo(builder=self, features=told)

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples()}

        def _generate_examples(self):
            yield from ((f"key {i}", example) for i, example in enumerate(examples))

    builder = Theirs(data_dir=str(path), file_format="array_record")
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_dir=str(path / "downloads"), download_config=config)
    return Path(builder.data_path)


def test_sets_like_tfds_own_lfw(tmp_path):
    features = {"label": tfds.features.Text(), "image": tfds.features.Image(shape=(160, 160, 3))}
    who = ["Ada", "Bo", "Bo", "Cy"]
    examples = [{"label": name, "image": IMAGES[i]} for i, name in enumerate(who)]
    source = open_source(theirs(tmp_path, features, examples))
    assert sorted(source.identities) == who and len(set(source.names)) == 4
    named = zip(source.names, source.identities, strict=True)
    assert all(name.startswith(f"{identity}/train-0000") for name, identity in named)
    of = dict(zip(contents(source).values(), source.identities, strict=True))
    assert of == dict(zip(IMAGES[:4], who, strict=True)), "shuffled, and each with its own label"


def test_sets_like_tfds_own_celeb_a(tmp_path):
    features = {
        "image": tfds.features.Image(shape=(160, 160, 3), encoding_format="jpeg"),
        "attributes": {"Smiling": np.bool_, "label": np.bool_},
        "identity": {"Identity_No": np.int64},
    }
    said = {"attributes": {"Smiling": True, "label": False}}
    who: list[dict] = [{"identity": {"Identity_No": 100 + i}} for i in range(3)]
    examples = [said | {"image": IMAGES[i]} | who[i] for i in range(3)]
    source = open_source(theirs(tmp_path, features, examples, "validation"))
    of = dict(zip(contents(source).values(), source.identities, strict=True))
    assert of == {IMAGES[i]: str(100 + i) for i in range(3)}
    del features["identity"]  # versions before 2.1.0
    for example in examples:
        del example["identity"]
    source = open_source(theirs(tmp_path / "old", features, examples))
    assert len(set(source.identities)) == 3, "without identities each picture is a person"


def test_a_set_without_images_or_of_records_that_only_tensorflow_reads(tmp_path):
    where = theirs(tmp_path / "a", {"x": np.int64}, [{"x": 1}])
    with pytest.raises(ValueError, match="has the features x, and none is an image"):
        open_source(where)
    where = theirs(tmp_path / "b", {"image": tfds.features.Image()}, [{"image": IMAGES[0]}])
    info = where / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(ValueError, match="tfrecord, which only TensorFlow reads: prepare it again"):
        open_source(where)


def test_a_prepared_set_that_was_damaged(tmp_path):
    made = prepare("casia-webface", folder(tmp_path / "c", PEOPLE), tmp_path / "d")
    table = made.folder / reading.FACES
    rows = table.read_text()
    for broken, message in (
        (rows.rsplit("\n", 2)[0] + "\n", "7 names, 7 of them different, for 8 records"),
        (rows.replace("001.jpg", "000.jpg", 1), "8 names, 7 of them different"),
        (rows.replace("0000000/000.jpg\t0000000", "0000000/000.jpg"), "without two columns"),
        ("file\tidentity\n" + "x" * 200_000 + "\ta\n", "is damaged .*prepare the set again"),
    ):
        table.write_text(broken)
        with pytest.raises(ValueError, match=message):
            open_source(made.folder)
    table.write_text(rows.replace("000.jpg", "xxx.jpg", 1))
    with pytest.raises(ValueError, match="of another build: the record is '0000000/000.jpg'"):
        open_source(made.folder).read("0000000/xxx.jpg")
    table.write_text(rows)
    (records,) = made.folder.glob("*.array_record*")
    whole = records.read_bytes()
    records.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read|records|record"):
        contents(open_source(made.folder))
    records.unlink()
    with pytest.raises(ValueError, match="cannot be read"):
        contents(open_source(made.folder))
    (made.folder / "features.json").write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        open_source(made.folder)


def hostile(folder: Path, **changed: str) -> Path:
    """A small set, with texts of its two JSON files replaced."""
    guard.write(folder, sets.prepared_set()[0])
    for file in ("dataset_info", "features"):
        path = folder / "w" / f"{file}.json"
        old, new = changed.get(file, "|").split("|")
        path.write_text(path.read_text().replace(old, new) if old else path.read_text())
    return folder / "w"


def test_a_prepared_set_imports_nothing_that_it_names(tmp_path, monkeypatch):
    """tensorflow-datasets itself would import the module of each feature's class."""
    (tmp_path / "named_by_a_file.py").write_text("raise SystemExit('run')")
    monkeypatch.syspath_prepend(str(tmp_path))
    kind = "tensorflow_datasets.core.features.text_feature.Text"
    place = hostile(tmp_path / "a", features=f"{kind}|named_by_a_file.Text")
    source = open_source(place)
    assert [source.read(name)[:2] for name in source.names] == [b"\xff\xd8"] * 3
    assert "named_by_a_file" not in sys.modules


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("{DATASET}", "../secret", "is no file of this folder"),
        ('"tiny"', '"/dev/stdin"', "is no file of this folder"),
        ('"tiny"', '["tiny"]', "cannot be read"),
        ("{DATASET}", "{DATASET:9999999999}", "does not exist"),  # of Python's format: gigabytes
        ('["3"]', '["9223372036854775807"]', "records in a shard"),
        ('["3"]', '["3", "999999999"]', "3 names, 3 of them different, for 1,000,000,002 records"),
        ('["3"]', '["1", "2"]', "does not exist"),
    ],
)
def test_a_prepared_set_that_claims_what_is_not_there(tmp_path, old, new, message):
    with pytest.raises(BadFile, match=message) as error:
        contents(open_source(hostile(tmp_path, dataset_info=f"{old}|{new}")))
    assert "\n" not in str(error.value) and len(str(error.value)) < 1000


@pytest.mark.slow
def test_tensorflow_is_neither_needed_nor_imported(tmp_path):
    folder(tmp_path / "c", PEOPLE)
    code = f"""
import sys
from pathlib import Path
from advface_jax.data.builders.preparing import prepare
made = prepare("casia-webface", Path({str(tmp_path / "c")!r}), Path({str(tmp_path / "d")!r}))
print(len([made.source.read(name) for name in made.source.names]), "images")
print({{"tensorflow", "torch", "apache_beam"}} & {{name.partition(".")[0] for name in sys.modules}})
"""
    call = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["8 images", "set()"]
