"""Input that does not fit is refused at every public door, in plain words."""

import io
import platform
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import filled
from rich.console import Console

from advface_jax import ProtectConfig, checkpoint, cli, fgsm, metrics, mifgsm, pgd, protect
from advface_jax.models import decoders, facenet

NAN = np.full((1, 160, 160, 3), 0.5, np.float32)
NAN[0, 80, 80, 1] = np.nan


@pytest.fixture(scope="module")
def extractor():
    return filled(lambda: facenet.Extractor(rngs=nnx.Rngs(0)), 7)


@pytest.fixture(scope="module")
def decoder():
    config = decoders.DecoderConfig("transrec", width=4, depth=0)
    return filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), 7)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((1, 160, 160, 3), np.uint8), "dtype uint8; wanted float32"),
        (np.full((1, 160, 160, 3), 255, np.float32), "divide 0..255 by 255"),
        (np.zeros((1, 224, 224, 3), np.float32), "wanted \\(b, 160, 160, 3\\)"),
        (np.zeros((160, 160, 3), np.float32), "leading axis"),
        (NAN, "look for NaN"),
    ],
)
def test_the_extractor_refuses_what_is_no_picture(extractor, images, message):
    with pytest.raises(ValueError, match=message):
        extractor(images)


def test_a_decoder_refuses_what_is_no_feature(decoder):
    with pytest.raises(ValueError, match="wanted \\(b, 77, 77, 64\\)"):
        decoder(jnp.zeros((1, 70, 70, 64)))
    with pytest.raises(ValueError, match="NaN or infinite"):
        decoder(jnp.full((1, 77, 77, 64), jnp.inf))


def test_a_concrete_feature_may_be_closed_over_by_a_jit(extractor, decoder):
    z = extractor(jnp.full((2, 160, 160, 3), 0.5))
    config = ProtectConfig(steps=1)

    @jax.jit
    def inside(extractor, decoder):
        return protect(z, extractor=extractor, shadow=decoder, config=config)

    assert inside(extractor, decoder).shape == z.shape


def test_a_plain_function_is_no_model(extractor, decoder):
    z = jnp.zeros((1, 77, 77, 64))
    with pytest.raises(ValueError, match="got extractor=.*wanted a Flax NNX module"):
        protect(z, extractor=lambda x: extractor(x), shadow=decoder)


@pytest.mark.parametrize("method", [pgd, fgsm, mifgsm])
def test_the_ascents_refuse_bad_bounds_and_starts(method):
    for epsilon in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="got epsilon="):
            method(jnp.sum, jnp.ones(3), epsilon)
    for start in ([1.0, 2.0], jnp.ones(3, jnp.int32)):
        with pytest.raises(ValueError, match="got z0 of type"):
            method(jnp.sum, start, 0.1)


def test_no_gradient_is_no_nan_in_half_precision():
    z = jnp.ones((2, 3), jnp.float16)
    assert np.array_equal(mifgsm(lambda z: 0 * z.sum(), z, 0.1), z)


@pytest.mark.parametrize("measure", [metrics.ssim, metrics.psnr, metrics.mse])
def test_one_nan_pixel_is_found_on_the_device_too(measure):
    with pytest.raises(ValueError, match="NaN"):
        measure(jnp.asarray(NAN), jnp.zeros((1, 160, 160, 3)))


def test_a_save_killed_between_its_renames_is_still_there(tmp_path):
    checkpoint.save(tmp_path / "run", {"a": np.ones(2)}, {"step": 3})
    assert checkpoint.exists(tmp_path / "run") and not checkpoint.exists(tmp_path / "other")
    (tmp_path / "run").rename(tmp_path / ".run.old")
    assert checkpoint.exists(tmp_path / "run")
    assert checkpoint.restore(tmp_path / "run")[1] == {"step": 3}


def test_a_command_s_error_is_one_line_however_long(monkeypatch):
    def main() -> None:
        raise ValueError("[a] " + "long " * 100)

    told = io.StringIO()
    monkeypatch.setattr(cli, "console", Console(file=told, width=80))
    monkeypatch.setattr(sys, "argv", ["x"])
    with pytest.raises(SystemExit, match="1"):
        cli.start(main, "x")
    assert told.getvalue().startswith("error: [a] long") and told.getvalue().count("\n") == 1


def test_a_command_s_warning_is_one_line_too(monkeypatch):
    def main() -> None:
        warnings.warn("[a] few " + "long " * 100, stacklevel=1)

    told = io.StringIO()
    monkeypatch.setattr(cli, "console", Console(file=told, width=80))
    monkeypatch.setattr(sys, "argv", ["x"])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        cli.start(main, "x")
    assert told.getvalue().startswith("warning: [a] few") and told.getvalue().count("\n") == 1


FREED = """
import resource, sys
sys.argv = ["x"]
from advface_jax import cli

def main():
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        bytearray(2**27)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)

cli.start(main, "x")
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library has no such switch")
def test_a_command_keeps_the_memory_that_it_had():
    told = subprocess.run([sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    first, second = map(int, told.stdout.split())
    assert second < first / 10, "had again page by page"
