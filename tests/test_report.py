"""RESULTS.md and its ledger: every number of the paper, ours where measured, and never stale."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiments import report
from experiments.attack.rows import HARMS
from experiments.measure import paper
from experiments.measure.evaluation_sets import TITLES
from experiments.reproduction import ledger, ledger_page, paper_tables

ROOT = Path(__file__).parents[1]


def line(method, epsilon: float | None = 0.2, **numbers):
    full = {"ssim": 0.3, "psnr": 8.0, "mse": 0.1, "acc": 0.97, "srra": 0.04}
    return {"method": method, "epsilon": epsilon, **full, "n": 100, "pairs": 60, **numbers}


def write(folder, name, rows, *, experiment="defenses", notes=None, **config):
    config = {"preset": "paper", "set": "lfw", "shadow": "resrec", "attacker": "resrec"} | config
    config = {"seed": 7, "steps": 40, "alpha": 0.2, **config}
    document = {"rows": rows, "config": config, "notes": notes or {}, "seconds": 90.0}
    document |= {"command": f"python -m experiments.{experiment} --preset paper"}
    document |= {"date": "2026-01-02", "hardware": "an abacus"}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(document))


def rendered(folder):
    """Both pages."""
    runs = ledger.read(folder)
    return report.render(folder, runs, "x-ledger.md") + ledger_page.render(runs, "x.md")


def cells(text):
    """The tables' lines, headers among them."""
    lines = [x for x in text.splitlines() if x.startswith("| ")]
    return [[c.strip() for c in x.strip("|").split("|")] for x in lines]


def find(text, table, method, set, metric):
    page = text.split("# The ledger")[1].split("## Not measured")[0]
    names = table, method, set
    (row,) = [r for r in cells(page) if (r[0], r[1], r[3]) == names and r[4].startswith(metric)]
    return row


def test_the_committed_pages_are_what_the_committed_files_render(monkeypatch):
    monkeypatch.chdir(ROOT)
    folder = Path("docs/results")
    runs = ledger.read(folder)
    pages = {"RESULTS.md": report.render(folder, runs, "RESULTS-ledger.md")}
    pages["RESULTS-ledger.md"] = ledger_page.render(runs, "RESULTS.md")
    stale = [name for name, text in pages.items() if Path(name).read_text("utf-8") != text]
    assert not stale, "run `python -m experiments.report`"
    for file in folder.iterdir():
        assert file.stat().st_size < 200_000, f"{file} is too large to be committed"
        text = file.read_text("utf-8") if file.suffix != ".jpg" else ""  # drawn faces
        assert not re.search(r'["\s](/home|/root|/work|/tmp)/', text), f"{file}: a path"


def test_the_contents_link_to_every_heading(tmp_path):
    write(tmp_path, "a", [line("AdvFace")], notes={"faces_per_s": 2.0})
    text = report.render(tmp_path, ledger.read(tmp_path), "x-ledger.md")
    links = dict(re.findall(r"^\* \[(.*)\]\(#(.*)\)$", text, re.MULTILINE))
    assert list(links) == re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert links["Table 2: recognition by defence, ACC %"] == "table-2-recognition-by-defence-acc-"


@pytest.mark.parametrize("measured", [False, True])
def test_every_number_of_the_paper_is_in_the_ledger(tmp_path, measured):
    """One measured number of a set moves the set's numbers from the short table to the long."""
    if measured:
        for name in paper.SETS:
            write(tmp_path, name, [line("AdvFace", set=name)])
    text = ledger_page.render(ledger.read(tmp_path), "x.md")
    assert text.count("python -m experiments.all --preset paper") == (not measured)
    titles = {title: metric for metric, title in paper_tables.METRICS.items()}
    found, header, name = set(), [], ""
    for part in text.split("**"):
        name = part if part in TITLES.values() else name
        for row in cells(part):
            if row[0] == "table":
                header = row
            elif row[0] != "---" and measured:
                found.add((*row[:3], row[3], titles[row[4]], row[5]))
            elif row[0] != "---":
                some = zip(header[3:], row[3:], strict=True)
                found |= {(*row[:3], name, titles[m], shown) for m, shown in some if shown != "–"}
    short = {"Random": "Random, ball", "DP": "DP: Laplace noise, no DP guarantee"}
    short |= {"AdvFace (offline)": "AdvFace offline"}
    for n in paper.NUMBERS:
        method = short.get(n.method, n.method) if measured or "off" in n.method else n.method
        kinds = " → ".join(paper_tables.KINDS[k] for k in (n.shadow, n.attacker) if k)
        shown = paper_tables.shown(n.metric, n.value)
        assert (n.table, method, kinds, TITLES[n.set], n.metric, shown) in found
        assert float(shown) == pytest.approx(n.value * (100 if n.metric in ledger.PAIRS else 1))
    assert len(found) == 147 + 15 * measured, "and Random's fifteen once more, by its other reading"


def test_our_numbers_stand_beside_the_papers_with_interval_and_run(tmp_path):
    rows = [
        line("Unprotected", None, ssim=0.95, acc=0.99, set="cfp_fp"),
        line("Random (walk)", ssim=0.7, set="cfp_fp"),
        line("AdvFace", ssim=0.251, ssim_ci=[0.24, 0.26], set="cfp_fp"),
        line("Mean face (floor)", None, ssim=0.51, acc=None, set="cfp_fp"),
    ]
    write(tmp_path, "cfp", rows, set="cfp_fp", notes={"faces_per_s": 2.0})
    text = rendered(tmp_path)
    row = find(text, "1", "AdvFace", "CFP-FP", "SSIM")
    assert row[5:11] == ["0.23", "0.251", "0.240 to 0.260", "–", "100 faces", "1"]
    assert find(text, "1", "Random, walk", "CFP-FP", "SSIM")[6] == "0.700"
    assert find(text, "1", "Random, ball", "CFP-FP", "SSIM")[6:8] == ["not measured", "–"]
    assert find(text, "§5.4", "AdvFace", "CFP-FP", "ACC")[5:7] == ["2.57", "2.00"]
    assert "Not measured: LFW, AgeDB-30 ([how](x-ledger.md#not-measured))" in text
    assert text.count("**CFP-FP**") == 4 and text.count("**LFW**") == 1, "in every table"
    assert "| *Mean face (floor)* | – | 0.510 |" in text
    assert "| AdvFace | 0.23 | 0.251 | 5.98 | 8.00 |" in text
    assert "| an abacus | 2.00 | 64.2 |" in text
    (run,) = [x for x in text.splitlines() if x.startswith("| 1 | `cfp.json`")]
    for part in ("python -m experiments.defenses", "| 60 |", "| 7 |", "an abacus", "2026-01-02"):
        assert part in run


@pytest.mark.parametrize(
    "other",
    [
        {"row": {"epsilon": 0.1}},
        {"row": {"enrolled_only": True}},
        {"row": {"not_measured": "no network"}},
        {"row": {"set": "agedb_30"}},
        {"row": {"attacker": "urec-attacker"}},
        {"row": {"shadow": "transrec"}},
        {"config": {"steps": 10}},
        {"config": {"bound": "step"}},
        {"config": {"preset": "demo", "set": None}},
        {"experiment": "ablations"},
    ],
)
def test_what_was_measured_otherwise_does_not_stand_beside_the_paper(tmp_path, other):
    row = line("AdvFace") | other.get("row", {})
    experiment = other.get("experiment", "defenses")
    write(tmp_path, "other", [row], experiment=experiment, **other.get("config", {}))
    number = paper.Number("1", "AdvFace", "resrec", "resrec", "lfw", "psnr", 6.97)
    assert not ledger.answers(number, ledger.read(tmp_path))
    write(tmp_path, "same", [line("AdvFace")])
    assert [o.run.file for o in ledger.answers(number, ledger.read(tmp_path))] == ["same.json"]


def test_the_run_made_for_the_table_goes_first_then_the_largest(tmp_path):
    write(tmp_path, "a", [line("AdvFace", ssim=0.31, n=900)], experiment="tradeoff")
    write(tmp_path, "b", [line("AdvFace", ssim=0.32, n=50)])
    write(tmp_path / "deep", "c", [line("AdvFace", ssim=0.33, n=60)])
    number = paper.Number("1", "AdvFace", "resrec", "resrec", "lfw", "ssim", 0.28)
    found = ledger.answers(number, ledger.read(tmp_path))
    assert [o.value for o in found] == [0.33, 0.32, 0.31]


def test_the_spread_over_seeds_has_its_table_and_its_column(tmp_path):
    def spread(mean, *ci):
        return {"mean": mean, "sd": 0.1, "ci": list(ci), "n": 3, "values": [mean] * 3}

    one, other = spread(0.33, 0.31, 0.35), spread(0.33, 0.32, 0.34)
    protected = {"over_shadows": one, "over_attackers": other, "over_cells": one}
    metrics = ("ssim", "psnr", "mse", "acc", "srra")
    found: dict[str, Any] = {"shadow": "resrec", "attacker": "resrec"}
    found |= {"shadows": ["ResRec, seed 0", "ResRec, seed 1"], "attackers": ["ResRec, seed 0"]}
    found |= {"protected": dict.fromkeys(metrics, protected)}
    found |= {"unprotected": dict.fromkeys(metrics, {"over_attackers": other})}
    seeds = [{"shadow_seed": s, "attacker_seed": r} for s in (1, 0) for r in (1, 0)]
    rows = [line("AdvFace", ssim=0.3 + i / 10, **at) for i, at in enumerate(seeds)]
    write(tmp_path, "spread", rows, experiment="transfer", notes={"spread": found})
    text = rendered(tmp_path)
    same = ["ResRec → ResRec", "LFW", "SSIM"]
    row = [r for r in cells(text) if r[0] == "4" and r[2:5] == same]
    assert row[0][6] == "0.600", "the shipped decoders' own number, of seed 0"
    assert row[0][8] == "3 S: 0.330 (0.310 to 0.350); 3 R: 0.330 (0.320 to 0.340)"
    assert "## Spread over the seeds" in text and "S: ResRec, seed 0; ResRec, seed 1. R:" in text
    assert "| ACC % | 33.00 (32.00 to 34.00) | 33.00 (31.00 to 35.00) |" in text


def test_what_the_paper_has_no_table_for_has_a_section(tmp_path):
    rows = [line("AdvFace"), line("AdvFace (FGSM)", ssim=0.5), line("Mean face (floor)", None)]
    write(tmp_path, "defenses", rows)
    told: dict[str, Any] = {"ablation": "alpha", "condition": "α = ε/10"}
    changed = [line("AdvFace (α = ε/10)", ssim=0.412, srra_same_image=0.5, **told)]
    write(tmp_path, "ablations", changed, experiment="ablations")
    twins = [
        line("Compact", acc=acc, acc_ci=[0.5, 0.9], trained_on="raw", measured_on=on)
        for acc, on in ((0.75, "raw"), (0.7, "protected"))
    ]
    write(tmp_path, "reuse", twins, experiment="reuse")
    reached = {"psnr": 22.81, "shift": {"ssim": 0.911}, "uniform": None}
    noise = {"paper": {"Random": paper.of("Random")}, "at_the_paper_s_psnr": reached}
    write(tmp_path, "random_row", [line("shift", None)], experiment="random_row", notes=noise)
    before = line("held-out people, before", acc=0.91, separation=2.5)
    write(tmp_path, "finetune", [before], experiment="finetune")
    harms = {k: {"value": 0.5, "ci": None, "attack": "R"} for k in HARMS}
    attacked = {"defence": "AdvFace", "attack": "R", "acc": 0.98, "acc_raw_probe": 0.97, "n": 40}
    found = {"worst": {"AdvFace": {"without": harms}}}
    write(tmp_path, "worst_case", [attacked], experiment="worst_case", notes=found)
    text = rendered(tmp_path)
    for expected_line in (
        "| AdvFace | 98.0 | 97.0 | without Ψ | 0.500 | 50.0 | 50.0 | 50.0 | R |",
        "| *AdvFace (FGSM)* | – | 0.500 |",
        "| α = ε/10 | 0.412 | 8.00 | 97.00 | 4.00 | 50.00 | alpha |",
        "| Compact | 70.00 (50.00 to 90.00) | 75.00 (50.00 to 90.00) |",
        "At the paper's 22.81 dB (interpolated): shift: SSIM 0.911; uniform: never.",
        "| *Random in the paper* | 0.900 | 22.81 | 97.20 | 94.73 |",
        "| held-out people, before | 91.00 | 2.500 | 60 |",
    ):
        assert expected_line in text


def test_remarks_are_included_and_other_files_are_counted(tmp_path):
    write(tmp_path, "a", [line("AdvFace")])
    (tmp_path / "remarks.md").write_text("Because of the weather.\n")
    (tmp_path / "card.json").write_text('{"rows": 3}')
    (tmp_path / "broken.json").write_text("{")
    write(tmp_path / ".batches", "b", [line("AdvFace")])
    with pytest.warns(UserWarning, match="2 JSON files are no results .* the first: broken.json"):
        runs = ledger.read(tmp_path)
    text = report.render(tmp_path, runs, "x-ledger.md")
    assert "## Where ours differs, and why\n\nBecause of the weather." in text
    with pytest.raises(ValueError, match="got .*nowhere, which is no folder"):
        ledger.read(tmp_path / "nowhere")


def test_the_command_writes_both_files(tmp_path, capsys):
    write(tmp_path / "results", "a", [line("AdvFace")])
    report.main(tmp_path / "results", tmp_path / "deep" / "x.md")
    both = [(tmp_path / "deep" / name).read_text() for name in ("x.md", "x-ledger.md")]
    assert "".join(both) == rendered(tmp_path / "results")
    assert "of the paper's 147 numbers measured, in 1 results files" in capsys.readouterr().out
