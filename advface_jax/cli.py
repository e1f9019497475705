"""What every command line shares: errors in plain words, and a progress bar."""

import contextlib
import ctypes
import shlex
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tyro
from rich import progress
from rich.console import Console
from rich.markup import escape

from advface_jax import sharding

console = Console(stderr=True)  # progress and errors
answer = Console()  # what was asked for, so that it can be piped


def start(main: Callable[..., None] | dict[str, Callable[..., None]], module: str) -> None:
    """Run ``main`` with the flags of its signature; ValueErrors become one line, no traceback.

    Several functions by name are subcommands. Warnings become one line each, too. On a CPU every
    core is a device, and memory once had is kept.
    """
    sharding.cores_as_devices()
    _keep_memory()
    prog = f"python -m {module}"
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line
            if isinstance(main, dict):
                tyro.extras.subcommand_cli_from_dict(main, prog=prog)
            else:
                tyro.cli(main, prog=prog)
    except (ValueError, OSError) as error:
        text = f"[bold red]error:[/] {escape(str(error))}"
        console.print(text, highlight=False, soft_wrap=True)  # paths stay whole in logs
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; the same command resumes where it can")
        sys.exit(130)


def _keep_memory() -> None:
    """Let the C library (glibc; others have no such switch) keep up to 2 GB of what is freed.

    A compiled program frees its temporary memory with each call. Given back to the system it is
    had again page by page, each of them zeroed: a quarter of a training step's time on a CPU.
    """
    top_pad, trim_threshold, mmap_threshold = -2, -1, -3  # of malloc.h
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 2**30)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    text = f"[bold yellow]warning:[/] {escape(str(message))}"
    console.print(text, highlight=False, soft_wrap=True)


def command(module: str) -> str:
    """The command line that is running, to be written beside its results."""
    words = [str(Path(w).name) if Path(w).is_absolute() else w for w in sys.argv[1:]]
    return shlex.join(["python", "-m", module, *words])


def bar(unit: str) -> progress.Progress:
    """A progress bar with rate, time spent and time left; call ``update(…, advance=units)``."""
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.TextColumn(f"{{task.completed:,.0f}}/{{task.total:,.0f}} {unit}"),
        progress.TextColumn("{task.fields[note]}"),
        progress.TimeElapsedColumn(),
        progress.TimeRemainingColumn(),
        console=console,
    )
