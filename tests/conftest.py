import os
from pathlib import Path

import jax
import pytest

# Set before any test module is imported, so that none of them traces under laxer rules.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session")
def advface_data() -> Path:
    """The folder with the real faces (`faces/`, `lists/`); tests that want it skip without."""
    place = os.environ.get("ADVFACE_DATA")
    if not place:
        pytest.skip("ADVFACE_DATA is not set: it names the folder that holds faces/ and lists/")
    folder = Path(place)
    if not (folder / "faces").is_dir() or not (folder / "lists").is_dir():
        pytest.fail(f"ADVFACE_DATA={place} has no faces/ and lists/: correct it or unset it")
    return folder
