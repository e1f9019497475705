"""One set into tensorflow-datasets' folder: whole or not at all, once."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import tensorflow_datasets as tfds

from advface_jax.data.builders.base import Report, fingerprint
from advface_jax.data.builders.sets import BUILDERS
from advface_jax.data.formats.prepared import open_prepared
from advface_jax.data.records import Source

_STALE = 600  # seconds without a change after which another run's unfinished files are removed


class Prepared(NamedTuple):
    """A finished set, and whether this call made it."""

    folder: Path
    source: Source
    fresh: bool


def prepare(
    name: str,
    path: Path,
    data_dir: Path | None = None,
    protocol: Path | None = None,
    report: Report | None = None,
) -> Prepared:
    """Build the set ``name`` from the user's copy, unless that was done before.

    The folder appears once it is complete; a run that was stopped starts again.

    Args:
      name: A key of BUILDERS.
      path: The user's copy.
      data_dir: Where tensorflow-datasets keeps its sets (default: TFDS_DATA_DIR, else
        ~/tensorflow_datasets); the set gets its own folder in it.
      protocol: The protocol's folder or file, where it is not in ``path``.
      report: Called with (images done, images in all).

    Raises:
      ValueError: the copy is not one of the set, or another copy was prepared there.
    """
    builder_class = BUILDERS[name]
    source = builder_class.gather(path, protocol)
    where = None if data_dir is None else str(data_dir.expanduser())
    kind = {"data_dir": where, "file_format": "array_record"}
    builder = builder_class(source=source, report=report, **kind)
    folder = Path(builder.data_path)
    if folder.exists():
        made_of = (builder.info.metadata or {}).get("fingerprint")  # type: ignore[union-attr]
        if made_of != fingerprint(source):
            what = "holds the set made of other files" if made_of else "is no finished data set"
            raise ValueError(f"{folder} {what}: remove it, or name another folder with -o")
        return Prepared(folder, open_prepared(folder), fresh=False)
    for left in folder.parent.glob(f"incomplete.*_{folder.name}"):  # of a killed run
        newest = max(path.stat().st_mtime for path in (left, *left.rglob("*")))
        if time.time() - newest > _STALE:
            shutil.rmtree(left, ignore_errors=True)
    with (
        tempfile.TemporaryDirectory() as nothing,  # the download manager needs a folder
        contextlib.redirect_stdout(io.StringIO()),  # it prints
    ):
        tfds.disable_progress_bar()
        try:
            config = tfds.download.DownloadConfig(try_download_gcs=False)
            builder.download_and_prepare(download_dir=nothing, download_config=config)
        except RuntimeError as error:  # array_record's, as of a full disk
            raise ValueError(f"{folder} cannot be written: {error}") from error
        finally:
            tfds.enable_progress_bar()
    return Prepared(folder, open_prepared(folder), fresh=True)
