"""The tables of RESULTS.md, one function each."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments import paper
from experiments.common import Row
from experiments.ledger import OURS, Run, answers, set_of
from experiments.paper import Number, Set

METRICS = {
    "ssim": "SSIM",
    "psnr": "PSNR dB",
    "mse": "MSE",
    "srra": "SRRA %",
    "acc": "ACC %",
    "drop": "ACC lost, points",
}
KINDS = {"transrec": "TransRec", "resrec": "ResRec", "urec": "URec"}
NAMES = {
    "Random (ball)": "Random, ball",
    "Random (walk)": "Random, walk",
    "Laplace": "DP: Laplace noise, no DP guarantee",
    "AdvFace (offline)": "AdvFace offline",
}
LFW_FACES = 7701  # in the 6,000 pairs
PICTURES = {
    "3": "`reconstructions.png` of `python -m experiments.tradeoff`; of faces of nobody: "
    "[docs/demo-reconstructions.png](docs/demo-reconstructions.png)",
    "4": "`tradeoff.png` of the same; LFW: [docs/lfw-tradeoff.png](docs/lfw-tradeoff.png)",
    "5": "`defenses.png` of `python -m experiments.defenses`; of faces of nobody: "
    "[docs/demo-defenses.jpg](docs/demo-defenses.jpg)",
    "6": "`transfer.png` of `python -m experiments.transfer`",
}


def shown(metric: str, value: float, ours: bool = False) -> str:
    """A number as the paper prints it; ours with one digit more where the paper has few."""
    if metric in ("acc", "srra", "drop"):
        return f"{100 * value:.2f}"
    return f"{value:.{ {'ssim': 2, 'psnr': 2, 'mse': 3}[metric] + (ours and metric != 'psnr') }f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table; the first ``left`` columns are text."""
    rule = ["---"] * left + ["---:"] * (len(header) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def _both(number: Number, runs: Sequence[Run], method: str | None = None) -> list[str]:
    """The paper's and ours."""
    ours = [shown(number.metric, o.value, ours=True) for o in answers(number, runs, method)[:1]]
    return [shown(number.metric, number.value), *(ours or ["–"])]


def _numbers(**wanted: Any) -> list[Number]:
    return [n for n in paper.NUMBERS if all(getattr(n, k) == v for k, v in wanted.items())]


def _grid(
    rows: Sequence[tuple[Sequence[str], Sequence[tuple[Number, str | None]]]],
    header: Sequence[str],
    metrics: Sequence[str],
    runs: Sequence[Run],
    more: Sequence[Sequence[str]] = (),
) -> str | None:
    """The paper's numbers and ours, side by side; None when nothing of it is measured.

    rows: how a line begins, under ``header``, and its numbers, under ``metrics``; lines of fewer
    numbers are filled up. more: whole lines below.
    """
    lines, measured = [], False
    for names, numbers in rows:
        cells = [cell for n, method in numbers for cell in _both(n, runs, method)]
        measured |= any(cell != "–" for cell in cells[1::2])
        lines.append([*names, *cells])
    if not measured:
        return None
    full = [*header, *(title for m in metrics for title in (f"{METRICS[m]}, paper", "ours"))]
    filled = [[*line, *["–"] * (len(full) - len(line))] for line in (*lines, *more)]
    return table(full, filled, left=len(header))


def _readings() -> list[tuple[str, str]]:
    """(the paper's method, ours), a line each."""
    return [(theirs, ours) for theirs, readings in OURS.items() for ours in readings]


def table_1(name: Set, runs: Sequence[Run]) -> str | None:
    """SSIM, PSNR, MSE, SRRA by method, and the mean face."""
    rows = [
        (
            [NAMES.get(ours, ours)],
            [(n, ours) for n in _numbers(table="1", method=theirs, set=name)],
        )
        for theirs, ours in _readings()
        if _numbers(table="1", method=theirs)
    ]
    return _grid(rows, ("",), ("ssim", "psnr", "mse", "srra"), runs, _floor(name, runs))


def _floor(name: Set, runs: Sequence[Run]) -> list[list[str]]:
    """The mean face of the run that AdvFace's line is from."""
    (number,) = _numbers(table="1", method="AdvFace", set=name, metric="ssim")
    lines = []
    for ours in answers(number, runs)[:1]:
        for row in ours.run.rows:
            if row["method"].startswith("Mean face") and set_of(row, ours.run) == name:
                cells = [shown(m, row[m], ours=True) for m in ("ssim", "psnr", "mse", "srra")]
                lines.append(["*Mean face (floor)*", *(x for cell in cells for x in ("–", cell))])
    return lines


def table_2(name: Set, runs: Sequence[Run]) -> str | None:
    """ACC by method, and how much of it is lost."""
    rows = []
    (bare,) = _numbers(table="2", method="Unprotected", set=name)
    for theirs, ours in _readings():
        (acc,) = _numbers(table="2", method=theirs, set=name)
        # The paper subtracts for its own method alone; the others' differences are of its numbers.
        lost = acc._replace(table="§5.4", metric="drop", value=bare.value - acc.value)
        rows.append(([NAMES.get(ours, ours)], [(acc, ours), (lost, ours)][: 1 + (acc != bare)]))
    more = []
    (number,) = _numbers(table="2", method="AdvFace", set=name)
    for best in answers(number, runs)[:1]:
        for row in best.run.rows:
            extra = row.get("enrolled_only") or row["method"].startswith("Unprotected (")
            if extra and set_of(row, best.run) == name:
                label = row["method"] + (", enrolled image only" * ("enrolled_only" in row))
                lost = [shown("drop", row["drop"])] if row.get("drop") is not None else ["–"]
                more.append([f"*{label}*", "–", shown("acc", row["acc"]), "–", *lost])
    return _grid(rows, ("",), ("acc", "drop"), runs, more)


def table_3(name: Set, runs: Sequence[Run]) -> str | None:
    """ACC by shadow."""
    rows = [([KINDS[str(n.shadow)]], [(n, None)]) for n in _numbers(table="3", set=name)]
    return _grid(rows, ("S",), ("acc",), runs)


def table_4(name: Set, runs: Sequence[Run]) -> str | None:
    """SSIM and PSNR by shadow and attacker."""
    rows = [
        (
            [KINDS[shadow], KINDS[attacker]],
            [(n, None) for n in _numbers(table="4", shadow=shadow, attacker=attacker, set=name)],
        )
        for shadow in paper.KINDS
        for attacker in paper.KINDS
    ]
    return _grid(rows, ("S", "R"), ("ssim", "psnr"), runs)


def figures() -> str:
    """The paper's figures, and the files that ours are in."""
    lines = [[f"Fig. {n}", what, PICTURES[n]] for n, what in paper.FIGURES.items()]
    text = table(("", "the paper's", "ours"), lines, left=3)
    return text + "\n\nPictures of real people stay where they are made; none is in the repository."


def others(runs: Sequence[Run]) -> list[str]:
    """What has no counterpart in the paper's tables: a section each, where it was measured."""
    parts: list[str] = []
    for title, experiment, build in OTHERS:
        text = [t for run in runs if run.experiment == experiment if (t := build(run))]
        if text:
            parts += [f"## {title}", *text]
    return [*parts, *_time(runs)]


def _ablations(run: Run) -> str:
    keys = ("ssim", "psnr", "acc", "srra", "srra_same_image")
    header = ("", "SSIM", "PSNR dB", "ACC %", "SRRA %", "same image %", "changes")
    lines = [
        [r.get("condition", r["method"]), *_values(r, keys), r.get("ablation", "")]
        for r in run.rows
    ]
    return _of(run, table(header, lines))


def _values(row: Row, keys: Sequence[str]) -> list[str]:
    def one(key: str) -> str:
        value = row.get(key)
        if not isinstance(value, (int, float)):
            return "–" if value is None else str(value)
        known = key.split("_")[0]
        return shown(known, value, ours=True) if known in METRICS else f"{value:g}"

    return [one(key) for key in keys]


def _of(run: Run, text: str) -> str:
    faces = max((r.get("n") or 0 for r in run.rows), default=0)
    return f"{text}\n\n`{run.file}`, {faces:,} faces: `{run.document['command']}`"


def _time(runs: Sequence[Run]) -> list[str]:
    lines = []
    for run in runs:
        rate = run.document.get("notes", {}).get("faces_per_s")
        if run.experiment == "defenses" and rate and run.config.get("preset") == "paper":
            minutes = LFW_FACES / rate / 60
            lines.append(
                [run.document["hardware"], f"{rate:.2f}", f"{minutes:,.0f}", f"`{run.file}`"]
            )
    if not lines:
        return []
    text = table(("hardware", "faces/s", "minutes", "from"), lines)
    return [
        "## Time of a full LFW Table 1",
        f"{text}\n\nAn extrapolation: the {LFW_FACES:,} faces of LFW's 6,000 pairs at the measured "
        "rate of the median batch; compiling (under a minute or two) comes on top.",
    ]


def _decoders(config: Mapping[str, Any], role: str) -> str:
    """The one of that role, or all of them."""
    several = config.get(f"{role}s", ())
    return str(config.get(role) or ", ".join(one["name"] for one in several))


def _spread(run: Run) -> str | None:
    found = run.document.get("notes", {}).get("spread")
    if not found:
        return None

    def cell(metric: str, spread: Mapping[str, Any]) -> str:
        mean, *ends = (shown(metric, x, ours=True) for x in (spread["mean"], *(spread["ci"] or ())))
        return f"{mean} ({' to '.join(ends)})" if ends else mean

    lines = []
    for metric in ("ssim", "psnr", "mse", "acc", "srra"):
        protected, bare = found["protected"][metric], found["unprotected"][metric]
        cells = [bare["over_attackers"], protected["over_shadows"], protected["over_attackers"]]
        lines.append([METRICS[metric], *(cell(metric, of) for of in cells)])
    header = ("", "unprotected, over R", "AdvFace over S, R averaged", "AdvFace over R, S averaged")
    several = f"S: {', '.join(found['shadows'])}; R: {', '.join(found['attackers'])}."
    return _of(run, f"{table(header, lines)}\n\nMean (95 % of Student's t). {several}")


def runs(found: Sequence[Run]) -> str:
    """Every results file, numbered as the ledger refers to it."""
    lines = []
    for number, run in enumerate(found, 1):
        document, config = run.document, run.config
        most = {k: max((r.get(k) or 0 for r in run.rows), default=0) for k in ("n", "pairs")}
        decoders = " → ".join(_decoders(config, role) for role in ("shadow", "attacker"))
        lines.append(
            [
                str(number),
                f"`{run.file}`",
                f"`{document['command']}`",
                f"{most['n']:,}",
                f"{most['pairs']:,}" if most["pairs"] else "–",
                str(config.get("seed", "–")),
                decoders.removeprefix(" → ").removesuffix(" → ") or "–",
                document["hardware"],
                document["date"],
                f"{document.get('seconds', 0) / 60:.1f}",
            ]
        )
    header = ("run", "file", "command", "faces", "pairs", "seed", "S → R", "hardware", "date")
    return table((*header, "min"), lines, left=3)


OTHERS: tuple[tuple[str, str, Callable[[Run], str | None]], ...] = (
    ("Spread over the seeds of S and R", "transfer", _spread),
    ("Ablations: what the paper leaves open", "ablations", _ablations),
)
