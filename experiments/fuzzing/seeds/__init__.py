"""Small valid files of each format, made here: what the fuzzing damages."""

from __future__ import annotations

import io
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

Files = dict[str, bytes]
"""Names in a folder and contents: one case."""


def written(name: str, write: Callable[[Path], object]) -> Files:
    """All that ``write`` leaves when it writes the file of that name."""
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder) / name)
        found = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def zipped(files: dict[str, bytes], kind: int = zipfile.ZIP_DEFLATED) -> Files:
    """The files as members of a zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return {"w": out.getvalue()}
