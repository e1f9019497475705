"""``python -m experiments``: the commands, a line each; with a name, that command."""

from pathlib import Path
from pkgutil import iter_modules

from advface_jax import cli


def main() -> None:
    found = iter_modules([str(Path(__file__).parent)])
    names = [one.name for one in found if not one.ispkg and not one.name.startswith("_")]
    cli.choose({name: f"experiments.{name}" for name in sorted(names)}, "experiments")


if __name__ == "__main__":
    main()
