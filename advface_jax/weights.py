"""Weights by name: fetched and converted at first use, then kept in the user's cache folder."""

import difflib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import platformdirs

CACHE = "ADVFACE_CACHE"
"""The environment variable that sets the cache folder."""

# What weights of FaceNet come as: to convert them is another command's work.
FILES = (
    *(".pt", ".pth", ".ckpt", ".safetensors", ".h5", ".hdf5", ".keras", ".pb", ".index"),
    *(".tflite", ".whl", ".onnx"),
)
_PLACES = (
    "facenet-pytorch's releases (20180402-114759-vggface2.pt) or Sandberg's facenet (a .pb or a "
    "checkpoint)"
)


def cache_dir() -> Path:
    """The user's cache folder of this library, or the folder that ADVFACE_CACHE names.

    Raises:
      ValueError: there is none, as in a container whose user has no home.
    """
    chosen = os.environ.get(CACHE, "").strip()
    try:
        text = chosen or platformdirs.user_cache_dir("advface_jax")
    except RuntimeError:  # of newer platformdirs; older ones give ~/.cache as it is
        text = "~"
    place = Path(os.path.expanduser(text))
    if not place.is_absolute():
        why = f"{CACHE} is {chosen!r}, no absolute path" if chosen else "this user has no home"
        raise ValueError(
            f"no folder to keep weights in: {why}; set {CACHE} to the path of a folder that you "
            "can write to"
        )
    return place


def name_of(text: str, known: Iterable[str]) -> str | None:
    """The ``known`` name that ``text`` means; case does not count, nor ``_`` for ``-``."""
    name = text.strip().rstrip("/\\").lower().replace("_", "-")
    return name if name in known and (text == name or not os.path.exists(text)) else None


def folder(source: str | os.PathLike[str], known: Sequence[str]) -> Path:
    """The checkpoint folder of one of the ``known`` names, or ``source`` itself if it is one.

    Case does not count in a name, nor ``_`` for ``-``.

    Raises:
      ValueError: neither, with what to do about a weight file; a failed download, with its reason;
        or a cache folder that is not there or cannot be written to.
    """
    text = os.fsdecode(source)
    if name := name_of(text, known):
        return _kept(name)
    path = Path(os.path.expanduser(text))
    if path.name == "card.json" or (path.name == "arrays" and path.is_dir()):
        path = path.parent  # a part of a checkpoint stands for it
    if text and path.is_dir():
        return path if (path / "card.json").is_file() else _inside(path)
    if path.name and path.with_name(f".{path.name}.old").is_dir():
        return path  # a save was killed between its two renames: restore knows
    wanted = f"one of {', '.join(known)}" if len(known) > 1 else repr(known[0])
    wanted += ", or a checkpoint folder that `python -m weights_convert SOURCE -o FOLDER` wrote"
    if text and path.exists():
        raise ValueError(_not_converted(path, wanted))
    near = _near(text, known)
    meant = f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""
    if path.suffix.lower() in FILES:
        places = f"; such files come from {_PLACES}" if len(known) > 1 else ""
        raise ValueError(
            f"there is no file {path}, seen from {Path.cwd()}{meant}: wanted {wanted}{places}"
        )
    raise ValueError(f"no weights called {text!r}{meant}: wanted {wanted}")


def _near(text: str, known: Sequence[str]) -> list[str]:
    """Known names that hold what was given or are held in it, letters and digits alone."""

    def plain(name: str) -> str:
        return "".join(filter(str.isalnum, name.lower()))

    given = plain(text)
    near = [k for k in known if plain(k) in given or (len(given) > 3 and given in plain(k))]
    return near or difflib.get_close_matches(text.lower(), known, 1)


def _not_converted(path: Path, wanted: str) -> str:
    """What to do about a file where a checkpoint folder is wanted."""
    if _ours(path):
        return (
            f"{path} with its card is a trained network of ours, such as a decoder, and no "
            f"recogniser; wanted {wanted}. `load(…).read_decoder({str(path)!r})` reads a decoder"
        )
    return f"{path} is a file; wanted {wanted}. {_remedy(path, path.name.split('.')[0])}"


def _ours(path: Path) -> bool:
    """Whether it is a trained network with its card, such as a decoder."""
    return path.suffix == ".safetensors" and path.with_suffix(".json").is_file()


def _remedy(path: Path, name: str) -> str:
    out = str(Path("weights") / (name or "mine"))
    return (
        f"Convert it once with `python -m weights_convert {_quoted(str(path))} "
        f"-o {_quoted(out)}`, and load {out!r}"
    )


def _quoted(text: str) -> str:
    return f'"{text}"' if any(c in text for c in " ()'&;$") else text


def _inside(path: Path) -> Path:
    """The one checkpoint inside a folder, or the folder, about which ``restore`` complains."""
    inside = sorted(path.iterdir())
    checkpoints = [one for one in inside if (one / "card.json").is_file()]
    if len(checkpoints) == 1:
        return checkpoints[0]
    if checkpoints:
        names = ", ".join(one.name for one in checkpoints[:9])
        raise ValueError(f"{path} holds {len(checkpoints)} checkpoints ({names}); give one of them")
    named = [one for one in inside if one.name in ("saved_model.pb", "checkpoint")]  # TensorFlow's
    files = named or [one for one in inside if one.suffix.lower() in FILES and not _ours(one)]
    if files:
        given = path if named or len(files) == 1 else files[0]
        raise ValueError(
            f"{path} is no checkpoint of ours, but holds weights of another program "
            f"({files[0].name}). {_remedy(given, path.name)}"
        )
    return path


def _kept(name: str) -> Path:
    """The checkpoint of a known name in the cache, fetched and converted if it is not there."""
    place = cache_dir() / "checkpoints" / name
    if (place / "card.json").is_file():
        return place
    if place.is_dir() and any(place.iterdir()):
        raise ValueError(f"{place} is no whole checkpoint (no card.json in it): delete that folder")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        print(f"{name}: fetched and converted once, into {place}", file=sys.stderr)
        # Renamed when complete: two processes may fetch at once, or one be killed.
        with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=place.parent) as work:
            new = Path(work) / "new"
            _convert(name, new)
            try:
                new.rename(place)
            except OSError:
                if not (place / "card.json").is_file():  # or another process was faster
                    raise
    except OSError as error:
        raise ValueError(
            f"cannot keep {name} in {place.parent} ({error.strerror or error}); set {CACHE} to a "
            "folder that you can write to (up to 300 MB)"
        ) from error
    return place


def _convert(name: str, out: Path) -> None:
    """Run the converter, a program of its own: the library never imports it."""
    here = str(Path(__file__).resolve().parent.parent)  # where this library was imported from
    path = os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            [sys.executable, "-m", "weights_convert", name, "-o", str(out)],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,  # a notebook does not show what a child prints
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise ValueError(f"cannot start Python ({sys.executable!r}: {error})") from error
    if done.returncode:
        said = done.stderr.strip() or done.stdout.strip() or f"it ended with {done.returncode}"
        said = "\n".join(said.splitlines()[-12:]).removeprefix("error: ")
        raise ValueError(
            f"could not fetch and convert {name}: {said}\nIf you have the weight file, run "
            "`python -m weights_convert FILE -o FOLDER` and give FOLDER"
        )
