"""Attacks on what a server stores. ``solve_channels``: an image from its frequency channels, with
nothing trained."""

from advface_jax.attacks.channels import solve_channels

__all__ = ["solve_channels"]
