"""What all commands share: flags, errors in one line, and a progress bar."""

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

from advface_jax import runtime

console = Console(stderr=True)  # progress and errors
answer = Console()  # results, so that they can be piped


def start(main: Callable[..., None] | dict[str, Callable[..., None]], module: str) -> None:
    """Run ``main`` with the flags of its signature; several functions by name are subcommands.

    A ValueError or OSError becomes one line on stderr and exit status 1, a warning one line. The
    process is prepared first (``runtime.prepare_process``).
    """
    runtime.prepare_process()
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
    except Exception:  # JAX raises many kinds where it has no backend
        why = runtime.absent_backend()
        if why is None:
            raise
        console.print(f"[bold red]error:[/] {escape(why)}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        console.print("stopped; the same command resumes where it can")
        sys.exit(130)


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    text = f"[bold yellow]warning:[/] {escape(str(message))}"
    console.print(text, highlight=False, soft_wrap=True)


def command(module: str) -> str:
    """The running command line, recorded with its results."""
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
