"""Read MTCNN's three networks out of facenet-pytorch's wheel, a zip; nothing is unpacked."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from advface_jax import untrusted
from weights_convert.sources import BadFile, explained, torch_file

MEMBERS = {
    "pnet": "a2a71925e0b9996a42f63e47efc1ca19043e69558b5c523b978d611dfae49c8f",
    "rnet": "bbb937de72efc9ef83b186c49f5f558467a1d7e3453a8ece0d71a886633f6a86",
    "onet": "165bfbe42940416ccfb977545cf0e976d5bf321f67083ae2aaaa5c764280118d",
}
"""The sha256 of each facenet_pytorch/data/NAME.pt."""

LICENCE = "MIT, Copyright (c) 2019 Timothy Esler (facenet-pytorch)"

_MOST = 4 << 20  # bytes of a member, whose sum is known


def member(net: str) -> str:
    """The name of a network's file in the wheel."""
    return f"facenet_pytorch/data/{net}.pt"


def read(path: Path, sums: Mapping[str, str] | None = None) -> dict[str, np.ndarray]:
    """Every tensor of the three networks, as ``pnet.conv1.weight``, if their sums are ``sums``, by
    default MEMBERS."""
    sums = MEMBERS if sums is None else sums
    arrays: dict[str, np.ndarray] = {}
    remedy = "give facenet_pytorch-2.6.0-py3-none-any.whl, or the name mtcnn to fetch it"
    with explained(path, "facenet-pytorch's wheel", remedy), untrusted.open_zip(path) as archive:
        for name in MEMBERS:
            file = member(name)
            data = untrusted.read_member(archive, untrusted.member(archive, file), _MOST)
            found = hashlib.sha256(data).hexdigest()
            if found != sums.get(name):
                raise BadFile(f"{file} in it has sha256 {found}, wanted {sums.get(name)}")
            tensors = torch_file.parse(data, file)
            arrays |= {f"{name}.{key}": tensor for key, tensor in tensors.items()}
    return arrays
