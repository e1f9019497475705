"""Writes tests/goldens/* from the PyTorch twins.

The twins compute in float64, so the goldens are the truth that float32 is measured against.
"""

import argparse
import functools
from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import torch

from . import cases, torch_mtcnn, weights
from .torch_decoders import decode, load
from .torch_facenet import InceptionResNetV1


def facenet(name: str) -> InceptionResNetV1:
    embedding_size, standardization, seed = cases.FACENETS[name]
    network = InceptionResNetV1(embedding_size, standardization, cases.CLASSES)
    flat = weights.fill(seed, weights.facenet_shapes(embedding_size, cases.CLASSES))
    network.load_state_dict({k: torch.from_numpy(v) for k, v in flat.items()}, strict=True)
    return network.eval().double()


def stages(name: str) -> dict[str, np.ndarray]:
    x = torch.from_numpy(weights.images(cases.FACENETS[name][2], cases.BATCH)).double()
    with torch.no_grad():
        return {key: value.numpy() for key, value in facenet(name).stages(x).items()}


def decoder(name: str) -> Callable[[torch.Tensor, str], torch.Tensor]:
    kind, size, seed = cases.DECODERS[name]
    flat = weights.fill(seed, weights.decoder_shapes(kind, **size))
    return functools.partial(decode, kind, load(flat, torch.float64))


def reconstructions(name: str) -> dict[str, np.ndarray]:
    """S(z) under each kind of batch-norm statistics."""
    z = torch.from_numpy(weights.features(cases.DECODERS[name][2], cases.BATCH)).double()
    shadow = decoder(name)
    return {mode: shadow(z, mode).numpy() for mode in cases.STATISTICS}


def first_gradient(name: str) -> np.ndarray:
    """Eq. 5 at t = 0: the gradient of ||S(q) - x~||_1 at q = z~, S on statistics of the batch."""
    shadow, network = decoder(name), facenet("facenet_512")
    with torch.no_grad():
        x = torch.from_numpy(weights.images(cases.DECODERS[name][2], cases.BATCH)).double()
        x_tilde = shadow(network.extract(x), "batch")
        z_tilde = network.extract(x_tilde)
    q = z_tilde.requires_grad_()
    (gradient,) = torch.autograd.grad((shadow(q, "batch") - x_tilde).abs().sum(), q)
    return gradient.numpy()


def mtcnn_weights(dtype: torch.dtype) -> torch_mtcnn.Weights:
    flat = weights.mtcnn(cases.MTCNN_SEED)
    return {name: torch.from_numpy(value).to(dtype) for name, value in flat.items()}


@torch.no_grad()
def mtcnn() -> dict[str, np.ndarray]:
    """Each network's probabilities, moves and landmarks, channels last; the faces in each photo."""
    w, arrays = mtcnn_weights(torch.float64), {}
    for name, shape in cases.MTCNN_PATCHES.items():
        pixels = torch.from_numpy(weights.patches(name, *shape)).double().permute(0, 3, 1, 2)
        parts = getattr(torch_mtcnn, name)(w, (pixels - 127.5) * 0.0078125)
        for part, value in zip(("probability", "moves", "landmarks"), parts, strict=False):
            value = value.movedim(1, -1) if value.ndim == 4 else value
            arrays[f"{name}.{part}"] = value.numpy().astype(np.float32)
    for name, (seed, height, width, thresholds) in cases.PHOTOS.items():
        photo = torch.from_numpy(weights.photo(seed, height, width)).permute(2, 0, 1)[None]
        narrow, wide = (
            torch_mtcnn.detect(mtcnn_weights(dtype), photo.to(dtype), thresholds)
            for dtype in (torch.float32, torch.float64)
        )
        for part, a, b in zip(("boxes", "probabilities", "landmarks"), narrow, wide, strict=True):
            if a.shape != b.shape or not np.allclose(a, b, rtol=0, atol=1e-2):
                raise SystemExit(f"{name}: float32 and float64 differ in {part}: take other seeds")
            arrays[f"{name}.{part}"] = a.numpy().astype(np.float32)
    return arrays


def state_dict() -> OrderedDict[str, torch.Tensor]:
    """Two layers with batch norm, a transposed view, two tensors that share one storage."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, bias=False), torch.nn.BatchNorm2d(4))
    values = network.state_dict()
    numbers = torch.arange(12.0)
    values["matrix"] = numbers.reshape(3, 4).T
    values["tail"] = numbers[8:]
    values["half"] = torch.tensor([0.5, -2.0], dtype=torch.float16)
    values["parameter"] = torch.nn.Parameter(torch.tensor([[1.0, 2.0]]))
    return values


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m reference.make_goldens",
        description="Write tests/goldens/*. Run it in tests/ with PYTHONPATH=.., in an environment "
        "of its own with `pip install torch==2.13.0 numpy` (the CPU build serves); it takes about "
        "a minute. The tests themselves need no torch.",
    )
    parser.parse_args()
    cases.GOLDENS.mkdir(exist_ok=True)
    for name in cases.FACENETS:
        arrays = {key: cases.sample(value) for key, value in stages(name).items()}
        np.savez_compressed(cases.GOLDENS / f"{name}.npz", **arrays)
    for name in cases.DECODERS:
        arrays = {key: cases.sample(value) for key, value in reconstructions(name).items()}
        gradient = first_gradient(name)
        arrays["gradient"] = cases.sample(gradient)
        arrays["gradient_norm"] = np.asarray(np.linalg.norm(gradient))
        arrays["gradient_signs"] = cases.signs(gradient)
        np.savez_compressed(cases.GOLDENS / f"{name}.npz", **arrays)
    np.savez_compressed(cases.GOLDENS / "mtcnn.npz", **mtcnn())
    torch.save(state_dict(), cases.GOLDENS / "tiny_zip.pt")  # both forms of torch.save
    torch.save(state_dict(), cases.GOLDENS / "tiny_legacy.pt", _use_new_zipfile_serialization=False)


if __name__ == "__main__":
    main()
