"""E, Ψ, protect and decoys as programs that need jax alone, and E as ONNX for clients.

    python -m advface_jax export -o PROGRAMS
    python -m advface_jax export --parts extractor server --client -o PROGRAMS

Prints the sum of each, by which ``advface_jax.export.load`` reads it (docs/exports.md).
"""

from pathlib import Path
from typing import Annotated, Literal

import tyro

from advface_jax import cli, system
from advface_jax.export import client as onnx
from advface_jax.export import programs


def main(
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    weights: str = "facenet-512-q8",
    parts: tuple[
        Literal["extractor", "server", "attacker", "protect", "decoy", "keyed-decoy"], ...
    ] = ("extractor", "server", "protect", "decoy"),
    client: bool = False,
) -> None:
    """Write each part as PART.advface, for CPUs, NVIDIA GPUs and TPUs, with its weights inside.

    Args:
      out: Folder of the files.
      weights: A known name, a checkpoint folder of weights_convert, or module:function.
      parts: What to write.
      client: E as extractor.onnx, too (FaceNet's E; needs onnx).
    """
    cli.folder(out)
    cli.loading(weights)
    loaded = system.load(weights)
    for part in parts:
        path = out / f"{part}.advface"
        _say(path, programs.write(path, part, loaded))
    if client:
        onnx.write_onnx(out / "extractor.onnx", loaded)
        _say(out / "extractor.onnx", "")


def _say(path: Path, sha256: str) -> None:
    size = path.stat().st_size / 1e6
    cli.answer.print(f"{path}  {size:.1f} MB  {sha256}", highlight=False, soft_wrap=True)
