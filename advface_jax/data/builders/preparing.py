"""One set into tensorflow-datasets' folder: whole or not at all, once."""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow_datasets as tfds

from advface_jax import lock
from advface_jax.data.builders.base import Report, fingerprint
from advface_jax.data.builders.sets import BUILDERS
from advface_jax.data.formats.prepared import open_prepared
from advface_jax.data.records import Source


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
      ValueError: the copy is not one of the set, another copy was prepared there, or another
        process prepares it now.
    """
    builder_class = BUILDERS[name]
    source = builder_class.gather(path, protocol)
    where = None if data_dir is None else str(data_dir.expanduser())
    kind = {"data_dir": where, "file_format": "array_record"}
    builder = builder_class(source=source, report=report, **kind)
    folder = Path(builder.data_path)
    if folder.exists():
        return _before(builder, folder, source)
    with lock.only_writer(folder.parent):
        if folder.exists():  # by who had the lock before us
            return _before(builder, folder, source)
        for left in folder.parent.glob(f"incomplete.*_{folder.name}"):  # of a killed run
            shutil.rmtree(left, ignore_errors=True)
        _build(builder, folder)
    return Prepared(folder, open_prepared(folder), fresh=True)


def _before(builder: Any, folder: Path, source: Source) -> Prepared:
    """The set that is there; ValueError if it was made of other files."""
    made_of = (builder.info.metadata or {}).get("fingerprint")
    if made_of != fingerprint(source):
        what = "holds the set made of other files" if made_of else "is no finished data set"
        raise ValueError(f"{folder} {what}: remove it, or name another folder with -o")
    return Prepared(folder, open_prepared(folder), fresh=False)


def _build(builder: Any, folder: Path) -> None:
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
