"""``python -m advface_jax COMMAND``: the commands that prepare faces and features."""

import importlib

from advface_jax import cli

# modules of advface_jax.commands, each with a main
COMMANDS: tuple[str, ...] = ("crop", "features", "prepare")


def main() -> None:
    commands = {
        name: importlib.import_module(f"advface_jax.commands.{name}").main for name in COMMANDS
    }
    cli.start(commands, "advface_jax")


if __name__ == "__main__":
    main()
