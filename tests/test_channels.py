"""Rows of defences that store frequency channels: networks of their own, and who solves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx
from networks import filled, pooled_system, system_of

from advface_jax import data
from advface_jax.data import leaks
from advface_jax.models import channel_decoder, decoders
from advface_jax.models.duetface import DuetFace, DuetFaceConfig
from advface_jax.system import write_decoder
from advface_jax.training import duetface
from experiments.measure import channels as channel_rows
from experiments.measure import inputs

SMALL = DuetFaceConfig(mixed=4, width=4, depth=1, client=2)
CHANNELS = {"duetface": 162, "partialface": 27, "dctdp": 189}


def channels_decoder(channels: int, seed: int = 5) -> decoders.AnyDecoder:
    size = channel_decoder.ChannelDecoderConfig(channels, width=4, depth=1)
    return filled(lambda: decoders.decoder(size, rngs=nnx.Rngs(0)), seed)


@pytest.fixture(scope="module")
def system():
    return pooled_system()


def write_networks(place: Path) -> None:
    """A recogniser of DuetFace, and a decoder of each defence's channels."""
    model = filled(lambda: DuetFace(SMALL, rngs=nnx.Rngs(0)))
    card = {"weights": "random", "weights_sha256": "00", "training": "none at all", "steps": 0}
    card |= {"command": "python", "date": "2026-01-01"}
    duetface.write_duetface(place / channel_rows.RECOGNISER, model, card)
    for name, channels in CHANNELS.items():
        decoder = channels_decoder(channels)
        card = {"weights": None, "weights_sha256": None, "defense": name}
        file = "duetface_attacker" if name == "duetface" else name
        write_decoder(place / f"{file}.safetensors", decoder, card)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("channels")
    write_networks(place)
    return place


@pytest.fixture(scope="module")
def faces() -> data.Faces:
    return data.read_faces("synthetic", names=data.synthetic_names(4, 2))


def rows_of(networks, faces, out, **changes):
    pairs = inputs.draw(faces, 8, 0)
    how: dict[str, Any] = {"batch": 8, "seed": 0, "keep": out, "settings": {"epsilon": 0.2}}
    extra = {"set": None, "shadow": "s", "attacker": "r"}
    return channel_rows.measure(networks, faces, pairs, **how | changes, extra=extra)


@pytest.mark.slow
def test_duetface_has_two_rows_and_its_own_recogniser(system, folder, faces, tmp_path):
    networks = channel_rows.read_duetface(system, folder, folder / "duetface_attacker.safetensors")
    decoded, solved = (found := rows_of(networks, faces, tmp_path)).rows
    assert (decoded["method"], solved["method"]) == ("DuetFace", "DuetFace (solved)")
    assert decoded["attacker"] == "channelrec" and solved["attacker"] == "solve_channels"
    assert decoded["shadow"] is None and decoded["n"] == 8 and decoded["epsilon"] is None
    assert solved["ssim"] > 0.85 > decoded["ssim"], "nothing trained, against nothing learnt"
    assert decoded["acc"] == solved["acc"], "recognition has no attacker"
    assert np.isfinite([decoded["srra"], solved["srra"], decoded["ssim_ci"][0]]).all()
    assert found.measured.pictures[0].shape == (2, 8, 160, 160, 3)
    truth = faces.images - faces.images.mean((1, 2), keepdims=True)
    ours = found.measured.pictures[0, 1] - found.measured.pictures[0, 1].mean((1, 2), keepdims=True)
    assert np.abs(ours - truth).max() < 3, "of 255: the face, but for a constant a colour"


@pytest.mark.parametrize(
    ("name", "rows"), [("partialface", 1), pytest.param("dctdp", 2, marks=pytest.mark.slow)]
)
def test_without_a_recogniser_a_row_is_of_pictures_alone(name, rows, folder, faces, tmp_path):
    networks = channel_rows.read_channels(folder / f"{name}.safetensors")
    found = rows_of(networks, faces, tmp_path)
    assert len(found.rows) == len(found.measured.pictures[0]) == rows
    for row in found.rows:
        assert row["method"].startswith(channel_rows.NAMES[name])
        assert row["acc"] is None and row["srra"] is None
        assert np.isfinite(row["ssim"]) and len(row["ssim_ci"]) == 2
        assert not [k for k in row if k.startswith(("acc_", "srra_", "threshold"))]


def test_the_noise_is_of_the_seed(folder, faces, tmp_path):
    networks = channel_rows.read_channels(folder / "partialface.safetensors")
    one, other = (rows_of(networks, faces, tmp_path / str(s), seed=s).rows[0] for s in (0, 1))
    assert one["mse"] != other["mse"]


def test_a_stopped_measurement_is_taken_up_and_other_networks_measured_anew(
    system, folder, faces, tmp_path, monkeypatch
):
    networks = channel_rows.read_channels(folder / "partialface.safetensors")
    first = rows_of(networks, faces, tmp_path)
    monkeypatch.setattr(
        "experiments.measure.judging.judge_batch", None
    )  # would fail if it were called
    assert rows_of(networks, faces, tmp_path).rows == first.rows
    other = channels_decoder(27, seed=6)
    with pytest.raises(TypeError):
        rows_of(networks._replace(decoder=other), faces, tmp_path)


def test_what_is_missing_or_wrong_is_said(system, folder, tmp_path, monkeypatch):
    decoder = folder / "duetface_attacker.safetensors"
    monkeypatch.setattr(channel_rows, "SHIPPED", tmp_path)
    with pytest.raises(channel_rows.NotMeasured, match="give --duetface FOLDER"):
        channel_rows.read_duetface(system, None, None)
    with pytest.raises(channel_rows.NotMeasured, match="give --duetface-attacker FILE"):
        channel_rows.read_duetface(system, folder, None)
    other = system_of(None, "01", "other")
    with pytest.raises(ValueError, match="stands in front of random; these weights are other"):
        channel_rows.read_duetface(other, folder, decoder)
    monkeypatch.setattr(channel_rows, "SHIPPED", folder)
    with pytest.raises(channel_rows.NotMeasured, match="a recogniser for these weights"):
        channel_rows.read_duetface(other, None, decoder)
    with pytest.raises(ValueError, match="no recogniser of DuetFace at"):
        channel_rows.read_duetface(system, tmp_path, decoder)
    with pytest.raises(
        ValueError, match="partialface stores; wanted a decoder of what the defence"
    ):
        channel_rows.read_duetface(system, folder, folder / "partialface.safetensors")
    shipped = channel_rows.ASSETS / "facenet-512-q8" / "resrec-attacker.safetensors"
    with pytest.raises(ValueError, match="decodes unprotected features; wanted .* channels"):
        channel_rows.read_channels(shipped)


def test_people_seen_in_training_are_counted(system, folder, faces):
    networks = channel_rows.read_channels(folder / "dctdp.safetensors")
    assert channel_rows.seen_in_training(networks, faces, "warn") == {"dctdp: dctdp": None}
    leaks.write_identities(folder / "dctdp.identities", faces.identities)
    with pytest.raises(ValueError, match="dctdp"):
        channel_rows.seen_in_training(networks, faces, "refuse")
