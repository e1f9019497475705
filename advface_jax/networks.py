"""What a user gives as E, S or Ψ, in one form: a callable pytree whose leaves are arrays.

``jax.jit`` then takes a network's arrays as arguments: new weights compile nothing, and no weight
is a constant of the program. Flax is not imported here; its modules are known by what they can do.
"""

import dataclasses
import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial

WANTED = (
    "a callable: a Flax NNX module, a pair (Linen module, variables), a callable pytree such as an "
    "Equinox module or jax.tree_util.Partial, or a function"
)


def network(model: Any, name: str) -> Callable[..., Any]:
    """``model`` as a callable pytree of arrays; a model that is one already is returned as it is.

    Args:
      model: a Flax NNX module; a Linen module, bound or in a pair with its variables; any other
        callable pytree (Equinox, ``jax.tree_util.Partial``), whose leaves that are no arrays become
        static; a method of such an object; ``functools.partial``, whose arguments are treated
        likewise; or a function, whose arrays become constants of the compiled program.
      name: what the message calls it.

    Raises:
      ValueError: it cannot be called, or a part that is no array cannot be hashed.
    """
    model = _as_tree(model, name)
    if not callable(model):
        parts = [part for part in ("extractor", "shadow", "server") if hasattr(type(model), part)]
        raise ValueError(
            f"got {name} of type {type(model).__name__}, which cannot be called; wanted "
            + (f"one of its parts: {', '.join('.' + part for part in parts)}" if parts else WANTED)
        )
    leaves, structure = jax.tree.flatten(model)
    static = tuple(None if _is_array(leaf) else leaf for leaf in leaves)
    try:
        hash((structure, static))
    except TypeError as error:
        raise ValueError(
            f"got {name} of type {type(model).__name__} with a part that is neither an array nor "
            f"hashable ({error}); wanted {WANTED}"
        ) from error
    if all(part is None for part in static):
        return model
    return Split(tuple(leaf for leaf in leaves if _is_array(leaf)), structure, static)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Split:
    """A callable pytree: its arrays, and apart from them what is static."""

    arrays: tuple[Any, ...]
    structure: Any = dataclasses.field(metadata={"static": True})
    static: tuple[Any, ...] = dataclasses.field(metadata={"static": True})

    @property
    def whole(self) -> Callable[..., Any]:
        arrays = iter(self.arrays)
        leaves = [next(arrays) if part is None else part for part in self.static]
        return jax.tree.unflatten(self.structure, leaves)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole(*args, **kwargs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Linen:
    """A Flax Linen module with its variables."""

    variables: Any
    module: Any = dataclasses.field(metadata={"static": True})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module.apply(self.variables, *args, **kwargs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Normalised:
    """A user's Ψ, its embeddings brought to length 1."""

    server: Callable[[jax.Array], jax.Array]

    def __call__(self, z: jax.Array) -> jax.Array:
        embeddings = self.server(z)
        if jnp.finfo(embeddings.dtype).bits < 32:  # the squares overflow float16
            embeddings = embeddings.astype(jnp.float32)
        return embeddings / jnp.maximum(jnp.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-6)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Parts:
    """A user's recogniser, Ψ(E(x))."""

    extractor: Callable[[jax.Array], jax.Array]
    server: Callable[[jax.Array], jax.Array]

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.server(self.extractor(images))


def digest(tree: Any) -> str:
    """The sha256 of a pytree's arrays with their places, and of the names of what is static.

    Of a function that is its name alone: ``hidden`` has the arrays that it closes over.
    """
    total = hashlib.sha256(_lasting(str(jax.tree.structure(tree))).encode())
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        total.update(jax.tree_util.keystr(path).encode() + np.asarray(leaf).tobytes())
    return total.hexdigest()


def hidden(network: Callable[..., Any], given: Any) -> bytes:
    """What ``digest`` does not see of a network: the arrays that functions in it close over and,
    where it has no arrays of its own, its program; b"" where there is nothing of this.

    Args:
      network: of ``network``.
      given: the shape and dtype of what it is called with; nothing is computed.
    """
    if not has_functions(network):
        return b""
    # As an argument, so that its own arrays are no constants of the program.
    program = jax.make_jaxpr(lambda network, x: network(x))(network, given)
    text = "" if jax.tree.leaves(network) else _lasting(str(program))
    parts = [text.encode()]
    for constant in _constants(program):
        if jnp.issubdtype(constant.dtype, jax.dtypes.prng_key):
            constant = jax.random.key_data(constant)
        array = np.asarray(constant)
        parts += [f"{array.dtype}{array.shape}".encode(), array.tobytes()]
    return b"".join(parts)


def has_functions(network: Callable[..., Any]) -> bool:
    """Whether a network, of ``network``, is or holds a function, which may close over arrays."""
    return isinstance(network, Split | Partial)


def _constants(program: Any) -> Iterator[Any]:
    """The constants of a jaxpr and of those inside it."""
    yield from getattr(program, "consts", ())
    for equation in program.eqns:
        for part in jax.tree.leaves(equation.params):
            if hasattr(part, "eqns"):
                yield from _constants(part)


def _lasting(text: str) -> str:
    """``text`` without where things lie in memory, which another process has elsewhere."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def decoder(shadow: Callable[..., Any]) -> Callable[[Any, str, Any], Any]:
    """How S is called: (z, statistics, mask) -> image. A decoder without those two parameters is
    called as S(z)."""
    if takes_statistics(shadow):
        return lambda z, statistics, mask: shadow(z, statistics=statistics, mask=mask)
    return lambda z, statistics, mask: shadow(z)


def takes_statistics(shadow: Callable[..., Any]) -> bool:
    """Whether a decoder has the parameters ``statistics`` and ``mask``."""
    inside = shadow.whole if isinstance(shadow, Split) else shadow
    inside = inside.module.__call__ if isinstance(inside, Linen) else inside
    try:
        return {"statistics", "mask"} <= inspect.signature(inside).parameters.keys()
    except (TypeError, ValueError):  # a callable written in C has no signature
        return False


@functools.lru_cache(maxsize=64)  # tracing E and S at every call would take 8 ms
def check_fit(structure: Any, shapes: tuple[jax.ShapeDtypeStruct, ...]) -> None:
    """ValueError unless E(S(z)) has z's shape, from the shapes of z and of both networks' arrays.

    Only a fit is remembered: what fails may work with another setting of JAX.
    """
    name, found = "S(z)", ""

    def again(z: jax.Array, *leaves: jax.Array) -> jax.Array:
        nonlocal name, found
        extractor, shadow = jax.tree.unflatten(structure, leaves)
        x_tilde = decoder(shadow)(z, "batch", None)
        shape = getattr(x_tilde, "shape", type(x_tilde).__name__)
        name, found = "E(S(z))", f" (S(z) has shape {shape})"
        return extractor(x_tilde)

    try:
        result = jax.eval_shape(again, *shapes)
        shape = getattr(result, "shape", type(result).__name__)
        got = "" if shape == shapes[0].shape else f"{name} of shape {shape}{found}"
        cause = None
    except Exception as error:  # somebody else's network may raise anything
        got, cause = f"{type(error).__name__} from {name}{found}: {error}", error
    if got:
        raise ValueError(
            f"the extractor and the decoder do not fit z of shape {shapes[0].shape}: got {got}; "
            "wanted E(S(z)) of z's own shape: take both from one advface_jax.load(…), or see "
            "help(advface_jax.protect)"
        ) from cause


def _as_tree(model: Any, name: str) -> Any:
    if type(model) is tuple and len(model) == 2 and _is_linen(model[0]):
        return Linen(model[1], model[0])
    whole: Any = model
    if _is_linen(whole):
        if whole.scope is None:
            raise ValueError(
                f"got {name}={type(model).__name__}(…), a Linen module without its variables; "
                "wanted the pair (module, variables), or module.bind(variables)"
            )
        module, variables = whole.unbind()
        return Linen(variables, module)
    if inspect.ismethod(model) and not jax.tree_util.all_leaves([model.__self__]):
        # As a function its arrays would be constants, even after they have changed.
        return Partial(model.__func__, model.__self__)
    if isinstance(model, functools.partial) and not isinstance(model, Partial):
        return Partial(model.func, *model.args, **model.keywords)
    return model


def _is_linen(model: Any) -> bool:
    return not isinstance(model, type) and all(
        hasattr(model, part) for part in ("apply", "bind", "unbind", "scope")
    )


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, (jax.Array, np.ndarray, jax.ShapeDtypeStruct))
