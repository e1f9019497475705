"""How alike two images are, and how well embeddings tell people apart (paper, section 5.1)."""

from advface_jax.metrics.images import PSNR_CAP, mse, psnr, ssim
from advface_jax.metrics.verification import (
    Verification,
    squared_distance,
    srra,
    ten_fold_accuracy,
    threshold_at_far,
)

__all__ = [
    "PSNR_CAP",
    "Verification",
    "mse",
    "psnr",
    "squared_distance",
    "srra",
    "ssim",
    "ten_fold_accuracy",
    "threshold_at_far",
]
