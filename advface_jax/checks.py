"""Argument checks, shared by all public functions: ValueErrors in plain words.

Shapes and dtypes are always checked; values (NaN, range) only of concrete arrays, since they are
unknown inside a caller's own ``jax.jit``.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Config = TypeVar("Config", bound="DataclassInstance")


def images(x: ArrayLike, size: int = 160) -> jax.Array:
    """Float images (b,size,size,3) in [0,1], b ≥ 1, or ValueError."""
    array = _floats(x, "images", (size, size, 3))
    unit_range(array)
    return array


def unit_range(images: jax.Array | np.ndarray) -> None:
    """ValueError unless the values of ``images`` are finite and in [0,1], where they are known."""
    if not _concrete(images):
        return
    # On the host: XLA:CPU's own minimum and maximum miss NaN in large arrays.
    low, high = (float(f(np.asarray(images))) for f in (np.min, np.max))
    if not (low >= -1e-5 and high <= 1 + 1e-5):  # so that NaN is caught too
        raise ValueError(
            f"got images with values from {low:.4g} to {high:.4g}; wanted finite ones in [0, 1]: "
            "divide 0..255 by 255, and look for NaN where they were made"
        )


def features(x: ArrayLike, shape: tuple[int, ...] | None = (77, 77, 64)) -> jax.Array:
    """Finite float features (b, *shape), b ≥ 1, or ValueError. None takes any shape (b, …)."""
    array = _floats(x, "features z", shape)
    if _concrete(array):
        with jax.ensure_compile_time_eval():  # a concrete z inside somebody's jit stays concrete
            finite = bool(jnp.isfinite(array).all())
        if not finite:
            raise ValueError(
                "got features z with NaN or infinite values; wanted finite ones: look at the "
                "images or the file that they came from"
            )
    return array


def epsilon(value: ArrayLike) -> jax.Array:
    """ε ≥ 0, finite, a float32 scalar, or ValueError."""
    array = _numbers(value, "epsilon")
    if array.ndim:
        raise ValueError(
            f"got epsilon of shape {array.shape}; wanted one number: protect_sweep takes several"
        )
    bound(array)
    return array


def bound(epsilon: ArrayLike) -> None:
    """ValueError unless ε, where it is known, is finite and 0 or larger."""
    if _concrete(epsilon) and not 0 <= float(epsilon) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"got epsilon={float(epsilon):g}; wanted a finite bound, 0 or larger")  # type: ignore[arg-type]


def epsilons(values: Sequence[ArrayLike] | ArrayLike) -> jax.Array:
    """Several ε, each as in ``epsilon``: (n_ε,) float32, n_ε ≥ 1, or ValueError."""
    if np.ndim(values) != 1 or not np.size(values):  # type: ignore[arg-type]
        raise ValueError(
            f"got epsilons of shape {np.shape(values)}; wanted a list of one bound or more, as "  # type: ignore[arg-type]
            "[0.0, 0.1, 0.2]"
        )
    return jnp.stack([epsilon(value) for value in values])  # type: ignore[union-attr]


def mask(value: ArrayLike | None, batch: int) -> jax.Array | None:
    """A mask (b,) of real items (1) and padding (0), at least one real, or ValueError."""
    if value is None:
        return None
    array = _numbers(value, "mask")
    if array.shape != (batch,):
        raise ValueError(
            f"got a mask of shape {array.shape}; wanted ({batch},), one entry for each item of z: "
            "1 (or True) for a face, 0 for padding"
        )
    if _concrete(array):
        if not np.isin(np.asarray(array), (0, 1)).all():
            raise ValueError(
                "got a mask with values other than 0 and 1; wanted 1 for a face, 0 for padding"
            )
        if not np.any(np.asarray(array)):
            raise ValueError("got a mask with every item as padding; wanted at least one face")
    return array


def choice(value: object, name: str, wanted: Sequence[str]) -> None:
    """ValueError unless ``value`` is one of the ``wanted`` words."""
    if value not in wanted:
        words = ", ".join(map(repr, wanted[:-1])) + f" or {wanted[-1]!r}"
        raise ValueError(f"got {name}={value!r}; wanted {words}")


def positive(**values: object) -> None:
    """ValueError unless every value is a whole number of 1 or more."""
    for name, value in values.items():
        if not isinstance(value, (int, np.integer)) or value < 1:
            raise ValueError(f"got {name}={value}; wanted a whole number, 1 or more")


def above_zero(**values: float) -> None:
    """ValueError unless every value is positive and finite."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise ValueError(f"got {name}={value}; wanted a positive, finite number")


def between(low: int, high: int, **values: int) -> None:
    """ValueError unless every value is from ``low`` to ``high``."""
    for name, value in values.items():
        if not low <= value <= high:
            raise ValueError(f"got {name}={value}; wanted {low} to {high}")


def whole(name: str, value: Any) -> int:
    """A whole number of 1 or more, also one of NumPy or JAX, as an int, or ValueError."""
    value = plain(value)
    positive(**{name: value})
    return value


def plain(value: Any) -> Any:
    """A scalar of NumPy or JAX as Python's own, which can be hashed; anything else as it is."""
    if isinstance(value, (np.generic, np.ndarray, jax.Array)) and not isinstance(value, Tracer):
        return value.item() if value.ndim == 0 else value
    return value


def config(value: Any, kind: type[Config]) -> Config:
    """A dataclass of settings, also from a dict or from one of its base class, or ValueError."""
    if isinstance(value, kind):
        return value
    names = [field.name for field in dataclasses.fields(kind)]
    wanted = f"wanted a {kind.__name__}, or a dict with some of {', '.join(names)}"
    if dataclasses.is_dataclass(value) and issubclass(kind, type(value)):  # type: ignore[arg-type]
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if not isinstance(value, Mapping):
        raise ValueError(f"got config of type {type(value).__name__}; {wanted}")
    if unknown := [str(name) for name in value if name not in names]:
        raise ValueError(f"got config with {', '.join(unknown)}; {wanted}")
    return kind(**value)


def _numbers(value: ArrayLike, name: str) -> jax.Array:
    if np.iscomplexobj(value):
        raise ValueError(f"got complex numbers as {name}; wanted real ones")
    try:
        with np.errstate(over="ignore"):  # infinity is refused by who wants a finite one
            return jnp.asarray(value, jnp.float32)
    except (TypeError, ValueError):
        raise ValueError(f"got {name}={value!r}; wanted numbers") from None


def _floats(x: ArrayLike, name: str, shape: tuple[int, ...] | None) -> jax.Array:
    array = shaped(x, name, shape)
    # NumPy's default is float64; the dtype of a JAX array was chosen.
    narrow = isinstance(array, np.ndarray) and array.dtype == np.float64
    with np.errstate(over="ignore"):
        return jnp.asarray(array, jnp.float32 if narrow else array.dtype)


def shaped(x: ArrayLike, name: str, shape: tuple[int, ...] | None) -> jax.Array | np.ndarray:
    """``x`` (b, *shape), b ≥ 1, floating, where it lies, or ValueError; None takes any (b, …).

    Its values are not looked at: for a set that goes to the device a batch at a time, each checked.
    """
    array = x if isinstance(x, jax.Array) else np.asarray(x)
    if shape is None and array.ndim < 2:
        raise ValueError(f"got {name} of shape {array.shape}; wanted (b, …), a batch of items")
    if shape is not None and array.shape[1:] != shape:
        raise ValueError(
            f"got {name} of shape {array.shape}; wanted (b, {', '.join(map(str, shape))})"
            + _forgotten(array.shape, shape)
        )
    if array.shape[0] == 0:
        raise ValueError(f"got an empty batch of {name}; wanted at least one")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(
            f"got {name} of dtype {array.dtype}; wanted float32: use .astype('float32'), and for "
            "whole-number pixels divide by 255"
        )
    return array


def _forgotten(got: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """The step that an array of another shape lacks, as the end of a message."""
    item, image = got[1:], len(wanted) == 3 and wanted[-1] == 3
    if got == wanted:
        return ": a single one takes a leading axis, x[None]"
    if len(wanted) == len(item) == 3:
        if item == (wanted[-1], *wanted[:-1]):
            return ": channels come last here, x.transpose(0, 2, 3, 1)"
        if image and item[0] == 3 != item[-1]:
            return ": channels come last here, x.transpose(0, 2, 3, 1), then crops of that size"
        if image and item[-1] == 3:
            return (
                f": faces cropped to {wanted[0]}×{wanted[1]} (`python -m advface_jax crop`), or "
                "crops of another size resized (data.read_faces(…, resize=True))"
            )
        if not image and 3 in (item[0], item[-1]):
            return ": these look like images; the extractor E makes z of them, z = E(images)"
    if not image and len(item) == 1:
        return ": these look like embeddings; z is what E makes, before the server's Ψ"
    return ""


def _concrete(array: ArrayLike) -> bool:
    return not isinstance(array, Tracer)
