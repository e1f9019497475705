"""The sweep over ε, and what every table shares: publishing, resuming, who was seen in training."""

import json

import flat
import pytest
from networks import pooled_system
from tables import FIELDS, given, is_picture, small_sample, written

import advface_jax
from advface_jax import data, lock
from advface_jax.data import leaks
from experiments import tradeoff
from experiments.measure import judging, paper
from experiments.measure.sample import Ascent
from experiments.measure.table import COLUMNS, Spent, printed, publish

SYSTEM = pooled_system()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("decoders")
    return {role: written(place, "transrec", role) for role in ("shadow", "attacker")}


@pytest.fixture
def swept(tmp_path, files):
    """``tradeoff.table`` at two bounds and two steps, but for what is changed."""

    def table(steps=2, **changes):
        decoders = files | {k: changes.pop(k) for k in files if k in changes}
        sample = small_sample(tmp_path / "out", **changes)
        ascent = Ascent(steps=steps)
        return tradeoff.table(SYSTEM, given(), sample, ascent, **decoders, epsilons=(0.0, 0.2))

    return table


def test_every_bound_is_a_row_between_unprotected_and_the_floor(swept):
    table = swept()
    assert [(r["method"], r["epsilon"]) for r in table.rows] == [
        ("Unprotected", None),
        ("AdvFace", 0.0),
        ("AdvFace", 0.2),
        ("Mean face (floor)", None),
    ]
    assert all(r.keys() >= FIELDS and r["n"] == 8 for r in table.rows)
    bare, still, moved, floor = table.rows
    assert bare["cosine_to_unprotected"] == pytest.approx(1, abs=1e-5)
    assert moved["mse"] != still["mse"] and 0 <= bare["acc"] <= 1 and floor["acc"] is None
    assert table.settings["seed"] == 0 and table.settings["weights"] == "random"


def test_the_command_writes_draws_and_shows_the_table(tmp_path, files, monkeypatch, capsys):
    monkeypatch.setattr(advface_jax, "load", lambda weights: SYSTEM)
    flags = {"out": tmp_path, "limit": 20, "batch": 3, "steps": 2, "epsilons": (0.0, 0.2)}
    flat.call(tradeoff.main, **flags, **files)
    document = json.loads((tmp_path / "tradeoff.json").read_text())
    rows = document["rows"]
    assert {"command", "date", "hardware", "versions", "seconds"} <= document.keys()
    assert len(rows) == 4 and rows[0]["pairs"] == 20 and rows[0]["n"] < 96, "the limit's faces"
    text, (said, progress) = (tmp_path / "tradeoff.md").read_text(), capsys.readouterr()
    half = 50 * (rows[0]["acc_ci"][1] - rows[0]["acc_ci"][0])
    accuracy = f"{100 * rows[0]['acc']:.2f} ± {half:.2f}"
    assert f"{rows[0]['ssim']:.3f}" in said and f"{rows[0]['ssim']:.3f}" in text
    assert accuracy in text and "Mean face" in text
    assert "in the paper" not in text
    assert progress.index("first picture:") < progress.index("written:")
    assert all(is_picture(tmp_path / f) for f in ("tradeoff.png", "reconstructions.png"))
    assert not list(tmp_path.glob(".*")), "embeddings of faces are not left behind"


def test_a_stopped_table_takes_up_where_it_was(swept, monkeypatch, tmp_path):
    real, batches = judging.judge_batch, []

    def counted(*arguments):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(judging, "judge_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        swept()
    monkeypatch.setattr(judging, "judge_batch", lambda *a: batches.append(a) or real(*a))
    table = swept()
    assert len(batches) == 3, "8 faces in batches of 3: each batch once, none twice"
    assert table.spent.earlier > 0 and table.spent.total > table.spent.now
    (folder,) = table.kept
    with lock.only_writer(folder), pytest.raises(ValueError, match="another process"):
        swept()
    other = folder.with_name("another") / "000000.npz"  # of another run that was stopped
    other.parent.mkdir()
    other.touch()
    for file in folder.glob("*.npz"):
        file.write_bytes(file.read_bytes()[:1000])
    assert swept().rows == table.rows and len(batches) == 6, "damaged batches are measured again"
    publish(table, tmp_path / "out")
    assert list((tmp_path / "out" / ".batches").rglob("*.npz")) == [other]


def test_another_decoder_of_the_same_name_is_measured_anew(swept, tmp_path):
    other = written(tmp_path, "transrec", "attacker", seed=9)
    assert swept().rows[0]["psnr"] != swept(attacker=other).rows[0]["psnr"]


def test_the_paper_preset_says_what_it_wants(files, tmp_path, monkeypatch):
    monkeypatch.delenv("ADVFACE_DATA", raising=False)
    monkeypatch.setattr(advface_jax, "load", lambda weights: SYSTEM)
    with pytest.raises(ValueError, match="give --faces .* and --pairs .*ADVFACE_DATA"):
        flat.call(tradeoff.main, out=tmp_path, **files, preset="paper")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilons": (-0.1,)}, "got epsilon=-0.1"),
        ({"epsilons": ()}, "got epsilons of shape"),
        ({"batch": 0}, "got batch=0"),
        ({"steps": 0}, "got steps=0"),
        ({"shadow": "nowhere.safetensors"}, "no decoder at .*nowhere"),
    ],
)
def test_flags_that_make_no_sense_are_refused(files, tmp_path, monkeypatch, wrong, message):
    monkeypatch.setattr(advface_jax, "load", lambda weights: SYSTEM)
    with pytest.raises(ValueError, match=message):
        flat.call(tradeoff.main, **{"out": tmp_path, **files} | wrong)


def test_train_test_overlap_is_counted_or_refused(swept, tmp_path):
    (who, *_) = data.read_faces("synthetic", limit=1).identities
    file = written(tmp_path, "transrec", "attacker")
    listed = tmp_path / "transrec-attacker-0" / "transrec-attacker.identities"
    leaks.write_identities(listed, [who.upper(), "else"])
    with pytest.warns(
        UserWarning, match="the training of attacker .*1 of the evaluation's 4 people"
    ):
        seen = swept(attacker=file).notes["seen_in_training"]
    assert seen["shadow"] is None and seen["attacker"]["shared_identities"] == 1
    with pytest.raises(ValueError, match="1 of the evaluation's 4 people were seen in training"):
        swept(attacker=file, on_leak="refuse")


def test_the_paper_stands_beside_our_rows():
    assert paper.beside("AdvFace", 0.2, "resrec", "resrec")["psnr"] == 6.97
    assert paper.beside("AdvFace", 0.2, "urec", "transrec") == {
        "acc": 0.9642,
        "ssim": 0.24,
        "psnr": 6.73,
    }
    assert paper.beside("Unprotected", None, "urec", "resrec")["srra"] == 0.974
    assert paper.beside("Random (ball)", 0.2, "urec", "resrec") == paper.of("Random")
    assert paper.beside("Laplace", 0.2, "resrec", "urec") == {"acc": 0.9627}
    assert paper.beside("DuetFace", None, "resrec", "resrec")["srra"] == 0.9517
    assert not paper.beside("AdvFace", 0.1, "resrec", "resrec")
    assert not paper.beside("AdvFace (FGSM)", 0.2, "resrec", "resrec")
    assert not paper.beside("Mean face (floor)", None, "resrec", "resrec")


def test_a_line_has_the_interval_and_the_paper_below():
    row = {"ssim": 0.33, "psnr": 9.6, "acc": 0.985, "acc_ci": [0.975, 0.995]}
    _, (ours, theirs) = printed(["AdvFace"], [row], [{"ssim": 0.28, "acc": 0.9643}], COLUMNS[:4])
    assert ours == ["AdvFace", "0.330", "9.60", "–", "98.50 ± 1.00"]
    assert theirs == ["  in the paper", "0.280", "–", "–", "96.43"]
    assert Spent(3.0, 4.5).total == 7.5
