# ---
# jupyter:
#   jupytext:
#     text_representation:
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # AdvFace in ten minutes
#
# Face recognition stores features, and a decoder turns stolen features back into faces. This
# notebook protects features with AdvFace, looks through the thief's eyes before and after, checks
# that people are still recognised, and then meets an adaptive attacker. It runs on a CPU, a GPU
# or a TPU.
#
# The faces here do not exist: code draws them.

# %% [markdown]
# ## Install
#
# Beside the JAX that is here already (Colab has one for its accelerator), which stays. `SOURCE` is
# a clone of the repository, or what `pip install` takes for one (`git+https://…`); from Colab it
# must be one that Colab can reach.

# %%
import importlib.util
import subprocess
import sys

SOURCE = "."
if importlib.util.find_spec("advface_jax") is None:
    here = []
    if importlib.util.find_spec("jax"):
        import jax

        if tuple(map(int, jax.__version__.split(".")[:2])) < (0, 8):
            raise RuntimeError(
                f"got jax {jax.__version__}; wanted 0.8.1 or newer, which is not put over "
                "yours: update JAX as your machine's notes say, and restart the kernel"
            )
        here = [f"jax=={jax.__version__}"]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE, *here], check=True)

# %%
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import advface_jax
from advface_jax import attacks, data, metrics

jax.devices()

# %% [markdown]
# ## Protect
#
# The client computes the feature z = E(image). The server rebuilds a shadow image x~ = S(z), takes
# its feature z~ = E(x~), and moves it within ε so that S no longer decodes it. What it stores is
# z_adv.

# %%
system = advface_jax.load("facenet-512-q8")  # fetched and converted at first use, 17 MB
faces = data.synthetic_faces(16, 2)  # 16 people, two pictures of each
images = (faces.images / 255).astype("float32")  # (32, 160, 160, 3) in [0, 1]
z = system.extractor(images)  # (32, 77, 77, 64)
networks = {"extractor": system.extractor, "shadow": system.shadow}
config = advface_jax.ProtectConfig.fast()  # three steps hide as much as the paper's forty
z_adv = advface_jax.protect(z, epsilon=0.2, config=config, **networks)


# %%
def show(**rows):
    """One row of pictures for each name."""
    first = next(iter(rows.values()))
    figure, axes = plt.subplots(len(rows), len(first), figsize=(1.3 * len(first), 1.4 * len(rows)))
    for line, (name, pictures) in zip(np.atleast_2d(axes), rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(np.clip(picture, 0, 1))
            axis.axis("off")
        line[0].set_title(name.replace("_", " "), loc="left", fontsize=9)
    plt.show()


before, after = system.attacker(z), system.attacker(z_adv)
some = slice(0, 16, 2)  # the first picture of eight people
show(original=images[some], what_a_thief_sees=before[some], and_after_AdvFace=after[some])
for name, pictures in (("before", before), ("after", after)):
    print(f"{name}: SSIM with the face {float(metrics.ssim(pictures, images).mean()):.2f}")

# %% [markdown]
# ## Are people still recognised?
#
# Verification accuracy, as on LFW: pairs of one person and of two people, a threshold chosen on the
# other folds. And the cosines behind it. (Some tens of pairs of drawn faces: README has LFW's.)


# %%
def cosines(u, v):
    """Of first pictures (rows of u) with second ones (rows of v): same person, and others."""
    every = np.asarray(u[::2]) @ np.asarray(v[1::2]).T
    return every.diagonal(), every[~np.eye(len(every), dtype=bool)]


pairs = data.make_pairs(faces, folds=4)
raw, stored = (np.asarray(system.server(one)) for one in (z, z_adv))
for name, u in (("before", raw), ("after", stored)):
    same, other = cosines(u, u)
    distances = metrics.squared_distance(u[pairs.left], u[pairs.right])
    accuracy = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold).accuracy
    print(
        f"{name}: accuracy {accuracy:.1%} of {len(pairs)} pairs; "
        f"same person {same.mean():.2f} (least {same.min():.2f}), "
        f"others {other.mean():.2f} (most {other.max():.2f})"
    )

# %% [markdown]
# ## A strip over ε
#
# One compiled program serves every ε.

# %%
bounds = [0.0, 0.05, 0.1, 0.2, 0.3]
swept = advface_jax.protect_sweep(z[:4], bounds, config=config, **networks)  # (5, 4, 77, 77, 64)
show(**{f"ε = {e}": system.attacker(one) for e, one in zip(bounds, swept, strict=True)})

# %% [markdown]
# ## An adaptive attacker
#
# The paper's thief decodes pictures. This one takes another public recogniser, puts it onto the
# stored features by a linear map learnt from faces of his own, and asks *who* it is. (`facenet-128`
# is fetched: 90 MB.)

# %%
public = (data.synthetic_faces(24, 1, seed=7).images / 255).astype("float32")
other = advface_jax.load("facenet-128")
stitch = attacks.stitch(system.extractor(public), other.extractor(public))
sibling = attacks.sibling(stitch, other.server)
same, others = cosines(sibling(z_adv), other.server(other.extractor(images)))
print(
    f"the stitched recogniser on AdvFace's features: same person {same.mean():.2f}, "
    f"others {others.mean():.2f}"
)

# %% [markdown]
# On real faces it reads 99 of 100 (README: *What protects, and what does not*).
#
# ## Decoys
#
# Store the feature of somebody who does not exist, moved within ε until the recogniser reads the
# enrolled face and the stitched one still reads the decoy (docs/decoys.md).

# %%
nobody = (data.synthetic_faces(4, 1, seed=1000).images / 255).astype("float32")
made = advface_jax.protect_decoy(
    z[:4], system.extractor(nobody), recogniser=system.server, shadows=[sibling], epsilon=0.3
)
show(
    enrolled=images[:4],
    AdvFace_decoded=after[:4],
    the_decoy=nobody,
    and_what_a_thief_sees=system.attacker(made.stored),
)
enrolled = np.asarray(system.server(z[:4]))
print(
    "the recogniser's cosine with the enrolled face:",
    np.round((np.asarray(system.server(made.stored)) * enrolled).sum(1), 2),
)

# %% [markdown]
# ## How fast here?
#
# Ten steps, float32, beside other machines (docs/performance.md; the shipped ResRec):
#
# | | batch | faces/s |
# |---|---:|---:|
# | 2 shared cores of an AMD EPYC | 8 | 46 |
# | one NVIDIA H200, JAX's default products (tf32) | 256 | 4,447 |
# | one NVIDIA H200, products without rounding | 256 | 1,758 |
# | one NVIDIA H200, bfloat16 | 256 | 10,916 |


# %%
def rate(batch, repeats=3):
    many = jnp.resize(z, (batch, *z.shape[1:]))
    run = lambda: advface_jax.protect(many, epsilon=0.2, config=ten, **networks)  # noqa: E731
    jax.block_until_ready(run())  # compiles
    began = time.perf_counter()
    for _ in range(repeats):
        jax.block_until_ready(run())
    return batch * repeats / (time.perf_counter() - began)


ten = advface_jax.ProtectConfig(steps=10)
batch = 8 if jax.default_backend() == "cpu" else 256
print(
    f"{jax.devices()[0].device_kind}: {rate(batch):,.0f} faces/s with {ten.steps} steps, "
    f"batches of {batch}"
)
