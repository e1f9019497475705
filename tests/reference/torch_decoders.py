"""The decoders in PyTorch, those of the benchmark's torch side, with every kind of statistics."""

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
    peer_torch.norm = NORMS[statistics]
    return peer_torch.shadow(peer_torch.BODIES[kind], w, z.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def running(w: Weights, name: str, y: Tensor) -> Tensor:
    """Batch norm with the stored statistics."""
    mean, var = (w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("mean", "var"))
    return scaled(w, name, (y - mean) / (var + 1e-3).sqrt())


def batch(w: Weights, name: str, y: Tensor, dims=(0, 2, 3)) -> Tensor:
    """With those of the batch, written out: the benchmark leaves them to PyTorch."""
    mean = y.mean(dims, keepdim=True)
    var = (y - mean).square().mean(dims, keepdim=True)
    return scaled(w, name, (y - mean) / (var + 1e-3).sqrt())


def example(w: Weights, name: str, y: Tensor) -> Tensor:
    return batch(w, name, y, (2, 3))


def scaled(w: Weights, name: str, y: Tensor) -> Tensor:
    scale, bias = (w[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("scale", "bias"))
    return y * scale + bias


NORMS = {"running": running, "batch": batch, "example": example}
