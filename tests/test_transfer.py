"""Tables 3 and 4 end to end: a few synthetic faces, a small recogniser, small decoders."""

import json

import flat
import numpy as np
import pytest
from flax import nnx
from networks import Pooled, filled
from PIL import Image
from test_tradeoff import FIELDS

import advface_jax
from advface_jax import data
from advface_jax.models import decoders
from advface_jax.system import System, write_decoder
from experiments import tradeoff, transfer
from experiments.measure import inputs, judging


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Writes a decoder's file of a kind, role and seed, and names it."""
    network = filled(lambda: Pooled(rngs=nnx.Rngs(0)))
    system = System(network, {"source": "random", "sha256": "00"})  # type: ignore[arg-type]
    monkeypatch.setattr(advface_jax, "load", lambda weights: system)
    monkeypatch.setattr(inputs, "DEMO_PEOPLE", 4)
    monkeypatch.setattr(inputs, "DEMO_PICTURES", 2)

    def write(kind, role, seed):
        config = decoders.DecoderConfig(kind, width=4, depth=0)
        number = seed + 10 * (role == "attacker") + 100 * decoders.KINDS.index(kind)
        decoder = filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), number)
        path = tmp_path / f"{kind}-{role}-{seed}" / f"{kind}-{role}.safetensors"
        card = {"weights": "random", "weights_sha256": "00", "train": {"seed": seed}}
        write_decoder(path, decoder, card)
        return str(path)

    return write


@pytest.fixture
def flags(tmp_path, written):
    """The flags of a quick run: two kinds against two, two steps."""
    kinds = ("transrec", "resrec")
    return {
        "out": tmp_path / "out",
        "shadows": tuple(written(kind, "shadow", 0) for kind in kinds),
        "attackers": tuple(written(kind, "attacker", 0) for kind in kinds),
        "steps": 2,
        "batch": 3,  # of 8 faces: the last batch is padded
    }


def measured(flags, **others):
    flat.call(transfer.main, **flags | others)
    out = (flags | others)["out"]
    document = json.loads((out / "transfer.json").read_text())
    return document["rows"], document, (out / "transfer.md").read_text()


def test_every_shadow_meets_every_attacker(flags):
    rows, document, text = measured(flags)
    kinds = ("transrec", "resrec")
    assert [(r["method"], r.get("shadow"), r.get("attacker")) for r in rows] == [
        *(("Unprotected", None, attacker) for attacker in kinds),
        *(("AdvFace", shadow, attacker) for shadow in kinds for attacker in kinds),
        ("Mean face (floor)", None, None),
    ]
    assert all(r.keys() >= FIELDS and r["n"] == 8 for r in rows)
    cells = rows[2:6]
    assert len({r["psnr"] for r in rows[:6]}) == 6, "no two cells are one"
    assert cells[0]["acc"] == cells[1]["acc"] and cells[0]["acc_ci"] == cells[1]["acc_ci"]
    assert "spread" not in document["notes"] and document["notes"]["faces_per_s"] > 0
    assert document["config"]["shadows"][1]["kind"] == "resrec"
    assert "(Table 3)" in text and "in the paper" in text.splitlines()[4]
    lines = text.splitlines()
    (at,) = (i for i, line in enumerate(lines) if line.startswith("SSIM: shadows down"))
    assert lines[at + 2] == "|  | TransRec | ResRec |"
    assert lines[at + 5] == f"| TransRec | {cells[0]['ssim']:.3f} | {cells[1]['ssim']:.3f} |"
    assert not list(flags["out"].glob(".*")), "embeddings of faces are not left behind"
    with Image.open(flags["out"] / "transfer.png") as picture:
        assert picture.height > picture.width > 100
        assert np.asarray(picture.convert("L")).std() > 5, "an empty picture"


def test_a_cell_is_what_the_sweep_measures(flags):
    rows, *_ = measured(flags)
    one = {"shadow": flags["shadows"][1], "attacker": flags["attackers"][0], "epsilons": (0.2,)}
    flat.call(tradeoff.main, **{k: flags[k] for k in ("out", "steps", "batch")} | one)
    bare, swept, floor = json.loads((flags["out"] / "tradeoff.json").read_text())["rows"]
    for ours, theirs in ((rows[0], bare), (rows[4], swept), (rows[6], floor)):
        for key in ("ssim", "psnr", "mse", "acc", "srra"):
            wanted = theirs[key] and pytest.approx(theirs[key], rel=1e-3)
            assert ours[key] == wanted, (ours["method"], key)


def test_seeds_of_one_kind_have_a_spread(flags, written):
    shadows = tuple(written("transrec", "shadow", seed) for seed in (0, 1, 2))
    attackers = tuple(written("transrec", "attacker", seed) for seed in (0, 1))
    rows, document, text = measured(flags, shadows=shadows, attackers=attackers)
    assert [r["shadow_seed"] for r in rows[2:8]] == [0, 0, 1, 1, 2, 2]
    found = document["notes"]["spread"]
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
    assert "| TransRec, seed 1 |" in text and "Spread over the seeds of 3 S" in text


def test_a_stopped_grid_takes_up_where_it_was(flags, monkeypatch):
    real, batches = judging.judge_batch, []

    def counted(*arguments):
        if len(batches) == 2:
            raise KeyboardInterrupt
        batches.append(arguments)
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(judging, "judge_batch", counted)
        with pytest.raises(KeyboardInterrupt):
            flat.call(transfer.main, **flags)
    monkeypatch.setattr(judging, "judge_batch", lambda *a: batches.append(a) or real(*a))
    measured(flags)
    assert len(batches) == 3, "8 faces in batches of 3: each batch once, none twice"


def test_the_papers_cells_stand_beside_ours(flags, tmp_path):
    names = data.read_faces("synthetic", limit=8).names
    pairs = [(1, 1, 0, 1), (1, 0, 0, 4), (2, 1, 4, 5), (2, 0, 1, 5)]
    text = "".join(f"{f}\t{s}\t{names[a]}\t{names[b]}\n" for f, s, a, b in pairs)
    (tmp_path / "pairs.tsv").write_text("fold\tsame\tfile1\tfile2\n" + text)
    given = flags | {"preset": "paper", "faces": "synthetic", "pairs": tmp_path / "pairs.tsv"}
    published = {"steps": 40, "batch": 5, "shadows": flags["shadows"][:1]}
    rows, document, text = measured(given, **published)
    assert {r["set"] for r in rows} == {"lfw"}
    theirs = document["notes"]["paper"]
    assert theirs["TransRec → ResRec"] == {"acc": 0.9653, "ssim": 0.27, "psnr": 6.84}
    assert f"| {rows[2]['ssim']:.3f} (0.20) | {rows[3]['ssim']:.3f} (0.27) |" in text
    assert "| 96.53 |" in text and "| 98.13 |" in text
    _, document, text = measured(given, **published | {"epsilon": 0.1, "steps": 1})
    assert not document["notes"]["paper"] and "(0.20)" not in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"epsilon": -0.1}, "got epsilon=-0.1"),
        ({"shadows": ()}, "got no shadow; wanted at least one"),
        ({"attackers": ("nowhere.safetensors",)}, "no decoder at .*nowhere"),
    ],
)
def test_flags_that_make_no_sense_are_refused(flags, wrong, message):
    with pytest.raises(ValueError, match=message):
        flat.call(transfer.main, **flags | wrong)


def test_one_decoder_twice_is_no_second_seed(flags):
    with pytest.raises(ValueError, match="transrec-shadow.*are one decoder; wanted others"):
        flat.call(transfer.main, **flags | {"shadows": flags["shadows"][:1] * 2})
