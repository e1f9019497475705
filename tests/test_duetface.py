"""DuetFace's recogniser: who sees what, the mask, its training and its file."""

import dataclasses
import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flat import call, mortal, promotion  # noqa: F401
from flax import nnx
from networks import Pooled, filled, system_of

import advface_jax
from advface_jax import data, defenses
from advface_jax.defenses import channels
from advface_jax.models.duetface import DuetFace, DuetFaceConfig, Recogniser
from advface_jax.system import ASSETS, read_decoder
from advface_jax.training import duetface, step
from advface_jax.untrusted import BadFile
from experiments import train_duetface
from experiments.measure import channels as channel_rows
from experiments.train import duetface as training

SMALL = DuetFaceConfig(mixed=4, width=4, depth=2, client=2)
masks, features = jax.jit(DuetFace.mask), jax.jit(DuetFace.features)


@pytest.fixture(scope="module")
def body():
    return filled(lambda: Pooled(rngs=nnx.Rngs(0)))


@pytest.fixture(scope="module")
def model() -> DuetFace:
    model = filled(lambda: DuetFace(SMALL, rngs=nnx.Rngs(0)))
    model.weight[...] = jnp.float32(0.5)  # as after training
    return model


@pytest.fixture(scope="module")
def shares() -> tuple[jax.Array, jax.Array]:
    images = data.read_faces("synthetic", limit=2).images / 255
    return defenses.duetface_split(jnp.asarray(images, jnp.float32))


def test_client_and_server_give_one_embedding(model, body, shares):
    kept, stored = shares
    embeddings = jax.jit(lambda r, *x: r(*x))(Recogniser(model, body), stored, kept)
    assert embeddings.shape == (2, 64 * 49)
    np.testing.assert_allclose(jnp.linalg.norm(embeddings, axis=-1), 1, atol=1e-5)
    mask = masks(model, kept)
    assert mask.shape == (2, 77, 77, 1)
    np.testing.assert_allclose(mask.min((1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(mask.max((1, 2, 3)), 1, atol=1e-3)
    expected = body.server(features(model, stored, mask, body))
    np.testing.assert_allclose(embeddings, expected, atol=1e-5)


def test_the_clients_share_changes_the_servers_features_by_the_mask_alone(model, body, shares):
    """No channel is on both sides, and no item depends on its batch."""
    kept, stored = shares
    assert not set(channels.CLIENT_CHANNELS) & set(channels.SERVER_CHANNELS)
    blind = features(model, stored, jnp.zeros((2, 77, 77, 1)), body)
    own, other = masks(model, kept), masks(model, kept[::-1])
    guided, swapped = (features(model, stored, mask, body) for mask in (own, other))
    for found, mask in ((guided, own), (swapped, other)):
        np.testing.assert_allclose(found, blind * (1 + 0.5 * mask), rtol=1e-4, atol=1e-5)
    assert np.abs(guided - blind).max() > 0.1 and np.abs(swapped - guided).max() > 1e-3
    alone = features(model, stored[1:], masks(model, kept[1:]), body)
    np.testing.assert_allclose(guided[1:], alone, rtol=1e-4, atol=1e-4)


def test_shares_that_do_not_fit_are_refused(model, body, shares):
    kept, stored = shares
    with pytest.raises(ValueError, match=r"shape \(2, 160, 160, 162\); wanted \(b, 160, 160, 30\)"):
        model.mask(stored)
    mask = jnp.zeros((2, 77, 77, 1))
    with pytest.raises(ValueError, match=r"shape \(2, 160, 160, 30\); wanted .* 162\)"):
        model.features(kept, mask, body)
    with pytest.raises(ValueError, match="got 2 stored items and 1 masks; wanted as many"):
        model.features(stored, mask[:1], body)
    with pytest.raises(ValueError, match="NaN or infinite"):
        model.mask(kept * jnp.nan)
    with pytest.raises(ValueError, match="got depth=6; wanted 0 to 5"):
        DuetFaceConfig(depth=6)
    wrongs: list[dict[str, Any]] = [{"learning_rate": 0.0}, {"embedding_epochs": -1}, {"batch": 0}]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="^got .*; wanted "):
            duetface.DistillConfig(**wrong)


@pytest.mark.slow
@pytest.mark.long
def test_distilling_brings_it_nearer_and_leaves_the_body_alone(body):
    pixels = data.read_faces("synthetic", limit=2).images
    config = duetface.DistillConfig(learning_rate=2e-2, batch=2, flip=False)
    distiller, now = duetface.start(SMALL, config, 4)
    assert now.params["weight"][...] == 0, "the server begins on its own"
    before = jax.device_get(jax.tree.leaves(body))
    fresh = jax.device_get(nnx.state(step.finished(distiller, now), nnx.Param))
    reports = []
    for _ in range(4):
        now, report = duetface.distill_step(now, pixels, body, distiller, True)
        reports.append(np.asarray(report))
    (first_error, first_cosine), (error, cosine) = reports[0], reports[-1]
    assert error < 0.95 * first_error and cosine > first_cosine
    trained = jax.device_get(nnx.state(step.finished(distiller, now), nnx.Param))
    still = jax.tree.leaves(jax.tree.map(np.array_equal, fresh, trained))
    assert not any(still), "every weight is trained: the mask's too, once its weight has left 0"
    assert all(map(np.array_equal, before, jax.tree.leaves(body)))


@pytest.fixture(scope="module")
def system(body):
    return system_of(body)


@pytest.fixture(scope="module")
def small(system):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(advface_jax, "load", lambda weights: system)
        patch.setattr(training, "PEOPLE", 4)
        patch.setattr(training, "PAIRS", 8)
        patch.setattr(training, "DuetFaceConfig", lambda: SMALL)
        yield


def run(out, **changes):
    settings: dict[str, Any] = {"batch": 2, "feature_epochs": 1, "limit": 26, "save_every": 2}
    call(train_duetface.main, out=out, **settings | changes)


@pytest.fixture(scope="module")
def trained(small, tmp_path_factory):
    out = tmp_path_factory.mktemp("duetface")
    run(out)
    return out


@pytest.mark.slow
@pytest.mark.long
def test_a_killed_run_leaves_the_same_recogniser_and_its_card(
    small, trained, system, tmp_path, monkeypatch
):
    path = trained / "duetface.safetensors"
    recogniser, card = duetface.read_duetface(path, system)
    assert recogniser.body is system.network
    assert "distilled" in card["training"] and "not trained as published" in card["training"]
    assert card["weights_sha256"] == "00" and card["train"]["seed"] == 0
    assert {"cosine", "acc", "acc_facenet", "mask_weight"} <= card["quality"].keys()
    assert path.with_suffix(".identities").stat().st_size
    document = json.loads((trained / "train_duetface.json").read_text())
    assert document["rows"][0]["ssim"] is None and document["rows"][0]["acc"] is not None
    epochs = document["notes"]["quality"]
    assert [q["epoch"] for q in epochs] == [1, 2], "towards z, then the embedding"
    losses = json.loads((trained / "checkpoint" / "card.json").read_text())["losses"]
    assert losses[0][1] == 0 != losses[-1][1]

    with monkeypatch.context() as patch:
        patch.setattr(duetface, "distill_step", mortal(duetface.distill_step, 3))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path)
    run(tmp_path)
    assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    with pytest.raises(ValueError, match=r"other settings \(train\): give another --out, or --res"):
        run(trained, learning_rate=1e-3)


def test_too_few_people_other_weights_and_damage_are_refused(small, system, model, tmp_path):
    with pytest.raises(ValueError, match="got 4 people; wanted more than the 4 held out"):
        run(tmp_path / "few", limit=16)
    path = tmp_path / "duetface.safetensors"
    duetface.write_duetface(path, model, {"weights": "random", "weights_sha256": "00"})
    names = safetensors.numpy.load_file(path)
    parts = {name.partition(".")[0] for name in names}
    assert parts == {"stem", "attention", "weight"}, "FaceNet is not in the file"
    read, _ = duetface.read_duetface(path, system)
    assert read.body is system.network and read.duetface.config == SMALL
    other = system_of(None, "01", "other")
    with pytest.raises(ValueError, match="stands in front of random; these weights are other"):
        duetface.read_duetface(path, other)
    with pytest.raises(ValueError, match="no recogniser of DuetFace at .*nothing.safetensors"):
        duetface.read_duetface(tmp_path / "nothing.safetensors", other)
    path.write_bytes(b"broken")
    with pytest.raises(ValueError, match="is damaged"):
        duetface.read_duetface(path, other)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"duetface": 5}, "is damaged .*its config is a int"),
        ({"duetface": {"colour": "red"}}, "is damaged .*its config has colour"),
        ({"duetface": {"depth": "3"}}, "is damaged .*its config has depth='3'"),
        ({"duetface": {"width": 1 << 40}}, "is damaged .*its config has width="),
        ({"duetface": {"depth": 9}}, "is damaged .*depth=9; wanted 0 to 5"),
        ({"weights": 5}, "is damaged .*its card has weights=5"),
        ({"duetface": dataclasses.asdict(SMALL) | {"client": 9}}, "safetensors: the weights do no"),
    ],
    ids=str,
)
def test_a_card_of_something_else_is_refused(changed, message, system, model, tmp_path):
    path = tmp_path / "duetface.safetensors"
    duetface.write_duetface(path, model, {"weights": "random", "weights_sha256": "00"})
    card = path.with_suffix(".json")
    card.write_text(json.dumps(json.loads(card.read_text()) | changed))
    with pytest.raises(BadFile, match=message):
        duetface.read_duetface(path, system)


def test_what_is_shipped_fits_and_says_how_it_was_trained():
    path = channel_rows.SHIPPED / channel_rows.RECOGNISER
    assert path.stat().st_size < 300_000, "FaceNet is not in it"
    beside = json.loads((ASSETS / "facenet-512-q8" / "resrec-attacker.json").read_text())
    shipped = system_of(None, beside["weights_sha256"], beside["weights"])
    recogniser, card = duetface.read_duetface(path, shipped)
    assert recogniser.duetface.weight[...] != 0, "the mask has a part"
    assert "not trained as published" in card["training"]
    assert {"seed", "seconds", "faces_read"} <= card.keys() | card["train"].keys()
    decoder, about = read_decoder(channel_rows.SHIPPED / channel_rows.DECODER, "duetface")
    assert about["config"]["channels"] == 162 and about["train"]["seed"] == 0
