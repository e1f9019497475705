"""How alike two images are, and how well embeddings tell people apart (paper, section 5.1)."""

from advface_jax.metrics.images import PSNR_CAP, mse, psnr, ssim
from advface_jax.metrics.people import Reading, identify, interval_by_person
from advface_jax.metrics.verification import (
    Verification,
    squared_distance,
    srra,
    ten_fold_accuracy,
    threshold_at_far,
)

__all__ = [
    "PSNR_CAP",
    "Reading",
    "Verification",
    "identify",
    "interval_by_person",
    "mse",
    "psnr",
    "squared_distance",
    "srra",
    "ssim",
    "ten_fold_accuracy",
    "threshold_at_far",
]
