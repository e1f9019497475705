"""Faces, photographs or features into protected feature shards, at any scale.

    python -m advface_jax protect FACES -o FEATURES
    python -m advface_jax protect FACES -o FEATURES --dtype int8 --defense ball --dry-run
    python -m advface_jax protect FACES -o FEATURES --engine ray --address auto

docs/bulk.md goes from a laptop to a cluster; ``advface_jax.data.open_features`` reads the set.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from advface_jax import cli, sharding


def main(
    faces: tyro.conf.Positional[str],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])],
    listing: Path | None = None,
    where: tuple[str, ...] = (),
    crop: bool = False,
    resize: bool = False,
    limit: int | None = None,
    defense: str = "advface",
    epsilon: float | None = None,
    steps: int | None = None,
    statistics: Literal["batch", "running", "example"] | None = None,
    weights: str = "facenet-512-q8",
    shadow: str = "resrec",
    dtype: Literal["f32", "bf16", "int8"] = "bf16",
    labels: Literal["none", "pseudonyms", "original"] = "pseudonyms",
    names: bool = False,
    batch: int = 16,
    seed: int | None = None,
    shard_size: int = 256,
    workers: int = 2,
    dry_run: bool = False,
    hosts: str | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
) -> None:
    """Protect a whole set into shards that open_features reads. The same command resumes.

    The set holds no pictures, and by default neither names nor the data set's order nor the words
    of its labels. AdvFace and noise do not protect against an adaptive attacker (README).

    The records follow from the input, the seed and the batch alone, on one kind of device: not from
    workers, hosts, engine or restarts. By default a face's AdvFace depends on the others of its
    batch, as in the paper; --statistics example removes that.

    Args:
      faces: 160×160 crops (a folder or zip of identity/image.jpg, an insightface pack, a prepared
        data set tfds:NAME, or 'synthetic'), photographs with --crop, or a set of features of
        --defense none.
      out: Folder of the set. One process at a time writes it.
      listing: Tab-separated list of the faces, with columns file and identity.
      where: Keep rows of the listing by COLUMN=VALUE, as lfw_lookalike=-
      crop: Find the face in each photograph first, as the command crop does.
      resize: Take square pictures of other sizes too (insightface's have 112×112).
      limit: Use only the first so many.
      defense: advface, none, ball, walk, laplace, duetface, partialface, dctdp, or MODULE:FUNCTION:
        a function of the system that returns a Defense.
      epsilon: The bound on the perturbation, in units of the feature; by default the defence's own.
      steps: AdvFace's iterations; by default the paper's 40. Three hide as much on LFW
        and CFP-FP.
      statistics: Of AdvFace's batch norm: batch (the paper's), running, or example.
      weights: A known name, a checkpoint folder of weights_convert, or MODULE:FUNCTION of a System.
      shadow: The server's S: transrec, resrec, urec, or a .safetensors file of train_decoder.
      dtype: Of the stored numbers: f32 (1.5 MB a face), bf16 (0.76 MB), or int8 with a scale for
        each channel of a face (0.38 MB).
      labels: pseudonyms: a number a person. original: the data set's own labels. none: none.
      names: Keep the files' names and their order. Names reveal people.
      batch: Faces protected together on a device. It changes the result.
      seed: Of the records' order and the defence's draws: a secret, with which anyone who has the
        data set could name the records, and take the noise off again. The finished set does not
        hold it. By default drawn anew and forgotten.
      shard_size: Faces a file, a multiple of --batch.
      workers: Threads that read faces ahead.
      dry_run: Say what it will take (operations, bytes, memory, time) and write nothing.
      hosts: Where several processes share the work: auto (TPU pods, Slurm, Kubernetes), or
        ADDRESS:PORT,COUNT,INDEX.
      engine: local: this process, or those of --hosts. ray: a Ray cluster, an actor a device.
      address: The Ray cluster's, as auto or ray://HOST:10001; by default one on this machine.
    """
    cli.folder(out)
    from advface_jax.bulk.job import Settings
    from advface_jax.data.listing import parse_where
    from advface_jax.protect import PAPER

    asked = {"steps": steps, "statistics": statistics}
    changes = {name: value for name, value in asked.items() if value is not None}
    if changes and defense != "advface":
        raise ValueError(f"got --{next(iter(changes))} for {defense}; it is a setting of advface")
    if engine == "ray" and hosts is not None:
        raise ValueError("got --hosts and --engine ray; wanted one of them")
    if address is not None and engine != "ray":
        raise ValueError(f"got --address {address} without --engine ray; wanted both")
    settings = Settings(
        source=faces,
        out=out,
        listing=listing,
        where=parse_where(where),
        limit=limit,
        resize=resize,
        crop=crop,
        weights=weights,
        shadow=shadow,
        defense=defense,
        epsilon=epsilon,
        config=dataclasses.replace(PAPER, **changes),
        dtype=dtype,
        labels=labels,
        names=names,
        batch=batch,
        seed=seed,
        shard_size=shard_size,
        workers=workers,
    )
    settings.check()
    if hosts is not None:
        sharding.join(hosts)
    from advface_jax.bulk import report

    if dry_run:
        report.tell_estimate(settings)
    elif engine == "ray":
        report.write_by_ray(settings, address)
    else:
        report.write(settings)
