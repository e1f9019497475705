"""Figures: they are written, nothing collides, intervals and numbers are where they belong."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments import plots
from experiments.plots import charts, drawing, pareto, pictures
from experiments.plots.charts import _interval

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs/results"
rng = np.random.default_rng(0)


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were saved, still open."""
    figures = []

    def keep(figure, path):
        figure.savefig(path, dpi=30)
        figures.append(figure)

    for module in (charts, pictures):
        monkeypatch.setattr(module, "save", keep)
    yield figures
    drawing.pyplot().close("all")


def crowded():
    """AdvFace at nine ε, whose points and bars lie close together."""
    bare = {"method": "Unprotected", "epsilon": None, "psnr": 30.8, "acc": 0.993}
    epsilons = (0, 0.05, 0.1, 0.15, 0.2, 0.22, 0.25, 0.28, 0.3)
    near = [
        {"method": "AdvFace", "epsilon": e, "psnr": 9 + 0.2 * i, "acc": 0.99 + 0.0005 * (i % 3)}
        for i, e in enumerate(epsilons)
    ]
    rows = [{"set": "lfw", "n": 901, "pairs": 600, **r} for r in (bare, *near)]
    rows = [{**r, "acc_ci": [r["acc"] - 0.008, r["acc"] + 0.006]} for r in rows]
    floor = {"method": "Mean face (floor)", "epsilon": None, "psnr": 14.9, "acc": None}
    return [*rows, {**rows[0], **floor}]


def test_crowded_points_keep_their_labels_apart_and_have_intervals(drawn, tmp_path):
    rows = crowded()
    theirs = [{"psnr": 9.1, "acc": 0.991} if r["epsilon"] == 0.2 else {} for r in rows]
    plots.tradeoff(rows, tmp_path / "a.png", theirs)
    (axes,) = drawn[0].axes
    texts = [note for note in axes.texts if note.get_text()]
    assert sorted(note.get_text() for note in texts) == sorted(
        [f"ε = {r['epsilon']:g}" for r in rows if r["epsilon"] is not None] + ["ε = 0.2"]
    )
    drawn[0].canvas.draw()
    boxes = [note.get_window_extent() for note in texts]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert all(box.x0 > axes.bbox.x0 and box.x1 < axes.bbox.x1 for box in boxes)
    marks = np.concatenate([line.get_xydata() for line in axes.lines[:1]])
    assert not any(box.contains(*axes.transData.transform(m)) for box in boxes for m in marks)
    upright = [
        segment[:, 1]
        for bars in axes.collections
        for segment in bars.get_segments()
        if np.ptp(segment[:, 1])
    ]
    expected = [100 * np.array(r["acc_ci"]) for r in rows[1:-1] + rows[:1]]
    np.testing.assert_allclose(upright, expected)


def test_an_older_row_has_wilson_s_interval():
    known = stats.binomtest(593, 600).proportion_ci(method="wilson")
    found = _interval({"acc": 593 / 600, "pairs": 600}, "acc")
    np.testing.assert_allclose(found, (known.low, known.high), atol=1e-5)
    assert _interval({"psnr": 9.0, "pairs": 600}, "psnr") == (9.0, 9.0)


@pytest.mark.parametrize("name", ["tradeoff-6000", "random-row-100", "ablations-100"])
def test_redraw(name, drawn, tmp_path):
    plots.redraw(RESULTS / f"{name}.json", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
    (figure,) = drawn
    titles = [figure.get_suptitle()]
    titles += [
        axes.get_title(place) for axes in figure.axes for place in ("left", "center", "right")
    ]
    pairs = json.loads((RESULTS / f"{name}.json").read_text())["rows"][0]["pairs"]
    assert any(
        f"LFW: {157 if pairs == 100 else 7701:,} faces, {pairs:,} pairs" in t for t in titles
    )
    assert any("better" in t for t in titles)


def test_redraw_refuses_other_results(tmp_path):
    with pytest.raises(ValueError, match="got the results of reuse.*wanted those of tradeoff"):
        plots.redraw(RESULTS / "reuse-300.json", tmp_path / "a.png")


def test_a_front_has_one_label_where_marks_lie_on_one_another_and_none_without_points():
    axes = drawing.pyplot().subplots(layout="constrained")[1]
    pareto.pareto(axes, [], "harm", "use")
    assert not [note for note in axes.texts if note.get_text()]
    names = ("A (x)", "A (y)", "B")
    points = [pareto.Point(50, 99, name, "C0", front="front") for name in names]
    more = pareto.Point(50, 99, "B, with more", "C1", "^", hollow=True)
    pareto.pareto(axes, [*points, pareto.Point(1, 70, "C", "C2"), more], "harm", "use")
    found = {note.get_text().replace("\xa0", " ") for note in axes.texts if note.get_text()}
    assert found == {"A ×2 · B", "B, with more", "C"}
    assert axes.get_ylim()[1] <= 100.5
    assert all("-o" not in tick.get_text() for tick in axes.get_xticklabels())
    drawing.pyplot().close("all")


def test_training(tmp_path):
    quality = [{"epoch": 1, "ssim": 0.5}, {"epoch": 2, "ssim": 0.7}]
    plots.training([1.0, 0.5, 0.3, 0.2], quality, 2, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def under(axes):
    return [text.get_text().strip() for text in axes.get_xticklabels()]


def test_reconstructions(drawn, tmp_path):
    faces = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    ssim, psnr = [[0.334, -0.02], [1.0, 0.5], None], np.array([[9.51, 8.0], [np.nan, 20.0], [1, 2]])
    psnr[2] = np.nan
    names = ["unprotected", "ε = 0.2", "mean face"]
    several = np.stack([faces] * 3)
    plots.reconstructions(
        faces, several, names, tmp_path / "a.png", ssim=ssim, psnr=psnr, title="AdvFace",
        footer="what it says",
    )  # fmt: skip
    axes = np.reshape(drawn[0].axes, (2, 4))  # a row a face
    assert (drawn[0].get_suptitle(), drawn[0].get_supxlabel()) == ("AdvFace", "what it says")
    titles = [axis.get_title() for axis in axes[0]]
    assert titles == ["original", *names]
    assert [under(axis) for axis in axes[0]] == [[""], ["SSIM .33 · 9.5 dB"], ["SSIM 1.00"], [""]]
    assert [under(axis) for axis in axes[1]][1:3] == [
        ["SSIM -.02 · 8.0 dB"],
        ["SSIM .50 · 20.0 dB"],
    ]


@pytest.mark.parametrize("k", [1, 3])
def test_transfer(k, drawn, tmp_path):
    faces = rng.integers(0, 256, (k, 16, 16, 3), np.uint8)
    cells = rng.integers(0, 256, (3, 2, k, 16, 16, 3), np.uint8)
    ssim, psnr = np.arange(6 * k).reshape(3, 2, k) / 100, np.full((3, 2, k), 9.5)
    plots.transfer(
        faces, cells, ("TransRec", "ResRec"), ("URec", "ResRec"), tmp_path / "a.png",
        ssim=ssim, psnr=psnr, title="AdvFace, ε = 0.2",
    )  # fmt: skip
    axes = np.reshape(drawn[0].axes, (3, 3))
    assert [axis.get_title() for axis in axes[0]] == ["original", "R = URec", "R = ResRec"]
    assert [axis.texts[0].get_text() for axis in axes[1:, 0]] == ["S = TransRec", "S = ResRec"]
    shown = min(k, 2)
    for s, r in itertools.product(range(3), range(2)):
        image = axes[s, 1 + r].images[0].get_array()
        np.testing.assert_array_equal(image[:, :16], cells[s, r, 0])
        np.testing.assert_array_equal(image[:, -16:], cells[s, r, shown - 1])
        assert under(axes[s, 1 + r]) == [
            f"SSIM .{round(100 * x):02d} · 9.5 dB" for x in ssim[s, r, :shown]
        ]


def test_a_notebook_s_backend_is_left_to_the_notebook():
    code = "from experiments import plots; plots.pyplot(); import matplotlib, os\n"
    code += "print(matplotlib.get_backend(), os.environ['MPLBACKEND'])"
    backend = "module://matplotlib_inline.nowhere"
    environ = {**os.environ, "MPLBACKEND": backend}
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, env=environ, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.split() == ["agg", backend], done.stderr
