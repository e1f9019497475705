"""The paper's numbers on LFW, to stand beside ours (AdvFace, CVPR 2023, Tables 1 to 4)."""

# Table 1 (ResRec against ResRec) and Table 2: SSIM, PSNR, MSE, SRRA, ACC; shares, not percent.
UNPROTECTED = {"ssim": 0.93, "psnr": 27.87, "mse": 0.002, "srra": 0.9740, "acc": 0.9813}
RANDOM = {"ssim": 0.90, "psnr": 22.81, "mse": 0.005, "srra": 0.9473, "acc": 0.9720}
DP = {"ssim": 0.90, "psnr": 23.12, "mse": 0.005, "srra": 0.9397, "acc": 0.9627}
DUETFACE = {"ssim": 0.85, "psnr": 20.92, "mse": 0.009, "srra": 0.9517, "acc": 0.9802}
ADVFACE = {"ssim": 0.28, "psnr": 6.97, "mse": 0.206, "srra": 0.0403, "acc": 0.9643}

# Table 3: ACC at ε = 0.2 by shadow decoder.
ACCURACY = {"transrec": 0.9653, "resrec": 0.9643, "urec": 0.9642}

# Table 4: SSIM, PSNR at ε = 0.2 by (shadow, attacker).
TRANSFER = {
    ("transrec", "transrec"): (0.20, 6.93),
    ("transrec", "resrec"): (0.27, 6.84),
    ("transrec", "urec"): (0.26, 7.33),
    ("resrec", "transrec"): (0.23, 6.90),
    ("resrec", "urec"): (0.29, 7.47),
    ("urec", "transrec"): (0.24, 6.73),
    ("urec", "resrec"): (0.27, 6.57),
    ("urec", "urec"): (0.28, 7.01),
}

EPSILON = 0.2  # where the tables are measured

# Which row of the paper stands beside which defence of ours, and whether that has an ε: the paper's
# one Random row beside either reading of it, its "DP" beside the Laplace noise that it is.
BASELINES = {
    "Unprotected": (UNPROTECTED, False),
    "Random (ball)": (RANDOM, True),
    "Random (walk)": (RANDOM, True),
    "Laplace": (DP, True),
    "DuetFace": (DUETFACE, False),
}


def beside(method: str, epsilon: float | None, shadow: str, attacker: str) -> dict[str, float]:
    """The paper's LFW numbers for a row of ours, by kind of decoder; empty where it has none."""
    numbers, bounded = BASELINES.get(method, ({}, True))
    if bounded and (epsilon is None or abs(epsilon - EPSILON) > 1e-6):
        return {}
    if numbers:
        return numbers if attacker == "resrec" else {"acc": numbers["acc"]}
    if method != "AdvFace":
        return {}
    if (shadow, attacker) == ("resrec", "resrec"):
        return ADVFACE
    numbers = {"acc": ACCURACY[shadow]} if shadow in ACCURACY else {}
    if (shadow, attacker) in TRANSFER:
        ssim, psnr = TRANSFER[shadow, attacker]
        numbers |= {"ssim": ssim, "psnr": psnr}
    return numbers
