"""The decoder of frequency channels: shapes, padding, its training, its card."""

import functools
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat import call, promotion  # noqa: F401
from flax import nnx
from networks import filled
from test_protect import on_a_cpu, slow_convolutions

import advface_jax
from advface_jax import defenses
from advface_jax.data import read_faces
from advface_jax.models import channel_decoder, state
from advface_jax.system import ASSETS, read_decoder
from advface_jax.training import step, train
from experiments import train_decoder

SMALL = channel_decoder.ChannelDecoderConfig(27, width=4, depth=1)
PARTIALFACE = defenses.partialface()


@pytest.fixture(scope="module")
def stored() -> jax.Array:
    """PartialFace's channels of three faces: some of a hundred, some of a tenth."""
    faces = read_faces("synthetic", limit=3).images / 255
    return PARTIALFACE(jnp.asarray(faces, jnp.float32), key=jax.random.key(0))


@pytest.fixture(scope="module")
def small() -> channel_decoder.ChannelRec:
    return filled(lambda: channel_decoder.ChannelRec(SMALL, rngs=nnx.Rngs(0)))  # type: ignore[return-value]


@functools.partial(jax.jit, static_argnums=2)
def decode(decoder, stored, statistics="running", mask=None):
    return decoder(stored, statistics, mask)


def test_channels_become_an_image(small, stored):
    picture = decode(small, stored, "example")
    assert picture.shape == (3, 160, 160, 3)
    assert 0 <= picture.min() < picture.max() <= 1


def test_the_scale_of_a_channel_does_not_matter_to_a_batch(small, stored):
    """Coefficients of a thousand and of a tenth begin alike."""
    stored = 100 * stored  # the smallest of these smooth faces are a hundredth
    factors = jnp.asarray(np.geomspace(1, 100, 27), jnp.float32).reshape(1, 1, 1, -1)
    scaled = decode(small, stored * factors, "batch")
    assert np.abs(scaled - decode(small, stored, "batch")).mean() < 0.01
    assert np.abs(decode(small, stored) - decode(small, stored * factors)).mean() > 0.1


def test_padding_has_no_part_in_a_batch(small, stored):
    padded = jnp.concatenate([stored, 50 * jnp.ones_like(stored[:1])])
    mask = jnp.array([1.0, 1, 1, 0])
    alone = decode(small, stored, "batch")
    np.testing.assert_allclose(decode(small, padded, "batch", mask)[:3], alone, atol=1e-3)
    unmasked = decode(small, padded, "batch", jnp.ones(4))
    assert np.abs(unmasked[:3] - alone).max() > 0.05  # or it was no test


def test_wrong_input_and_sizes_are_refused(small, stored):
    with pytest.raises(ValueError, match=r"shape \(3, 160, 160, 26\); wanted \(b, 160, 160, 27\)"):
        small(stored[..., 1:])
    with pytest.raises(ValueError, match="NaN or infinite"):
        small(stored * jnp.nan)
    with pytest.raises(ValueError, match="got depth=6; wanted 0 to 5"):
        channel_decoder.ChannelDecoderConfig(27, depth=6)


@pytest.fixture(scope="module")
def steps():
    """``train_step`` on two faces, always from fresh weights: steps(n, first) -> state, losses."""
    pixels = read_faces("synthetic", limit=2).images
    trainer, fresh = train.start(SMALL, train.TrainConfig(2e-2, batch=2, flip=False), 2)

    def run(n: int, first: int = 0):
        now, losses = jax.tree.map(jnp.copy, fresh)._replace(step=jnp.asarray(first)), []
        for _ in range(n):
            now, loss = train.train_step(now, pixels, PARTIALFACE, trainer)
            losses.append(float(loss))
        return step.finished(trainer, now), losses

    run.program = train.train_step.lower(fresh, pixels, PARTIALFACE, trainer).compile()
    return run


@pytest.mark.slow
def test_every_weight_is_trained_and_the_loss_falls(steps):
    trained, losses = steps(12)
    assert np.mean(losses[-2:]) < 0.8 * losses[0], losses
    fresh, trained = (state.flatten(decoder) for decoder in (steps(0)[0], trained))
    # a bias before the average of a batch norm would stay: there is none
    assert all(not np.array_equal(fresh[name], trained[name]) for name in fresh)


@pytest.mark.slow
def test_each_step_draws_its_own_noise_and_the_seed_decides(steps, small):
    pixels = read_faces("synthetic", limit=2).images
    images = jnp.asarray(pixels / 255, jnp.float32)
    first, second = (train.see(PARTIALFACE, images, jax.random.key(i)) for i in (1, 3))
    assert np.abs(first - second).max() > 1
    (_, [one]), (_, [other]) = steps(1), steps(1, first=1)
    assert abs(one - other) > 1e-5, "the weights are equal; the channels differ"
    one, again, other = (train.reconstruct(pixels, PARTIALFACE, small, seed=s) for s in (1, 1, 3))
    np.testing.assert_array_equal(one, again)
    assert np.abs(one - other).max() > 1e-3


@pytest.mark.slow
@on_a_cpu
def test_a_training_step_has_no_slow_convolution(steps):
    assert not slow_convolutions(steps.program.as_text())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("channels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_decoder, "HELD_OUT", 2)
        patch.setattr(advface_jax, "load", None)  # no recogniser is needed
        run(out)
    return out


def run(out, **changes):
    settings: dict[str, Any] = {
        "defense": "partialface",
        "role": "attacker",
        "width": 4,
        "depth": 1,
    }
    settings |= {"batch": 2, "epochs": 1, "limit": 6}
    call(train_decoder.main, out=out, **settings | changes)


@pytest.mark.slow
def test_the_card_says_whose_channels_are_decoded(trained, stored):
    path = trained / "channelrec-attacker.safetensors"
    decoder, card = read_decoder(path, "partialface")
    assert card["defense"] == "partialface" and card["weights"] is None and card["steps"] == 2
    assert card["config"]["channels"] == 27 and card["quality"]["epoch"] == 1
    assert decode(decoder, stored).shape == (3, 160, 160, 3)
    assert "channelrec" in (trained / "train_decoder.md").read_text()
    with pytest.raises(ValueError, match="decodes what the defence partialface stores; wanted a "):
        read_decoder(path, "duetface")
    system = advface_jax.System(None, {"source": "random", "sha256": "00"})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="wanted a decoder of unprotected features: train one"):
        system.read_decoder(path)


def test_a_decoder_of_features_reads_no_channels():
    shipped = ASSETS / "facenet-512-q8" / "resrec-shadow.safetensors"
    with pytest.raises(ValueError, match="decodes unprotected features; .*--defense duetface …"):
        read_decoder(shipped, "duetface")
    assert "defense" not in json.loads(shipped.with_suffix(".json").read_text())
    read_decoder(shipped, "none")  # cards from before there were others


def test_a_decoder_that_cannot_read_what_is_stored_is_refused(tmp_path):
    with pytest.raises(ValueError, match="--decoder urec with --defense dctdp; wanted channelr"):
        run(tmp_path, decoder="urec", defense="dctdp")
    with pytest.raises(ValueError, match="--decoder channelrec with --defense none; wanted transr"):
        run(tmp_path, decoder="channelrec", defense="none")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_finished_run_stays_and_another_defence_is_another_run(trained, monkeypatch):
    monkeypatch.setattr(train_decoder, "HELD_OUT", 2)
    before = (trained / "channelrec-attacker.safetensors").read_bytes()
    run(trained)
    assert (trained / "channelrec-attacker.safetensors").read_bytes() == before
    with pytest.raises(ValueError, match="other settings .*defense.* give another --out"):
        run(trained, defense="dctdp")
