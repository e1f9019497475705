"""What the goldens hold: the networks, their seeds and how an array is thinned out.

numpy only; the writer (`make_goldens.py`) and the reader (`test_parity.py`) both import it.
"""

import math
from pathlib import Path

import numpy as np

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"
BATCH = 2
CLASSES = 7
STATISTICS = ("running", "batch", "example")
STAGES = (
    *("conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a", "conv2d_4b"),
    *("repeat_1", "mixed_6a", "repeat_2", "mixed_7a", "repeat_3", "block8"),
    *("pool", "bottleneck", "embedding"),
)

# golden name -> (embedding size, standardisation, seed)
FACENETS = {"facenet_512": (512, "fixed", 512), "facenet_128": (128, "whiten", 128)}

# golden name -> (decoder, its size, seed). The first gradient jumps where an output meets its
# target or a ReLU its zero; of 40 seeds tried, these are among the furthest from it in float32.
DECODERS = {
    "transrec": ("transrec", {}, 17),
    "resrec_w32_b1": ("resrec", {"width": 32, "blocks": 1}, 29),
    "resrec_w64_b2": ("resrec", {"width": 64, "blocks": 2}, 3),
    "urec_w32_d2": ("urec", {"width": 32, "depth": 2}, 25),
}


# MTCNN: a seed of the weights, and pictures (seed, height, width) with the thresholds of P, R, O.
# The seeds are such that float64 finds the same boxes: none hangs on the last digit.
MTCNN_SEED = 13
MTCNN_PATCHES = {"pnet": (2, 31, 46), "rnet": (3, 24, 24), "onet": (3, 48, 48)}
PHOTOS = {
    "several_tiles": (1, 150, 203, (0.75, 0.7, 0.5)),
    "one_tile": (2, 64, 47, (0.7, 0.65, 0.45)),
    "square": (3, 90, 90, (0.7, 0.7, 0.5)),
}


def sample(array: np.ndarray) -> np.ndarray:
    """Mean, standard deviation, then every 97th element in NHWC order, float32.

    A stride of 97 shares no factor with a width or a channel count, so it visits all of them.
    """
    flat = np.asarray(array, np.float64).ravel()
    assert math.gcd(97, array.shape[-1]) == 1
    return np.concatenate([[flat.mean(), flat.std()], flat[::97]]).astype(np.float32)


def signs(array: np.ndarray) -> np.ndarray:
    """One bit an element: is it positive?"""
    return np.packbits(np.asarray(array).ravel() > 0)
