"""Weights by name: fetched and converted at first use, then kept in the user's cache folder."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import platformdirs


def folder(source: str | os.PathLike[str], known: Sequence[str]) -> Path:
    """The checkpoint folder of one of the ``known`` names, or ``source`` itself if it is a folder.

    Raises:
      ValueError: neither, or a failed download (the converter prints the reason).
    """
    if str(source) not in known:
        if not Path(source).exists():
            names = f"one of {', '.join(known)}" if len(known) > 1 else repr(known[0])
            raise ValueError(
                f"no weights called {str(source)!r}: wanted {names}, or a "
                "checkpoint folder that `python -m weights_convert SOURCE -o FOLDER` wrote"
            )
        return Path(source)
    place = Path(platformdirs.user_cache_dir("advface_jax")) / "checkpoints" / str(source)
    if not (place / "card.json").is_file():
        # The converter is a program of its own: the library never imports it.
        command = [sys.executable, "-m", "weights_convert", str(source), "-o", str(place)]
        if subprocess.run(command, stdout=sys.stderr).returncode:
            raise ValueError(
                f"could not fetch and convert {source} (the reason is printed above); if you have "
                "the weight file, run `python -m weights_convert FILE -o FOLDER` and give FOLDER"
            )
    return place
