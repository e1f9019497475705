"""Our readings where the paper is silent, as numbered notes to the ledger."""

from experiments.measure.paper import Number

WARNING = (
    "**AdvFace does not protect against an adaptive attacker**, who trains the decoder on "
    "protected pairs (MinusFace, CVPR 2024, reports SSIM .85 and PSNR 21.6 dB for this attack). "
    "Everything below is, as in the paper, against an attacker unaware of the protection. It shows "
    "how well the paper is reproduced and is no evidence of privacy. The **mean face** beside the "
    "reconstructions is what an attacker has without any feature: an SSIM below its own means a "
    "destroyed picture, not a private one."
)

READINGS = {
    "bound": "ε bounds the whole perturbation (Eq. 2), an L∞ ball around z~, projected after each "
    "step. Eq. 6 literally bounds each step, and every ε ≥ α would be the same: an ablation.",
    "scale": "Pictures are in [0,1] as in the paper; FaceNet's own standardisation, which its "
    "released weights expect, lies inside the network.",
    "decoder": "The decoders' sizes are in an appendix that is not public. Here ResRec has 16 "
    "channels and one block, TransRec mirrors E with 32, URec has 16, 32 and 64. The shipped S and "
    "R of a kind start from the same weights, unlike an attacker's R: see the spread.",
    "srra": "The paper does not define SRRA. Here R's picture of one image goes through the whole "
    "recogniser and is accepted as *another* image of the same person, at the threshold chosen on "
    "the row's own pairs; the replayed picture is not protected again. (Against the same image, "
    "and at fixed false accept rates: in the results files.)",
    "dp": "DP's sensitivity is not given. Budget 1 and the same bound make Laplace noise of scale "
    "0.2: a noise baseline, no guarantee of differential privacy.",
    "random": "Random has two readings: 40 uniform steps of at most 0.2, kept within 0.2 in total "
    "(ball), or not (walk).",
    "sides": "Both images of a pair are protected.",
    "folds": "Squared distance of normalised embeddings, thresholds 0, 0.01 … 4, ten folds; the "
    "threshold of each is chosen on the other nine.",
    "duetface": "DuetFace's own paper and the AdvFace authors' port of it differ by up to 13 "
    "points, so both cannot be matched. Its networks are trained here as far as hardware allows.",
    "recogniser": "The paper fine-tunes FaceNet on CASIA-WebFace for 100 epochs and trains S "
    "there; that set is not available. Here FaceNet is as released (8-bit weights), S trained on "
    "CelebA A (3,318 faces) and R on CelebA B (3,094 faces of other people).",
    "batch": "S's batch norm takes the statistics of the batch being protected, so a face's result "
    "depends on its batch. The paper does not give its size; here 16, unless the run's row has "
    "another.",
    "offline": "Offline mode retrains Ψ on protected features of CelebA A and its labels, because "
    "CASIA-WebFace is not available; E and the features stay. The learning rate was chosen on the "
    "same held-out people of CelebA A that the training is measured on.",
}
NUMBERED = {name: number for number, name in enumerate(READINGS, 1)}


def notes(number: Number) -> list[int]:
    """The readings behind our value for a number of the paper."""
    mine = number.method.startswith("AdvFace")
    names = ["scale", "recogniser"]
    names += ["bound", "batch"] if mine else []
    names += {"Random": ["random"], "DP": ["dp"], "DuetFace": ["duetface"]}.get(number.method, [])
    names += ["offline"] if number.method == "AdvFace (offline)" else []
    if number.metric in ("acc", "drop", "srra"):
        names += ["folds"] + (["sides"] if number.method != "Unprotected" else [])
    if number.metric == "srra":
        names.append("srra")
    if number.metric not in ("acc", "drop") or mine:
        names.append("decoder")
    return sorted({NUMBERED[name] for name in names})
