"""README's example is a program that runs."""

import re
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


@pytest.mark.slow  # it fetches and converts FaceNet, and runs AdvFace at full size
def test_the_example_runs(tmp_path):
    (example,) = re.findall(r"^```python\n(.*?)^```", README.read_text(), re.M | re.S)
    script = tmp_path / "example.py"
    script.write_text(example)
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        made = runpy.run_path(str(script))
    assert np.abs(made["z_adv"] - made["z"]).max() > 0.1
    assert made["embeddings"].shape == (8, 512) and np.isfinite(made["embeddings"]).all()
    assert made["picture"].shape == (8, 160, 160, 3) and np.isfinite(made["picture"]).all()
