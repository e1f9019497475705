"""``python -m advface_jax COMMAND``, or ``advface COMMAND``: prepare, export and serve faces."""

from advface_jax import cli

# modules with a main
COMMANDS: tuple[str, ...] = ("crop", "export", "features", "prepare", "protect", "serve")


def main() -> None:
    cli.choose({name: f"advface_jax.commands.{name}" for name in COMMANDS}, "advface_jax")


if __name__ == "__main__":
    main()
