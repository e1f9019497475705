"""Results as one HTML file: its tables, figures and faces, and that it needs nothing else."""

import json
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from experiments import page, report
from experiments.page.figures import _Axis

TEXT = """# Results

See [the ledger](ledger.md), [rows](ledger.md#rows), [a file](docs/x.md) and [a page](https://x.org).

## Table 1

**LFW**

|  | SSIM |
| --- | ---: |
| AdvFace | 0.33 |
"""
ROWS = [
    {"method": "Unprotected", "epsilon": None, "ssim": 0.94, "psnr": 30.0, "acc": 0.99},
    {"method": "AdvFace", "epsilon": 0.1, "ssim": 0.6, "psnr": 13.0, "acc": 0.98},
    {"method": "AdvFace", "epsilon": 0.2, "ssim": 0.3, "acc": 0.97, "acc_ci": [0.96, 0.98]},
    {"method": "Mean face (floor)", "epsilon": None, "ssim": 0.5, "psnr": 14.0, "acc": None},
]


class Tags(HTMLParser):
    """Every tag with its attributes; an end that has no beginning fails."""

    EMPTY = ("meta", "input", "img", "br", "path", "circle", "rect", "polyline", "hr")

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def all(self, tag):
        return [attrs for name, attrs in self.found if name == tag]


def test_tables_say_what_they_are_and_links_stay_on_the_page():
    html = page.prose(TEXT, pages={"ledger.md": "The ledger"})
    tags = Tags(html)
    assert "<caption>Table 1: LFW</caption>" in html
    assert [a["scope"] for a in tags.all("th")] == ["col", "col", "row"]
    assert [a["href"] for a in tags.all("a")] == ["#the-ledger", "#rows", "https://x.org"]
    assert "a file" in html and "docs/x.md" not in html


def test_a_chart_has_every_point_by_name_with_the_papers_beside_it():
    html = page.figures("tradeoff", ROWS, {"AdvFace ε = 0.20": {"ssim": 0.28, "acc": 0.9643}})
    first = html[: html.index("</svg>")]
    names = [a["aria-label"] for a in Tags(html + "").all("g") if a.get("class") == "dot"]
    assert [n.partition(";")[0] for n in names if "SSIM" in n] == [
        "Unprotected",
        "AdvFace, ε = 0.1",
        "AdvFace, ε = 0.2",
        "AdvFace, ε = 0.2 (the paper)",
    ]
    assert "97.00 (96.00 to 98.00)" in first  # its interval
    assert html.count("<svg") == 2, "SSIM and PSNR; no row has an SRRA"
    assert page.figures("verify", ROWS, {}) == ""


def test_worst_case_is_drawn_by_defence():
    rows = [
        {"defence": "AdvFace", "attack": a, "acc": 0.98, "ssim": s, "ssim_ci": [s - 0.1, s + 0.1]}
        for a, s in (("R", 0.3), ("R, denoised", 0.9))
    ]
    html = page.figures("worst_case", rows, {})
    assert "AdvFace: R, denoised; SSIM" in html and "(0.800 to 1.000)" in html


def test_ticks_are_round_and_inside():
    for low, high in ((0.3, 0.94), (0.9643, 0.9967), (0.0, 1.0), (7.0, 31.0)):
        axis = _Axis.over("ssim", [{"ssim": low}, {"ssim": high}], 0, 100)
        ticks = [float(x) for x in re.findall(r">([\d.-]+)</text>", axis.drawn(False))]
        assert 3 <= len(ticks) <= 8 and axis.low <= ticks[0] and ticks[-1] <= axis.high


def test_faces_are_one_picture_that_a_slider_moves_over(tmp_path):
    faces = np.zeros((3, 4, 4, 3), np.uint8)
    made = page.Strip(["unprotected", "ε = 0.2"], faces, np.stack([faces, faces]), np.ones((2, 3)))
    about = made.save(tmp_path / "faces.jpg")
    with Image.open(tmp_path / "faces.jpg") as written:
        assert written.size == (12, 12)  # originals, then a line a setting
    html = page.strip(json.loads(json.dumps(about)), tmp_path)
    (slider,) = Tags(html).all("input")
    assert slider["max"] == "1" and slider["aria-valuetext"] == "unprotected"
    assert page.strip({**about, "file": "../gone.jpg"}, tmp_path) == ""


def test_the_report_is_one_file_with_every_run(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x"])
    report.main(to=tmp_path / "R.md", html=tmp_path / "R.html")
    html = (tmp_path / "R.html").read_text("utf-8")
    tags = Tags(html)
    ids = {attrs["id"] for _, attrs in tags.found if "id" in attrs}
    links = [a["href"] for a in tags.all("a")]
    assert [h for h in links if h[0] == "#" and h[1:] not in ids] == []
    for _, attrs in tags.found:  # nothing is fetched
        assert not re.match(r"(?!data:)", attrs.get("src") or "data:")
    assert "@import" not in html and "url(http" not in html
    assert html.count("<details>") >= 10 and html.count("<caption>") >= 10
    assert not tags.open or tags.open == ["html"]
