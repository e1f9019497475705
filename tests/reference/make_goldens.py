"""Writes tests/goldens/*.npz from the PyTorch twins.

The twins compute in float64, so the goldens are the truth that float32 is measured against.
"""

import argparse

import numpy as np
import torch

from . import weights
from .cases import BATCH, CLASSES, DECODERS, FACENETS, GOLDENS, STATISTICS, sample, signs
from .torch_decoders import build
from .torch_facenet import InceptionResNetV1


def facenet(name: str, dtype: torch.dtype) -> InceptionResNetV1:
    embedding_size, standardization, seed = FACENETS[name]
    network = InceptionResNetV1(embedding_size, standardization, CLASSES)
    flat = weights.fill(seed, weights.facenet_shapes(embedding_size, CLASSES))
    network.load_state_dict({k: torch.from_numpy(v) for k, v in flat.items()}, strict=True)
    return network.eval().to(dtype)


def stages(name: str, dtype: torch.dtype = torch.float64) -> dict[str, np.ndarray]:
    x = torch.from_numpy(weights.images(FACENETS[name][2], BATCH)).to(dtype)
    with torch.no_grad():
        return {key: value.numpy() for key, value in facenet(name, dtype).stages(x).items()}


def reconstructions(name: str, dtype: torch.dtype = torch.float64) -> dict[str, np.ndarray]:
    """S(z) under each kind of batch-norm statistics."""
    kind, size, seed = DECODERS[name]
    decoder = build(kind, **size).load(weights.fill(seed, weights.decoder_shapes(kind, **size)))
    decoder = decoder.to(dtype)
    z = torch.from_numpy(weights.features(seed, BATCH)).to(dtype)
    with torch.no_grad():
        return {mode: decoder.set_statistics(mode)(z).numpy() for mode in STATISTICS}


def first_gradient(name: str, dtype: torch.dtype = torch.float64) -> np.ndarray:
    """Eq. 5 at t = 0: the gradient of ||S(q) - x~||_1 at q = z~, S on statistics of the batch."""
    kind, size, seed = DECODERS[name]
    decoder = build(kind, **size).load(weights.fill(seed, weights.decoder_shapes(kind, **size)))
    decoder = decoder.to(dtype).set_statistics("batch")
    network = facenet("facenet_512", dtype)
    with torch.no_grad():
        x = torch.from_numpy(weights.images(seed, BATCH)).to(dtype)
        x_tilde = decoder(network.extract(x))
        z_tilde = network.extract(x_tilde)
    q = z_tilde.requires_grad_()
    (gradient,) = torch.autograd.grad((decoder(q) - x_tilde).abs().sum(), q)
    return gradient.numpy()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reference.make_goldens",
        description="Write tests/goldens/*.npz. Run it in tests/, in an environment of its own "
        "with `pip install torch==2.13.0 numpy` (the CPU build serves); it takes about a minute. "
        "The tests themselves need no torch.",
    )
    parser.parse_args()
    GOLDENS.mkdir(exist_ok=True)
    for name in FACENETS:
        arrays = {key: sample(value) for key, value in stages(name).items()}
        np.savez_compressed(GOLDENS / f"{name}.npz", **arrays)
    for name in DECODERS:
        arrays = {key: sample(value) for key, value in reconstructions(name).items()}
        gradient = first_gradient(name)
        arrays["gradient"] = sample(gradient)
        arrays["gradient_norm"] = np.asarray(np.linalg.norm(gradient))
        arrays["gradient_signs"] = signs(gradient)
        np.savez_compressed(GOLDENS / f"{name}.npz", **arrays)
    total = sum(path.stat().st_size for path in GOLDENS.glob("*.npz"))
    print(f"{len(FACENETS) + len(DECODERS)} files in {GOLDENS}, {total / 1e6:.2f} MB in all")


if __name__ == "__main__":
    main()
