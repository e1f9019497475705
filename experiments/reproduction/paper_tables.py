"""The paper's tables in RESULTS.md, one function each."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.measure import paper
from experiments.measure.paper import Number, Set
from experiments.measure.results_file import Row, markdown
from experiments.reproduction.ledger import OURS, Run, answers, set_of

READINGS: list[tuple[str, str]] = [(name, ours) for name, some in OURS.items() for ours in some]
Build = Callable[[Set, Sequence[Run]], str | None]

METRICS = {
    "ssim": "SSIM",
    "psnr": "PSNR dB",
    "mse": "MSE",
    "srra": "SRRA %",
    "acc": "ACC %",
    "drop": "ACC lost, points",
}
ROLES = ("shadow", "attacker")
KINDS = {"transrec": "TransRec", "resrec": "ResRec", "urec": "URec"}
NAMES = {
    "Random (ball)": "Random, ball",
    "Random (walk)": "Random, walk",
    "Laplace": "DP: Laplace noise, no DP guarantee",
    "AdvFace (offline)": "AdvFace offline",
}
PICTURES = {
    "3": "`reconstructions.png` of `python -m experiments.tradeoff`; synthetic faces: "
    "[docs/demo-reconstructions.png](docs/demo-reconstructions.png)",
    "4": "`tradeoff.png` of the same; [LFW](docs/lfw-tradeoff.png), "
    "[CFP-FP](docs/cfp-tradeoff.png)",
    "5": "`defenses.png` of `python -m experiments.defenses`; synthetic faces: "
    "[docs/demo-defenses.jpg](docs/demo-defenses.jpg)",
    "6": "`transfer.png` of `python -m experiments.transfer`; synthetic faces: "
    "[docs/demo-transfer.jpg](docs/demo-transfer.jpg)",
}


def shown(metric: str, value: float, ours: bool = False) -> str:
    """A number as the paper prints it; ours with one digit more where the paper has few."""
    if metric in ("acc", "srra", "drop"):
        return f"{100 * value:.2f}"
    return f"{value:.{ {'ssim': 2, 'psnr': 2, 'mse': 3}[metric] + (ours and metric != 'psnr') }f}"


def mean_of(metric: str, spread: Mapping[str, Any]) -> str:
    """The mean over seeds, with its interval if it has one."""
    mean, *ends = (shown(metric, x, ours=True) for x in (spread["mean"], *(spread["ci"] or ())))
    return f"{mean} ({' to '.join(ends)})" if ends else mean


def values(row: Row, keys: Sequence[str]) -> list[str]:
    """Our numbers of a row, or –."""
    found = [(key.split("_")[0], row.get(key)) for key in keys]
    return ["–" if x is None else shown(metric, x, ours=True) for metric, x in found]


def _numbers(**wanted: Any) -> list[Number]:
    return [n for n in paper.NUMBERS if all(getattr(n, k) == v for k, v in wanted.items())]


def _grid(
    rows: Sequence[tuple[Sequence[str], Sequence[tuple[Number, str | None]]]],
    header: Sequence[str],
    metrics: Sequence[str],
    runs: Sequence[Run],
    more: Sequence[Sequence[str]] = (),
) -> str | None:
    """The paper's numbers and ours, side by side; None if none of ours is measured. A row is the
    beginning of a line, under ``header``, and its numbers, two columns for each of ``metrics``;
    ``more`` are whole lines below."""
    lines, behind = [], {}
    for names, numbers in rows:
        lines.append([*names])
        for number, method in numbers:
            ours = answers(number, runs, method)[:1]
            lines[-1] += [shown(number.metric, number.value)]
            lines[-1] += [shown(number.metric, o.value, ours=True) for o in ours] or ["–"]
            for o in ours:
                faces, pairs = int(o.row["n"]), int(o.row["pairs"])
                over = f"{faces:,} faces, {pairs:,} pairs, of which one is {100 / pairs:.2g}"
                behind[runs.index(o.run)] = f"{over} points of ACC"
    if not behind:
        return None
    full = [*header, *(title for m in metrics for title in (f"{METRICS[m]}, paper", "ours"))]
    filled = [[*line, *["–"] * (len(full) - len(line))] for line in (*lines, *more)]
    by = "; ".join(f"run {i + 1}: {over}" for i, over in sorted(behind.items()))
    return f"{markdown(full, filled, left=len(header))}\n\nOurs by {by}."


def table_1(name: Set, runs: Sequence[Run]) -> str | None:
    """SSIM, PSNR, MSE, SRRA by method, and the mean face."""
    rows = [
        ([NAMES.get(ours, ours)], [(n, ours) for n in _numbers(table="1", method=theirs, set=name)])
        for theirs, ours in READINGS
        if _numbers(table="1", method=theirs)
    ]
    return _grid(rows, ("",), ("ssim", "psnr", "mse", "srra"), runs, _alone(name, runs))


def _alone(name: Set, runs: Sequence[Run]) -> list[list[str]]:
    """Rows that the paper does not have, from the run of AdvFace's line; the mean face last."""
    (number,) = _numbers(table="1", method="AdvFace", set=name, metric="ssim")
    lines = []
    for ours in answers(number, runs)[:1]:
        known = {method for _, method in READINGS}
        for row in ours.run.rows:
            other = row["method"] not in known and row.get("ssim") is not None
            if other and set_of(row, ours.run) == name:
                cells = values(row, ("ssim", "psnr", "mse", "srra"))
                lines.append([f"*{row['method']}*", *(x for cell in cells for x in ("–", cell))])
    return lines


def table_2(name: Set, runs: Sequence[Run]) -> str | None:
    """ACC by method, and the loss."""
    rows = []
    (bare,) = _numbers(table="2", method="Unprotected", set=name)
    for theirs, ours in READINGS:
        (acc,) = _numbers(table="2", method=theirs, set=name)
        # The paper prints differences for its own method only; the others are taken from its ACC.
        lost = acc._replace(table="§5.4", metric="drop", value=bare.value - acc.value)
        rows.append(([NAMES.get(ours, ours)], [(acc, ours), (lost, ours)][: 1 + (acc != bare)]))
    more = []
    (number,) = _numbers(table="2", method="AdvFace", set=name)
    for best in answers(number, runs)[:1]:
        for row in best.run.rows:
            extra = row.get("enrolled_only") or row["method"].startswith("Unprotected (")
            if extra and set_of(row, best.run) == name:
                label = row["method"] + (", enrolled image only" * ("enrolled_only" in row))
                acc, lost = values(row, ("acc", "drop"))
                more.append([f"*{label}*", "–", acc, "–", lost])
    return _grid(rows, ("",), ("acc", "drop"), runs, more)


def table_3(name: Set, runs: Sequence[Run]) -> str | None:
    """ACC by shadow."""
    rows = [([KINDS[str(n.shadow)]], [(n, None)]) for n in _numbers(table="3", set=name)]
    return _grid(rows, ("S",), ("acc",), runs)


def table_4(name: Set, runs: Sequence[Run]) -> str | None:
    """SSIM and PSNR by shadow and attacker."""
    rows = []
    for shadow, attacker in itertools.product(paper.KINDS, repeat=2):
        numbers = _numbers(table="4", shadow=shadow, attacker=attacker, set=name)
        rows.append(([KINDS[shadow], KINDS[attacker]], [(n, None) for n in numbers]))
    return _grid(rows, ("S", "R"), ("ssim", "psnr"), runs)


def figures() -> str:
    """The paper's figures, and the files with ours."""
    lines = [[f"Fig. {n}", what, PICTURES[n]] for n, what in paper.FIGURES.items()]
    text = markdown(("", "the paper's", "ours"), lines, left=3)
    return f"{text}\n\nThe repository contains no picture of a real person."


def runs(found: Sequence[Run]) -> str:
    """Every results file, numbered as the ledger refers to it."""
    lines = []
    for number, run in enumerate(found, 1):
        document, config = run.document, run.config
        most = {k: max((r.get(k) or 0 for r in run.rows), default=0) for k in ("n", "pairs")}
        several = {k: config.get(f"{k}s", ()) for k in ROLES}  # a number, of other commands
        named = {
            k: "; ".join(d["name"] for d in v) if isinstance(v, list) else ""
            for k, v in several.items()
        }
        decoders = " → ".join(str(config.get(role) or named[role]) for role in ROLES)
        lines.append(
            [
                str(number),
                f"`{run.file}`",
                f"`{document['command']}`",
                f"{most['n']:,}",
                f"{most['pairs']:,}" if most["pairs"] else "–",
                str(config.get("seed", "–")),
                decoders.removeprefix(" → ").removesuffix(" → ") or "–",
                *(str(config.get(key, "–")) for key in ("weights", "batch")),
                *(document[key] for key in ("hardware", "date")),
                f"{document.get('seconds', 0) / 60:.1f}",
            ]
        )
    header = "run|file|command|faces|pairs|seed|S → R|Ψ|batch|hardware|date|min"
    return markdown(header.split("|"), lines, left=3)
