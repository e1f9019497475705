"""The rule tables: the names of Inception-ResNet-v1's and MTCNN's layers in each kind of source.

Sandberg's TensorFlow names (slim) come first: TFLite keeps them, Keras joins them with underscores.
facenet-pytorch's names are close to the network's own.
"""

from collections.abc import Mapping, Sequence

from weights_convert.rules import Rule, ohwi_to_hwio, oihw_to_hwio, ones, transposed


def _slim_indices(groups: dict[str, str]) -> Mapping[str, object]:
    """Blocks count from 1, the layers of a branch are called 0a, 0b, 0c; ours count from 0."""
    found: dict[str, object] = dict(groups)
    if "block" in groups:
        found["block"] = int(groups["block"]) - 1
    if "step" in groups:
        found["step"] = "abc".index(groups["step"])
    return found


def _slim(
    sep: str, block35: str, block17: str, block8: str, last: str
) -> tuple[dict[str, str], dict[str, str]]:
    """Patterns of slim's words joined by ``sep`` -> paths: of the convolutions with batch norm, and
    of each block's last 1x1 convolution, which has a bias instead."""
    size = r"\dx\d"
    one = rf"Branch_0{sep}Conv2d_1x1"
    chain = rf"{sep}Conv2d_0(?P<step>[abc])_{size}"
    six, seven = f"Mixed_6a{sep}Branch_", f"Mixed_7a{sep}Branch_"
    at_six, at_seven = "server.mixed_6a.branch_", "server.mixed_7a.branch_"
    ab = rf"{sep}Conv2d_0(?P<step>[ab])_{size}"
    layers = {
        rf"Conv2d_(?P<layer>1a|2a|2b)_{size}": "extractor.conv2d_{layer}",
        rf"Conv2d_(?P<layer>3b|4a|4b)_{size}": "server.conv2d_{layer}",
        rf"{six}0{sep}Conv2d_1a_{size}": f"{at_six}0",
        rf"{six}1{ab}": f"{at_six}1.{{step}}",
        rf"{six}1{sep}Conv2d_1a_{size}": f"{at_six}1.2",
        rf"{seven}(?P<branch>[012]){ab}": f"{at_seven}{{branch}}.{{step}}",
        rf"{seven}(?P<branch>[01]){sep}Conv2d_1a_{size}": f"{at_seven}{{branch}}.1",
        rf"{seven}2{sep}Conv2d_1a_{size}": f"{at_seven}2.2",
    }
    ups = {}
    # Keras ports after deepface's call the second branch by its block: Block17_3_Branch_3.
    second = "Branch_(1|(?P=block))"
    for name, path, branches in (
        (rf"{block35}(?P<block>[1-5])", "server.repeat_1.{block}", "Branch_(?P<branch>[12])"),
        (rf"{block17}(?P<block>\d+)", "server.repeat_2.{block}", second),
        (rf"{block8}(?P<block>[1-5])", "server.repeat_3.{block}", second),
        (last, "server.block8", "Branch_1"),
    ):
        branch = "{branch}" if "<branch>" in branches else "1"
        layers[f"{name}{sep}{one}"] = f"{path}.branch_0"
        layers[f"{name}{sep}{branches}{chain}"] = f"{path}.branch_{branch}.{{step}}"
        ups[f"{name}{sep}Conv2d_1x1"] = f"{path}.up"
    return layers, ups


_SLIM = ("/", "Repeat/block35_", "Repeat_1/block17_", "Repeat_2/block8_", "Block8")
_KERAS = ("_", "Block35_", "Block17_", "Block8_", "Block8_6")
_TOP = "InceptionResnetV1/"
_BOTTLENECK = "server.bottleneck"


def _norm(words: Sequence[str], prefix: str, path: str) -> list[Rule]:
    """The values of a batch norm; ``words`` are the source's for bias, mean, var and scale."""
    *kept, scale = words
    places = zip(kept, ("bias", "mean", "var"), strict=True)
    return [
        *(Rule(prefix + word, f"{path}.bn.{ours}", indices=_slim_indices) for word, ours in places),
        Rule(prefix + scale, None, ones, why="batch norm without scale"),
    ]


def _with_norms(
    parts: Sequence[str], top: str, kernel: str, bias: str, norm: str, words: Sequence[str]
) -> list[Rule]:
    """A network with its batch norms intact: ``norm`` joins a layer's name and its batch norm's."""
    rules: list[Rule] = []
    layers, ups = _slim(*parts)
    for pattern, path in layers.items():
        rules.append(Rule(f"{top}{pattern}/{kernel}", f"{path}.conv.kernel", indices=_slim_indices))
        rules += _norm(words, f"{top}{pattern}{norm}/", path)
    for pattern, path in ups.items():
        rules += [
            Rule(f"{top}{pattern}/{kernel}", f"{path}.kernel", indices=_slim_indices),
            Rule(f"{top}{pattern}/{bias}", f"{path}.bias", indices=_slim_indices),
        ]
    rules.append(Rule(f"{top}Bottleneck/{kernel}", f"{_BOTTLENECK}.linear.kernel"))
    return rules + _norm(words, f"{top}Bottleneck{norm}/", _BOTTLENECK)


def tensorflow() -> tuple[Rule, ...]:
    """Sandberg's graph and checkpoint variables."""
    words = ("beta", "moving_mean", "moving_variance", "gamma")
    optimisers = "Adam|Adam_1|RMSProp|RMSProp_1|Adagrad|Adadelta|Adadelta_1|Momentum"
    return (
        *_with_norms(_SLIM, _TOP, "weights", "biases", "/BatchNorm", words),
        Rule("Logits/weights", "logits.kernel"),
        Rule("Logits/biases", "logits.bias"),
        Rule(r".*/ExponentialMovingAverage", None, why="a running copy of training"),
        Rule(rf".*/({optimisers})", None, why="optimiser state"),
        Rule(r"(.*/)?(global_step|beta1_power|beta2_power|centers)", None, why="training's state"),
        Rule(r".*/avg(/biased|/local_step)?", None, why="averages of the losses"),
    )


def keras() -> tuple[Rule, ...]:
    """The Keras port: ``<slim name with underscores>[_BatchNorm]/<variable>``."""
    words = ("beta", "moving_mean", "moving_variance", "gamma")
    return tuple(_with_norms(_KERAS, "", "kernel", "bias", "_BatchNorm", words))


def tflite() -> tuple[Rule, ...]:
    """The 8-bit file: batch norm and residual scales are already inside kernels and biases."""
    rules: list[Rule] = []
    layers, ups = _slim(*_SLIM)
    places = {pattern: f"{path}.conv" for pattern, path in layers.items()}
    for pattern, path in (places | ups).items():
        rules += [
            Rule(f"{_TOP}{pattern}/weights", f"{path}.kernel", ohwi_to_hwio, indices=_slim_indices),
            Rule(f"{_TOP}{pattern}/Conv2D_bias", f"{path}.bias", indices=_slim_indices),
        ]
    return (
        *rules,
        Rule(f"{_TOP}Bottleneck/weights/transpose", f"{_BOTTLENECK}.linear.kernel", transposed),
        Rule(f"{_TOP}Bottleneck/MatMul_bias", f"{_BOTTLENECK}.linear.bias"),
        Rule(f"{_TOP}Bottleneck/BatchNorm/(Reshape/shape|Shape)", None, why="shapes when folded"),
    )


def torch() -> tuple[Rule, ...]:
    """facenet-pytorch's state dict."""
    blocks = r"repeat_[123]\.\d+|mixed_[67]a|block8"
    places = {
        r"(?P<layer>conv2d_(1a|2a|2b))": "extractor.{layer}",
        r"(?P<layer>conv2d_(3b|4a|4b))": "server.{layer}",
        rf"(?P<layer>{blocks})\.branch(?P<branch>\d(\.\d)?)": "server.{layer}.branch_{branch}",
    }
    words = ("bias", "running_mean", "running_var", "weight")
    up = r"(?P<layer>repeat_[123]\.\d+|block8)\.conv2d\."
    rules: list[Rule] = []
    for pattern, path in places.items():
        rules.append(Rule(rf"{pattern}\.conv\.weight", f"{path}.conv.kernel", oihw_to_hwio))
        rules += _norm(words, rf"{pattern}\.bn\.", path)
    return (
        *rules,
        Rule(up + "weight", "server.{layer}.up.kernel", oihw_to_hwio),
        Rule(up + "bias", "server.{layer}.up.bias"),
        Rule(r"last_linear\.weight", f"{_BOTTLENECK}.linear.kernel", transposed),
        *_norm(words, r"last_bn\.", _BOTTLENECK),
        Rule(r"logits\.weight", "logits.kernel", transposed),
        Rule(r"logits\.bias", "logits.bias"),
        Rule(r".*\.num_batches_tracked", None, why="a training counter"),
    )


def mtcnn() -> tuple[Rule, ...]:
    """facenet-pytorch's three state dicts, each under the name of its network."""
    layer = r"(?P<layer>[pro]net\.{}\d(_\d)?)\."
    conv, dense, prelu = (layer.format(name) for name in ("conv", "dense", "prelu"))
    return (
        Rule(conv + "weight", "{layer}.kernel", oihw_to_hwio),
        Rule(dense + "weight", "{layer}.kernel", transposed),
        Rule(layer.format("(conv|dense)") + "bias", "{layer}.bias"),
        Rule(prelu + "weight", "{layer}.slope"),
    )
