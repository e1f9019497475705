"""Faces into a set of protected features that can be shared (paper, §4.4).

    python -m advface_jax features FACES -o FEATURES
    python -m advface_jax features celeba.zip --listing celeba.tsv --labels original -o FEATURES
    python -m advface_jax features synthetic --limit 32 --epsilon 0.1 -o FEATURES

``advface_jax.data.open_features`` reads the set.
"""

import hashlib
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from advface_jax import cli

NOTICE = (
    "Protected with AdvFace against decoders that do not know of it. Not private against an "
    "attacker who trains a decoder on features protected like these: see the README of "
    "advface_jax. The terms of the photographs' data set hold for these features too."
)


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
    command resumes after the last whole shard.

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
      seed: Of the records' order. By default it is drawn anew and forgotten, since with the order
        and the data set anyone could name the records.
      shard_size: Faces a file, a multiple of --batch.
      workers: Threads that read faces ahead.
    """
    import dataclasses

    import jax
    import jax.numpy as jnp
    import numpy as np

    import advface_jax
    from advface_jax import checks, data
    from advface_jax.data.feature_sets import writing
    from advface_jax.data.listing import parse_where
    from advface_jax.models import decoders

    checks.bound(epsilon)
    checks.positive(batch=batch, shard_size=shard_size, limit=1 if limit is None else limit)
    decoders.named(shadow)
    cli.folder(out)
    chosen = parse_where(where)
    dtype = {"float32": "f32", "bfloat16": "bf16"}.get(dtype, dtype)  # type: ignore[assignment]
    config = advface_jax.ProtectConfig()
    config = config if steps is None else dataclasses.replace(config, steps=steps)
    crops = data.open_faces(faces, listing=listing, where=chosen, limit=limit, resize=resize)
    is_kind = shadow in decoders.KINDS
    models = advface_jax.load(weights)
    file = models.decoder_file(shadow, "shadow") if is_kind else Path(shadow)
    decoder = models.read_decoder(file)
    card = {
        "notice": NOTICE,
        "epsilon": epsilon,
        **dataclasses.asdict(config),
        "weights": models.card["source"],
        "weights_sha256": models.features_sha256,
        "shadow": dataclasses.asdict(decoder.config),
        "shadow_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "versions": {"advface_jax": advface_jax.__version__, "jax": jax.__version__},
    }
    extract = jax.jit(lambda extractor, x: extractor(x.astype(jnp.float32) / 255))
    networks = {"extractor": models.extractor, "shadow": decoder}

    def protect(pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        z = extract(models.extractor, pixels)  # (b, 77, 77, 64)
        how = {"epsilon": epsilon, "config": config, "mask": mask.astype(np.float32)}
        return np.asarray(advface_jax.protect(z, **networks, **how))

    with cli.bar("faces") as bar, jax.default_matmul_precision("highest"):
        task = bar.add_task("protect", total=len(crops), note="compiling")
        began: tuple[float, int] | None = None

        def progress(done: int) -> None:
            nonlocal began
            began = began or (time.monotonic(), done)  # the first call counts an earlier run's
            rate = (done - began[1]) / max(time.monotonic() - began[0], 1e-9)
            bar.update(task, completed=done, note=f"{rate:.2f} faces/s" if rate else "compiling")

        options: dict[str, Any] = {"dtype": dtype, "labels": labels, "names": names, "seed": seed}
        options |= {"batch": batch, "shard_size": shard_size, "workers": workers}
        options |= {"card": card, "progress": progress}
        refused = writing.write_features(out, crops, protect, **options)
    for name, reason in refused[:10]:
        cli.console.print(f"left out: {name}: {reason}", markup=False)
    if len(refused) > 10:
        cli.console.print(f"left out: {len(refused) - 10:,} more")
    written = data.open_features(out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    said = f"{len(written):,} protected features in {out} ({size:,.0f} MB), "
    said += f"{written.card['left_out']:,} faces left out"
    cli.answer.print(said, markup=False, soft_wrap=True)
