"""Read MTCNN's three networks out of facenet-pytorch's wheel, a zip; nothing is unpacked."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from weights_convert.sources import torch_file

MEMBERS = {
    "pnet": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}
"""The sha256 of each facenet_pytorch/data/NAME.pt."""

LICENCE = "MIT, Copyright (c) 2019 Timothy Esler (facenet-pytorch)"


def read(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of the three networks, as ``pnet.conv1.weight``.

    Raises:
      ValueError: not a zip, no such networks in it, or other ones than facenet-pytorch's.
    """
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for name, wanted in MEMBERS.items():
                member = f"facenet_pytorch/data/{name}.pt"
                data = archive.read(member)
                found = hashlib.sha256(data).hexdigest()
                if found != wanted:
                    raise ValueError(f"{member} in {path.name} has sha256 {found}, wanted {wanted}")
                tensors = torch_file.parse(data, f"{member} in {path.name}")
                arrays |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
    except (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError) as error:
        raise ValueError(
            f"{path} is not facenet-pytorch's wheel, or a damaged one ({error}); give "
            "facenet_pytorch-2.6.0-py3-none-any.whl, or the name mtcnn to fetch it"
        ) from error
    return arrays
