"""The paper's numbers against the tables extracted from its text by a program."""

from pathlib import Path

import pytest

from experiments.measure import paper

TABLES = Path(__file__).parent / "reference" / "paper_tables.tsv"
METHODS = {"Ours": "AdvFace", "Ours(online)": "AdvFace", "Ours(offline)": "AdvFace (offline)"}
KINDS = {"Trans": "transrec", "transpose": "transrec", "TransRec": "transrec", "Res": "resrec"}
KINDS |= {"resnet": "resrec", "ResRec": "resrec", "Unet": "urec", "UReC": "urec"}


def value(cell):
    return round(float(cell[:-1]) / 100, 6) if cell.endswith("%") else float(cell)


def shadow(cell):
    return KINDS[cell.removeprefix("Ours(").removesuffix(")")]


def of_the_text():
    """Every cell of the four tables: (table, method, S, R, set, metric, value)."""
    table = ""
    above = ["", ""]  # Table 4 leaves a cell empty where it is as above
    for line in TABLES.read_text(encoding="utf-8").splitlines():
        if line.startswith("# Table"):
            table = line.split()[-1]
        cells = line.split("\t")
        if not any(c.isdigit() for c in cells[-1]) or line.startswith("#") or "LFW" in line:
            continue
        if table == "1":
            method = METHODS.get(cells[0], cells[0])
            for i, cell in enumerate(cells[1:]):
                metric = ("ssim", "psnr", "mse", "srra")[i % 4]
                yield "1", method, "resrec", "resrec", paper.SETS[i // 4], metric, value(cell)
            continue
        if table == "2":
            names = METHODS.get(cells[0], cells[0]), "resrec", None, "acc"
        elif table == "3":
            names = "AdvFace", shadow(cells[0]), None, "acc"
        else:
            above = [new or old for new, old in zip(cells[:2], above, strict=True)]
            names = "AdvFace", shadow(above[1]), KINDS[cells[2]], above[0].lower()
        for at, cell in zip(paper.SETS, cells[-3:], strict=True):
            yield table, *names[:3], at, names[3], value(cell)


def test_every_number_is_the_one_in_the_text():
    theirs = list(of_the_text())
    assert len(theirs) == 5 * 4 * 3 + 6 * 3 + 3 * 3 + 9 * 2 * 3
    ours = [tuple(n) for n in paper.NUMBERS if n.table != "§5.4"]
    assert sorted(ours, key=str) == sorted(theirs, key=str)


def test_each_number_is_there_once_and_the_drops_are_differences_of_table_2():
    at = {n[:-1]: n.value for n in paper.NUMBERS}
    assert len(at) == len(paper.NUMBERS) == 147
    drops = [n for n in paper.NUMBERS if n.table == "§5.4"]
    for n in drops:
        names = "Unprotected", n.method
        bare, kept = (at["2", name, "resrec", None, n.set, "acc"] for name in names)
        assert bare - kept == pytest.approx(n.value, abs=1e-9)
    assert len(drops) == 6


def test_the_numbers_beside_a_row_depend_on_its_set():
    beside = paper.beside("AdvFace", 0.2, "resrec", "resrec", set="cfp_fp")
    assert beside == {"ssim": 0.23, "psnr": 5.98, "mse": 0.261, "srra": 0.1843, "acc": 0.9059}
    beside = paper.beside("AdvFace", 0.2, "urec", "transrec", set="agedb_30")
    assert beside == {"acc": 0.8458, "ssim": 0.23, "psnr": 5.88}
    assert paper.beside("Laplace", 0.2, "resrec", "urec", set="agedb_30") == {"acc": 0.8512}
    assert paper.beside("AdvFace (offline)", 0.2, "resrec", "resrec") == {"acc": 0.9778}
    assert not paper.beside("AdvFace (offline)", 0.2, "urec", "resrec")
    assert not paper.beside("Unprotected", None, "resrec", "resrec", set="other")
