"""What stands beside the decoy at screening size: other keys, other defences, its cost."""

import dataclasses
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.tree_util import Partial
from networks import Pool, small_decoder, small_extractor

from advface_jax import System, attacks, data, memory
from advface_jax.attacks import linkers
from advface_jax.decoy import keyed, lowered
from advface_jax.models.compact import Compact
from experiments import decoy_cost
from experiments.decoy import competitors, key_families
from experiments.decoy import linkers as decoy_linkers
from experiments.measure import decoyed

SHAPE = (9, 8, 4)
Z = jnp.asarray(np.random.default_rng(0).uniform(size=(3, *SHAPE)), "f4")


def flat(z):
    return z.reshape(len(z), -1)


PSI = Partial(flat)


@pytest.mark.parametrize("name", key_families.FAMILIES)
def test_a_family_draws_by_seed_and_changes_what_is_read(name):
    draw = key_families.FAMILIES[name]
    one, again, other = (key_families.changed(PSI, draw, (0, i), SHAPE)(Z) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert np.isfinite(one).all() and float(one.min()) >= 0
    assert np.abs(one - flat(Z)).max() > 1e-3 < np.abs(one - other).max()


def test_no_change_is_psi_and_a_white_pattern_is_the_librarys_key():
    still = key_families.changed(PSI, lambda rng, shape: {}, (0,), SHAPE)
    np.testing.assert_allclose(still(Z), flat(Z), atol=1e-6)
    ours = key_families.changed(PSI, key_families.white, (0, 1), SHAPE)
    np.testing.assert_allclose(ours(Z), keyed(PSI, ours.pattern)(Z), atol=1e-6)
    level = key_families.changed(PSI, key_families.geometry, (0, 1), SHAPE)
    np.testing.assert_allclose(level(jnp.ones_like(Z)), 1, atol=1e-5)  # it moves, and adds nothing


def test_a_feature_of_the_public_ones_survives_their_whole_basis_and_no_less():
    z, keys = Z, jax.random.split(jax.random.key(0), 3)
    whole, some = (competitors.basis(np.asarray(Z), rank) for rank in (9, 1))
    kept, lost = (
        competitors.low_rank(z, keys, None, None, 0.0, networks) for networks in (whole, some)
    )
    np.testing.assert_allclose(kept, Z, atol=1e-4)
    assert np.abs(lost - Z).max() > 0.1
    noisy = competitors.low_rank(z, keys, None, None, 0.1, whole)
    assert 0.01 < np.abs(noisy - Z).mean() < 0.2 and float(noisy.min()) >= 0


@pytest.mark.slow
@pytest.mark.long
def test_linkers_learn_from_names_and_need_enough_of_them(monkeypatch):
    small = dataclasses.replace(linkers.TUNING, classifier_epochs=1, epochs=1, people=2, images=2)
    monkeypatch.setattr(linkers, "TUNING", small)
    monkeypatch.setattr(decoy_linkers, "NEARER", small)
    monkeypatch.setitem(linkers.tuned.__kwdefaults__, "config", small)
    monkeypatch.setattr(linkers.enough, "__defaults__", (small,))
    public = data.synthetic_faces(4, 2, seed=5)
    z = np.random.default_rng(0).uniform(size=(8, 77, 77, 64)).astype("f4")
    other = types.SimpleNamespace(server=Compact(rngs=nnx.Rngs(1)), extractor=small_extractor())
    of_z = attacks.sibling(attacks.stitch(z[:3], z[:3], patch=1), other.server)
    world = types.SimpleNamespace(outside={"sibling": of_z})
    people = list(public.identities)
    with jax.numpy_dtype_promotion("standard"):  # Adam's, as in test_train
        found = decoy_linkers.named(world, other, z, people, 8)  # type: ignore[arg-type]
        found |= decoy_linkers.tuned(other, public, 4)  # type: ignore[arg-type]
    assert list(found) == ["names 8, linear", "names 8, sibling", "Ψ tuned"]
    assert all(np.isfinite(one(z[:2], batch=2)).all() for one in found.values())
    assert not decoy_linkers.named(world, other, z, people[::2], 4)  # type: ignore[arg-type]
    monkeypatch.setattr(decoy_linkers.readings, "items", lambda *given: z[: len(given[2])])
    how = (8, 1), 0.3, 4, 0
    with jax.numpy_dtype_promotion("standard"):
        learnt, few = decoy_linkers.stolen(world, other, None, public, *how)  # type: ignore[arg-type]
    assert list(learnt) == ["names 8, linear", "names 8, sibling"]
    assert few == {"names 1, linear", "names 1, sibling"}


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.long
def test_the_cost_is_told_beside_advfaces(monkeypatch):
    monkeypatch.setattr(decoyed, "LEARNT", 3)
    system = System.of(
        extractor=small_extractor(), server=Pool(), shadow=small_decoder(), name="small"
    )
    table = decoy_cost.table(system, system, "2", 1, True)
    decoys = ["Decoy, all steps", "Decoy with a key, all steps"]  # as the shadow is the server's
    assert [r["method"] for r in table.rows] == ["AdvFace", *decoys]
    assert all(r["ms"] > 0 and r["mb"] > 0 and r["batch"] == 2 for r in table.rows)
    assert table.rows[0]["times"] == 1


def test_the_memory_of_a_decoy_grows_with_its_readers_and_the_batch_fits():
    def size(**more) -> memory.Footprint:
        return memory.of_program(lambda z: lowered(z, recogniser=PSI, **more), SHAPE)

    plain, more = size(), size(shadows=[PSI], pattern=True)
    assert 0 < plain.per_face < more.per_face
    assert memory.fitting(plain, room=plain.of(10) + 1) == 10
    assert memory.fitting(plain, room=plain.of(10) + 1, most=4) == 4
    with pytest.raises(ValueError, match="not one face fits"):
        memory.fitting(plain, room=0)
    with pytest.raises(ValueError, match="--batch 0; wanted a number"):
        decoy_cost.main(batch="0")
