"""What `python -m advface_jax NAME` runs: one module a command, its `main` the flags."""
