"""Inception-ResNet-v1 in PyTorch, the independent twin of the Flax network.

Module names give facenet-pytorch's state-dict names. Padding as in slim: VALID for 1a, 2a,
maxpool 3a, 3b, 4a, 4b and the stride-2 layers of Mixed_6a and Mixed_7a, SAME elsewhere.
Tensors are NCHW; images and the returned stages are NHWC.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .cases import STAGES


class ConvBN(nn.Module):
    def __init__(self, i: int, o: int, k: int | tuple[int, int], stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(o, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Branches(nn.Module):
    """branch0, branch1, … side by side, outputs; each a list of ConvBN's arguments."""

    def __init__(self, *branches):
        super().__init__()
        for i, layers in enumerate(branches):
            chain = [ConvBN(*layer) for layer in layers]
            setattr(self, f"branch{i}", chain[0] if len(chain) == 1 else nn.Sequential(*chain))
        self.n = len(branches)

    def outputs(self, x: Tensor) -> list[Tensor]:
        return [getattr(self, f"branch{i}")(x) for i in range(self.n)]


class Residual(Branches):
    def __init__(self, scale: float, width: int, channels: int, *branches, relu: bool = True):
        super().__init__(*branches)
        self.scale, self.relu = scale, relu
        self.conv2d = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = x + self.scale * self.conv2d(torch.cat(self.outputs(x), dim=1))
        return F.relu(y) if self.relu else y


class Reduction(Branches):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([*self.outputs(x), F.max_pool2d(x, 3, 2)], dim=1)


def block35() -> Residual:
    a, b = (256, 32, 1), (32, 32, 3, 1, 1)
    return Residual(0.17, 96, 256, [a], [a, b], [a, b, b])


def block17() -> Residual:
    a, b, c = (896, 128, 1), (128, 128, (1, 7), 1, (0, 3)), (128, 128, (7, 1), 1, (3, 0))
    return Residual(0.10, 256, 896, [a], [a, b, c])


def block8(scale: float, relu: bool = True) -> Residual:
    a, b, c = (1792, 192, 1), (192, 192, (1, 3), 1, (0, 1)), (192, 192, (3, 1), 1, (1, 0))
    return Residual(scale, 384, 1792, [a], [a, b, c], relu=relu)


class InceptionResNetV1(nn.Module):
    def __init__(self, embedding_size: int = 512, standardization="fixed", classes=None):
        super().__init__()
        self.standardization = standardization
        self.conv2d_1a = ConvBN(3, 32, 3, stride=2)
        self.conv2d_2a = ConvBN(32, 32, 3)
        self.conv2d_2b = ConvBN(32, 64, 3, padding=1)
        self.conv2d_3b = ConvBN(64, 80, 1)
        self.conv2d_4a = ConvBN(80, 192, 3)
        self.conv2d_4b = ConvBN(192, 256, 3, stride=2)
        self.repeat_1 = nn.Sequential(*(block35() for _ in range(5)))
        self.mixed_6a = Reduction(
            [(256, 384, 3, 2)], [(256, 192, 1), (192, 192, 3, 1, 1), (192, 256, 3, 2)]
        )
        self.repeat_2 = nn.Sequential(*(block17() for _ in range(10)))
        self.mixed_7a = Reduction(
            [(896, 256, 1), (256, 384, 3, 2)],
            [(896, 256, 1), (256, 256, 3, 2)],
            [(896, 256, 1), (256, 256, 3, 1, 1), (256, 256, 3, 2)],
        )
        self.repeat_3 = nn.Sequential(*(block8(0.20) for _ in range(5)))
        self.block8 = block8(1.0, relu=False)
        self.last_linear = nn.Linear(1792, embedding_size, bias=False)
        self.last_bn = nn.BatchNorm1d(embedding_size, eps=1e-3)
        self.logits = nn.Linear(embedding_size, classes) if classes else None

    def standardize(self, x: Tensor) -> Tensor:
        """Images in [0, 1] to the scale the weights were trained on."""
        if self.standardization == "fixed":
            return (255 * x - 127.5) / 128
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        std = (x - mean).square().mean(dim=(1, 2, 3), keepdim=True).sqrt()
        return (x - mean) / std.clamp_min(x[0].numel() ** -0.5)

    def extract(self, images: Tensor) -> Tensor:
        """E: images (b, 160, 160, 3) in [0, 1] -> z (b, 77, 77, 64)."""
        x = self.standardize(images.permute(0, 3, 1, 2))
        return self.conv2d_2b(self.conv2d_2a(self.conv2d_1a(x))).permute(0, 2, 3, 1)

    def stages(self, images: Tensor) -> dict[str, Tensor]:
        """Every stage by name, in order, NHWC; `bottleneck` is after its batch norm."""
        out: dict[str, Tensor] = {}
        x = self.standardize(images.permute(0, 3, 1, 2))
        for name in STAGES[: STAGES.index("pool")]:
            x = F.max_pool2d(x, 3, 2) if name == "maxpool_3a" else getattr(self, name)(x)
            out[name] = x.permute(0, 2, 3, 1)
        out["pool"] = x.mean(dim=(2, 3))
        out["bottleneck"] = self.last_bn(self.last_linear(out["pool"]))
        out["embedding"] = F.normalize(out["bottleneck"], dim=1)
        if self.logits is not None:
            out["logits"] = self.logits(out["bottleneck"])
        return out
