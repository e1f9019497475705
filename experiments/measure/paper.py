"""Every number that the paper prints (AdvFace, CVPR 2023): Tables 1 to 4 and §5.4's differences."""

from typing import Literal, NamedTuple, get_args

Set = Literal["lfw", "cfp_fp", "agedb_30"]
SETS: tuple[Set, ...] = get_args(Set)
EPSILON = 0.2  # where the tables are measured
KINDS = ("transrec", "resrec", "urec")  # of S and R, in the order of Tables 3 and 4


class Number(NamedTuple):
    """One printed number. Shares and differences of shares are of 1, as in our rows, not percent.

    table: "1" to "4", or "§5.4" for the two sentences that subtract rows of Table 2.
    method: as the paper calls it, its own being AdvFace and AdvFace (offline).
    shadow, attacker: the kinds of S and R where the table has them; Table 1 and 2 use ResRec.
    metric: ssim, psnr (dB), mse, srra, acc, or drop (of ACC against Unprotected).
    """

    table: str
    method: str
    shadow: str | None
    attacker: str | None
    set: Set
    metric: str
    value: float


# As printed, set after set; SRRA, ACC and differences in percent.
TABLE_1 = {  # SSIM, PSNR, MSE, SRRA; R = S = ResRec
    "Unprotected": (
        (0.93, 27.87, 0.002, 97.40),
        (0.83, 22.89, 0.006, 89.71),
        (0.87, 23.96, 0.005, 84.53),
    ),
    "Random": (
        (0.90, 22.81, 0.005, 94.73),
        (0.79, 20.73, 0.009, 87.26),
        (0.86, 21.68, 0.007, 77.47),
    ),
    "DP": (
        (0.90, 23.12, 0.005, 93.97),
        (0.79, 20.89, 0.009, 84.94),
        (0.86, 21.86, 0.007, 78.07),
    ),
    "DuetFace": (
        (0.85, 20.92, 0.009, 95.17),
        (0.66, 14.38, 0.043, 70.23),
        (0.76, 14.65, 0.040, 87.27),
    ),
    "AdvFace": (
        (0.28, 6.97, 0.206, 4.03),
        (0.23, 5.98, 0.261, 18.43),
        (0.24, 5.85, 0.269, 16.67),
    ),
}
TABLE_2 = {  # ACC
    "Unprotected": (98.13, 93.16, 87.57),
    "Random": (97.20, 91.67, 86.60),
    "DP": (96.27, 90.84, 85.12),
    "DuetFace": (98.02, 84.37, 87.10),
    "AdvFace": (96.43, 90.59, 85.10),
    "AdvFace (offline)": (97.78, 92.04, 86.35),
}
TABLE_3 = {  # ACC by S
    "transrec": (96.53, 90.77, 85.13),
    "resrec": (96.43, 90.59, 85.10),
    "urec": (96.42, 90.13, 84.58),
}
TABLE_4 = {  # by (S, R): SSIM, then PSNR
    ("transrec", "transrec"): ((0.20, 0.16, 0.19), (6.93, 7.40, 5.92)),
    ("transrec", "resrec"): ((0.27, 0.20, 0.23), (6.84, 5.96, 5.59)),
    ("transrec", "urec"): ((0.26, 0.20, 0.22), (7.33, 6.81, 6.14)),
    ("resrec", "transrec"): ((0.23, 0.19, 0.21), (6.90, 7.01, 5.92)),
    ("resrec", "resrec"): ((0.28, 0.23, 0.24), (6.97, 5.98, 5.85)),
    ("resrec", "urec"): ((0.29, 0.24, 0.24), (7.47, 6.70, 6.20)),
    ("urec", "transrec"): ((0.24, 0.20, 0.23), (6.73, 7.36, 5.88)),
    ("urec", "resrec"): ((0.27, 0.21, 0.23), (6.57, 6.17, 5.48)),
    ("urec", "urec"): ((0.28, 0.23, 0.23), (7.01, 6.94, 5.95)),
}
DROPS = {  # §5.4: how far ACC lies below Unprotected's, in points
    "AdvFace": (1.7, 2.57, 2.47),
    "AdvFace (offline)": (0.35, 1.12, 1.22),
}

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


def _share(percent: float) -> float:
    return round(percent / 100, 6)


def _numbers() -> tuple[Number, ...]:
    metrics = ("ssim", "psnr", "mse", "srra")
    found = [
        Number("1", method, "resrec", "resrec", set, metric, value)
        for method, by_set in TABLE_1.items()
        for set, values in zip(SETS, by_set, strict=True)
        for metric, value in zip(metrics, (*values[:3], _share(values[3])), strict=True)
    ]
    for table, metric, rows in (("2", "acc", TABLE_2), ("§5.4", "drop", DROPS)):
        for method, values in rows.items():
            found += [
                Number(table, method, "resrec", None, set, metric, _share(value))
                for set, value in zip(SETS, values, strict=True)
            ]
    found += [
        Number("3", "AdvFace", shadow, None, set, "acc", _share(value))
        for shadow, values in TABLE_3.items()
        for set, value in zip(SETS, values, strict=True)
    ]
    found += [
        Number("4", "AdvFace", shadow, attacker, set, metric, value)
        for (shadow, attacker), both in TABLE_4.items()
        for metric, values in zip(("ssim", "psnr"), both, strict=True)
        for set, value in zip(SETS, values, strict=True)
    ]
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
    """The paper's numbers for a row of ours, by kind of decoder and set; empty where it has none.

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
