"""Drawn faces: the same for a seed, of one person where the name says so, vetted, structured."""

import json

import numpy as np
import pytest

from advface_jax.data import read_faces, synthetic_faces, synthetic_names
from advface_jax.data.drawn import faces as synthetic

CARD = json.loads(synthetic.VETTED.read_text())
# means over 32×32 pixels of the first picture, its middle row, on the day of vetting
FIRST = [140.8, 91.2, 76.9, 203.2, 135.9, 111.9, 187.7, 128.7, 105.8, 201.6, 136.9, 113.0]
FIRST = np.reshape([*FIRST, 129.7, 83.3, 73.1], (5, 3))


@pytest.fixture(scope="module")
def faces():
    return synthetic_faces(12, 3, seed=5)


def test_shape_names_and_identities(faces):
    assert faces.images.shape == (36, 160, 160, 3) and faces.images.dtype == np.uint8
    assert len(set(faces.names)) == 36 and len(set(faces.identities)) == 12
    assert faces.names[4] == "synthetic_0001/0001.png"
    assert faces.identities[4] == "synthetic_0001" and faces.skipped == ()


def test_each_picture_follows_from_seed_person_and_number(faces):
    small = synthetic_faces(2, 2, seed=5)
    assert (small.images == faces.images[[0, 1, 3, 4]]).all()
    assert (synthetic_faces(2, 2, seed=6).images != small.images).mean() > 0.5
    assert (read_faces("synthetic", limit=2).images == synthetic_faces(1, 2).images).all()


def test_enough_people_were_compared_with_the_training_sets():
    how = CARD["people_chosen"]
    assert len(set(CARD["people"])) >= 64 and how["pictures"] == 4
    allowed, thresholds = how["largest_cosine_allowed"], how["thresholds_at_far"]
    assert thresholds["far"] == 1e-3
    assert allowed < min(thresholds["evaluation"], thresholds["training"])
    assert how["training_pictures"] == 8549


def test_the_vetted_people_come_first_and_are_drawn_as_when_they_were_vetted():
    beyond = len(CARD["people"])
    names = list(synthetic_names(beyond + 1, 1))
    last = synthetic_faces(beyond + 1, 1, names=names[-2:])
    assert (last.images[0] == synthetic.draw(0, [(CARD["people"][-1], 0)])[0]).all()
    assert (last.images[1] != last.images[0]).mean() > 0.5
    blocks = synthetic_faces(1, 1).images[0].reshape(5, 32, 5, 32, 3).mean((1, 3))
    np.testing.assert_allclose(blocks[2], FIRST, atol=2)


def test_no_picture_comes_twice(faces):
    flat = faces.images[:, ::4, ::4].reshape(36, -1).astype(np.float32)
    apart = np.abs(flat[:, None] - flat[None]).mean(-1) + 255 * np.eye(36)
    assert apart.min() > 4


def test_pictures_of_one_person_are_nearer_than_those_of_two(faces):
    """By the middle of the face alone, without background and hair."""
    face = faces.images[:, 40:140, 30:130].astype(np.float32)
    face = face.reshape(36, 25, 4, 25, 4, 3).mean((2, 4)).reshape(36, -1)
    face = face - face.mean(1, keepdims=True)
    face /= np.linalg.norm(face, axis=1, keepdims=True)
    alike = face @ face.T
    who = np.array(faces.identities)
    same = (who[:, None] == who[None]) & ~np.eye(36, dtype=bool)
    assert alike[same].mean() > alike[who[:, None] != who[None]].mean() + 0.03


def test_pictures_look_like_photographs_in_their_statistics(faces):
    """Within wide bounds about LFW crops: mean 0.44, deviation 0.25, few pixels black or white."""
    x = faces.images / 255
    assert 0.3 < x.mean() < 0.6 and 0.15 < x.std() < 0.32
    assert (x == 0).mean() < 0.05 and (x == 1).mean() < 0.05
    assert (x.std((1, 2, 3)) > 0.08).all()
    assert len(np.unique(faces.images)) == 256


def test_features_lie_where_a_crop_has_them(faces):
    """The eyes are busier than the cheeks below them, left and right."""
    busy = np.abs(np.diff(faces.images.astype(np.float32).mean(-1), axis=2)).mean(0)
    for columns in (slice(35, 65), slice(95, 125)):
        assert busy[56:80, columns].mean() > 1.5 * busy[88:108, columns].mean()


def test_names_choose_what_is_drawn(faces):
    assert tuple(synthetic_names(12, 3)) == faces.names
    chosen = synthetic_faces(12, 3, seed=5, names=[faces.names[7], faces.names[2]])
    assert chosen.names == (faces.names[7], faces.names[2])
    assert (chosen.images == faces.images[[7, 2]]).all()
    for bad in (["synthetic_0012/0000.png"], []):
        with pytest.raises(ValueError, match="take them from synthetic_names"):
            synthetic_faces(12, 3, names=bad)


@pytest.mark.parametrize("bad", [(0, 1, 0), (1, 0, 0), (1, 1, -1)])
def test_nothing_to_draw_is_an_error(bad):
    with pytest.raises(ValueError, match="got (identities=0|per_identity=0|seed=-1); wanted"):
        synthetic_faces(*bad)
