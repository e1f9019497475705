"""The first line of a command on a terminal: importing JAX takes a second or more."""

import sys
from pathlib import Path

OURS = ("advface", "advface_jax", "experiments", "weights_convert")


def command(words: list[str]) -> str:
    """Whose command a Python process is, by its words: a package, or the console command."""
    after = words[2:] if words[1:2] == ["-m"] else words[1:]
    return Path(next(iter(after), "")).name.partition(".")[0]


if (
    command(sys.orig_argv) in OURS
    and "--quiet" not in sys.orig_argv
    and sys.stderr is not None
    and sys.stderr.isatty()
):
    print("loading JAX …", file=sys.stderr, flush=True)
