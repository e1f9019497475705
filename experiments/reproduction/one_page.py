"""RESULTS.md and its ledger as one HTML file, with figures, faces and provenance."""

from collections.abc import Sequence
from pathlib import Path

from experiments import page
from experiments.reproduction.ledger import Run


def render(results: Path, runs: Sequence[Run], report: Path, ledger: Path) -> str:
    """The page.

    Args:
      results: the folder that the runs were read from, for their pictures of drawn faces.
      runs: what was measured.
      report, ledger: the Markdown files, already written.
    """
    title = report.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    folder, pages = report.parent, {report.name: title, ledger.name: "The ledger"}
    texts = [file.read_text(encoding="utf-8") for file in (report, ledger)]
    begin, rest = _first_section(texts[0])
    charts = []
    for experiment in ("tradeoff", "defenses", "worst_case"):
        if of := [run for run in runs if run.experiment == experiment]:
            charts.append(_chart(max(of, key=_weight)))
    charts += [_faces(run, results) for run in runs]
    return page.document(
        "AdvFace: every table of the paper, with our numbers",
        [
            page.prose(begin, folder=folder, pages=pages),
            '<p><a href="#provenance">How each run came to be</a></p>',
            *charts,
            page.prose(rest, folder=folder, pages=pages),
            page.prose(texts[1].replace("# The ledger", "## The ledger", 1), pages=pages),
            '<h2 id="provenance">How each run came to be</h2>',
            *(page.provenance(f"{i}. {run.file}", run.document) for i, run in enumerate(runs, 1)),
        ],
    )


def _first_section(text: str) -> tuple[str, str]:
    begin, mark, rest = text.partition("\n## ")
    return begin, mark.lstrip() + rest


def _weight(run: Run) -> tuple[bool, int]:
    """The run to draw: of the paper's faces if there is one, and the largest."""
    return run.document["config"].get("preset") == "paper", len(run.rows)


def _chart(run: Run) -> str:
    notes = run.document.get("notes") or {}
    return _from(run, page.figures(run.experiment, run.rows, notes.get("paper") or {}))


def _faces(run: Run, results: Path) -> str:
    """R's pictures of drawn faces, where the run has kept them."""
    faces = (run.document.get("notes") or {}).get("faces")
    return _from(run, page.strip(faces, (results / run.file).parent) if faces else "")


def _from(run: Run, drawn: str) -> str:
    return f"{drawn}<p>From {run.file}: <code>{run.document['command']}</code></p>" if drawn else ""
