"""The ablations and the noises end to end on a few synthetic faces, and what they are made of."""

import json
from typing import Any

import flat
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import Pooled, filled
from PIL import Image
from reference import weights
from test_tradeoff import FIELDS

import advface_jax
from advface_jax import ProtectConfig, protect, shadow_round_trip
from advface_jax.models import decoders, facenet
from advface_jax.system import System, write_decoder
from experiments import ablations, random_row
from experiments.measure import ablation_runs, inputs, judging
from experiments.measure.ablation_conditions import PARTS, conditions, default, runs
from experiments.measure.ablation_runs import Clipping, Diagnosis, snapshots

SMALL = decoders.DecoderConfig("transrec", width=4, depth=0)


def new_decoder(seed: int):
    return filled(lambda: decoders.decoder(SMALL, rngs=nnx.Rngs(0)), seed)


@pytest.fixture(scope="module")
def networks():
    extractor = filled(lambda: facenet.Extractor(rngs=nnx.Rngs(0)))
    return {"extractor": extractor, "shadow": new_decoder(1)}


@pytest.fixture(scope="module")
def z(networks) -> jax.Array:
    return jax.jit(lambda e, x: e(x))(networks["extractor"], weights.images(1, 2))


@pytest.fixture
def flags(tmp_path, monkeypatch):
    """The flags of a quick run: two folds of two people, two steps."""
    network = filled(lambda: Pooled(rngs=nnx.Rngs(0)))
    system = System(network, {"source": "random", "sha256": "00"})  # type: ignore[arg-type]
    monkeypatch.setattr(advface_jax, "load", lambda weights: system)
    monkeypatch.setattr(inputs, "DEMO_PEOPLE", 4)
    monkeypatch.setattr(inputs, "DEMO_PICTURES", 2)
    files = {"shadow": 1, "attacker": 2, "other-shadow": 3, "other-attacker": 4}
    for name, seed in files.items():
        card = {"weights": "random", "weights_sha256": "00"}
        write_decoder(tmp_path / f"{name}.safetensors", new_decoder(seed), card)
    return {
        "out": tmp_path / "out",
        "shadow": str(tmp_path / "shadow.safetensors"),
        "attacker": str(tmp_path / "attacker.safetensors"),
    }


@pytest.fixture
def short(flags):
    return flags | {"steps": 2, "batch": 3, "iterations": (1, 2, 3), "batches": (4,)}


def results(out, name="ablations"):
    document = json.loads((out / f"{name}.json").read_text())
    return {r.get("condition", r["method"]): r for r in document["rows"]}, document


def test_every_ablation_is_a_row_beside_the_default(short, tmp_path):
    more: dict[str, Any] = {
        "shadow_files": (str(tmp_path / "other-shadow.safetensors"),),
        "attacker_files": (str(tmp_path / "other-attacker.safetensors"),),
    }
    flat.call(ablations.main, **short, **more)
    rows, document = results(short["out"])
    folder = tmp_path.name
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
        f"S = {folder}/other-shadow",
        f"R = {folder}/other-attacker",
        f"Unprotected, R = {folder}/other-attacker",
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
    assert 0.2 < document["notes"]["feature"]["deviation"] < 3
    text = (short["out"] / "ablations.md").read_text()
    assert "standard deviations ε = 0.2 is" in text and "in the paper" not in text
    table = [line.count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(table) == {len(ablations.HEADER) + 1}, "a | inside a cell breaks the table"
    with Image.open(short["out"] / "ablations.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5, "an empty picture"
    assert not (short["out"] / ".batches").exists(), "embeddings are not left behind"


def test_without_batch_statistics_the_batch_does_not_matter(short):
    """Padding included: 8 faces in batches of 3 and of 4."""
    flat.call(ablations.main, **short, statistics="running", only=("batch",))
    rows, _ = results(short["out"])
    base, other = rows["AdvFace, default"], rows["batches of 4"]
    for key in ("ssim", "psnr", "mse", "shadow_l1", "cosine_to_unprotected"):
        assert base[key] == pytest.approx(other[key], rel=1e-3)


def test_what_is_finished_is_not_measured_again(short, monkeypatch):
    real, batches = judging.judge_batch, []

    def counted(*arguments):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(judging, "judge_batch", counted)
    with pytest.raises(KeyboardInterrupt):
        flat.call(ablations.main, **short, only=())
    monkeypatch.setattr(judging, "judge_batch", lambda *a: batches.append(a) or real(*a))
    flat.call(ablations.main, **short, only=())
    first, _ = results(short["out"])
    assert len(batches) == 3, "8 faces in batches of 3: each batch once, none twice"
    flat.call(ablations.main, **short, only=("batch",))
    second, _ = results(short["out"])
    assert len(batches) == 5, "two batches of 4 more"
    assert all(second[name] == r for name, r in first.items()) and "batches of 4" in second


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"steps": 0}, "got steps=0"),
        ({"iterations": (0,)}, "got iterations=0"),
        ({"batches": (4, -1)}, "got batches=-1"),
        ({"scales": (-0.1,)}, "got epsilon=-0.1"),
        ({"shadow_files": ("nowhere.safetensors",)}, "no decoder at nowhere"),
    ],
)
def test_flags_that_make_no_sense_are_refused(short, wrong, message):
    with pytest.raises(ValueError, match=message):
        flat.call(ablations.main, **short | wrong)


# -- what they are made of --------------------------------------------------------------------


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
    decoder = new_decoder(2)
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


def test_the_scale_of_the_feature(flags):
    system = advface_jax.load("random")
    crops, _, _ = inputs.read("demo", None, None, None, None, 0)
    said = ablation_runs.feature_scale(system.extractor, crops, batch=3)
    z = np.asarray(system.extractor(jnp.asarray(crops.images / 255, jnp.float32)), np.float64)
    assert said["mean"] == pytest.approx(z.mean(), rel=1e-4)
    assert said["deviation"] == pytest.approx(z.std(), rel=1e-4)
    channels = z.std((0, 1, 2))
    assert said["deviation_of_channels"] == pytest.approx(
        [channels.min(), channels.max()], rel=1e-3
    )
    assert said["zeros"] == pytest.approx((z == 0).mean(), abs=1e-4)


# -- the paper's Random row ---------------------------------------------------------------------


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


def test_the_noises_stand_beside_each_other(flags):
    strengths: dict[str, Any] = {
        "uniform": (0.5,),
        "gaussian": (),
        "shift": (0.1, 2.0),
        "one_sided": (0.3,),
    }
    quick: dict[str, Any] = {k: flags[k] for k in ("out", "attacker")} | strengths
    flat.call(random_row.main, **quick, batch=3)
    rows, document = results(flags["out"], "random_row")
    labels = ["uniform in ±0.5", "all + 0.1", "all + 2", "uniform in [0, 0.6]"]
    assert list(rows) == ["Unprotected", *labels, "Mean face (floor)"]
    assert rows["all + 2"]["psnr"] < rows["all + 0.1"]["psnr"] < rows["Unprotected"]["psnr"]
    at = document["notes"]["at_the_paper_s_psnr"]
    assert at["psnr"] == 22.81 and set(at) == {"psnr", "uniform", "shift", "one_sided"}
    text = (flags["out"] / "random_row.md").read_text()
    assert "at 22.81 dB" in text and "Random in the paper | 0.900 | 97.20" in text
    with Image.open(flags["out"] / "random_row.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5, "an empty picture"
    assert not (flags["out"] / ".batches").exists()
    wrongs: list[dict[str, Any]] = [{"shift": (0.0,)}, {"uniform": (float("nan"),)}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match=r"^got --(shift|uniform) (0.0|nan); wanted positive"):
            flat.call(random_row.main, **quick | wrong)
    nothing: dict[str, Any] = dict.fromkeys(strengths, ())
    with pytest.raises(ValueError, match="^got no strength"):
        flat.call(random_row.main, **quick | nothing)


def test_where_a_noise_crosses_the_paper_s_psnr():
    rows = [{"method": "Unprotected", "psnr": 30.0, "ssim": 0.95, "acc": 1.0}]
    for s, psnr, ssim in ((0.4, 20.0, 0.75), (0.2, 26.0, 0.9)):  # in any order
        rows.append({"noise": "shift", "strength": s, "psnr": psnr, "ssim": ssim, "acc": 0.9})
    at = random_row.crossing(rows, "shift", 22.0)
    assert at == pytest.approx({"strength": 1 / 3, "ssim": 0.8, "acc": 0.9}, abs=1e-4)
    assert random_row.crossing(rows, "shift", 28.0)["strength"] == pytest.approx(0.1)  # type: ignore[index]
    assert random_row.crossing(rows, "shift", 10.0) is None
