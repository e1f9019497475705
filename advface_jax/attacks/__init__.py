"""Attacks that need no training: ``solve_channels``, an image from its frequency channels."""

from advface_jax.attacks.channels import solve_channels

__all__ = ["solve_channels"]
