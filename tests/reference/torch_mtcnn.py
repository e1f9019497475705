"""MTCNN in PyTorch, the independent twin: the networks, and the cascade as plainly as can be.

Box arithmetic, thresholds and resampling are those of facenet-pytorch 2.6.0, but a window that
reaches beyond the picture is filled up with 0, as Sandberg's MTCNN does. Pictures are NCHW, weights
come under facenet-pytorch's names, each behind the name of its file.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = dict[str, Tensor]


def layer(w: Weights, name: str, x: Tensor) -> Tensor:
    """A convolution or a dense layer, and the PReLU of the same number if there is one."""
    apply = F.conv2d if ".conv" in name else F.linear
    x = apply(x, w[f"{name}.weight"], w[f"{name}.bias"])
    network, _, last = name.partition(".")
    slope = w.get(f"{network}.prelu{last[-1]}.weight") if "_" not in last else None
    return x if slope is None else F.prelu(x, slope)


def pool(x: Tensor, size: int) -> Tensor:
    return F.max_pool2d(x, size, 2, ceil_mode=True)


def heads(w: Weights, x: Tensor, *names: str) -> list[Tensor]:
    first, *others = (layer(w, name, x) for name in names)
    return [first.softmax(1)[:, 1], *others]


def flat(x: Tensor) -> Tensor:
    return x.permute(0, 3, 2, 1).flatten(1)


def pnet(w: Weights, x: Tensor) -> list[Tensor]:
    """Probability (b,h,w) and moves (b,4,h,w)."""
    x = pool(layer(w, "pnet.conv1", x), 2)
    x = layer(w, "pnet.conv3", layer(w, "pnet.conv2", x))
    return heads(w, x, "pnet.conv4_1", "pnet.conv4_2")


def rnet(w: Weights, x: Tensor) -> list[Tensor]:
    x = pool(layer(w, "rnet.conv1", x), 3)
    x = pool(layer(w, "rnet.conv2", x), 3)
    x = layer(w, "rnet.dense4", flat(layer(w, "rnet.conv3", x)))
    return heads(w, x, "rnet.dense5_1", "rnet.dense5_2")


def onet(w: Weights, x: Tensor) -> list[Tensor]:
    x = pool(layer(w, "onet.conv1", x), 3)
    x = pool(layer(w, "onet.conv2", x), 3)
    x = pool(layer(w, "onet.conv3", x), 2)
    x = layer(w, "onet.dense5", flat(layer(w, "onet.conv4", x)))
    return heads(w, x, "onet.dense6_1", "onet.dense6_2", "onet.dense6_3")


def resized(x: Tensor, height: int, width: int) -> Tensor:
    return (F.interpolate(x, size=(height, width), mode="area") - 127.5) * 0.0078125


def overlap(a: list[float], b: list[float], smaller: bool) -> float:
    one = 1 if smaller else 0
    sides = [min(a[i + 2], b[i + 2]) - max(a[i], b[i]) + one for i in (0, 1)]
    common = max(sides[0], 0) * max(sides[1], 0)
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (a, b)]
    return common / (min(areas) if smaller else sum(areas) - common)


def suppressed(boxes: Tensor, scores: Tensor, threshold: float, smaller: bool = False) -> list[int]:
    kept: list[int] = []
    plain = boxes.tolist()
    for i in scores.argsort(descending=True, stable=True).tolist():
        if all(overlap(plain[i], plain[j], smaller) <= threshold for j in kept):
            kept.append(i)
    return kept


def moved(boxes: Tensor, moves: Tensor, one: int) -> Tensor:
    w, h = boxes[:, 2] - boxes[:, 0] + one, boxes[:, 3] - boxes[:, 1] + one
    return boxes + moves * torch.stack([w, h, w, h], 1)


def squared(boxes: Tensor) -> Tensor:
    w, h = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    side = torch.maximum(w, h)
    x, y = boxes[:, 0] + w * 0.5 - side * 0.5, boxes[:, 1] + h * 0.5 - side * 0.5
    return torch.stack([x, y, x + side, y + side], 1)


def cut_out(picture: Tensor, boxes: Tensor, size: int) -> Tensor:
    height, width = picture.shape[2:]
    patches = []
    for x1, y1, x2, y2 in boxes.trunc().int().tolist():
        part = picture[:, :, max(y1, 1) - 1 : min(y2, height), max(x1, 1) - 1 : min(x2, width)]
        if min(x2, y2) < 1:
            raise ValueError("a box outside the picture, where facenet-pytorch goes astray")
        beyond = (max(1 - x1, 0), max(x2 - width, 0), max(1 - y1, 0), max(y2 - height, 0))
        patches.append(resized(F.pad(part, beyond), size, size))
    return torch.cat(patches)


def detect(w: Weights, picture: Tensor, thresholds: tuple[float, float, float], min_face: int = 20):
    """Boxes (n,4), probabilities (n,), landmarks (n,5,2) of a picture (1,3,h,w) in 0..255."""
    height, width = picture.shape[2:]
    scale = 12.0 / min_face
    least = min(height, width) * scale
    levels = []
    while least >= 12:
        level = resized(picture, int(height * scale + 1), int(width * scale + 1))
        probability, moves = pnet(w, level)
        boxes, scores, steps = [], [], []
        for y, x in (probability[0] >= thresholds[0]).nonzero().tolist():
            corners = torch.tensor([2 * x + 1, 2 * y + 1, 2 * x + 12, 2 * y + 12]).float()
            boxes.append((corners / scale).floor())  # a pixel hangs on its being float32
            scores.append(probability[0, y, x])
            steps.append(moves[0, :, y, x])
        if boxes:
            table, sureness = torch.stack(boxes).to(picture.dtype), torch.stack(scores)
            kept = suppressed(table, sureness, 0.5)
            levels.append((table[kept], sureness[kept], torch.stack(steps)[kept]))
        scale, least = scale * 0.709, least * 0.709
    boxes, scores, moves = map(torch.cat, zip(*levels, strict=True))
    kept = suppressed(boxes, scores, 0.7)
    boxes = squared(moved(boxes[kept], moves[kept], 0))

    scores, moves = rnet(w, cut_out(picture, boxes, 24))
    passed = scores > thresholds[1]
    boxes, scores, moves = boxes[passed], scores[passed], moves[passed]
    kept = suppressed(boxes, scores, 0.7)
    boxes = squared(moved(boxes[kept], moves[kept], 1))

    scores, moves, marks = onet(w, cut_out(picture, boxes, 48))
    passed = scores > thresholds[2]
    boxes, scores, moves, marks = boxes[passed], scores[passed], moves[passed], marks[passed]
    x = marks[:, :5] * (boxes[:, 2] - boxes[:, 0] + 1)[:, None] + boxes[:, :1] - 1
    y = marks[:, 5:] * (boxes[:, 3] - boxes[:, 1] + 1)[:, None] + boxes[:, 1:2] - 1
    boxes = moved(boxes, moves, 1)
    kept = suppressed(boxes, scores, 0.7, smaller=True)
    return boxes[kept], scores[kept], torch.stack([x, y], 2)[kept]
