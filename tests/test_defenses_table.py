"""Table 1 end to end: a few synthetic faces, a small recogniser, small decoders."""

import json

import flat
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import set_files
from flax import nnx
from networks import Pooled, filled
from PIL import Image
from test_channels import write_networks
from test_tradeoff import FIELDS

import advface_jax
from advface_jax import data
from advface_jax import defenses as library
from advface_jax.models import decoders
from advface_jax.system import System, write_decoder
from experiments import defenses
from experiments.measure import decoders as measure_decoders
from experiments.measure import inputs, judging, paper

METHODS = [
    "Unprotected",
    "Random (ball)",
    "Random (walk)",
    "Laplace",
    "DuetFace",
    "AdvFace",
    "AdvFace (FGSM)",
    "AdvFace (MI-FGSM)",
    "Mean face (floor)",
]
MEASURED = ("ssim", "psnr", "mse", "acc", "srra")


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """The flags of a quick run: two folds of two people, two steps."""
    network = filled(lambda: Pooled(rngs=nnx.Rngs(0)))
    system = System(network, {"source": "random", "sha256": "00"})  # type: ignore[arg-type]
    monkeypatch.setattr(advface_jax, "load", lambda weights: system)
    monkeypatch.setattr(inputs, "DEMO_PEOPLE", 4)
    monkeypatch.setattr(inputs, "DEMO_PICTURES", 2)
    config = decoders.DecoderConfig("resrec", width=4, depth=0)
    for role, seed in (("shadow", 1), ("attacker", 2)):
        decoder = filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), seed)
        card = {"weights": "random", "weights_sha256": "00"}
        write_decoder(tmp_path / f"resrec-{role}.safetensors", decoder, card)
    return {
        "out": tmp_path / "out",
        "shadow": str(tmp_path / "resrec-shadow.safetensors"),
        "attacker": str(tmp_path / "resrec-attacker.safetensors"),
        "steps": 2,
        "batch": 3,  # of 8 faces: the last batch is padded
    }


@pytest.fixture
def pairs(tmp_path):
    """Four pairs over five faces, in two folds."""
    names = data.read_faces("synthetic", limit=8).names
    rows = [(1, 1, 0, 1), (1, 0, 0, 4), (2, 1, 4, 5), (2, 0, 1, 5)]
    text = "".join(f"{f}\t{s}\t{names[a]}\t{names[b]}\n" for f, s, a, b in rows)
    (tmp_path / "pairs.tsv").write_text("fold\tsame\tfile1\tfile2\n" + text)
    return tmp_path / "pairs.tsv"


def measured(flags, **others):
    flat.call(defenses.main, **flags | others)
    out = (flags | others)["out"]
    document = json.loads((out / "defenses.json").read_text())
    return {r["method"]: r for r in document["rows"]}, document, (out / "defenses.md").read_text()


def test_every_defence_of_a_feature_has_its_row(flags):
    rows, document, text = measured(flags)
    assert list(rows) == METHODS, "the paper's order, the floor last"
    assert all(r.keys() >= FIELDS for r in rows.values())
    missing = rows.pop("DuetFace")
    assert missing["n"] == 0 and {missing[k] for k in MEASURED} == {None}
    assert "DuetFace: not measured: needs a recogniser" in text
    floor = rows.pop("Mean face (floor)")
    assert floor["acc"] is None and floor["ssim"] > 0 and "Mean face (floor)" in text
    for method, r in rows.items():
        assert r["n"] == 8 and all(np.isfinite(r[k]) for k in MEASURED), method
        assert r["epsilon"] == (None if method == "Unprotected" else 0.2)
        assert f"{r['psnr']:.2f}" in text
    assert len({r["mse"] for r in rows.values()}) == len(rows), "no two conditions are one"
    assert "Laplace noise (no DP guarantee)" in text and "in the paper" not in text
    assert document["config"]["seed"] == 0 and document["config"]["steps"] == 2
    with Image.open(flags["out"] / "defenses.png") as picture:
        assert min(picture.size) > 100
        assert np.asarray(picture.convert("L")).std() > 5, "an empty picture"


def test_defences_of_images_join_with_networks_of_their_own(flags, tmp_path):
    write_networks(tmp_path)
    alone, _, _ = measured(flags, steps=1)
    files = {
        "duetface": tmp_path,
        "duetface_attacker": tmp_path / "duetface_attacker.safetensors",
        "channels": (tmp_path / "partialface.safetensors",),
    }
    rows, document, text = measured(flags, steps=1, out=tmp_path / "joined", **files)
    at = METHODS.index("DuetFace")
    theirs = ["DuetFace", "DuetFace (solved)", "PartialFace"]
    assert list(rows) == [*METHODS[:at], *theirs, *METHODS[at + 1 :]]
    assert all(rows[m] == alone[m] for m in METHODS if m != "DuetFace")
    assert rows[theirs[1]]["ssim"] > 0.85 and rows[theirs[0]]["acc"] is not None
    assert rows["PartialFace"]["acc"] is None and "| PartialFace |" in text
    assert "distilled" in text and "not measured" not in text
    assert document["config"]["channels"][0]["defense"] == "duetface"
    assert document["notes"]["seen_in_training"]["duetface: duetface"] is None
    assert not list((tmp_path / "joined").glob(".*"))
    sizes = []
    for folder in (tmp_path / "joined", flags["out"]):
        with Image.open(folder / "defenses.png") as picture:
            sizes.append(picture.size)
    assert sizes[0] > sizes[1], "their pictures stand in the figure"


def test_each_condition_is_its_own_defence(flags):
    """What is measured under a name is what the library's defence of that name stores."""
    system = advface_jax.load("random")
    config = advface_jax.ProtectConfig(steps=2)
    shadow = system.read_decoder(flags["shadow"])
    models = measure_decoders.Models(system.network, shadow, shadow)
    compared = defenses._defenses(models, config)
    crops = data.read_faces("synthetic", limit=3)
    z = system.extractor(jnp.asarray(crops.images / 255, jnp.float32))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(3))
    stored = defenses.Each(compared, jnp.float32(0.1), "float32")(z, keys, jnp.ones(3))
    ball, walk, laplace, pgd, fgsm, _ = stored
    assert np.allclose(walk, library.walk(2)(z, key=keys, epsilon=0.1))
    assert np.allclose(laplace, library.laplace()(z, key=keys, epsilon=0.1))
    assert np.abs(ball - z).max() <= 0.1 + 1e-6 < np.abs(walk - z).max()
    networks = {"extractor": system.extractor, "shadow": shadow}
    still = advface_jax.protect(z, **networks, epsilon=0, config=config)
    assert np.abs(pgd - still).max() <= 0.1 + 1e-5
    moved = np.abs(fgsm - still)
    assert np.allclose(moved[moved > 0], 0.1, atol=1e-5), "one step of ε, or none"
    assert not np.allclose(pgd, fgsm)


def test_how_faces_are_batched_changes_no_noise(flags):
    first, _, _ = measured(flags)
    second, _, _ = measured(flags, batch=8, out=flags["out"].with_name("whole"))
    for method in METHODS[:4]:
        for key in MEASURED:
            assert first[method][key] == pytest.approx(second[method][key], rel=1e-4), method


def test_the_seed_is_of_the_noise_alone(flags, pairs):
    given = flags | {"preset": "paper", "faces": "synthetic", "pairs": pairs}
    first, document, text = measured(given)
    assert not document["notes"]["paper"] and "in the paper" not in text, "2 steps are not its 40"
    second, _, _ = measured(given, seed=1, out=flags["out"].with_name("other"))
    for method in METHODS:
        drawn = method in METHODS[1:4]
        assert (first[method]["mse"] != second[method]["mse"]) == drawn, method


def test_a_stopped_table_takes_up_where_it_was(flags, monkeypatch):
    real, batches = judging.judge_batch, []

    def counted(*arguments):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(arguments)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(judging, "judge_batch", counted)
        with pytest.raises(KeyboardInterrupt):
            flat.call(defenses.main, **flags)
    monkeypatch.setattr(judging, "judge_batch", lambda *a: batches.append(a) or real(*a))
    rows, _, _ = measured(flags)
    assert len(batches) == 3, "8 faces in batches of 3: each batch once, none twice"
    assert not list(flags["out"].glob(".*")), "embeddings of faces are not left behind"
    assert rows == measured(flags, out=flags["out"].with_name("fresh"))[0]


def test_another_bound_is_measured_anew(flags, monkeypatch):
    monkeypatch.setattr(defenses, "discard", lambda *folders: None)
    first, second = measured(flags)[0], measured(flags, epsilon=0.1)[0]
    assert first["Unprotected"]["mse"] == second["Unprotected"]["mse"]
    assert first["Laplace"]["mse"] != second["Laplace"]["mse"]
    assert second["Laplace"]["epsilon"] == 0.1


def test_the_papers_numbers_stand_beside_ours(flags, pairs):
    """In the paper preset, at the paper's own settings: 40 steps and ε = 0.2."""
    published = flags | {"preset": "paper", "faces": "synthetic", "pairs": pairs, "batch": 5}
    _, document, text = measured(published, steps=40)
    theirs = document["notes"]["paper"]
    beside = {"Unprotected", "Random (ball)", "Random (walk)", "Laplace", "DuetFace", "AdvFace"}
    assert theirs.keys() == beside
    assert theirs["Random (walk)"] == paper.of("Random") and theirs["Laplace"] == paper.of("DP")
    lines = text.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("| DuetFace"))
    assert lines[at + 1] == "|   in the paper | 0.850 | 20.92 | 0.0090 | 98.02 | 95.17 | – |"
    (at,) = (i for i, line in enumerate(lines) if line.startswith("| AdvFace (PGD)"))
    assert lines[at + 1] == "|   in the paper | 0.280 | 6.97 | 0.2060 | 96.43 | 4.03 | – |"


def test_cfp_fp_in_its_own_files_stands_beside_the_papers_cfp_fp(flags, monkeypatch, tmp_path):
    set_files.cfp_fp(tmp_path / "data")
    monkeypatch.setenv("ADVFACE_DATA", str(tmp_path / "data"))
    real = defenses.ProtectConfig  # two steps, as if they were the paper's: forty take long
    monkeypatch.setattr(defenses, "ProtectConfig", lambda *a, **k: real(*a, **k) if a else real(2))
    rows, document, text = measured(flags, preset="paper", set="cfp_fp", batch=10)
    assert all(r["set"] == "cfp_fp" for r in rows.values())
    assert rows["AdvFace"]["pairs"] == 20 and document["config"]["folds"] == 10
    assert document["notes"]["paper"]["AdvFace"] == paper.of("AdvFace", "cfp_fp")
    lines = text.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("| AdvFace (PGD)"))
    assert lines[at + 1] == "|   in the paper | 0.230 | 5.98 | 0.2610 | 90.59 | 18.43 | – |"


def test_the_paper_has_no_number_for_another_bound_or_attacker():
    assert paper.beside("Random (ball)", 0.2, "urec", "resrec") == paper.of("Random")
    assert paper.beside("Laplace", 0.2, "resrec", "urec") == {"acc": 0.9627}
    assert paper.beside("DuetFace", None, "resrec", "resrec")["srra"] == 0.9517
    assert not paper.beside("Random (ball)", 0.1, "resrec", "resrec")
    assert not paper.beside("AdvFace (FGSM)", 0.2, "resrec", "resrec")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": -0.1}, "got epsilon=-0.1"),
        ({"batch": 0}, "got batch=0"),
        ({"steps": 0}, "got steps=0"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, wrong, message):
    with pytest.raises(ValueError, match=message):
        flat.call(defenses.main, **flags | wrong)
