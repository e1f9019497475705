"""Writes tests/goldens/tiny_*.pt: a real state dict, in both forms of PyTorch's torch.save."""

from collections import OrderedDict
from pathlib import Path

import torch

GOLDENS = Path(__file__).resolve().parent.parent / "goldens"


def state() -> OrderedDict[str, torch.Tensor]:
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


if __name__ == "__main__":
    GOLDENS.mkdir(exist_ok=True)
    torch.save(state(), GOLDENS / "tiny_zip.pt")
    torch.save(state(), GOLDENS / "tiny_legacy.pt", _use_new_zipfile_serialization=False)
