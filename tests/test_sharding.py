"""A batch across eight devices is computed as on one; the devices are forced on a CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from advface_jax import sharding

TESTS = Path(__file__).parent

# Printed: how far eight devices are from one, and across how many what they gave lies.
COMPARE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from reference import weights
from advface_jax import sharding
from advface_jax.data import synthetic
from advface_jax.models import decoders, facenet, state
from advface_jax.protect import shadow_round_trip

def filled(build, seed):
    return state.fill(build, weights.fill(seed, state.shapes(build)))

config = decoders.DecoderConfig("transrec", width=4, depth=0)
extractor = filled(lambda: facenet.Extractor(rngs=nnx.Rngs(0)), 5)
shadow = filled(lambda: decoders.decoder(config, rngs=nnx.Rngs(0)), 1)
rng = np.random.default_rng(0)
# Batch-mates of different brightness: statistics of a part would not be those of the whole.
light = np.linspace(0.1, 1, 8, dtype=np.float32)[:, None, None, None]
images = (rng.random((8, 160, 160, 3), np.float32) * light).astype(np.float32)
mask = np.array([1, 1, 1, 1, 1, 1, 1, 0], np.float32)

@jax.jit
def first(images, mask, extractor, shadow):
    z = extractor(images)
    x_tilde, z_tilde = shadow_round_trip(z, extractor=extractor, shadow=shadow, mask=mask)
    loss = lambda q: (jnp.abs(shadow(q, "batch", mask) - x_tilde).mean((1, 2, 3)) * mask).sum()
    return z_tilde, jax.grad(loss)(z_tilde + 0.1)

mesh = sharding.across(8)
one = first(images, mask, extractor, shadow)
networks = sharding.replicate((extractor, shadow), mesh)
eight = first(*sharding.split((images, mask), mesh), *networks)
alone = first(images[:1], mask[:1], extractor, shadow)  # a device that saw its own face only

def apart(a, b):
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())

print(json.dumps({
    "devices": [len(a.sharding.device_set) for a in one + eight],
    "whole": [a.sharding.is_fully_replicated for a in eight],
    "apart": [apart(a, b) for a, b in zip(eight, one)],
    "alone": [apart(a[:1], b[:1]) for a, b in zip(alone, one)],
}))
"""

# The judge of every table, over all eight devices as it is over one.
JUDGE = """
import json, sys
from pathlib import Path
import jax, numpy as np
from test_evaluation import faces, subject
from advface_jax import sharding
from experiments import evaluation

real, seen = evaluation.judge_batch, []

def watched(*arguments):
    found = real(*arguments)
    given = [a for a in arguments[:2] if isinstance(a, jax.Array)]
    seen.append([len(a.sharding.device_set) for a in (*given, *found[0][:5])])
    return found

evaluation.judge_batch = watched
how = {"batch": 8, "settings": {}}
many = evaluation.judge(faces(12), subject(), keep=Path(sys.argv[1]) / "many", **how)
sharding.across = lambda batch: None
one = evaluation.judge(faces(12), subject(), keep=Path(sys.argv[1]) / "one", **how)
print(json.dumps({
    "devices": seen,
    "apart": [float(np.abs(a - b).max(initial=0)) for a, b in zip(many.judged, one.judged)],
}))
"""


def with_devices(code, *arguments, devices=8):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    surroundings = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=TESTS,
        env={**surroundings, "PYTHONPATH": str(TESTS)},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_eight_devices_compute_what_one_does():
    """S on statistics of the whole batch: z~ and the first gradient (later steps amplify the last
    digit, for they take its sign)."""
    found = with_devices(COMPARE)
    assert found["devices"] == [1, 1, 8, 8] and found["whole"] == [False, False]
    assert max(found["apart"]) < 1e-5
    assert min(found["alone"]) > 1e-2, "parts of this batch have other statistics than the whole"


def test_tables_are_judged_on_all_devices(tmp_path):
    found = with_devices(JUDGE, tmp_path)
    assert [set(batch) for batch in found["devices"]] == [{8}, {8}, {1}, {1}], "two batches each"
    assert max(found["apart"]) < 1e-3


def test_a_batch_that_devices_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: list(range(6)))
    with pytest.raises(ValueError, match="got batches of 16 for 6 devices; .*: 12 or 18; or let"):
        sharding.across(16)
    with pytest.raises(ValueError, match="got batches of 4 for 6 devices; .*of 6: 6; or let"):
        sharding.across(4)


def test_one_device_needs_no_mesh():
    batch = np.ones((3, 2), np.float32)
    mesh = sharding.across(3)
    if len(jax.devices()) == 1:
        assert mesh is None and sharding.split((batch,), mesh)[0] is batch
