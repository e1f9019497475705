"""Inception-ResNet-v1 in PyTorch, the independent twin of the Flax network.

Module names give facenet-pytorch's state-dict names. Padding as in slim: VALID for 1a, 2a,
maxpool 3a, 3b, 4a, 4b and the stride-2 layers of Mixed_6a and Mixed_7a, SAME elsewhere.
Tensors are NCHW; images and the returned stages are NHWC.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvBN(nn.Module):
    def __init__(self, i: int, o: int, k: int | tuple[int, int], stride=1, padding=0):
        super().__init__()
        self.conv = nn.Conv2d(i, o, k, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(o, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class Block35(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale
        self.branch0 = ConvBN(256, 32, 1)
        self.branch1 = nn.Sequential(ConvBN(256, 32, 1), ConvBN(32, 32, 3, padding=1))
        self.branch2 = nn.Sequential(
            ConvBN(256, 32, 1), ConvBN(32, 32, 3, padding=1), ConvBN(32, 32, 3, padding=1)
        )
        self.conv2d = nn.Conv2d(96, 256, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat([self.branch0(x), self.branch1(x), self.branch2(x)], dim=1)
        return F.relu(x + self.scale * self.conv2d(branches))


class Block17(nn.Module):
    def __init__(self, scale: float):
        super().__init__()
        self.scale = scale
        self.branch0 = ConvBN(896, 128, 1)
        self.branch1 = nn.Sequential(
            ConvBN(896, 128, 1),
            ConvBN(128, 128, (1, 7), padding=(0, 3)),
            ConvBN(128, 128, (7, 1), padding=(3, 0)),
        )
        self.conv2d = nn.Conv2d(256, 896, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat([self.branch0(x), self.branch1(x)], dim=1)
        return F.relu(x + self.scale * self.conv2d(branches))


class Block8(nn.Module):
    def __init__(self, scale: float, relu: bool = True):
        super().__init__()
        self.scale = scale
        self.relu = relu
        self.branch0 = ConvBN(1792, 192, 1)
        self.branch1 = nn.Sequential(
            ConvBN(1792, 192, 1),
            ConvBN(192, 192, (1, 3), padding=(0, 1)),
            ConvBN(192, 192, (3, 1), padding=(1, 0)),
        )
        self.conv2d = nn.Conv2d(384, 1792, 1)

    def forward(self, x: Tensor) -> Tensor:
        branches = torch.cat([self.branch0(x), self.branch1(x)], dim=1)
        y = x + self.scale * self.conv2d(branches)
        return F.relu(y) if self.relu else y


class Mixed6a(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch0 = ConvBN(256, 384, 3, stride=2)
        self.branch1 = nn.Sequential(
            ConvBN(256, 192, 1), ConvBN(192, 192, 3, padding=1), ConvBN(192, 256, 3, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch0(x), self.branch1(x), F.max_pool2d(x, 3, 2)], dim=1)


class Mixed7a(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch0 = nn.Sequential(ConvBN(896, 256, 1), ConvBN(256, 384, 3, stride=2))
        self.branch1 = nn.Sequential(ConvBN(896, 256, 1), ConvBN(256, 256, 3, stride=2))
        self.branch2 = nn.Sequential(
            ConvBN(896, 256, 1), ConvBN(256, 256, 3, padding=1), ConvBN(256, 256, 3, stride=2)
        )

    def forward(self, x: Tensor) -> Tensor:
        branches = [self.branch0(x), self.branch1(x), self.branch2(x), F.max_pool2d(x, 3, 2)]
        return torch.cat(branches, dim=1)


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
        self.repeat_1 = nn.Sequential(*(Block35(0.17) for _ in range(5)))
        self.mixed_6a = Mixed6a()
        self.repeat_2 = nn.Sequential(*(Block17(0.10) for _ in range(10)))
        self.mixed_7a = Mixed7a()
        self.repeat_3 = nn.Sequential(*(Block8(0.20) for _ in range(5)))
        self.block8 = Block8(1.0, relu=False)
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
        for name in ("conv2d_1a", "conv2d_2a", "conv2d_2b", "maxpool_3a", "conv2d_3b", "conv2d_4a",
                     "conv2d_4b", "repeat_1", "mixed_6a", "repeat_2", "mixed_7a", "repeat_3",
                     "block8"):  # fmt: skip
            x = F.max_pool2d(x, 3, 2) if name == "maxpool_3a" else getattr(self, name)(x)
            out[name] = x.permute(0, 2, 3, 1)
        out["pool"] = x.mean(dim=(2, 3))
        out["bottleneck"] = self.last_bn(self.last_linear(out["pool"]))
        out["embedding"] = F.normalize(out["bottleneck"], dim=1)
        if self.logits is not None:
            out["logits"] = self.logits(out["bottleneck"])
        return out
