"""Every number that the paper prints (AdvFace, CVPR 2023): Tables 1 to 4 and §5.4's differences."""

import csv
from pathlib import Path
from typing import Literal, NamedTuple, cast, get_args

Set = Literal["lfw", "cfp_fp", "agedb_30"]
SETS: tuple[Set, ...] = get_args(Set)
EPSILON = 0.2  # where the tables are measured
KINDS = ("transrec", "resrec", "urec")  # of S and R, in the order of Tables 3 and 4


class Number(NamedTuple):
    """One printed number; shares and differences of shares are of 1, as in our rows, not percent.

    Attributes:
      table: "1" to "4", or "§5.4" for the two sentences that subtract rows of Table 2.
      method: As in the paper, its own being AdvFace and AdvFace (offline).
      shadow, attacker: The kinds of S and R if the table has them; Tables 1 and 2 use ResRec.
      metric: ssim, psnr (dB), mse, srra, acc, or drop (of ACC against Unprotected).
    """

    table: str
    method: str
    shadow: str | None
    attacker: str | None
    set: Set
    metric: str
    value: float


# What the figures show, none of which has printed numbers that the tables lack.
FIGURES = {
    "3": "R's pictures at ε = 0.00 to 0.30",
    "4": "PSNR against ACC at ε = 0.00 to 0.30: a curve without printed numbers, but for the point "
    "ε = 0.2, which Tables 1 and 2 have",
    "5": "R's pictures by method",
    "6": "R's pictures by shadow and attacker",
}

# Which row of the paper stands beside which method of ours, and whether that has an ε: the paper's
# one Random row beside either reading of it, its "DP" beside the Laplace noise that it is.
METHODS = {
    "Unprotected": ("Unprotected", False),
    "Random (ball)": ("Random", True),
    "Random (walk)": ("Random", True),
    "Laplace": ("DP", True),
    "DuetFace": ("DuetFace", False),
    "AdvFace": ("AdvFace", True),
    "AdvFace (offline)": ("AdvFace (offline)", True),
}


def _numbers() -> tuple[Number, ...]:
    """Of ``paper.tsv``, which has shares in percent, as printed."""
    with open(Path(__file__).with_name("paper.tsv"), encoding="utf-8") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    found = []
    for r in rows:
        value = float(r["printed"])
        value = round(value / 100, 6) if r["metric"] in ("srra", "acc", "drop") else value
        decoders = r["shadow"] or None, r["attacker"] or None
        at = cast(Set, r["set"])
        found.append(Number(r["table"], r["method"], *decoders, at, r["metric"], value))
    return tuple(found)


NUMBERS = _numbers()


def of(method: str, set: Set = "lfw") -> dict[str, float]:
    """Tables 1 and 2 of one of the paper's methods, with ResRec for S and R."""
    return {
        n.metric: n.value
        for n in NUMBERS
        if n.table in ("1", "2") and (n.method, n.set) == (method, set)
    }


def beside(
    method: str, epsilon: float | None, shadow: str, attacker: str, set: str = "lfw"
) -> dict[str, float]:
    """The paper's numbers for a row of ours, by kind of decoder and set; empty if it has none.

    Against another attacker than ResRec the paper has ACC alone for the baselines, which no
    attacker changes, and for AdvFace Table 3's ACC and Table 4's SSIM and PSNR.
    """
    theirs, bounded = METHODS.get(method, ("", False))
    if not theirs or set not in SETS:
        return {}
    if bounded and (epsilon is None or abs(epsilon - EPSILON) > 1e-6):
        return {}
    found = of(theirs, set)
    if theirs == "AdvFace (offline)":
        return found if shadow == "resrec" else {}
    if theirs != "AdvFace":
        return found if attacker == "resrec" else {"acc": found["acc"]}
    if (shadow, attacker) == ("resrec", "resrec"):
        return found
    return {
        n.metric: n.value
        for n in NUMBERS
        if n.set == set
        and n.shadow == shadow
        and (n.table == "3" or (n.table == "4" and n.attacker == attacker))
    }
