"""FaceNet's, SFace's or MTCNN's weights into a checkpoint.

    python -m weights_convert --list
    python -m weights_convert facenet-512-q8 -o weights/facenet-512-q8
    python -m weights_convert mtcnn -o weights/mtcnn
    python -m weights_convert 20180402-114759-vggface2.pt -o weights/vggface2
    python -m weights_convert model-20180402-114759.ckpt-275.index -o weights/sandberg
    python -m weights_convert facenet512_weights.h5 -o weights/deepface
    python -m weights_convert face_recognition_sface_2021dec_int8bq.onnx -o weights/sface

``advface_jax.load`` and --weights then read the folder.
"""

import functools
from pathlib import Path
from typing import Annotated

import jax
import tyro

from advface_jax import checkpoint, cli
from advface_jax.weights import cache_dir, name_of
from weights_convert.conversion import convert_file
from weights_convert.fetch import KNOWN, Standardization, fetch


def listing() -> str:
    """The known names, a line each."""
    return "\n".join(f"  {name:16s}{known.about}" for name, known in KNOWN.items())


def run(
    source: Annotated[str | None, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")] = None,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"], metavar="DIR")] = None,
    standardization: Standardization | None = None,
    list_names: Annotated[bool, tyro.conf.arg(name="list")] = False,
) -> None:
    """Convert weights of FaceNet (Inception-ResNet-v1), of SFace, or of the face detector MTCNN,
    into a checkpoint folder.

    The folder holds the arrays (Orbax) and card.json: source, sha256, date, input convention,
    embedding size. Every array of the source must be used and every place in the network filled; an
    error lists all that are not. Neither PyTorch nor TensorFlow is needed; nothing in a weight file
    is executed.

    Args:
      source: A known name (--list) or a file: facenet-pytorch .pt or .safetensors,
        TensorFlow frozen .pb, TensorFlow checkpoint .index (its .data file beside it), Keras .h5 or
        .keras, 8-bit .tflite, OpenCV's .onnx of SFace, or facenet-pytorch's wheel .whl for MTCNN;
        or the folder that holds it. The contents decide, not the ending. Known names are downloaded
        once into the user's cache folder (ADVFACE_CACHE sets another); the sums of facenet-512-q8,
        facenet-128 and mtcnn are checked, those of vggface2 and casia-webface are not known here:
        the sum found is written into the card.
      out: The checkpoint folder to write; an older checkpoint there is replaced. Without it,
        checkpoints/NAME in the user's cache folder.
      standardization: The input that the weights were trained on: "fixed", (255x - 127.5) / 128, or
        "whiten", each image to mean 0 and deviation 1. A known name needs none. For a file the
        default is fixed, or whiten where the embedding has 128 numbers.
      list_names: Print the known names and stop.
    """
    say = functools.partial(cli.answer.print, markup=False, highlight=False, soft_wrap=True)
    if list_names:
        say(listing())
        return
    if source is None:
        raise ValueError(f"no SOURCE given; give a weight file or one of\n{listing()}")
    if out is not None:
        out = out.expanduser()
        cli.folder(out)
    name = name_of(source, KNOWN)
    known = KNOWN[name] if name else None
    if known:
        say(f"{name}: {known.about}")
    arrays, card = convert_file(
        fetch(name) if name else Path(source),
        source=name or "",
        standardization=standardization or (known.standardization if known else None),
    )
    out = out or cache_dir() / "checkpoints" / Path(card["source"]).stem
    checkpoint.save(out, checkpoint.nest(arrays), card)
    numbers = sum(array.size for array in arrays.values())
    say(f"{len(arrays)} arrays, {numbers:,} numbers\n{card['kind']}, sha256 {card['sha256']}")
    if "licence" in card:
        say(f"licence {card['licence']}")
    else:
        norm = "folded in" if card["folded"] else "intact"
        say(
            f"embedding {card['embedding_size']}, input {card['standardization']}, "
            f"batch norm {norm}, classes {card['classes'] or 'none'}"
        )
    say(f"written to {out}")


def main() -> None:
    jax.config.update("jax_platforms", "cpu")  # whatever JAX_PLATFORMS says: files need no more
    cli.start(run, "weights_convert")


if __name__ == "__main__":
    main()
