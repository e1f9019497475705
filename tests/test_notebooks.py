"""The notebooks are built from their text and run from top to bottom, without a screen."""

import os
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.py"))


@pytest.mark.slow
@pytest.mark.long  # each trains, or protects at full size: up to four minutes
@pytest.mark.filterwarnings("ignore")  # Jupyter's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path, tmp_path, monkeypatch):
    jupytext = pytest.importorskip("jupytext")
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    root = str(FOLDER.parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]))
    notebook = jupytext.read(path)
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=root)
    outputs = [o for cell in notebook.cells for o in cell.get("outputs", [])]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    assert pictures, "it shows pictures"
    (tmp_path / "run.ipynb").write_text(jupytext.writes(notebook, "ipynb"), encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_the_jax_that_is_there(path):
    """All begin with the same cell, which names the JAX that is installed."""
    text = path.read_text(encoding="utf-8")
    cell = text[text.index("SOURCE = ") : text.index("check=True)")]
    assert 'here = [f"jax=={jax.__version__}"]' in cell
    first = NOTEBOOKS[0].read_text(encoding="utf-8")
    assert cell == first[first.index("SOURCE = ") : first.index("check=True)")]
