"""Random weights and inputs that both sides of a parity test can make for themselves.

Every array is a pure function of (seed, name, shape), so the goldens hold outputs only. The bits
come straight from the Philox counter and not from numpy's distributions, whose streams may change
between versions.

The two tables of names, `facenet_shapes` and `decoder_shapes`, are the contract: a network that
cannot be filled by exactly these names and shapes is not the network of the goldens.
"""

import hashlib
import math

import numpy as np


def uniform(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float64 array of `shape` in [0, 1), fixed by seed and name."""
    key = int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:16], "little")
    bits = np.random.Philox(key=key).random_raw(math.prod(shape))
    return (bits >> np.uint64(11)).reshape(shape) * 2.0**-53


def draw(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Float32 weights of one tensor; its kind is read from the end of its name.

    Kernels get variance (5/3) / fan-in: He's, less what batch norms add (their 1 / var is 1.1 on
    average), so activations keep their size through all layers.
    PyTorch's `.weight` is (out, in, ...), ours (`.kernel`) is (..., in, out).
    """
    u = uniform(seed, name, shape)
    kind = name.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind in ("var", "running_var", "scale", "size"):
        value = 0.5 + u
    elif kind in ("mean", "running_mean", "bias"):
        value = 0.6 * u - 0.3
    elif "prelu" in name:
        value = 0.5 * u
    elif kind == "weight" and len(shape) == 1:
        value = np.ones(shape)  # slim's batch norm has no gamma; facenet-pytorch stores ones
    elif kind in ("weight", "kernel"):
        fan_in = math.prod(shape[1:] if kind == "weight" else shape[:-1])
        if name.startswith(("up.", "conv_1a.")):
            fan_in /= 4  # a stride-2 transposed kernel: a quarter of its taps meet in one output
        value = (2 * u - 1) * math.sqrt(5 / fan_in)
    else:
        raise ValueError(f"no rule for the tensor {name!r}; name it after its kind")
    return value.astype(np.float32)


def fill(seed: int, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Weights for a whole table of names."""
    return {name: draw(seed, name, shape) for name, shape in shapes.items()}


def images(seed: int, n: int) -> np.ndarray:
    """Float32 (n, 160, 160, 3) in [0, 1]: blocks of colour plus noise, contrast falling with i.

    Plain noise would give every image the same pooled features.
    """
    coarse = uniform(seed, "images.coarse", (n, 8, 8, 3)).repeat(20, 1).repeat(20, 2)
    x = 0.7 * coarse + 0.3 * uniform(seed, "images.fine", (n, 160, 160, 3))
    contrast = 1 / (1 + np.arange(n).reshape(n, 1, 1, 1))
    return (0.5 + (x - 0.5) * contrast).astype(np.float32)


def features(seed: int, n: int) -> np.ndarray:
    """Float32 (n, 77, 77, 64), >= 0 like the output of a ReLU, growing with i.

    Unequal items tell statistics of the batch from statistics of an example.
    """
    coarse = uniform(seed, "features.coarse", (n, 11, 11, 64)).repeat(7, 1).repeat(7, 2)
    z = coarse + uniform(seed, "features.fine", (n, 77, 77, 64)) - 0.8
    return (np.maximum(z, 0) * (1 + np.arange(n).reshape(n, 1, 1, 1))).astype(np.float32)


def facenet_shapes(embedding_size: int, classes: int | None = None) -> dict[str, tuple[int, ...]]:
    """Inception-ResNet-v1 under facenet-pytorch's state-dict names, kernels as OIHW."""
    shapes: dict[str, tuple[int, ...]] = {}

    def bn(name: str, c: int) -> None:
        for part in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{part}"] = (c,)
        shapes[f"{name}.num_batches_tracked"] = ()

    def conv(name: str, i: int, o: int, kh: int, kw: int) -> None:
        shapes[f"{name}.conv.weight"] = (o, i, kh, kw)
        bn(f"{name}.bn", o)

    def block(name: str, i: int, *branches: list[tuple[int, ...]], residual: bool = True) -> None:
        """Layers of (channels, height, width); a residual has a 1x1 convolution behind them."""
        for b, layers in enumerate(branches):
            inputs = [i, *(o for o, _, _ in layers)]
            for n, (o, *size) in enumerate(layers):
                number = f".{n}" if len(layers) > 1 else ""
                conv(f"{name}.branch{b}{number}", inputs[n], o, *size)
        if residual:
            joined = sum(layers[-1][0] for layers in branches)
            shapes[f"{name}.conv2d.weight"] = (i, joined, 1, 1)
            shapes[f"{name}.conv2d.bias"] = (i,)

    conv("conv2d_1a", 3, 32, 3, 3)
    conv("conv2d_2a", 32, 32, 3, 3)
    conv("conv2d_2b", 32, 64, 3, 3)
    conv("conv2d_3b", 64, 80, 1, 1)
    conv("conv2d_4a", 80, 192, 3, 3)
    conv("conv2d_4b", 192, 256, 3, 3)
    a, b = (32, 1, 1), (32, 3, 3)
    for n in range(5):
        block(f"repeat_1.{n}", 256, [a], [a, b], [a, b, b])
    chain = [(192, 1, 1), (192, 3, 3), (256, 3, 3)]
    block("mixed_6a", 256, [(384, 3, 3)], chain, residual=False)
    a, b, c = (128, 1, 1), (128, 1, 7), (128, 7, 1)
    for n in range(10):
        block(f"repeat_2.{n}", 896, [a], [a, b, c])
    a, b = (256, 1, 1), (256, 3, 3)
    block("mixed_7a", 896, [a, (384, 3, 3)], [a, b], [a, b, b], residual=False)
    a, b, c = (192, 1, 1), (192, 1, 3), (192, 3, 1)
    for name in (*(f"repeat_3.{n}" for n in range(5)), "block8"):
        block(name, 1792, [a], [a, b, c])
    shapes["last_linear.weight"] = (embedding_size, 1792)
    bn("last_bn", embedding_size)
    if classes is not None:
        shapes["logits.weight"] = (classes, embedding_size)
        shapes["logits.bias"] = (classes,)
    return shapes


def mtcnn_shapes() -> dict[str, tuple[int, ...]]:
    """MTCNN's three networks under facenet-pytorch's names, each behind the name of its file."""
    layers = {
        "pnet": {"conv1": (10, 3, 3), "conv2": (16, 10, 3), "conv3": (32, 16, 3),
                 "conv4_1": (2, 32, 1), "conv4_2": (4, 32, 1)},
        "rnet": {"conv1": (28, 3, 3), "conv2": (48, 28, 3), "conv3": (64, 48, 2),
                 "dense4": (128, 576), "dense5_1": (2, 128), "dense5_2": (4, 128)},
        "onet": {"conv1": (32, 3, 3), "conv2": (64, 32, 3), "conv3": (64, 64, 3),
                 "conv4": (128, 64, 2), "dense5": (256, 1152), "dense6_1": (2, 256),
                 "dense6_2": (4, 256), "dense6_3": (10, 256)},
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {}
    for network, table in layers.items():
        for name, (o, i, *k) in table.items():
            shapes[f"{network}.{name}.weight"] = (o, i, *k, *k)
            shapes[f"{network}.{name}.bias"] = (o,)
            if "_" not in name:
                shapes[f"{network}.prelu{name[-1]}.weight"] = (o,)
    return shapes


def mtcnn(seed: int) -> dict[str, np.ndarray]:
    """Weights of the three networks that move boxes by a tenth or so, as trained ones do."""
    flat = fill(seed, mtcnn_shapes())
    return {k: v * np.float32(0.1 if "_2." in k else 1) for k, v in flat.items()}


def patches(name: str, n: int, height: int, width: int) -> np.ndarray:
    """Float32 pixels (n, height, width, 3) in 0..255 for a network alone."""
    return (255 * uniform(0, f"patches.{name}", (n, height, width, 3))).astype(np.float32)


def photo(seed: int, height: int, width: int) -> np.ndarray:
    """A uint8 (height, width, 3) picture of flat patches of three sizes, and some noise."""
    picture = 0.1 * uniform(seed, "photo.noise", (height, width, 3))
    for side in (5, 17, 40):
        grid = uniform(seed, f"photo.{side}", (height // side + 1, width // side + 1, 3))
        picture += 0.3 * grid.repeat(side, 0).repeat(side, 1)[:height, :width]
    return (255 * picture).astype(np.uint8)


def decoder_shapes(kind: str, **size: int) -> dict[str, tuple[int, ...]]:
    """`transrec`, `resrec` (width, blocks) or `urec` (width, depth), kernels as HWIO."""
    shapes: dict[str, tuple[int, ...]] = {}

    def conv(name: str, i: int, o: int) -> None:
        shapes[f"{name}.conv.kernel"] = (3, 3, i, o)
        for part in ("scale", "bias", "mean", "var"):
            shapes[f"{name}.bn.{part}"] = (o,)

    w = size.get("width", 32)
    if kind == "transrec":
        conv("conv_2b", 64, w)
    elif kind == "resrec":
        conv("stem", 64, w)
        for n in range(size["blocks"]):
            conv(f"blocks.{n}.0", w, w)
            conv(f"blocks.{n}.1", w, w)
    else:  # urec
        conv("stem", 64, w)
        for level in range(size["depth"]):  # between level and level + 1
            fine, coarse = w * 2**level, w * 2 ** (level + 1)
            conv(f"down.{level}", fine, coarse)
            conv(f"up.{level}", coarse, fine)
            conv(f"merge.{level}", 2 * fine, fine)
    conv("conv_2a", w, w)
    shapes["conv_1a.kernel"] = (3, 3, w, 3)
    shapes["conv_1a.bias"] = (3,)
    return shapes
