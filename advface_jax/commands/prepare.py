"""Face sets into tensorflow-datasets' form: one command a set, from the user's own copy.

    python -m advface_jax prepare casia-webface CASIA-WebFace -o SETS
    python -m advface_jax prepare cfp-fp CROPS --protocol cfp-dataset -o SETS
    python -m advface_jax prepare agedb-30 agedb_30.bin

docs/datasets.md says where the sets come from.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import tyro

from advface_jax import cli
from advface_jax.data.formats import prepared
from advface_jax.data.records import counted


def main(
    name: Annotated[Literal["casia-webface", "cfp-fp", "agedb-30"], tyro.conf.Positional],
    path: Annotated[Path, tyro.conf.Positional],
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    protocol: Path | None = None,
) -> None:
    """Prepare a face set for quick random access, its images as they are and its pairs with them.

    Each image is decoded once; a broken one is left out, counted, and listed in skipped.tsv. A run
    that was stopped starts again, a finished set is not built twice. It is then read as
    'tfds:NAME' or by the folder that is printed. docs/datasets.md says where the sets come from.

    Args:
      name: Which set.
      path: Your copy: the original folder, crops of it that kept the names, or insightface's
        pack (train.rec, cfp_fp.bin, agedb_30.bin).
      out: Where tensorflow-datasets keeps its sets (default: TFDS_DATA_DIR, else
        ~/tensorflow_datasets).
      protocol: The folder (CFP) or .mat file (AgeDB) of the protocol, where it is not in PATH.
    """
    try:
        import array_record  # noqa: F401
        import tensorflow_datasets  # noqa: F401 - which needs no TensorFlow for this
    except ImportError as error:
        raise ValueError(
            f"to prepare a set needs more packages ({error}): pip install tensorflow-datasets "
            "array_record importlib_resources"
        ) from error
    from advface_jax.data.builders.base import lacking
    from advface_jax.data.builders.preparing import prepare

    with cli.bar("images") as bar:
        task = bar.add_task(name, total=0, note="")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        made = prepare(name, path, out, protocol, report)
    faces = made.source
    people = len(set(faces.identities))
    print_ = functools.partial(cli.answer.print, highlight=False, soft_wrap=True, markup=False)
    print_(str(made.folder))
    state = "" if made.fresh else " (prepared before)"
    print_(f"{len(faces):,} images, {people:,} identities, {len(faces.pairs):,} pairs{state}")
    if faces.skipped:
        kinds = counted(reason for _, reason in faces.skipped)
        print_(f"{len(faces.skipped):,} left out ({kinds}): see {prepared.SKIPPED} there")
    if lost := lacking(faces.names, faces.pairs)[0]:
        print_(f"{lost:,} of the pairs need an image that is not there")
