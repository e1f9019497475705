"""Table 1: each defence under its name, with networks of its own where it needs them."""

import flat
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import pooled_system
from tables import FIELDS, by_method, given, is_picture, small_sample, written
from test_channels import write_networks

import advface_jax
from advface_jax import ProtectConfig, data
from advface_jax import defenses as library
from experiments import defenses
from experiments.measure import decoders, decoyed, paper
from experiments.measure.sample import Ascent
from experiments.measure.subjects import Each
from experiments.measure.table import publish

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
SYSTEM = pooled_system()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("decoders")
    return {role: written(place, "resrec", role) for role in ("shadow", "attacker")}


@pytest.fixture
def measured(tmp_path, files):
    """``defenses.table`` with two steps, but for what is changed."""

    def table(steps=2, set=None, sample=None, **changes):
        sample = small_sample(tmp_path / "out", **sample or {})
        faces, ascent = given(set, sample.seed), Ascent(steps=steps)
        return defenses.table(SYSTEM, faces, sample, ascent, **files | changes)

    return table


def test_every_defence_of_a_feature_has_its_row(measured, tmp_path):
    table = measured()
    rows = by_method(table)
    assert list(rows) == METHODS, "the paper's order, the floor last"
    assert all(r.keys() >= FIELDS for r in rows.values())
    publish(table, tmp_path)
    text = (tmp_path / "defenses.md").read_text()
    missing = rows.pop("DuetFace")
    assert missing["n"] == 0 and {missing[k] for k in MEASURED} == {None}
    assert "DuetFace: not measured: needs a recogniser" in text
    floor = rows.pop("Mean face (floor)")
    assert floor["acc"] is None and floor["ssim"] > 0
    for method, r in rows.items():
        assert r["n"] == 8 and all(np.isfinite(r[k]) for k in MEASURED), method
        assert r["epsilon"] == (None if method == "Unprotected" else 0.2)
        assert f"{r['psnr']:.2f}" in text
    assert len({r["mse"] for r in rows.values()}) == len(rows), "no two conditions are one"
    assert "Laplace noise (no DP guarantee)" in text and "in the paper" not in text
    assert is_picture(tmp_path / "defenses.png")


@pytest.mark.slow
@pytest.mark.long
def test_decoys_stand_beside_them_without_and_with_a_key(measured, monkeypatch):
    monkeypatch.setattr(decoyed, "DRAWN", 3)
    monkeypatch.setattr(decoyed, "LEARNT", 3)
    table = measured(other=pooled_system())
    rows = by_method(table)
    assert list(rows) == [*METHODS[:-1], "Decoy", "Decoy with a key", METHODS[-1]]
    decoy, key = rows["Decoy"], rows["Decoy with a key"]
    assert decoy["cosine_to_unprotected"] > 0.5 and key["cosine_to_unprotected"] > 0.5
    assert key["n"] == 8 and all(np.isfinite(key[k]) for k in MEASURED)
    assert decoy["epsilon"] == key["epsilon"] == 0.3
    assert len(table.kept) == 3 and table.settings["defenses"][-1] == "Decoy with a key"


def test_the_seed_and_the_bound_count_where_they_should(measured):
    first, second = by_method(measured()), by_method(measured(epsilon=0.1, sample={"seed": 1}))
    assert first["Unprotected"]["mse"] == second["Unprotected"]["mse"]
    for method in METHODS[1:4]:
        assert first[method]["mse"] != second[method]["mse"], method
    assert second["Laplace"]["epsilon"] == 0.1
    third = by_method(measured(sample={"seed": 1}))
    moved = {m for m in METHODS if first[m]["mse"] != third[m]["mse"]}
    assert moved == {*METHODS[1:4]}, "the noises draw, and nothing else"


@pytest.mark.slow
@pytest.mark.long
def test_defences_of_images_join_with_networks_of_their_own(measured, tmp_path):
    write_networks(tmp_path)
    alone = by_method(measured())
    table = measured(
        duetface=tmp_path,
        duetface_attacker=tmp_path / "duetface_attacker.safetensors",
        channels=(tmp_path / "partialface.safetensors",),
    )
    rows, at = by_method(table), METHODS.index("DuetFace")
    theirs = ["DuetFace", "DuetFace (solved)", "PartialFace"]
    assert list(rows) == [*METHODS[:at], *theirs, *METHODS[at + 1 :]]
    assert all(rows[m] == alone[m] for m in METHODS if m != "DuetFace")
    assert rows[theirs[1]]["ssim"] > 0.85 and rows[theirs[0]]["acc"] is not None
    assert rows["PartialFace"]["acc"] is None
    labels, remarks = [line[0] for line in table.lines], " ".join(table.remarks)
    assert "PartialFace" in labels and not any("not measured" in label for label in labels)
    assert "distilled" in remarks and len(table.kept) == 3
    assert table.settings["channels"][0]["defense"] == "duetface"
    assert table.notes["seen_in_training"]["duetface: duetface"] is None
    titles = table.pictures["defenses.png"].args[2]  # type: ignore[attr-defined]
    assert [t.replace("\n", " ") for t in titles][at : at + 3] == theirs


@pytest.mark.slow
@pytest.mark.long
def test_each_condition_is_its_own_defence(files):
    """What is measured under a name is what the library's defence of that name stores."""
    config = ProtectConfig(steps=2)
    shadow = SYSTEM.read_decoder(files["shadow"])
    models = decoders.Models(SYSTEM.network, shadow, shadow)
    compared = defenses.of_features(models, config)
    crops = data.read_faces("synthetic", limit=3)
    z = SYSTEM.extractor(jnp.asarray(crops.images / 255, jnp.float32))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(3), jnp.arange(3))
    stored = Each(compared, jnp.float32(0.1), "float32")(z, keys, jnp.ones(3))
    ball, walk, laplace, pgd, fgsm, _ = stored
    assert np.allclose(walk, library.walk(2)(z, key=keys, epsilon=0.1))
    assert np.allclose(laplace, library.laplace()(z, key=keys, epsilon=0.1))
    assert np.abs(ball - z).max() <= 0.1 + 1e-6 < np.abs(walk - z).max()
    networks = {"extractor": SYSTEM.extractor, "shadow": shadow}
    still = advface_jax.protect(z, **networks, epsilon=0, config=config)
    assert np.abs(pgd - still).max() <= 0.1 + 1e-5
    moved = np.abs(fgsm - still)
    assert np.allclose(moved[moved > 0], 0.1, atol=1e-5), "one step of ε, or none"
    assert not np.allclose(pgd, fgsm)


@pytest.mark.slow
@pytest.mark.long
def test_the_papers_numbers_stand_beside_ours(measured):
    """In the paper preset, at the paper's own settings: 40 steps and ε = 0.2."""
    published = {"preset": "paper", "set": "cfp_fp"}
    table = measured(steps=40, set="cfp_fp", sample=published)
    assert all(r["set"] == "cfp_fp" for r in table.rows)
    theirs = table.notes["paper"]
    beside = {"Unprotected", "Random (ball)", "Random (walk)", "Laplace", "DuetFace", "AdvFace"}
    assert theirs.keys() == beside and theirs["Laplace"] == paper.of("DP", "cfp_fp")
    assert theirs["Random (walk)"] == paper.of("Random", "cfp_fp")
    labels = [line[0] for line in table.lines]
    at = labels.index("AdvFace (PGD)")
    printed = ["  in the paper", "0.230", "5.98", "0.2610", "90.59", "18.43", "–"]
    assert table.lines[at + 1] == printed
    assert not measured(sample=published).notes["paper"], "one step is not the paper's 40"


@pytest.mark.parametrize(
    ("wrong", "message"), [({"epsilon": -0.1}, "got epsilon=-0.1"), ({"steps": 0}, "got steps=0")]
)
def test_flags_that_make_no_sense_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        flat.call(defenses.main, out=tmp_path, **wrong)
