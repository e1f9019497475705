"""Which weight file a user means, and what kind it is, by its contents rather than its ending."""

import os
import re
import struct
from pathlib import Path

from advface_jax.untrusted import BadFile, open_file, open_zip
from weights_convert.fetch import KNOWN
from weights_convert.sources import tf_checkpoint

ENDINGS = {  # how files of each kind end
    ".tflite": (".tflite", ".lite"),
    ".pt": (".pt", ".pth", ".pkl", ".bin", ".ckpt", ".tar"),
    ".pb": (".pb",),
    ".index": (".index",),
    ".h5": (".h5", ".hdf5", ".keras"),
    ".safetensors": (".safetensors",),
    ".whl": (".whl",),
    ".onnx": (".onnx",),
}
_KIND_OF = {ending: kind for kind, endings in ENDINGS.items() for ending in endings}
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the first pickle of PyTorch before 1.6
_MOST = 1 << 40  # bytes of a file whose beginning is looked at
_NO_WEIGHTS = (
    (b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself (git lfs pull)"),
    (b"<!doctype", "a web page; the download was answered with one: fetch the file in a browser"),
    (b"<html", "a web page; the download was answered with one: fetch the file in a browser"),
    (b"\x1f\x8b", "a gzip archive; unpack it and give the weight file in it"),
    (b"7z\xbc\xaf", "a 7z archive; unpack it and give the weight file in it"),
    (b"Rar!", "a rar archive; unpack it and give the weight file in it"),
)


def find(path: str | os.PathLike[str]) -> tuple[Path, str]:
    """The weight file that ``path`` names, and its kind, a key of ``ENDINGS``.

    A folder stands for the one weight file in it, or for TensorFlow's checkpoint or saved model; a
    checkpoint's prefix, .meta and .data-… stand for its .index; an ending may be left out.

    Raises:
      ValueError: no such file, several, or one without weights.
    """
    path = Path(os.path.expanduser(path))
    if path.is_dir():
        path = _in_folder(path)
    elif not path.exists():
        path = _completed(path)
    if path.name == "saved_model.pb":
        path = _in_folder(path.parent)
    if path.name == "checkpoint" and (named := _latest(path)):
        path = named
    whole = path.with_name(re.sub(r"\.(meta|data-\d+-of-\d+)$", ".index", path.name))
    if whole != path and not whole.is_file():
        raise BadFile(f"{path}: beside it {whole.name} is missing, which lists its variables")
    return whole, kind_of(whole)


def _in_folder(folder: Path) -> Path:
    if (folder / "card.json").is_file():
        raise BadFile(f"{folder} is a checkpoint already: load it by that path")
    if (folder / "saved_model.pb").is_file():
        if (folder / "variables" / "variables.index").is_file():
            return folder / "variables" / "variables.index"
        raise BadFile(f"{folder}: its saved model has no variables/variables.index beside it")
    if (folder / "checkpoint").is_file() and (named := _latest(folder / "checkpoint")):
        return named
    found = [p for p in sorted(folder.iterdir()) if p.suffix.lower() in _KIND_OF and p.is_file()]
    if len(found) != 1:
        names = f"{len(found)} ({', '.join(p.name for p in found[:9])})" if found else "none"
        raise BadFile(f"{folder}: wanted one weight file in this folder, found {names}")
    return found[0]


def _latest(listing: Path) -> Path | None:
    """The checkpoint that TensorFlow's file ``checkpoint`` names, where it lies beside it."""
    with open_file(listing, _MOST) as file:
        text = file.read(10_000).decode("utf-8", "replace")
    match = re.search(r'^model_checkpoint_path: "(.+)"', text, re.MULTILINE)
    if match is None:
        return None
    name = re.split(r"[/\\]", match[1])[-1]  # often a path of the machine that trained it
    index = listing.with_name(f"{name}.index")
    return index if index.is_file() else None


def _completed(path: Path) -> Path:
    """A file that is named without its ending, or a checkpoint by its prefix."""
    index = path.with_name(f"{path.name}.index")
    if index.is_file():
        return index
    beside = [path.with_name(path.name + ending) for ending in _KIND_OF] if path.name else []
    found = [file for file in beside if file.is_file()]
    if len(found) > 1:
        raise BadFile(f"{path}: there are {', '.join(file.name for file in found)}; give one")
    if not found:
        names = ", ".join(KNOWN)
        raise BadFile(f"{path}: no such file, seen from {Path.cwd()}, and no known name ({names})")
    return found[0]


def kind_of(path: Path) -> str:
    """The kind of a weight file.

    Raises:
      ValueError: what is no weight file, or of a format that is not read.
    """
    with open_file(path, _MOST) as file:
        head = file.read(300)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 8, 0))
        tail = file.read(8)
    if not head:
        raise BadFile(f"{path}: an empty file; fetch it again")
    for start, what in _NO_WEIGHTS:
        if head.lower().startswith(start.lower()):
            raise BadFile(f"{path}: {what}")
    if head.startswith(b"PK\3\4"):
        return _kind_of_zip(path)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return ".h5"
    if head[4:8] == b"TFL3":
        return ".tflite"
    if head.startswith(_LEGACY) or head[257:262] == b"ustar":
        return ".pt"
    if tail == struct.pack("<Q", tf_checkpoint.MAGIC):
        return ".index"
    if head[8:9] == b"{" and 2 <= int.from_bytes(head[:8], "little") <= size - 8:
        return ".safetensors"
    kind = _KIND_OF.get(path.suffix.lower())
    if kind is None:
        raise BadFile(
            f"{path}: unknown ending {path.suffix!r}, and contents of no known kind; wanted one of "
            + ", ".join(_KIND_OF)
        )
    return kind  # its reader says what is wrong with it


def _kind_of_zip(path: Path) -> str:
    try:
        with open_zip(path) as archive:
            names = archive.namelist()
    except BadFile:
        return _KIND_OF.get(path.suffix.lower(), ".pt")  # its reader says how it is damaged
    if any(name.rpartition("/")[2] == "data.pkl" for name in names):
        return ".pt"
    if "model.weights.h5" in names:
        return ".h5"
    if path.suffix.lower() == ".whl" or "facenet_pytorch/data/pnet.pt" in names:
        return ".whl"
    inside = [name for name in names if Path(name).suffix.lower() in _KIND_OF]
    what = f"weights ({', '.join(inside[:3])[:300]})" if inside else "no weights that are read"
    raise BadFile(f"{path}: a zip archive with {what}; unpack it and give the weight file")
