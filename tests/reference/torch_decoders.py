"""The decoders in PyTorch, those of the benchmark's torch side, with every kind of statistics."""

import functools

import numpy as np
import torch
from torch import Tensor

from experiments.benchmark import peer_torch

Weights = dict[str, Tensor]


def load(flat: dict[str, np.ndarray], dtype: torch.dtype) -> Weights:
    """Weights under the flat names of `weights.decoder_shapes`, kernels as HWIO."""
    return {name: peer_torch.tensor(name, array).to(dtype) for name, array in flat.items()}


def decode(kind: str, w: Weights, z: Tensor, statistics: str) -> Tensor:
    """z (b, 77, 77, 64) to images (b, 160, 160, 3) in [0, 1], both NHWC; inside is NCHW."""
    # The benchmark's own norm has only the batch's statistics, as PyTorch computes them.
    dims = {"running": None, "batch": (0, 2, 3), "example": (2, 3)}[statistics]
    peer_torch.norm = functools.partial(norm, dims=dims)
    return peer_torch.shadow(peer_torch.BODIES[kind], w, z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def norm(w: Weights, name: str, y: Tensor, dims: tuple[int, ...] | None) -> Tensor:
    """Batch norm written out, with the stored statistics or those over ``dims``."""
    parts = ("scale", "bias", "mean", "var")
    scale, bias, mean, var = (w[f"{name}.{part}"].view(1, -1, 1, 1) for part in parts)
    if dims:
        mean = y.mean(dims, keepdim=True)
        var = (y - mean).square().mean(dims, keepdim=True)
    return (y - mean) / (var + 1e-3).sqrt() * scale + bias
