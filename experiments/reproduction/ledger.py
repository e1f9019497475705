"""Which of our measurements stands beside which number of the paper."""

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.measure import paper
from experiments.measure.paper import Number
from experiments.measure.results_file import Row

# Our rows for a row of the paper. Its one Random row has two readings; its DP is Laplace noise.
OURS = {
    "Unprotected": ("Unprotected",),
    "Random": ("Random (ball)", "Random (walk)"),
    "DP": ("Laplace",),
    "DuetFace": ("DuetFace",),
    "AdvFace": ("AdvFace",),
    "AdvFace (offline)": ("AdvFace (offline)",),
}
# The experiments that measure a table: the first with the number; of its runs, the largest.
ANSWERS = {
    "1": ("defenses", "tradeoff"),
    "2": ("accuracy", "defenses", "tradeoff"),
    "§5.4": ("accuracy", "defenses", "tradeoff"),
    "3": ("transfer", "accuracy", "defenses", "tradeoff"),
    "4": ("transfer", "defenses", "tradeoff"),
}
PUBLISHED = {  # settings a run must share with the paper, where its file has them
    "steps": 40,
    "alpha": 0.2,
    "bound": "total",
    "method": "pgd",
    "statistics": "batch",
    "start": "z_tilde",
}
CHOSEN = {"weights": "facenet-512-q8", "precision": "float32"}
PAIRS = ("acc", "srra", "drop")  # measured over pairs; the other metrics over faces


class Run(NamedTuple):
    """A results file: its name, the experiment that wrote it, and its content."""

    file: str
    experiment: str
    document: Mapping[str, Any]

    @property
    def rows(self) -> Sequence[Row]:
        return self.document["rows"]

    @property
    def config(self) -> Mapping[str, Any]:
        return self.document["config"]


class Ours(NamedTuple):
    """Our value for a number of the paper, its 95% interval if it has one, and its source."""

    value: float
    interval: Sequence[float] | None
    row: Row
    run: Run

    def items(self, metric: str) -> int:
        """The number of pairs or faces averaged."""
        return self.row["pairs" if metric in PAIRS else "n"]


def read(folder: Path) -> list[Run]:
    """The results files under a folder, by name; a warning counts other JSON files. ValueError if
    there is no such folder."""
    if not folder.is_dir():
        raise ValueError(
            f"got {folder}, which is no folder; wanted one with results files (.json): this "
            "project's lie in docs/results of a clone, yours in the --out of your experiments"
        )
    runs, others = [], []
    for file in sorted(folder.rglob("*.json")):
        if any(part.startswith(".") for part in file.relative_to(folder).parts):
            continue  # kept batches of an experiment
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
            words = document["command"].split()
            sound = words[:2] == ["python", "-m"] and all(
                r.keys() & {"method", "defence"} for r in document["rows"]
            )
            if not sound or not {"date", "hardware"} <= document.keys() | document["config"].keys():
                raise ValueError
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            others.append(file.relative_to(folder).as_posix())
            continue
        name = words[2].removeprefix("experiments.")
        runs.append(Run(file.relative_to(folder).as_posix(), name, document))
    if others:
        warnings.warn(
            f"{folder}: {len(others)} JSON files are no results of an experiment, the first: "
            f"{others[0]}",
            stacklevel=2,
        )
    return runs


def set_of(row: Row, run: Run) -> str | None:
    """The set of a row. Before there were several, the paper preset meant LFW."""
    old = "lfw" if run.config.get("preset") == "paper" else None
    return row.get("set") or run.config.get("set") or old


def answers(number: Number, runs: Iterable[Run], method: str | None = None) -> list[Ours]:
    """All our values for a number of the paper, the one that stands beside it first: that of the
    experiment made for the table, so that a table's rows are over the same faces. ``method`` is
    one of our readings of the paper's; by default the first."""
    wanted = method or OURS[number.method][0]
    order = ANSWERS[number.table]
    found = []
    for run in runs:
        if run.experiment not in order or not _as_published(run.config, {}):
            continue
        for row in run.rows:
            if row["method"] == wanted and _fits(row, run, number):
                value, interval = _value(number.metric, row, run), row.get(f"{number.metric}_ci")
                found += [Ours(value, interval, row, run)] if value is not None else []
    return sorted(
        found,
        key=lambda ours: (
            _departs(ours.run),
            order.index(ours.run.experiment),
            "spread" in ours.run.document.get("notes", {}),  # one kind alone: its own table
            -ours.items(number.metric),
            ours.row.get("shadow_seed") or 0,
            ours.row.get("attacker_seed") or 0,
            ours.run.document["date"],
            ours.run.file,
        ),
    )


def over_seeds(number: Number, runs: Iterable[Run]) -> list[tuple[str, Mapping[str, Any]]]:
    """How a number varies with the seeds of S and R, by the first run of transfer over several:
    (S or R, the spread as of ``intervals.spread``)."""
    if number.table not in ("1", "2", "4") or number.method not in ("Unprotected", "AdvFace"):
        return []
    kinds = number.shadow, number.attacker or number.shadow
    for run in runs:
        found = run.document.get("notes", {}).get("spread")
        if run.experiment != "transfer" or not found or not _as_published(run.config, {}):
            continue
        if run.config.get("set") != number.set or (found["shadow"], found["attacker"]) != kinds:
            continue
        of = found["protected" if number.method == "AdvFace" else "unprotected"].get(number.metric)
        by = {"over_shadows": "S"} | ({"over_attackers": "R"} if number.metric != "acc" else {})
        return [(name, of[key]) for key, name in by.items() if of and key in of]
    return []


def unmeasured(runs: Sequence[Run]) -> list[paper.Set]:
    """The paper's sets on which none of its numbers was measured."""
    measured = {n.set for n in paper.NUMBERS if answers(n, runs)}
    return [name for name in paper.SETS if name not in measured]


def _as_published(config: Mapping[str, Any], row: Row) -> bool:
    return all((row | dict(config)).get(k, default) == default for k, default in PUBLISHED.items())


def _departs(run: Run) -> int:
    """The number of non-default choices where the paper leaves them open: such a run stands beside
    the paper only where no other does."""
    chosen = [run.config.get(k, default) != default for k, default in CHOSEN.items()]
    files = [run.config.get(role) for role in ("shadow", "attacker")]
    return sum(chosen) + sum(name is not None and name not in paper.KINDS for name in files)


def _fits(row: Row, run: Run, number: Number) -> bool:
    if set_of(row, run) != number.set or row.get("enrolled_only") or "not_measured" in row:
        return False
    bounded = number.method not in ("Unprotected", "DuetFace")
    if bounded and row.get("epsilon") is not None and abs(row["epsilon"] - paper.EPSILON) > 1e-6:
        return False
    names = (row.get(role) or run.config.get(role) or "" for role in ("shadow", "attacker"))
    shadow, attacker = (name.split("-")[0] for name in names)  # resrec of resrec-shadow-1
    if number.method.startswith("AdvFace") and shadow != number.shadow:
        return False
    # Recognition alone has no attacker; DuetFace's is a decoder of its own.
    return number.attacker is None or number.method == "DuetFace" or attacker == number.attacker


def _value(metric: str, row: Row, run: Run) -> float | None:
    if metric != "drop":
        return row.get(metric)
    if row.get("drop") is not None:
        return row["drop"]
    bare = [r for r in run.rows if r["method"] == "Unprotected" and r.get("acc") is not None]
    same = [r for r in bare if set_of(r, run) == set_of(row, run) and r["pairs"] == row["pairs"]]
    return same[0]["acc"] - row["acc"] if same and row.get("acc") is not None else None
