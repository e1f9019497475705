import gc
import logging
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import jax
import pytest

from advface_jax import runtime, stopping

# Set before any test module is imported, so that none of them traces under laxer rules.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config: pytest.Config) -> None:
    """One folder of compiled programs for the whole run, its workers and its subprocesses."""
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        config.stash[CACHE] = folder = tempfile.mkdtemp(prefix="advface-jax-tests-")
        os.environ["JAX_COMPILATION_CACHE_DIR"] = folder
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])


def pytest_unconfigure(config: pytest.Config) -> None:
    if folder := config.stash.get(CACHE, None):
        shutil.rmtree(folder, ignore_errors=True)


CACHE = pytest.StashKey[str]()


@pytest.fixture(scope="module", autouse=True)
def _programs_end_with_their_module():
    """Compiled programs hold gigabytes over a whole run, and hardly any serves two modules."""
    yield
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="module")
def full_float32():
    """Accelerators multiply in fewer bits by default; equality is stated for float32."""
    with jax.default_matmul_precision("highest"):
        yield


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


@pytest.fixture
def compilations(caplog):
    """What XLA has compiled so far in this test, by name."""

    def names() -> list[str]:
        said = (re.match(r"Finished XLA compilation of (\S+)", r.message) for r in caplog.records)
        return [match[1] for match in said if match]

    with caplog.at_level(logging.WARNING), jax.log_compiles():
        yield names


@pytest.fixture
def run(monkeypatch, capsys):
    """A command with these words, in this process: how it exits, and what it prints."""
    # More devices would stay for the tests that follow.
    monkeypatch.setattr(runtime, "prepare_process", lambda: None)
    monkeypatch.setattr(stopping, "listen", lambda: None)

    def call(main, *words: object, name: str = "x") -> tuple[object, str]:
        monkeypatch.setattr(sys, "argv", [name, *map(str, words)])
        monkeypatch.setenv("COLUMNS", "80")
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return end.value.code, said.out + said.err

    return call
