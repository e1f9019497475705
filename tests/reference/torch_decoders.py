"""TransRec, ResRec and URec in PyTorch, the independent twins of the Flax decoders.

All map z (b, 77, 77, 64) to images (b, 160, 160, 3) in [0, 1], both NHWC; inside is NCHW.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BatchNorm(nn.Module):
    """Batch norm whose statistics are stored, of the batch, or of each example."""

    def __init__(self, channels: int):
        super().__init__()
        for name in ("scale", "bias", "mean", "var"):
            self.register_buffer(name, torch.zeros(channels))
        self.statistics = "running"

    def forward(self, x: Tensor) -> Tensor:
        column = (1, -1, 1, 1)
        if self.statistics == "running":
            mean, var = self.mean.view(column), self.var.view(column)
        else:
            dims = {"batch": (0, 2, 3), "example": (2, 3)}[self.statistics]
            mean = x.mean(dim=dims, keepdim=True)
            var = (x - mean).square().mean(dim=dims, keepdim=True)
        return (x - mean) / (var + 1e-3).sqrt() * self.scale.view(column) + self.bias.view(column)


class Conv(nn.Module):
    """3x3 SAME convolution without bias, then batch norm."""

    def __init__(self, i: int, o: int):
        super().__init__()
        self.conv = nn.Conv2d(i, o, 3, padding=1, bias=False)
        self.bn = BatchNorm(o)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class UpConv(nn.Module):
    """3x3 transposed convolution without bias, cropped to `size`, then batch norm."""

    def __init__(self, i: int, o: int, stride: int):
        super().__init__()
        self.conv = nn.ConvTranspose2d(i, o, 3, stride=stride, bias=False)
        self.bn = BatchNorm(o)

    def forward(self, x: Tensor, size: int) -> Tensor:
        return self.bn(self.conv(x)[:, :, :size, :size])


class Decoder(nn.Module):
    """What the three share: the tail that mirrors conv2d_2a and conv2d_1a."""

    def __init__(self, width: int):
        super().__init__()
        self.conv_2a = UpConv(width, width, stride=1)
        self.conv_1a = nn.ConvTranspose2d(width, 3, 3, stride=2)

    def body(self, z: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, z: Tensor) -> Tensor:
        y = self.body(z.permute(0, 3, 1, 2))
        y = F.relu(self.conv_2a(y, 79))
        # E never sees pixel row and column 159, so the last row and column serve them too.
        y = F.pad(y, (0, 1, 0, 1), mode="replicate")
        return torch.sigmoid(self.conv_1a(y)[:, :, :160, :160]).permute(0, 2, 3, 1)

    def set_statistics(self, statistics: str) -> "Decoder":
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.statistics = statistics
        return self

    def load(self, flat: dict[str, np.ndarray]) -> "Decoder":
        """Takes the flat names of `weights.decoder_shapes`, all of them, kernels as HWIO."""
        transposed = {n for n, m in self.named_modules() if isinstance(m, nn.ConvTranspose2d)}
        state = {}
        for name, value in flat.items():
            module, _, part = name.rpartition(".")
            if part == "kernel":
                part = "weight"
                value = value.transpose((2, 3, 0, 1) if module in transposed else (3, 2, 0, 1))
            state[f"{module}.{part}"] = torch.from_numpy(value.copy())
        self.load_state_dict(state, strict=True)
        return self


class TransRec(Decoder):
    """The exact mirror of E."""

    def __init__(self):
        super().__init__(32)
        self.conv_2b = Conv(64, 32)

    def body(self, z: Tensor) -> Tensor:
        return F.relu(self.conv_2b(z))


class ResRec(Decoder):
    def __init__(self, width: int, blocks: int):
        super().__init__(width)
        self.stem = Conv(64, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([Conv(width, width), Conv(width, width)]) for _ in range(blocks)
        )

    def body(self, z: Tensor) -> Tensor:
        x = F.relu(self.stem(z))
        for first, second in self.blocks:
            x = F.relu(x + second(F.relu(first(x))))
        return x


class URec(Decoder):
    def __init__(self, width: int, depth: int):
        super().__init__(width)
        fine = [width * 2**level for level in range(depth)]
        self.stem = Conv(64, width)
        self.down = nn.ModuleList(Conv(c, 2 * c) for c in fine)
        self.up = nn.ModuleList(UpConv(2 * c, c, stride=2) for c in fine)
        self.merge = nn.ModuleList(Conv(2 * c, c) for c in fine)

    def body(self, z: Tensor) -> Tensor:
        x = F.relu(self.stem(z))
        skips = []
        for down in self.down:
            skips.append(x)
            x = F.relu(down(F.max_pool2d(x, 2)))
        for level in reversed(range(len(skips))):
            skip = skips[level]
            x = F.relu(self.up[level](x, skip.shape[-1]))
            x = F.relu(self.merge[level](torch.cat([skip, x], dim=1)))
        return x


def build(kind: str, **size: int) -> Decoder:
    return {"transrec": TransRec, "resrec": ResRec, "urec": URec}[kind](**size)
