"""Networks, metrics and commands: bad input gives one plain error."""

import contextlib
import io
import platform
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import new_extractor, small_decoder
from rich.console import Console

from advface_jax import cli, metrics

NAN = np.full((1, 160, 160, 3), 0.5, np.float32)
NAN[0, 80, 80, 1] = np.nan


def test_networks_refuse_what_is_no_image_or_feature():
    extractor, decoder = new_extractor(), small_decoder()
    with pytest.raises(ValueError, match="wanted \\(b, 160, 160, 3\\)"):
        extractor(jnp.zeros((1, 224, 224, 3)))
    with pytest.raises(ValueError, match="look for NaN"):
        extractor(jnp.asarray(NAN))
    with pytest.raises(ValueError, match="wanted \\(b, 77, 77, 64\\)"):
        decoder(jnp.zeros((1, 70, 70, 64)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        decoder(jnp.full((1, 77, 77, 64), jnp.inf))


def test_one_nan_pixel_is_found_on_the_device_too():
    with pytest.raises(ValueError, match="NaN"):
        metrics.mse(jnp.asarray(NAN), jnp.zeros((1, 160, 160, 3)))


def without_a_backend() -> None:
    raise AssertionError  # as CUDA's plugin does where there is no GPU


def test_a_command_without_a_backend_says_so(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(AssertionError):  # a fault of ours stays one
        cli.start(without_a_backend, "x")
    monkeypatch.setattr(jax, "devices", without_a_backend)
    monkeypatch.setattr(cli, "console", Console(width=60))
    with pytest.raises(SystemExit):
        cli.start(without_a_backend, "x")
    assert capsys.readouterr().out.startswith("error: JAX cannot start its backend (")


def stop() -> None:
    raise ValueError("[a] few " + "long " * 100)


def warn() -> None:
    warnings.warn("[a] few " + "long " * 100, stacklevel=1)


@pytest.mark.parametrize(("main", "kind"), [(stop, "error"), (warn, "warning")])
def test_a_command_s_error_or_warning_is_one_line_however_long(main, kind, monkeypatch):
    told = io.StringIO()
    monkeypatch.setattr(cli, "console", Console(file=told, width=80))
    monkeypatch.setattr(sys, "argv", ["x"])
    stopped = pytest.raises(SystemExit, match="1") if main is stop else contextlib.nullcontext()
    with warnings.catch_warnings(), stopped:
        warnings.simplefilter("always")
        cli.start(main, "x")
    assert told.getvalue().startswith(f"{kind}: [a] few long") and told.getvalue().count("\n") == 1


FREED = """
import resource
from advface_jax import runtime

runtime.prepare_process()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(2**27)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no such switch")
def test_a_prepared_process_keeps_freed_memory():
    told = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    first, second = map(int, told.stdout.split())
    assert second < first / 10, "its pages are allocated anew"
