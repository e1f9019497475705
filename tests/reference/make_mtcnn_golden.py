"""Writes tests/goldens/mtcnn.npz: what the PyTorch twin of MTCNN says of made-up pictures.

Run ``python -m reference.make_mtcnn_golden`` as ``make_goldens.py`` says; it takes some seconds.
"""

import numpy as np
import torch

from . import torch_mtcnn, weights
from .cases import GOLDENS, MTCNN_PATCHES, MTCNN_SEED, PHOTOS


def filled(dtype: torch.dtype) -> torch_mtcnn.Weights:
    flat = weights.mtcnn(MTCNN_SEED)
    return {name: torch.from_numpy(value).to(dtype) for name, value in flat.items()}


def networks() -> dict[str, np.ndarray]:
    """Probabilities, moves and landmarks of each network alone, channels last, in float64."""
    w = filled(torch.float64)
    arrays = {}
    for name, shape in MTCNN_PATCHES.items():
        pixels = torch.from_numpy(weights.patches(name, *shape)).double().permute(0, 3, 1, 2)
        parts = getattr(torch_mtcnn, name)(w, (pixels - 127.5) * 0.0078125)
        for part, value in zip(("probability", "moves", "landmarks"), parts, strict=False):
            value = value.movedim(1, -1) if value.ndim == 4 else value
            arrays[f"{name}.{part}"] = value.numpy().astype(np.float32)
    return arrays


def found(name: str, dtype: torch.dtype) -> list[np.ndarray]:
    seed, height, width, thresholds = PHOTOS[name]
    picture = torch.from_numpy(weights.photo(seed, height, width)).permute(2, 0, 1)[None]
    parts = torch_mtcnn.detect(filled(dtype), picture.to(dtype), thresholds)
    return [part.numpy().astype(np.float32) for part in parts]


def main() -> None:
    arrays = networks()
    for name in PHOTOS:
        narrow, wide = found(name, torch.float32), found(name, torch.float64)
        for part, a, b in zip(("boxes", "probabilities", "landmarks"), narrow, wide, strict=True):
            if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=1e-2):
                raise SystemExit(f"{name}: float32 and float64 differ in {part}: take other seeds")
            arrays[f"{name}.{part}"] = a
        print(f"{name}: {len(narrow[0])} boxes")
    np.savez_compressed(GOLDENS / "mtcnn.npz", **arrays)


if __name__ == "__main__":
    with torch.no_grad():
        main()
