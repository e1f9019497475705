"""The rule engine: source arrays in, arrays under the network's own paths out, nothing left over.

A conversion is a table of rules. Exactly one rule must match each source key, and each target must
be filled once, with the right shape; otherwise one error names every offender.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_WANTED = "an Inception-ResNet-v1 FaceNet's weights (in a wheel: MTCNN's)"
Shapes = Mapping[str, tuple[int, ...]]


oihw_to_hwio = functools.partial(np.transpose, axes=(2, 3, 1, 0))  # PyTorch's kernels
ohwi_to_hwio = functools.partial(np.transpose, axes=(1, 2, 3, 0))  # TFLite's kernels
transposed = np.transpose  # (out, in) matrices, as PyTorch and TFLite keep them


def ones(array: np.ndarray) -> None:
    """A batch-norm scale, which the network does not have: it must be 1 to be left out."""
    if not np.all(array == 1):
        raise ValueError(
            f"wanted ones, found values from {array.min():g} to {array.max():g}: "
            "this network has no batch-norm scale"
        )


@dataclass(frozen=True)
class Rule:
    """One line of a table.

    ``pattern`` must match a whole source key; its named groups fill ``target``, after ``indices``
    has turned names into list indices. Without a target the key is accepted and left out, for the
    reason ``why``; ``transform`` may still refuse its value.
    """

    pattern: str
    target: str | None
    transform: Callable[[np.ndarray], np.ndarray | None] = np.asarray
    why: str = ""
    indices: Callable[[dict[str, str]], Mapping[str, object]] = dict


def _rename(
    source: Mapping[str, np.ndarray], rules: Sequence[Rule]
) -> tuple[dict[str, np.ndarray], list[str]]:
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    arrays: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    problems: list[str] = []
    for key, value in source.items():
        hits = [(rule, match) for regex, rule in compiled if (match := regex.fullmatch(key))]
        if not hits:
            problems.append(f"{key}: no rule uses it (shape {value.shape})")
            continue
        if len(hits) > 1:
            patterns = ", ".join(repr(rule.pattern) for rule, _ in hits)
            problems.append(f"{key}: matched by {len(hits)} rules ({patterns})")
            continue
        rule, match = hits[0]
        path = rule.target and rule.target.format(**rule.indices(match.groupdict()))
        try:
            changed = rule.transform(value)
        except ValueError as error:  # a transpose of the wrong rank, or not ones
            problems.append(f"{key}: {error} (shape {value.shape})")
            if path is not None:
                origin.setdefault(path, key)
            continue
        if path is None:
            continue
        if path in origin:
            problems.append(f"{path}: filled twice, by {origin[path]} and {key}")
            continue
        origin[path] = key
        if changed is not None:
            arrays[path] = np.ascontiguousarray(changed, dtype=np.float32)
    return arrays, problems


def without_prefix(source: Mapping[str, np.ndarray], anchor: str) -> Mapping[str, np.ndarray]:
    """The arrays without what a wrapper put before all names of the network.

    Such are ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile), ``model.`` (Lightning) and
    ``import/`` (TensorFlow). ``anchor`` is the name of an array that every network has once.

    Raises:
      ValueError: several networks.
    """
    prefixes = [key.removesuffix(anchor) for key in source if key.endswith(anchor)]
    if "" in prefixes or not anchor or not prefixes:
        return source
    if len(prefixes) > 1:
        names = ", ".join(repr(prefix) for prefix in prefixes[:9])
        raise ValueError(f"it holds {len(prefixes)} networks ({names}); save one of them alone")
    return {key.removeprefix(prefixes[0]): array for key, array in source.items()}


def convert(
    source: Mapping[str, np.ndarray],
    rules: Sequence[Rule],
    target_shapes: Shapes | Callable[[Mapping[str, np.ndarray]], Shapes],
) -> dict[str, np.ndarray]:
    """A float32 array for every target path, from arrays by the source's own names.

    Args:
      target_shapes: shape of every target by its dotted path; or a function that derives them from
        the renamed arrays, for sources that determine the network's size.

    Raises:
      ValueError: with every source key that no rule or more than one rule matches, every target
        unfilled or filled twice, every wrong shape, and every array that is not finite.
    """
    arrays, problems = _rename(source, rules)
    if not arrays:
        first = [f"{key} {value.shape}" for key, value in list(source.items())[:4]]
        raise ValueError(
            f"none of its {len(source)} arrays has a name that this network's have (the first are "
            f"{', '.join(first)}); wanted {_WANTED}"
        )
    shapes = target_shapes(arrays) if callable(target_shapes) else target_shapes
    for path, shape in shapes.items():
        if path not in arrays:
            problems.append(f"{path}: nothing fills it (wanted shape {tuple(shape)})")
        elif arrays[path].shape != tuple(shape):
            problems.append(f"{path}: has shape {arrays[path].shape}, wanted {tuple(shape)}")
    for path, array in arrays.items():
        if path not in shapes:
            problems.append(f"{path}: the network has no such place")
        elif not np.isfinite(array).all():
            problems.append(f"{path}: holds NaN or infinite values")
    if problems:
        raise ValueError(
            f"the source does not fit the network ({len(problems)} problems):\n  "
            + "\n  ".join(problems)
            + f"\nGive {_WANTED}."
        )
    return arrays
