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
# # The adaptive attacker
#
# The paper's attacker has never seen a protected feature. This notebook gives him the defender's
# code, which is public, and a few faces of his own. He protects them and learns from the pairs:
# first a linear map in closed form, then his decoder R itself. On real faces AdvFace falls to both
# (docs/attacks.md). Then the same attack meets decoys.
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
from advface_jax.training import step, train

jax.devices()

# %% [markdown]
# ## The defender
#
# Eight enrolled faces, protected by AdvFace at the paper's ε.

# %%
system = advface_jax.load("facenet-512-q8")
networks = {"extractor": system.extractor, "shadow": system.shadow}
config = advface_jax.ProtectConfig.fast()  # three steps hide as much as the paper's forty


def advface(z):
    return advface_jax.protect(z, epsilon=0.2, config=config, **networks)


enrolled = (data.synthetic_faces(8, 1).images / 255).astype("float32")
z = system.extractor(enrolled)
stored = advface(z)

# %% [markdown]
# ## The attacker's own faces
#
# 16 people, none of them enrolled. He protects them as the defender does. (He has the defender's S
# here; docs/attacks.md has him take his own R for S, which is as good.)

# %%
own = data.synthetic_faces(16, 1, seed=7).images
own_z = system.extractor((own / 255).astype("float32"))
own_stored = jnp.concatenate([advface(own_z[i : i + 8]) for i in range(0, 16, 8)])

# %% [markdown]
# ## A linear map, in closed form
#
# From stored features to plain ones; then the paper's R as it is. Nothing is trained.

# %%
began = time.perf_counter()
denoise = attacks.stitch(own_stored, own_z)
print(f"learnt in {time.perf_counter() - began:.0f} s")

seen = {
    "the face": enrolled,
    "R, unprotected": system.attacker(z),
    "R, AdvFace": system.attacker(stored),
    "R after the linear map": system.attacker(denoise(stored)),
}

# %% [markdown]
# ## R', trained on protected pairs
#
# The same decoder, trained further for some steps on (what is stored, the face).

# %%
BATCH, EPOCHS = 8, 8
training = train.TrainConfig(learning_rate=1e-3, batch=BATCH, epochs=EPOCHS, flip=False)
trainer, state = train.start(system.attacker.config, training, len(own), system.attacker)
order = np.random.default_rng(0)
began = time.perf_counter()
for epoch in range(EPOCHS):
    shuffled = order.permutation(len(own))
    for some in shuffled.reshape(-1, BATCH):
        state, error = train.train_step(state, own[some], train.Given(own_stored[some]), trainer)
    print(f"epoch {epoch + 1}: mean absolute error {float(error):.3f}")
adaptive = step.finished(trainer, state)
print(f"{EPOCHS * len(own) // BATCH} steps in {time.perf_counter() - began:.0f} s")
seen["R', trained on pairs"] = adaptive(stored)

# %%
for name, pictures in list(seen.items())[1:]:
    print(f"{name}: SSIM with the face {float(metrics.ssim(pictures, enrolled).mean()):.2f}")


def show(rows):
    figure, axes = plt.subplots(len(rows), 8, figsize=(9, 1.4 * len(rows)))
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(np.clip(picture, 0, 1))
            axis.axis("off")
        line[0].set_title(name, loc="left", fontsize=9)
    plt.show()


show(seen)

# %% [markdown]
# The numbers of real faces are in docs/attacks.md: SSIM .88 for the linear map on LFW.
#
# ## The same attacker meets decoys
#
# The defender stores somebody who does not exist, moved until the recogniser reads the enrolled
# face. The attacker does as before: he makes decoys for his own faces, and learns the way back.
# (The decoys are secret, so he takes others than the defender.)

# %%
EPSILON = 0.3


def decoys(z, seed):
    nobody = (data.synthetic_faces(len(z), 1, seed=seed).images / 255).astype("float32")
    d = system.extractor(nobody)
    return nobody, advface_jax.protect_decoy(z, d, recogniser=system.server, epsilon=EPSILON)


nobody, made = decoys(z, 1000)
own_made = jnp.concatenate([decoys(own_z[i : i + 8], 2000 + i)[1].stored for i in range(0, 16, 8)])
undo = attacks.stitch(own_made, own_z)
against = {
    "the face": enrolled,
    "the decoy (secret)": nobody,
    "R": system.attacker(made.stored),
    "R after the linear map": system.attacker(undo(made.stored)),
}
for name, pictures in list(against.items())[2:]:
    print(f"{name}: SSIM with the face {float(metrics.ssim(pictures, enrolled).mean()):.2f}")
mean = np.broadcast_to((own / 255).mean(0, dtype="float32"), enrolled.shape)
print(f"the mean of his own faces, no feature: {float(metrics.ssim(mean, enrolled).mean()):.2f}")
print("the recogniser's cosine with the face:", np.round(np.asarray(made.cosine), 2))
show(against)

# %% [markdown]
# Compare what the linear map gets back from decoys with the mean face, which needs no feature.
#
# **That is no proof.** These decoys have no shadow recogniser and no key: whoever has Ψ reads the
# enrolled face from them, and a stitched public recogniser may (docs/decoys.md). Ask every attacker
# about every defence: `python -m experiments.worst_case`.
