"""Systems and decoder files: written and read back, refused if damaged or of other weights."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from networks import Sampled, filled, small_decoder, system_of
from reference import weights

import advface_jax
from advface_jax.models import decoders, facenet, state
from advface_jax.system import ASSETS, System, read_decoder, write_decoder

CARD = {"weights": "random", "weights_sha256": "00"}


class Tiny(nnx.Module):
    """A recogniser's outline: a small E, and for Ψ the direction of its mean feature."""

    config = facenet.FaceNetConfig(embedding_size=64)

    def __init__(self, *, rngs: nnx.Rngs):
        self.extractor = Sampled(rngs=rngs)

    def __call__(self, images):
        mean = self.extractor(images).mean((1, 2))
        return mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def system() -> System:
    return system_of(filled(lambda: Tiny(rngs=nnx.Rngs(0))))


@pytest.fixture(scope="module")
def decoder() -> decoders.Decoder:
    return small_decoder()


@pytest.fixture
def written(decoder, tmp_path):
    """A decoder's file, in a folder that was not there before."""
    path = tmp_path / "new" / "transrec-shadow.safetensors"
    write_decoder(path, decoder, CARD)
    return path


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_decoder_comes_back_as_it_was_written(dtype, decoder, tmp_path):
    path = tmp_path / "decoder.safetensors"
    write_decoder(path, decoder, CARD | {"seed": 3}, dtype)
    back, card = read_decoder(path)
    assert back.config == decoder.config and type(back) is type(decoder)
    assert card["seed"] == 3 and card["dtype"] == dtype
    assert card["config"] == dataclasses.asdict(decoder.config)
    before, after = state.flatten(decoder), state.flatten(back)
    assert before.keys() == after.keys()
    for name, value in after.items():
        assert value.dtype == jnp.float32
        assert np.array_equal(value, np.asarray(before[name]).astype(dtype).astype("float32"))


def test_a_system_reads_decoders_of_its_own_weights_alone(system, written, decoder):
    assert system.read_decoder(written).config == decoder.config
    other = system_of(system.network, "01", "elsewhere")
    with pytest.raises(ValueError, match="features of random; these weights are elsewhere: train"):
        other.read_decoder(written)
    with pytest.raises(ValueError, match="is shipped for the features of random: train one with"):
        system.decoder("resrec", "shadow")  # the shipped one, of facenet-512-q8
    with pytest.raises(ValueError, match="^got role='bystander'; wanted 'shadow' or 'attacker'"):
        system.decoder("resrec", "bystander")


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_a_missing_file_is_named(suffix, written):
    written.with_suffix(suffix).unlink()
    with pytest.raises(ValueError, match=rf"no decoder at .*transrec-shadow\{suffix}: wanted NAME"):
        read_decoder(written)


def edit(change):
    """Damage to the card: `change` works on its dictionary."""

    def damage(path):
        card = json.loads(path.with_suffix(".json").read_text())
        change(card)
        path.with_suffix(".json").write_text(json.dumps(card))

    return damage


DAMAGES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "not safetensors": lambda path: path.write_bytes(b"P" * 1000),
    "card cut short": lambda path: path.with_suffix(".json").write_text('{"weights": "ra'),
    "card not text": lambda path: path.with_suffix(".json").write_bytes(b"\xff\xfe\x00"),
    "card a list": lambda path: path.with_suffix(".json").write_text("[1, 2]"),
    "no config": edit(lambda card: card.pop("config")),
    "no sum": edit(lambda card: card.pop("weights_sha256")),
    "strange setting": edit(lambda card: card["config"].update(colour="red")),
    "unknown kind": edit(lambda card: card["config"].update(kind="vae")),
    "another width": edit(lambda card: card["config"].update(width=8)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_decoder_is_refused(damage, written):
    damage(written)
    with pytest.raises(ValueError, match="damaged|do not fit|unknown decoder"):
        read_decoder(written)


def test_embeddings_do_not_depend_on_the_batch(system):
    images = weights.images(2, 5)
    one_by_one = np.concatenate([system.embed(image[None]) for image in images])
    assert one_by_one.shape == (5, 64) and one_by_one.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(one_by_one, axis=1), 1, rtol=1e-5)
    for batch in (2, 32):
        np.testing.assert_allclose(system.embed(images, batch=batch), one_by_one, atol=1e-5)


def test_one_program_embeds_any_number(system, monkeypatch):
    traces = []
    count = jax.jit(lambda network, images: traces.append(images.shape) or network(images))
    monkeypatch.setattr(advface_jax.system, "_embed", count)
    for n in (2, 3, 4, 5):
        assert system.embed(weights.images(2, n), batch=2).shape == (n, 64)
    assert traces == [(2, 160, 160, 3)]


def test_only_a_batch_of_images_lies_on_the_device(system, monkeypatch):
    others = {id(x): x for x in jax.live_arrays()}  # of other tests

    def embed(network, images):
        ours = [x for x in jax.live_arrays() if id(x) not in others]
        assert [len(x) for x in ours if x.shape[1:] == images.shape[1:]] == [2]
        return images[:, 0, 0]

    monkeypatch.setattr(advface_jax.system, "_embed", embed)
    images = weights.images(2, 5)
    np.testing.assert_array_equal(system.embed(images, batch=2), images[:, 0, 0])
    images[4, 7] = np.nan
    with pytest.raises(ValueError, match="look for NaN"):
        system.embed(images, batch=2)


ONE_NAN = np.where(np.arange(160 * 160 * 3) == 1000, np.nan, 0.5).reshape(1, 160, 160, 3)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((1, 160, 160, 3), 255.0), r"from 255 to 255; wanted finite ones in \[0, 1\]: div"),
        (np.full((1, 160, 160, 3), -1.0), r"from -1 to -1; wanted finite ones in \[0, 1\]"),
        (np.full((1, 160, 160, 3), np.nan), r"wanted finite ones in \[0, 1\].*look for NaN"),
        (ONE_NAN, r"wanted finite ones in \[0, 1\].*look for NaN"),
        (np.zeros((1, 160, 160, 3), np.uint8), "dtype uint8; wanted float32.*divide by 255"),
        (np.zeros((160, 160, 3)), r"shape \(160, 160, 3\); wanted \(b, 160, 160, 3\).*x\[None\]"),
        (np.zeros((1, 3, 160, 160)), r"shape \(1, 3, 160, 160\); wanted \(b, 160, 160, 3\)"),
        (np.zeros((1, 112, 112, 3)), r"shape \(1, 112, 112, 3\); wanted \(b, 160, 160, 3\)"),
        (np.zeros((0, 160, 160, 3)), "an empty batch of images; wanted at least one"),
    ],
)
def test_images_that_do_not_fit_are_refused(images, message, system):
    with pytest.raises(ValueError, match=f"(?=got ).*{message}"):
        system.embed(images)


@pytest.mark.parametrize("source", ["nonsense", "no/such/folder"])
def test_unknown_weights_are_refused_with_the_known_ones(source, tmp_path):
    with pytest.raises(ValueError, match=f"no weights called '{source}': .*facenet-512-q8.*or a"):
        advface_jax.load(source)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        advface_jax.load(tmp_path)


SHIPPED = sorted(ASSETS.glob("*/*.safetensors"))
NAMES = [f"{path.parent.name} {path.stem}" for path in SHIPPED]


@pytest.mark.parametrize("path", SHIPPED, ids=NAMES)
def test_shipped_decoders_are_small_whole_and_say_where_they_come_from(path, tmp_path):
    assert path.stat().st_size <= 3_000_000
    decoder, card = read_decoder(path)
    kind, role = path.stem.split("-")
    assert decoder.config.kind == kind and card["role"] == role
    assert card["weights"] == path.parent.name and len(card["weights_sha256"]) == 64
    assert card["train"]["seed"] >= 0 and card["hardware"] and card["date"] and card["faces"]
    assert card["quality"]["ssim"] > 0.8
    assert all(np.isfinite(value).all() for value in state.flatten(decoder).values())
    write_decoder(tmp_path / path.name, decoder, card)  # the format that shipped files have
    for file in (path, path.with_suffix(".json")):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("weights", sorted({path.parent.name for path in SHIPPED}))
def test_the_default_decoders_were_trained_on_different_people(weights):
    cards = [ASSETS / weights / f"resrec-{role}.json" for role in ("shadow", "attacker")]
    shadow, attacker = (json.loads(card.read_text()) for card in cards)
    assert shadow["faces"] != attacker["faces"]
    assert shadow["weights_sha256"] == attacker["weights_sha256"]
