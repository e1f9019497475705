"""RESULTS.md, every table of the paper with our numbers, and RESULTS-ledger.md, every number.

    python -m experiments.report                      # from docs/results, which is committed
    python -m experiments.report --results results --out results/RESULTS.md
    python -m experiments.report --html report.html   # one page to look at, offline, too

Nothing is measured here: the results files of the experiments are read.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from advface_jax import cli
from experiments.measure import paper
from experiments.measure.evaluation_sets import TITLES
from experiments.reproduction import ledger, ledger_page, one_page, own_tables, paper_tables
from experiments.reproduction.ledger import Run
from experiments.reproduction.readings import NUMBERED, READINGS, WARNING

TABLES = (
    ("Table 1: pictures and replay by defence (S = R = ResRec)", paper_tables.table_1),
    ("Table 2: recognition by defence, ACC %", paper_tables.table_2),
    ("Table 3: recognition by shadow, ACC %", paper_tables.table_3),
    ("Table 4: pictures by shadow and attacker", paper_tables.table_4),
)


def main(
    results: Path = Path("docs/results"),
    to: Annotated[Path, tyro.conf.arg(name="out", aliases=["-o", "--to"])] = Path("RESULTS.md"),
    html: Path | None = None,
) -> None:
    """Write RESULTS.md from results files: all tables of the paper with our numbers.

    The ledger, every number that the paper prints, goes into a file beside it (RESULTS-ledger.md).

    Args:
      results: Folder with the results files (.json) of the experiments, searched recursively, and
        remarks.md, which is included.
      to: The file to write.
      html: A file for all of it as one page: sortable tables, interactive figures, R's pictures of
        drawn faces where a run has kept some, and how each run came to be.
    """
    cli.folder(to.parent)
    if html:
        cli.folder(html.parent)
    runs = ledger.read(results)
    beside = to.with_stem(f"{to.stem}-ledger")
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(render(results, runs, beside.name), encoding="utf-8")
    beside.write_text(ledger_page.render(runs, to.name), encoding="utf-8")
    if html:
        html.parent.mkdir(parents=True, exist_ok=True)
        html.write_text(one_page.render(results, runs, to, beside), encoding="utf-8")
    measured = sum(bool(ledger.answers(n, runs)) for n in paper.NUMBERS)
    cli.answer.print(
        f"{', '.join(map(str, (to, beside.name, *[html] * bool(html))))}: {measured} of the "
        f"paper's {len(paper.NUMBERS)} numbers measured, in "
        f"{len(runs)} results files",
        markup=False,
        soft_wrap=True,
    )


def render(results: Path, runs: Sequence[Run], beside: str) -> str:
    """The text of RESULTS.md, with links to the ledger ``beside`` it."""
    place = results.name if results.is_absolute() else results.as_posix()
    remarks = results / "remarks.md"  # written by hand: why ours differs
    why = remarks.read_text(encoding="utf-8").strip() if remarks.is_file() else ""
    numbered = "\n".join(f"{NUMBERED[name]}. {text}" for name, text in READINGS.items())
    sections = [
        *((title, _on_every_set(table, runs)) for title, table in TABLES),
        ("Figures", paper_tables.figures()),
        *([("Where ours differs, and why", why)] if why else []),
        *own_tables.others(runs),
        ("Readings", f"Where the paper is silent or its data are not available:\n\n{numbered}"),
        ("Runs", paper_tables.runs(runs) if runs else "None."),
    ]
    contents = [f"* [{title}](#{_anchor(title)})" for title, _ in sections]
    missing = [TITLES[name] for name in ledger.unmeasured(runs)]
    parts = [
        "# Every table of the paper, with our numbers",
        f"Written by `python -m experiments.report` from the results files in `{place}`: edit "
        "those, not this file. The paper is *Privacy-preserving Adversarial Facial Features* "
        f"(AdvFace, CVPR 2023). – is not measured; *italics* are ours alone. The [ledger]({beside})"
        " has every number that the paper prints, with our interval, sample, run and readings.",
        *([f"Not measured: {', '.join(missing)} ([how]({beside}#not-measured))."] * bool(missing)),
        WARNING,
        "\n".join([*contents, f"* [The ledger: every number]({beside})"]),
        *(f"## {title}\n\n{text}" for title, text in sections),
    ]
    return "\n\n".join(parts) + "\n"


def _anchor(title: str) -> str:
    """The link to a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def _on_every_set(table: paper_tables.Build, runs: Sequence[Run]) -> str:
    found = {TITLES[name]: text for name in paper.SETS if (text := table(name, runs))}
    parts = [part for title, text in found.items() for part in (f"**{title}**", text)]
    return "\n\n".join(parts) or "Not measured."


if __name__ == "__main__":
    cli.start(main, "experiments.report")
