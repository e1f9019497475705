"""Faces into a set of protected features that can be shared (paper, §4.4).

    python -m advface_jax features FACES -o FEATURES
    python -m advface_jax features celeba.zip --listing celeba.tsv --labels original -o FEATURES
    python -m advface_jax features synthetic --limit 32 --epsilon 0.1 -o FEATURES

``advface_jax.data.open_features`` reads the set.
"""

from pathlib import Path
from typing import Annotated, Literal

import tyro


def main(
    faces: tyro.conf.Positional[str],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    listing: Path | None = None,
    where: tuple[str, ...] = (),
    epsilon: float = 0.2,
    steps: int | None = None,
    weights: str = "facenet-512-q8",
    shadow: str = "resrec",
    dtype: Literal["f32", "bf16", "float32", "bfloat16"] = "bf16",
    labels: Literal["none", "pseudonyms", "original"] = "pseudonyms",
    names: bool = False,
    batch: int = 16,
    limit: int | None = None,
    resize: bool = False,
    seed: int | None = None,
    shard_size: int = 256,
    workers: int = 2,
) -> None:
    """Write a set of protected features that can be shared, and read back with open_features.

    The set holds no pictures, and by default neither names nor the data set's order nor the words
    of its labels. AdvFace does not protect against an adaptive attacker (README). Stopped? The same
    command resumes. This is ``protect`` with AdvFace, which has more settings.

    Args:
      faces: 160×160 crops: a folder or zip of identity/image.jpg, an insightface pack, a prepared
        data set (tfds:NAME), or 'synthetic'.
      out: Folder of the set.
      listing: Tab-separated list of the faces, with columns file and identity.
      where: Keep rows of the listing by COLUMN=VALUE, as lfw_lookalike=-
      epsilon: The bound on the perturbation, in units of the feature.
      steps: PGD iterations; by default the paper's 40.
      weights: A known name or a checkpoint folder of weights_convert.
      shadow: The server's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      dtype: Of the stored numbers: bf16, which is bfloat16 (0.76 MB a face), or f32, which is
        float32 (1.5 MB).
      labels: pseudonyms: a number a person. original: the data set's own labels. none: none.
      names: Keep the files' names and their order. Names reveal people.
      batch: Faces protected together.
      limit: Use only the first so many faces.
      resize: Take square pictures of other sizes too (insightface's have 112×112).
      seed: Of the records' order: a secret, since with the order and the data set anyone could name
        the records. The finished set does not hold it. By default drawn anew and forgotten.
      shard_size: Faces a file, a multiple of --batch.
      workers: Threads that read faces ahead.
    """
    from advface_jax.commands import protect

    protect.main(
        faces,
        out,
        listing=listing,
        where=where,
        resize=resize,
        limit=limit,
        epsilon=epsilon,
        steps=steps,
        weights=weights,
        shadow=shadow,
        dtype={"float32": "f32", "bfloat16": "bf16"}.get(dtype, dtype),  # type: ignore[arg-type]
        labels=labels,
        names=names,
        batch=batch,
        seed=seed,
        shard_size=shard_size,
        workers=workers,
    )
