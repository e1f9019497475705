"""What is exported: E, Ψ, R, ``protect`` and ``protect_decoy`` with any size of batch."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax import export

from advface_jax import checks, networks
from advface_jax.decoy import DEFAULT, DecoyConfig, protect_decoy
from advface_jax.export import artefact
from advface_jax.protect import PAPER, ProtectConfig, protect

if TYPE_CHECKING:
    from advface_jax.system import System

PARTS = ("extractor", "server", "attacker", "protect", "decoy", "keyed-decoy")
PLATFORMS = ("cpu", "cuda", "tpu")
Inputs = dict[str, jax.ShapeDtypeStruct]


def write(
    path: str | os.PathLike[str],
    part: str,
    system: System,
    *,
    shadows: Sequence[Any] = (),
    config: ProtectConfig | DecoyConfig | Mapping[str, Any] | None = None,
) -> str:
    """Write one part of ``system`` as a program for CPUs, NVIDIA GPUs and TPUs, weights inside.

    ======================  ================================================  =================
    part                    takes                                             gives
    ======================  ================================================  =================
    extractor (E)           images (b,s,s,3) in [0,1]                         z
    server (Ψ)              z (b, …)                                          embedding (b,e)
    attacker (R)            z                                                 images (b,s,s,3)
    protect                 z, epsilon                                        stored
    decoy                   z, decoys, epsilon                                stored, cosine
    keyed-decoy             z, decoys, epsilon, pattern, keys (b,2) uint32    stored, cosine
    ======================  ================================================  =================

    ``keys`` are the data (``jax.random.key_data``) of what ``protect_decoy`` takes as ``key``; the
    server that verifies reads max(z + pattern, 0). The networks run in their plain form, the one
    for all platforms: results are the library's up to rounding.

    Args:
      path: the file.
      part: one of ``PARTS``.
      system: whose; its shadow decoder goes into "protect".
      shadows: shadow recognisers of a decoy.
      config: of ``protect`` or ``protect_decoy``; fixed in the program.

    Returns:
      The file's sha256, which ``load`` asks for.

    Raises:
      ValueError: no such part, a config or shadows for a part that takes none, or networks that
        cannot be written for any size of batch.
      ModuleNotFoundError: without flatbuffers (extra ``export``).
    """
    checks.choice(part, "part", PARTS)
    decoy = part in ("decoy", "keyed-decoy")
    if shadows and not decoy:
        raise ValueError(f"got shadows for {part}; wanted them for a decoy alone")
    if config is not None and not (decoy or part == "protect"):
        raise ValueError(f"got a config for {part}; wanted one for protect or a decoy alone")
    network, takes, function, settings = _program(part, system, shadows, config)
    leaves, structure = jax.tree.flatten(network)

    def whole(arrays: tuple[jax.Array, ...], *given: jax.Array) -> Any:
        return function(jax.tree.unflatten(structure, arrays), *given)

    shapes = tuple(jax.ShapeDtypeStruct(x.shape, x.dtype) for x in leaves)
    try:
        exported = export.export(jax.jit(whole), platforms=PLATFORMS)(shapes, *takes.values())
    except Exception as error:  # somebody else's network may raise anything
        raise ValueError(
            f"{part} of {system.card['source']} cannot be written for any size of batch "
            f"({str(error).splitlines()[0]}): use shapes by x.shape and -1 in it, not by numbers"
        ) from error
    names = {"protect": ["stored"], "decoy": ["stored", "cosine"]}
    names |= {"keyed-decoy": names["decoy"], "server": ["embedding"], "attacker": ["images"]}
    gives = zip(names.get(part, ["z"]), exported.out_avals, strict=True)
    card = {
        "part": part,
        "weights": system.card["source"],
        "weights_sha256": system.card["sha256"],
        "takes": [_described(name, x) for name, x in takes.items()],
        "gives": [_described(name, x) for name, x in gives],
        "settings": settings,
        "versions": {"jax": jax.__version__},
    }
    data = artefact.pack(card, exported, leaves)
    artefact.save(path, data)
    return artefact.stated(data)


def _program(
    part: str, system: System, shadows: Sequence[Any], config: Any
) -> tuple[Any, Inputs, Callable[..., Any], dict[str, Any]]:
    """The networks, what the program takes, what it does with both, and its settings."""
    (b,) = export.symbolic_shape("b")
    s = system.image_size
    images = jax.ShapeDtypeStruct((b, s, s, 3), jnp.float32)
    z = jax.ShapeDtypeStruct((b, *system.feature.shape), system.feature.dtype)
    epsilon = jax.ShapeDtypeStruct((), jnp.float32)
    if part in ("extractor", "server", "attacker"):
        network = networks.network(getattr(system, part), part)
        takes = {"images": images} if part == "extractor" else {"z": z}
        return network, takes, lambda network, x: network(x), {}
    if part == "protect":
        settings = checks.config(config or PAPER, ProtectConfig)
        plain = dataclasses.replace(settings, formulation="plain")
        pair = tuple(networks.network(getattr(system, n), n) for n in ("extractor", "shadow"))
        return (
            pair,
            {"z": z, "epsilon": epsilon},
            lambda two, z, epsilon: protect(
                z, extractor=two[0], shadow=two[1], epsilon=epsilon, config=plain
            ),
            dataclasses.asdict(plain),
        )
    settings = checks.config(config or DEFAULT, DecoyConfig)
    readers = (
        networks.network(system.server, "recogniser"),
        *(networks.network(one, f"shadows[{i}]") for i, one in enumerate(shadows)),
    )
    takes = {"z": z, "decoys": z, "epsilon": epsilon}
    if part == "keyed-decoy":
        takes["pattern"] = jax.ShapeDtypeStruct(z.shape[1:], jnp.float32)
        takes["keys"] = jax.ShapeDtypeStruct((b, 2), jnp.uint32)

    def decoy(readers, z, decoys, epsilon, pattern=None, keys=None):
        key = None if keys is None else jax.random.wrap_key_data(keys, impl="threefry2x32")
        how = {"recogniser": readers[0], "shadows": readers[1:], "pattern": pattern}
        made = protect_decoy(z, decoys, key=key, epsilon=epsilon, config=settings, **how)
        return tuple(made)

    return readers, takes, decoy, dataclasses.asdict(settings)


def _described(name: str, x: Any) -> dict[str, Any]:
    shape = [n if isinstance(n, int) else str(n) for n in x.shape]
    return {"name": name, "shape": shape, "dtype": str(x.dtype)}
