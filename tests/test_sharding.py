"""Eight devices or two hosts compute what one device does; they are simulated on a CPU."""

from types import SimpleNamespace

import jax
import numpy as np
import pytest
from processes import answer, free_port, start

from advface_jax import sharding

# Prints how far the results of eight devices are from those of one, and on how many they lie.
COMPARE = """
import json, sys
import jax, jax.numpy as jnp, numpy as np
from networks import new_extractor, small_decoder
from advface_jax import sharding
from advface_jax.protect import shadow_round_trip

if len(sys.argv) > 1:
    sharding.join(sys.argv[1])
extractor, shadow = new_extractor(), small_decoder()
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
    "apart": [apart(sharding.whole(a), b) for a, b in zip(eight, one)],
    "hosts": jax.process_count(),
    "leads": sharding.leads(),
    "alone": [apart(a[:1], b[:1]) for a, b in zip(alone, one)],
}))
"""

# Explicitly sharded features go in and come out so, in every program of `protect`, also inside jit.
EXPLICIT = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from networks import small_decoder, small_extractor
from advface_jax import protect, protect_sweep, shadow_round_trip

how = {"extractor": small_extractor(), "shadow": small_decoder(seed=7)}
config = {"steps": 2, "formulation": "plain"}
z = how["extractor"](jnp.asarray(np.random.default_rng(0).random((2, 160, 160, 3), np.float32)))
expected = np.asarray(protect(z, **how, config=config))
found = []
for n in (1, 2):
    explicit = (jax.sharding.AxisType.Explicit,)  # the default of jax 0.9 and newer
    mesh = jax.make_mesh((n,), ("faces",), explicit, devices=jax.devices()[:n])
    place = NamedSharding(mesh, P("faces"))
    split = jax.device_put(z, place)
    mask = jax.device_put(jnp.ones(2), place)
    one = protect(split, **how, config=config, mask=mask)
    results = [
        (one, 0),
        (jax.jit(lambda z: protect(z, **how, config=config))(split), 0),
        (protect_sweep(split, [0.0, 0.2], **how, config=config), 1),
        *((x, 0) for x in shadow_round_trip(split, **how)),
    ]
    replicated = jax.device_put(how, NamedSharding(mesh, P()))
    results.append((protect(split, **replicated, config=config), 0))
    found += [jax.typeof(x).sharding.spec[axis] for x, axis in results]
    found.append(float(np.mean(np.abs(np.asarray(one) - expected) < 1e-3)))
print(json.dumps(found))
"""

# Decoys on two devices, the mesh explicit or not: where both results lie, and how far from one's.
DECOYS = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from jax.tree_util import Partial
from advface_jax import protect_decoy

rng = np.random.default_rng(0)
z, decoys = jnp.asarray(rng.random((2, 4, 3, 5, 2), np.float32))
read = lambda kernel, z: jnp.maximum(z.reshape(len(z), -1) @ kernel, 0)
readers = [Partial(read, jnp.asarray(rng.normal(size=(30, 9)), jnp.float32)) for _ in range(2)]
how = {"recogniser": readers[0], "shadows": readers[1:], "pattern": np.ones((3, 5, 2), "f4")}
one, _ = protect_decoy(z, decoys, **how, mask=np.ones(4))
found = []
for kind in (AxisType.Auto, AxisType.Explicit):
    place = NamedSharding(jax.make_mesh((2,), ("faces",), (kind,)), P("faces"))
    two = protect_decoy(*jax.device_put((z, decoys), place), **how, mask=np.ones(4))
    found += [x.sharding.spec[0] for x in two]
    found.append(float(np.abs(np.asarray(two.stored) - np.asarray(one)).max()))
print(json.dumps(found))
"""

# A step of training a decoder by plain descent, so that the weights change by the gradient.
TRAIN = """
import json
import jax, numpy as np, optax
from networks import new_extractor
from advface_jax import sharding
from advface_jax.data import synthetic_faces
from advface_jax.models import decoders
from advface_jax.training import train

extractor = new_extractor()
pixels = synthetic_faces(8, 1).images
config = train.TrainConfig(batch=8)
size = decoders.DecoderConfig("urec", width=4, depth=1)

def step(devices):
    mesh = sharding.across(8, jax.devices()[:devices])
    trainer, now = train.start(size, config, 8)
    trainer = trainer._replace(optimizer=optax.sgd(1.0))
    now = now._replace(optimizer=trainer.optimizer.init(now.params))
    given = sharding.split(pixels, mesh), sharding.replicate(extractor, mesh), trainer
    now = sharding.replicate(now, mesh)
    program = train.train_step.lower(now, *given).compile()
    before = [np.array(leaf) for leaf in jax.tree.leaves(now)]
    after = jax.tree.leaves(train.train_step(now, *given)[0])
    return program.as_text(), [np.asarray(a) - b for a, b in zip(after, before)]

(_, one), (text, eight) = step(1), step(8)
largest = max(np.abs(a).max() for a in one)
print(json.dumps({
    "apart": [float(np.abs(a - b).max() / largest) for a, b in zip(eight, one)],
    "gathers": text.count("all-gather"),
    "sums": text.count("all-reduce("),
}))
"""

# The judge of every table, on eight devices and on one.
JUDGE = """
import json, sys
from pathlib import Path
import jax, numpy as np
from test_judging import faces, subject
from advface_jax import sharding
from experiments.measure import judging

real, seen = judging.judge_batch, []

def watched(*arguments):
    found = real(*arguments)
    given = [a for a in arguments[:2] if isinstance(a, jax.Array)]
    seen.append([len(a.sharding.device_set) for a in (*given, *found[0][:5])])
    return found

judging.judge_batch = watched
how = {"batch": 8, "settings": {}}
many = judging.judge(faces(12), subject(), keep=Path(sys.argv[1]) / "many", **how)
sharding.across = lambda batch: None
one = judging.judge(faces(12), subject(), keep=Path(sys.argv[1]) / "one", **how)
print(json.dumps({
    "devices": seen,
    "apart": [float(np.abs(a - b).max(initial=0)) for a, b in zip(many.judged, one.judged)],
}))
"""


# Every collective of the compiled ``protect``, by S's statistics: [its name, how many numbers].
COLLECTIVES = """
import importlib, json, math, os, re
os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"  # nothing is run: compile quickly
import jax, jax.numpy as jnp, numpy as np
from flax import nnx
from advface_jax import ProtectConfig, sharding
from advface_jax.models import decoders, facenet

protect = importlib.import_module("advface_jax.protect")
extractor, mesh = facenet.Extractor(rngs=nnx.Rngs(0)), sharding.across(8)
what = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter|collective-broadcast"
found = {}
for kind in decoders.KINDS:
    shadow = decoders.decoder(decoders.DecoderConfig(kind, width=8, depth=1), rngs=nnx.Rngs(0))
    z, mask = sharding.split((np.zeros((8, 77, 77, 64), "f4"), np.ones(8, "f4")), mesh)
    networks = sharding.replicate((extractor, shadow), mesh)
    for statistics in ("batch", "example"):
        config = ProtectConfig(steps=2, statistics=statistics)
        program = protect._protect.lower(z, jnp.float32(0.2), mask, *networks, config).compile()
        lines = re.findall(rf"= ([^=]*?) ({what})(?:-start)?[(]", program.as_text())
        found[f"{kind} {statistics}"] = [
            [name, max(math.prod(map(int, filter(None, s.split(",")))) for s in
                       re.findall(r"[[]([0-9,]*)[]]", shapes))]
            for shapes, name in lines
        ]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_eight_devices_compute_what_one_does():
    """S on statistics of the whole batch: z~ and the first gradient (later ones follow its sign,
    which amplifies the last digit)."""
    found = answer(start(COMPARE))
    assert found["devices"] == [1, 1, 8, 8] and found["whole"] == [False, False]
    assert max(found["apart"]) < 1e-5
    assert min(found["alone"]) > 1e-2, "parts of this batch have other statistics than the whole"


@pytest.mark.slow
@pytest.mark.long
def test_eight_devices_learn_what_one_does():
    found = answer(start(TRAIN))
    assert max(found["apart"]) < 1e-5
    assert found["gathers"] == 0 < found["sums"], "sums of statistics and of gradients"


@pytest.mark.slow
def test_two_hosts_compute_what_one_device_does():
    port = free_port()
    hosts = [start(COMPARE, f"127.0.0.1:{port},2,{i}", devices=2) for i in range(2)]
    found = [answer(host) for host in hosts]
    assert [f["hosts"] for f in found] == [2, 2] and [f["leads"] for f in found] == [True, False]
    for f in found:
        assert f["devices"] == [1, 1, 4, 4] and f["whole"] == [False, False]
        assert max(f["apart"]) < 1e-5


@pytest.mark.slow
def test_devices_exchange_statistics_and_nothing_else():
    """Sums of as many numbers as a layer has channels; none if faces have their own statistics."""
    for name, collectives in answer(start(COLLECTIVES)).items():
        wanted = set() if name.endswith("example") else {"all-reduce"}
        assert {what for what, _ in collectives} == wanted, name
        assert all(numbers <= 16 for _, numbers in collectives), name  # two channels of URec


@pytest.mark.parametrize(
    "hosts", ["here", "10.0.0.1,2,0", "10.0.0.1:80,2", "10.0.0.1:80,2,x", "10.0.0.1:80,2,2"]
)
def test_hosts_of_another_form_are_refused(hosts):
    last = hosts.endswith(",2,2")
    message = "the last INDEX of 2 is 1" if last else "wanted 'auto', or ADDRESS:PORT,COUNT,INDEX"
    with pytest.raises(ValueError, match=message):
        sharding.join(hosts)


def test_hosts_join_before_anything_else_of_jax():
    jax.devices()
    with pytest.raises(ValueError, match="before any other use of JAX"):
        sharding.join("127.0.0.1:80,2,0")


@pytest.mark.slow
def test_tables_are_judged_on_all_devices(tmp_path):
    found = answer(start(JUDGE, tmp_path))
    assert [set(batch) for batch in found["devices"]] == [{8}, {8}, {1}, {1}], "two batches each"
    assert max(found["apart"]) < 1e-3


def test_a_batch_that_devices_cannot_share_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "devices", lambda: [SimpleNamespace(platform="gpu")] * 6)
    with pytest.raises(ValueError, match="got batches of 16 for 6 devices; .*: 12 or 18; or let"):
        sharding.across(16)
    with pytest.raises(ValueError, match="got batches of 4 for 6 devices; .*of 6: 6; or let"):
        sharding.across(4)


# Prints the devices of a command, and how many of them share batches of these sizes.
COMMAND = """
import json
import jax
from advface_jax import cli, sharding

sharding.cores = lambda: 4

def main():
    meshes = [sharding.across(batch) for batch in (8, 6, 3, 1)]
    print(json.dumps([len(jax.devices()), *(mesh.size if mesh else 1 for mesh in meshes)]))

cli.start(main, "here")
"""


def test_a_command_shares_a_batch_among_all_cores():
    assert answer(start(COMMAND, devices=None)) == [4, 4, 3, 3, 1]
    assert answer(start(COMMAND, devices=2)) == [2, 2, 2, 1, 1], "the user's number stands"


def test_one_device_needs_no_mesh():
    batch = np.ones((3, 2), np.float32)
    mesh = sharding.across(3)
    if len(jax.devices()) == 1:
        assert mesh is None and sharding.split((batch,), mesh)[0] is batch


def test_explicitly_sharded_features_come_out_sharded():
    found = answer(start(EXPLICIT, 2))
    assert [x for x in found if isinstance(x, str)] == ["faces"] * 12
    assert all(share > 0.98 for share in found if not isinstance(share, str))


def test_decoys_come_out_sharded():
    found = answer(start(DECOYS, 2))
    assert found[:2] == found[3:5] == ["faces"] * 2
    assert max(found[2], found[5]) < 1e-4
