"""The ablations and the noises of the Random row, and what they are made of."""

from typing import Any

import flat
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import new_extractor, pooled_system, small_decoder
from reference import weights
from tables import FIELDS, by_method, given, is_picture, small_sample, written

from advface_jax import ProtectConfig, protect, shadow_round_trip
from experiments import ablations, random_row
from experiments.measure import ablation_runs, inputs, judging
from experiments.measure.ablation_conditions import PARTS, conditions, default, runs
from experiments.measure.ablation_runs import Diagnosis, snapshots
from experiments.measure.subjects import Clipping
from experiments.measure.table import publish

SYSTEM = pooled_system()


@pytest.fixture(scope="module")
def networks():
    return {"extractor": new_extractor(), "shadow": small_decoder()}


@pytest.fixture(scope="module")
def z(networks) -> jax.Array:
    return jax.jit(lambda e, x: e(x))(networks["extractor"], weights.images(1, 2))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("decoders")
    return {
        (role, seed): written(place, "transrec", role, seed)
        for role in ("shadow", "attacker")
        for seed in (0, 1)
    }


@pytest.fixture
def measured(tmp_path, files):
    """``ablations.table`` of some parts, two steps and batches of three by default."""

    def table(*parts, statistics: Any = "batch", of=None, **more):
        both = files["shadow", 0], files["attacker", 0]
        base = default(ProtectConfig(2, statistics=statistics), 0.2, 3, *both)
        wanted = conditions(base, parts, steps=(1, 2, 3), batches=(4,), epsilons=(0.3,), **more)
        sample = small_sample(tmp_path / "out")
        return ablations.table(SYSTEM, of or given(), sample, base, wanted, parts)

    return table


@pytest.mark.slow  # every part is a program or an ascent of its own
@pytest.mark.long
def test_every_ablation_is_a_row_beside_the_default(measured, files, tmp_path):
    others = files["shadow", 1], files["attacker", 1]
    table = measured(*PARTS, shadows=others[:1], attackers=others[1:])
    rows = by_method(table)
    shadow, attacker = (f"transrec-{role}-1/transrec-{role}" for role in ("shadow", "attacker"))
    assert list(rows) == [
        "Unprotected",
        "ε = 0 (z~)",
        "AdvFace, default",
        "Mean face (floor)",
        "α = ε/10",
        "bound on each step",
        "S on running statistics",
        "S on example statistics",
        "batches of 4",
        "start at z",
        "1 steps",
        "3 steps",
        "enrolled image only",
        "attacker clips negatives",
        "FGSM",
        "MI-FGSM",
        "ε = 0.3",
        f"S = {shadow}",
        f"R = {attacker}",
        f"Unprotected, R = {attacker}",
    ]
    assert all(r.keys() >= FIELDS and r["n"] == 8 for r in rows.values())
    assert {r["ablation"] for r in rows.values()} == {"default", *PARTS}
    base = rows["AdvFace, default"]
    numbers = ("ssim", "psnr", "mse", "cosine_to_unprotected")
    for name, r in rows.items():
        if name not in ("AdvFace, default", "Mean face (floor)", "enrolled image only"):
            assert any(r[k] != base[k] for k in numbers), f"{name} changes nothing"
        if name != "Mean face (floor)":
            assert {"negative_share", "shadow_l1", "ssim_ci", "acc_ci", "srra_ci"} <= r.keys()
    # what each change should do
    assert rows["enrolled image only"]["ssim"] == base["ssim"]
    assert rows["enrolled image only"]["threshold"] != base["threshold"]
    assert rows["Unprotected"]["shadow_l1"] == rows["Unprotected"]["negative_share"] == 0
    assert rows["ε = 0 (z~)"]["negative_share"] == 0 < rows["ε = 0 (z~)"]["shadow_l1"]
    assert rows["batches of 4"]["mse"] != pytest.approx(base["mse"], rel=1e-3)
    assert base["shadow_l1"] > rows["ε = 0 (z~)"]["shadow_l1"] and base["negative_share"] > 0.1
    assert rows["attacker clips negatives"]["shadow_l1"] == base["shadow_l1"]
    assert rows["start at z"]["cosine_to_unprotected"] > base["cosine_to_unprotected"]
    assert rows["batches of 4"]["left_over"] == 0 and base["left_over"] == 2
    assert 0.2 < table.notes["feature"]["deviation"] < 3
    publish(table, tmp_path / "out")
    text = (tmp_path / "out" / "ablations.md").read_text()
    assert "standard deviations ε = 0.2 is" in text and "in the paper" not in text
    bars = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(bars) == {len(ablations.MORE) + 2}, "a | inside a cell breaks the table"
    assert is_picture(tmp_path / "out" / "ablations.png")
    assert not (tmp_path / "out" / ".batches").exists(), "embeddings are not left behind"


@pytest.mark.slow
def test_without_batch_statistics_the_batch_does_not_matter(measured):
    """Padding included: 8 faces in batches of 3 and of 4."""
    rows = by_method(measured("batch", statistics="running"))
    base, other = rows["AdvFace, default"], rows["batches of 4"]
    for key in ("ssim", "psnr", "mse", "shadow_l1", "cosine_to_unprotected"):
        assert base[key] == pytest.approx(other[key], rel=1e-3)


def test_what_is_finished_is_not_measured_again(measured, monkeypatch):
    real, batches = judging.judge_batch, []
    monkeypatch.setattr(judging, "judge_batch", lambda *a: batches.append(a) or real(*a))
    first = by_method(measured())
    assert len(batches) == 3, "8 faces in batches of 3"
    second = by_method(measured("batch"))
    assert len(batches) == 5, "two batches of 4 more"
    assert all(second[name] == r for name, r in first.items()) and "batches of 4" in second


def test_other_pairs_of_the_same_faces_are_other_rows(measured):
    first = by_method(measured())["AdvFace, default"]
    faces = given()
    other = inputs.draw(faces.faces, None, seed=1)
    second = by_method(measured(of=faces._replace(pairs=other)))["AdvFace, default"]
    assert second["ssim"] == first["ssim"] and second["acc_ci"] != first["acc_ci"]


def test_a_run_killed_before_its_unprotected_row_goes_on(measured, tmp_path):
    """Each row has a file; the run's others, with which it shares a program, have theirs."""
    first = by_method(measured())
    rows = (tmp_path / "out" / ".ablations").glob("*.json")
    (bare,) = (file for file in rows if "floor" in file.read_text())
    bare.unlink()
    second = by_method(measured())
    assert second.keys() == first.keys()
    for name in ("ssim", "acc", "shadow_l1"):
        assert second["Unprotected"][name] == pytest.approx(first["Unprotected"][name], rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "got steps=0"),
        ({"iterations": (0,)}, "got iterations=0"),
        ({"batches": (4, -1)}, "got batches=-1"),
        ({"scales": (-0.1,)}, "got epsilon=-0.1"),
    ],
)
def test_flags_that_make_no_sense_are_refused(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        flat.call(ablations.main, out=tmp_path, **wrong)


def test_rows_share_programs_and_ascents():
    base = default(ProtectConfig(), 0.2, 16, "resrec", "resrec")
    rows = conditions(base, ("steps", "batch", "clip"), steps=(10, 40, 80), batches=(1, 16))
    labels = [c.label for c in rows[3:]]
    assert labels == ["batches of 1", "10 steps", "80 steps", "attacker clips negatives"]
    shared, clipped, single = runs(rows)
    assert [f.steps for f in shared.families] == [(0, 10, 80)], "one ascent of 80 steps"
    assert [f.config.steps for f in shared.families] == [80]
    assert {c.label: shared.place(c) for c in shared.rows} == {
        "Unprotected": (0, 0),
        "ε = 0 (z~)": (1, 0),
        "10 steps": (2, 0),
        "80 steps": (3, 0),
    }
    assert clipped.attackers == (("resrec", False), ("resrec", True)) and single.batch == 1
    assert [clipped.place(c) for c in clipped.rows] == [(1, 0), (1, 1)]
    assert sum(len(run.rows) for run in (shared, clipped, single)) == len(rows)


@pytest.mark.slow
def test_one_ascent_gives_every_number_of_steps(networks, z):
    mask, epsilon = jnp.ones(2), jnp.float32(0.1)
    models = networks["extractor"], networks["shadow"]
    two, four = (ProtectConfig(steps=n) for n in (2, 4))
    every = snapshots(z, mask, *models, epsilon, four, (0, 2, 4))
    assert every.shape == (3, *z.shape)
    _, z_tilde = shadow_round_trip(z, **networks)
    np.testing.assert_allclose(every[0], z_tilde, rtol=1e-4, atol=1e-4)
    for config, q in ((two, every[1]), (four, every[2])):
        alone = protect(z, **networks, epsilon=0.1, config=config, mask=mask)
        # two programs round differently: a few signs turn, and those turn others
        assert float((jnp.abs(q - alone) < 1e-3).mean()) > 0.97
    assert float((jnp.abs(every[1] - every[2]) < 1e-3).mean()) < 0.9, "two more steps do nothing"
    alone = snapshots(z, mask, *models, epsilon, two, (0,))
    np.testing.assert_allclose(alone[0], z_tilde, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="^got steps .*; wanted one number"):
        snapshots(z, mask, *models, epsilon, ProtectConfig(method="fgsm"), (2, 4))


def test_the_clipping_attacker_clips(z):
    decoder = small_decoder(seed=2)
    stored = z - 0.5
    assert float((stored < 0).mean()) > 0.1
    clipped = Clipping(decoder)(stored)
    np.testing.assert_array_equal(clipped, decoder(jnp.maximum(stored, 0)))
    assert float(jnp.abs(clipped - decoder(stored)).mean()) > 1e-3
    np.testing.assert_array_equal(Clipping(decoder)(z), decoder(z))


def test_the_diagnosis_counts_negatives_and_what_moves_the_shadow(networks, z):
    shadow, mask = networks["shadow"], jnp.ones(2)
    stored = jnp.stack([z, z.at[0, :11].set(-1.0), z])
    diagnose = Diagnosis((shadow, shadow, shadow), ("batch", "batch", "running"))
    found = np.asarray(diagnose(z, stored, mask))
    assert found.shape == (3, len(Diagnosis.NAMES), 2)
    l1, negative = found.transpose(1, 0, 2)
    np.testing.assert_array_equal(l1[[0, 2]], 0)  # the same statistics on both sides
    np.testing.assert_allclose(negative, [[0, 0], [1 / 7, 0], [0, 0]], atol=1e-6)
    assert (l1[1] > 0).all(), "the other face moves through the statistics of the batch"


def test_the_scale_of_the_feature():
    crops = given().faces
    said = ablation_runs.feature_scale(SYSTEM.extractor, crops, batch=3)
    z = np.asarray(SYSTEM.extractor(jnp.asarray(crops.images / 255, jnp.float32)), np.float64)
    assert said["mean"] == pytest.approx(z.mean(), rel=1e-4)
    assert said["deviation"] == pytest.approx(z.std(), rel=1e-4)
    channels = z.std((0, 1, 2))
    wanted = [channels.min(), channels.max()]
    assert said["deviation_of_channels"] == pytest.approx(wanted, rel=1e-3)
    assert said["zeros"] == pytest.approx((z == 0).mean(), abs=1e-4)


def test_noises_are_what_they_are_called(z):
    kinds = tuple(random_row.NOISES)
    strengths = tuple(jnp.array([0.1, 0.5]) for _ in kinds)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    stored = random_row.Noisy(strengths, kinds)(z, keys, jnp.ones(2))
    noise = np.asarray(stored - z[None]).reshape(len(kinds), 2, 2, -1)
    want = {  # mean, deviation, least, largest, in strengths
        "uniform": (0, 3**-0.5, -1, 1),
        "gaussian": (0, 1, -6, 6),
        "shift": (1, 0, 1, 1),
        "one_sided": (1, 3**-0.5, 0, 2),
    }
    for kind, found in zip(kinds, noise, strict=True):
        mean, deviation, least, largest = want[kind]
        for s, faces in zip((0.1, 0.5), found, strict=True):
            assert faces.mean() == pytest.approx(s * mean, abs=0.01 * s)
            assert faces.std() == pytest.approx(s * deviation, abs=0.01 * s)
            assert s * least - 1e-5 <= faces.min() and faces.max() <= s * largest + 1e-5
        if kind != "shift":
            assert abs(np.corrcoef(found[0])[0, 1]) < 0.01, "two faces draw alike"


def test_the_noises_stand_beside_each_other(files, tmp_path):
    noises: dict[str, Any] = {
        "uniform": (0.5,),
        "gaussian": (),
        "shift": (0.1, 2.0),
        "one_sided": (0.3,),
    }
    sample = small_sample(tmp_path)
    table = random_row.table(SYSTEM, given(), sample, noises, files["attacker", 0])
    rows = by_method(table)
    labels = ["uniform in ±0.5", "all + 0.1", "all + 2", "uniform in [0, 0.6]"]
    assert list(rows) == ["Unprotected", *labels, "Mean face (floor)"]
    assert len({r["psnr"] for r in rows.values()}) == len(rows), "no two noises are one"
    at = table.notes["at_the_paper_s_psnr"]
    assert at["psnr"] == 22.81 and set(at) == {"psnr", "uniform", "shift", "one_sided"}
    publish(table, tmp_path)
    text = (tmp_path / "random_row.md").read_text()
    assert "at 22.81 dB" in text and "Random in the paper | 0.900 | 97.20" in text
    assert is_picture(tmp_path / "random_row.png")


def test_strengths_that_make_no_sense_are_refused(tmp_path):
    wrongs: list[dict[str, Any]] = [{"shift": (0.0,)}, {"uniform": (float("nan"),)}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"^got --(shift|uniform) (0.0|nan); wanted positive"):
            flat.call(random_row.main, out=tmp_path, **wrong)
    with pytest.raises(ValueError, match="^got no strength"):
        flat.call(random_row.main, out=tmp_path, **dict.fromkeys(random_row.NOISES, ()))


def test_where_a_noise_crosses_the_paper_s_psnr():
    rows = [{"method": "Unprotected", "psnr": 30.0, "ssim": 0.95, "acc": 1.0}]
    for s, psnr, ssim in ((0.4, 20.0, 0.75), (0.2, 26.0, 0.9)):  # in any order
        rows.append({"noise": "shift", "strength": s, "psnr": psnr, "ssim": ssim, "acc": 0.9})
    at = random_row.crossing(rows, "shift", 22.0)
    assert at == pytest.approx({"strength": 1 / 3, "ssim": 0.8, "acc": 0.9}, abs=1e-4)
    assert random_row.crossing(rows, "shift", 28.0)["strength"] == pytest.approx(0.1)  # type: ignore[index]
    assert random_row.crossing(rows, "shift", 10.0) is None
