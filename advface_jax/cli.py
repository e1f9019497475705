"""What all commands share: flags, errors in one line, and a progress bar."""

import ast
import contextlib
import functools
import importlib.util
import inspect
import re
import shlex
import shutil
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn

import rich.console
import tyro
from rich import progress
from rich.markup import escape

from advface_jax import runtime, stopping

SCRIPT = ("advface_jax", "advface")  # a package, and the console command that runs it
Out = Annotated[Path, tyro.conf.arg(aliases=["-o"])]  # where results go, in every command


class Console(rich.console.Console):
    """Rich's, but the work goes on when nobody reads any more what it prints (``| head``)."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        runtime.drop(self.file)


console = Console(stderr=True)  # progress and errors
answer = Console()  # results, so that they can be piped
COMPLETION = ("--tyro-print-completion", "--tyro-write-completion")  # for bash, zsh, tcsh


class Shared:
    """Flags of every command, which are no part of what is measured."""

    quiet = False
    json = False
    html = False


def start(main: Callable[..., None], module: str) -> None:
    """Run ``main`` with the flags of its signature.

    A ValueError or OSError becomes one line on stderr and exit status 1, a warning one line. The
    process is prepared first (``runtime.prepare_process``). The help has the docstring, and as
    examples the indented lines of its module's docstring.

    Every command takes ``--quiet``, and those with a table ``--json`` and ``--html``: their module
    has ``publish``, or says ``TABLE = True``.
    """
    runtime.prepare_process()
    stopping.listen()
    with _plainly():
        _shared(_has_table(main))
        text = inspect.getdoc(main) or ""
        main.__doc__ = re.sub(r"\n {4,}", " ", text)  # else a flag's text breaks there, too
        tyro.cli(main, prog=_called(module), description=_description(main))


def choose(commands: Mapping[str, str], package: str) -> None:
    """Run the command that the first word names; without one, list them, a line each.

    Args:
      commands: Names, each with the module that has its ``main``.
      package: Whose commands these are.
    """
    name, *_ = [*sys.argv[1:], "--help"]
    if name in COMPLETION:
        with _plainly():
            mains = {name: importlib.import_module(at).main for name, at in commands.items()}
            tyro.extras.subcommand_cli_from_dict(mains, prog=_called(package))
        return
    if name in commands:
        del sys.argv[1]
        start(importlib.import_module(commands[name]).main, f"{package} {name}")
        return
    runtime.prepare_process()
    with _plainly():
        if wrong := name not in ("-h", "--help"):
            console.print(f"[bold red]error:[/] no command {escape(name)}", highlight=False)
        program = _called(package)
        say = functools.partial(answer.print, markup=False, highlight=False, soft_wrap=True)
        say(f"usage: {program} COMMAND ...; {program} COMMAND --help shows what it takes\n")
        most = max(map(len, commands))
        for command, module in commands.items():
            say(_filled(f"{command:{most}}  {_about(module)}", " " * (most + 2)))
        sys.exit(2 if wrong else 0)


@contextlib.contextmanager
def _plainly() -> Iterator[None]:
    """Errors and warnings in a line each, and the exit status of them."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _one_line
            yield
    except BrokenPipeError:  # the help's, which tyro prints: our consoles take it themselves
        runtime.drop(sys.stdout)
    except (ValueError, OSError) as error:
        _stop(str(error))
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if not name or name in ("advface_jax", "experiments", "weights_convert"):
            raise
        _stop(f"this needs {name}, which is not installed: pip install {name}")
    except Exception:  # JAX raises many kinds where it has no backend
        why = runtime.absent_backend()
        if why is None:
            raise
        _stop(why)
    except stopping.Stopped:
        console.print("stopped by SIGTERM; what is done is saved, the same command resumes")
        sys.exit(stopping.STATUS)
    except KeyboardInterrupt:
        console.print("stopped; the same command resumes where it can")
        sys.exit(130)
    finally:
        runtime.flush()


def _has_table(main: Callable[..., None]) -> bool:
    module = sys.modules[main.__module__]
    return hasattr(module, "publish") or hasattr(module, "TABLE")


def _shared(table: bool) -> None:
    """Take the flags of every command out of the command line."""
    names = ("quiet", "json", "html") if table else ("quiet",)
    if "--json" in sys.argv[1:] and not table:
        raise ValueError("got --json for a command that prints no table; leave it out")
    for name in ("quiet", "json", "html"):
        setattr(Shared, name, name in names and f"--{name}" in sys.argv[1:])
    taken = [f"--{name}" for name in names]
    sys.argv[1:] = [word for word in sys.argv[1:] if word not in taken]


def _stop(text: str) -> NoReturn:
    """The error in a line, whole, since logs are searched for paths."""
    console.print(f"[bold red]error:[/] {escape(text)}", highlight=False, soft_wrap=True)
    sys.exit(1)


def folder(out: Path) -> None:
    """ValueError unless results can be written into ``out``, a folder or one that can be made."""
    place = next(p for p in (out, *out.absolute().parents) if p.exists())
    if not place.is_dir():
        raise ValueError(f"got --out {out}, but {place} is a file; wanted a folder")
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        why = f"nothing can be written into {place} ({error.strerror})"
        raise ValueError(f"got --out {out}, but {why}: give another") from error


def function(source: str, flag: str) -> Callable[..., Any]:
    """The function of "module:function" on Python's path.

    Raises:
      ValueError: Another form, or no such module or function.
    """
    if not re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", source):
        raise ValueError(f"got --{flag} {source}; wanted MODULE:FUNCTION, as my_work:build")
    module, name = source.split(":")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"got --{flag} {source}, which cannot be loaded ({error}); wanted a module on Python's "
            "path, and a function in it"
        ) from error
    if not callable(found):
        raise ValueError(f"got --{flag} {source}, a {type(found).__name__}; wanted a function")
    return found


def present(**paths: str | Path | None) -> None:
    """ValueError for a flag whose file or folder does not exist; None is a flag left out.

    The names of faces that are no path, 'synthetic' and tfds:NAME, pass.
    """
    for name, path in paths.items():
        if path is None or str(path) == "synthetic" or str(path).startswith("tfds:"):
            continue
        if not Path(path).exists():
            raise ValueError(f"got --{name.replace('_', '-')} {path}, which does not exist")


def _called(module: str) -> str:
    """How the user runs it: ``python -m``, or the console command."""
    return module.replace(*SCRIPT) if Path(sys.argv[0]).stem == SCRIPT[1] else f"python -m {module}"


def _about(module: str) -> str:
    """The first line of a module's docstring, without importing it."""
    place = importlib.util.find_spec(module)
    source = Path(place.origin).read_text(encoding="utf-8") if place and place.origin else ""
    return (ast.get_docstring(ast.parse(source)) or "").partition("\n")[0]


def _description(main: Callable[..., None]) -> str:
    """The docstring up to its flags, and the examples of its module, to the terminal's width."""
    about = (inspect.getdoc(main) or "").partition("\nArgs:")[0]
    paragraphs = [_filled(" ".join(p.split()), "  ") for p in about.split("\n\n")]
    module = inspect.cleandoc(sys.modules[main.__module__].__doc__ or "")
    shared = "With --quiet there is no progress bar."
    if _has_table(main):
        shared += " With --json the results file goes to stdout instead of the table. With --html "
        shared += "NAME.html is written, too: one page with sortable tables, figures and how the "
        shared += "run came to be, which works offline."
    paragraphs.append(_filled(shared, "  "))
    if examples := [line[2:] for line in module.splitlines() if line.startswith("    ")]:
        paragraphs.append("\n".join(["Examples:", *examples]))
    return "\n\n".join(paragraphs)


def _filled(text: str, indent: str) -> str:
    """``text`` to the terminal's width; tyro joins lines, but not those that begin with a space."""
    width = max(40, min(shutil.get_terminal_size().columns, 100))
    return textwrap.fill(text, width, subsequent_indent=indent, break_on_hyphens=False)


def _one_line(message: Warning | str, *_: Any, **__: Any) -> None:
    text = f"[bold yellow]warning:[/] {escape(str(message))}"
    console.print(text, highlight=False, soft_wrap=True)


def loading(*what: object) -> None:
    """Say on a terminal what the next seconds go into, where no bar shows it."""
    if console.is_terminal and not Shared.quiet:
        console.print(f"loading {', '.join(map(str, what))} …", markup=False, highlight=False)


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
        disable=Shared.quiet,
    )
