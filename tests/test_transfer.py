"""Tables 3 and 4: every shadow against every attacker, and the spread over seeds."""

import flat
import numpy as np
import pytest
from networks import pooled_system
from tables import FIELDS, given, is_picture, small_sample, written

from experiments import tradeoff, transfer
from experiments.measure.sample import Ascent
from experiments.measure.table import publish

KINDS = ("transrec", "resrec")
SYSTEM = pooled_system()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    place = tmp_path_factory.mktemp("decoders")
    return {
        f"{role}s": tuple(written(place, kind, role) for kind in KINDS)
        for role in ("shadow", "attacker")
    }


@pytest.fixture
def measured(tmp_path, files):
    """``transfer.table`` of two kinds against two with two steps, but for what is changed."""

    def table(steps=2, set=None, sample=None, **changes):
        sample = small_sample(tmp_path / "out", **sample or {})
        return transfer.table(SYSTEM, given(set), sample, Ascent(steps=steps), **files | changes)

    return table


def test_every_shadow_meets_every_attacker(measured, files, tmp_path):
    table = measured()
    rows = table.rows
    assert [(r["method"], r.get("shadow"), r.get("attacker")) for r in rows] == [
        *(("Unprotected", None, attacker) for attacker in KINDS),
        *(("AdvFace", shadow, attacker) for shadow in KINDS for attacker in KINDS),
        ("Mean face (floor)", None, None),
    ]
    assert all(r.keys() >= FIELDS and r["n"] == 8 for r in rows)
    cells = rows[2:6]
    assert len({r["psnr"] for r in rows[:6]}) == 6, "no two cells are one"
    assert cells[0]["acc"] == cells[1]["acc"] and cells[0]["acc_ci"] == cells[1]["acc_ci"]
    assert "spread" not in table.notes and table.settings["shadows"][1]["kind"] == "resrec"
    publish(table, tmp_path)
    lines = (tmp_path / "transfer.md").read_text().splitlines()
    assert "Recognition (Table 3)" in lines and "in the paper" in lines[4]
    (at,) = (i for i, line in enumerate(lines) if line.startswith("SSIM: shadows down"))
    assert lines[at + 2] == "|  | TransRec | ResRec |"
    assert lines[at + 5] == f"| TransRec | {cells[0]['ssim']:.3f} | {cells[1]['ssim']:.3f} |"
    assert is_picture(tmp_path / "transfer.png")


@pytest.mark.slow
@pytest.mark.long
def test_a_cell_is_what_the_sweep_measures(measured, files, tmp_path):
    rows = measured().rows
    sample, ascent = small_sample(tmp_path / "swept"), Ascent(steps=2)
    one = {"shadow": files["shadows"][1], "attacker": files["attackers"][0], "epsilons": (0.2,)}
    bare, swept, floor = tradeoff.table(SYSTEM, given(), sample, ascent, **one).rows
    for ours, theirs in ((rows[0], bare), (rows[4], swept), (rows[6], floor)):
        for key in ("ssim", "psnr", "mse", "acc", "srra"):
            wanted = theirs[key] and pytest.approx(theirs[key], rel=1e-3)
            assert ours[key] == wanted, (ours["method"], key)


@pytest.mark.slow
def test_seeds_of_one_kind_have_a_spread(measured, tmp_path):
    table = measured(
        steps=1,
        shadows=tuple(written(tmp_path, "transrec", "shadow", seed) for seed in (0, 1, 2)),
        attackers=tuple(written(tmp_path, "transrec", "attacker", seed) for seed in (0, 1)),
    )
    rows = table.rows
    assert [r["shadow_seed"] for r in rows[2:8]] == [0, 0, 1, 1, 2, 2]
    found = table.notes["spread"]
    assert found["shadows"] == [f"TransRec, seed {seed}" for seed in (0, 1, 2)]
    cells = np.array([r["ssim"] for r in rows[2:8]]).reshape(3, 2)
    over = found["protected"]["ssim"]
    assert over["over_shadows"]["values"] == pytest.approx(cells.mean(1).tolist())
    assert over["over_shadows"]["sd"] == pytest.approx(cells.mean(1).std(ddof=1))
    assert over["over_attackers"]["n"] == 2 and over["over_cells"]["n"] == 6
    low, high = over["over_shadows"]["ci"]
    assert high - low == pytest.approx(2 * 4.3027 * over["over_shadows"]["sd"] / 3**0.5, rel=1e-3)
    assert found["unprotected"]["psnr"]["over_attackers"]["n"] == 2
    assert found["unprotected"]["acc"]["over_attackers"]["n"] == 1
    text = "\n".join(table.before)
    assert "| TransRec, seed 1 |" in text and "Spread over the seeds of 3 S" in text


@pytest.mark.slow
@pytest.mark.long
def test_the_papers_cells_stand_beside_ours(measured, files):
    published = {"set": "lfw", "sample": {"preset": "paper"}, "shadows": files["shadows"][:1]}
    table = measured(steps=40, **published)
    theirs, text = table.notes["paper"], "\n".join(table.before)
    assert theirs["TransRec → ResRec"] == {"acc": 0.9653, "ssim": 0.27, "psnr": 6.84}
    ours = [f"{r['ssim']:.3f}" for r in table.rows[2:4]]
    assert f"| {ours[0]} (0.20) | {ours[1]} (0.27) |" in text
    assert "| 96.53 |" in text and "| 98.13 |" in text
    other = measured(steps=1, **published)
    assert not other.notes["paper"] and "(0.20)" not in "\n".join(other.before)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"shadows": ()}, "got no shadow; wanted at least one"),
        ({"attackers": ("nowhere.safetensors",)}, "no decoder at .*nowhere"),
    ],
)
def test_decoders_that_make_no_sense_are_refused(measured, wrong, message):
    with pytest.raises(ValueError, match=message):
        measured(**wrong)


def test_one_decoder_twice_is_no_second_seed(measured, files, tmp_path):
    with pytest.raises(ValueError, match="transrec-shadow.*are one decoder; wanted others"):
        measured(shadows=files["shadows"][:1] * 2)
    with pytest.raises(ValueError, match="got epsilon=-0.1"):
        flat.call(transfer.main, out=tmp_path, epsilon=-0.1)
