"""Where the paper is silent: the reading taken here, as numbered notes to the ledger."""

from experiments.measure.paper import Number

WARNING = (
    "**An attacker who knows that AdvFace is used undoes it**: all it takes is to train the "
    "decoder on protected pairs (MinusFace, CVPR 2024, reports SSIM .85 and PSNR 21.6 dB for such "
    "an attacker). Everything below is, as in the paper, against the attacker who does not know. "
    "It says how well the paper is reproduced; it is no evidence of privacy. Beside each "
    "reconstruction stands the **mean face**, which is what an attacker has without any feature: "
    "an SSIM below its own is a wrecked picture, not yet a private one."
)

READINGS = {
    "bound": "ε bounds the whole perturbation (Eq. 2), an L∞ ball around z~, projected after each "
    "step. Eq. 6 literally bounds a step, by which every ε ≥ α would be the same: an ablation.",
    "scale": "Pictures are in [0,1] as in the paper; FaceNet's own standardisation, which its "
    "released weights expect, lies inside the network.",
    "decoder": "The decoders' sizes are in an appendix that is not public. Here ResRec has 16 "
    "channels and one block, TransRec mirrors E with 32, URec has 16, 32 and 64. The shipped S and "
    "R of a kind began with the same weights, which an attacker would not: see the spread.",
    "srra": "SRRA is undefined. R's picture of one image goes through the whole recogniser and is "
    "accepted as *another* image of the same person, at the threshold that the row's own pairs "
    "choose; what is replayed is not protected in its turn. (Against the very image, and at fixed "
    "false accept rates: in the rows' files.)",
    "dp": "DP's sensitivity is not given. Budget 1 and the same bound make Laplace noise of scale "
    "0.2: a noise baseline, no guarantee of differential privacy.",
    "random": "Random has two readings: 40 uniform steps of at most 0.2, kept within 0.2 in total "
    "(ball), or not (walk).",
    "sides": "Both images of a pair are protected.",
    "folds": "Squared distance of normalised embeddings, thresholds 0, 0.01 … 4, ten folds, each "
    "judged by the threshold that the other nine choose.",
    "duetface": "DuetFace's own paper and the AdvFace authors' port of it differ by up to 13 "
    "points; both cannot be matched. Its networks are trained here as far as hardware allows.",
    "recogniser": "The paper fine-tunes FaceNet on CASIA-WebFace for 100 epochs and trains S "
    "there; that set is not at hand. Here FaceNet is as released (8-bit weights), S is trained on "
    "CelebA A (3,318 faces) and R on CelebA B (3,094 faces of other people).",
    "batch": "S's batch norm takes the statistics of the batch being protected, so that a face's "
    "result depends on its batch, whose size the paper does not say: 16, unless the run says "
    "otherwise.",
    "offline": "Offline mode retrains Ψ on protected features of CelebA A and its labels, since "
    "CASIA-WebFace is not at hand; E and the features stay. The learning rate was chosen on the "
    "same people held out of CelebA A that the training is measured on.",
}
NUMBERED = {name: number for number, name in enumerate(READINGS, 1)}


def notes(number: Number) -> list[int]:
    """The numbers of the readings that a number of the paper was measured under."""
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
