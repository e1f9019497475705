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
# # Your own recogniser
#
# AdvFace needs an extractor E and a decoder S, and nothing of FaceNet. Here a small recogniser is
# made from scratch: E and Ψ learn to tell drawn people apart, S and R learn to draw faces from E's
# features. Then it is protected and measured. Put your own networks in the place of these.
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
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from flax import nnx

import advface_jax
from advface_jax import data, metrics

jax.devices()

# %% [markdown]
# ## Faces
#
# 40 people, four pictures of each, at 80×80. Give `data.read_faces("folder/")` for your own crops.

# %%
SIDE, PEOPLE, PICTURES = 80, 40, 4
faces = data.synthetic_faces(PEOPLE, PICTURES)
images = jnp.asarray(faces.images[:, ::2, ::2] / 255, "float32")  # (160, 80, 80, 3) in [0, 1]
labels = jnp.asarray(np.unique(faces.identities, return_inverse=True)[1])
new = data.synthetic_faces(12, 2, seed=7)  # people that no network has met
strangers = jnp.asarray(new.images[:, ::2, ::2] / 255, "float32")

# %% [markdown]
# ## E, Ψ, S and R
#
# Any callables do: Flax NNX as here, Linen with its variables, Equinox, functions. E maps images to
# z; S maps z to images that E takes.


# %%
class Extractor(nnx.Module):  # E: images (b,80,80,3) -> z (b,20,20,32)
    def __init__(self, rngs):
        self.first = nnx.Conv(3, 32, (5, 5), strides=2, rngs=rngs)
        self.second = nnx.Conv(32, 32, (3, 3), strides=2, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.second(nnx.relu(self.first(2 * x - 1))))


class Server(nnx.Module):  # Ψ: z -> embeddings (b,64); System.of gives them unit length
    def __init__(self, rngs):
        self.conv = nnx.Conv(32, 64, (3, 3), strides=2, rngs=rngs)
        self.out = nnx.Linear(5 * 5 * 64, 64, rngs=rngs)

    def __call__(self, z):
        h = nnx.max_pool(nnx.relu(self.conv(z)), (2, 2), strides=(2, 2))
        return self.out(h.reshape(len(h), -1))


class Decoder(nnx.Module):  # S and R: z -> images
    def __init__(self, rngs):
        self.first = nnx.Conv(32, 32, (3, 3), rngs=rngs)
        self.up = nnx.ConvTranspose(32, 16, (4, 4), strides=(2, 2), rngs=rngs)
        self.out = nnx.ConvTranspose(16, 3, (4, 4), strides=(2, 2), rngs=rngs)

    def __call__(self, z):
        return nnx.sigmoid(self.out(nnx.relu(self.up(nnx.relu(self.first(z))))))


# %% [markdown]
# ## Train
#
# E and Ψ as a classifier; then S, and R from another seed, on what E makes of the faces.


# %%
def fit(model, loss, steps, rate):
    """Adam on batches of 16; loss(model, images, labels)."""
    optimizer = nnx.Optimizer(model, optax.adam(rate), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer, x, y):
        value, grads = nnx.value_and_grad(loss)(model, x, y)
        optimizer.update(model, grads)
        return value

    order = np.random.default_rng(0)
    for _ in range(steps):
        some = order.choice(len(images), 16, replace=False)
        value = step(model, optimizer, images[some], labels[some])
    print(f"{type(model).__name__}: loss {float(value):.3f} after {steps} steps")


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.extractor, self.server = Extractor(rngs), Server(rngs)
        self.head = nnx.Linear(64, PEOPLE, use_bias=False, rngs=rngs)

    def __call__(self, x):
        u = self.server(self.extractor(x))
        u = u / jnp.linalg.norm(u, axis=1, keepdims=True)
        w = self.head.kernel[...]
        return 16 * u @ (w / jnp.linalg.norm(w, axis=0))


def recognise(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


whole = Classifier(nnx.Rngs(0))
fit(whole, recognise, steps=100, rate=1e-3)


# %%
def draw(decoder, x, y):
    return jnp.abs(decoder(jax.lax.stop_gradient(whole.extractor(x))) - x).mean()


shadow, attacker = Decoder(nnx.Rngs(1)), Decoder(nnx.Rngs(2))
for decoder in (shadow, attacker):
    fit(decoder, draw, steps=200, rate=3e-3)

# %% [markdown]
# ## Protect
#
# ε is in units of *your* feature: look at its deviation first, and sweep.

# %%
system = advface_jax.System.of(
    extractor=whole.extractor,
    server=whole.server,
    shadow=shadow,
    attacker=attacker,
    image_size=SIDE,
)
z = system.extractor(strangers)
scale = float(z.std())
print(f"z: {z.shape}, deviation {scale:.2f}")
shares = [0.0, 0.25, 0.5, 1.0]
config = advface_jax.ProtectConfig(alpha=None)  # steps of ε/10
protected = advface_jax.protect_sweep(
    z,
    [share * scale for share in shares],
    extractor=system.extractor,
    shadow=system.shadow,
    config=config,
)

# %% [markdown]
# ## What R sees, and what Ψ still reads


# %%
def cosines(u, v):
    """Of first pictures (rows of u) with second ones (rows of v): same person, and others."""
    every = np.asarray(u[::2]) @ np.asarray(v[1::2]).T
    return every.diagonal(), every[~np.eye(len(every), dtype=bool)]


rows = {"original": strangers, "R of z": system.attacker(z)}
for share, stored in zip(shares, protected, strict=True):
    rows[f"ε = {share:g} of the deviation"] = picture = system.attacker(stored)
    same, others = cosines(system.server(stored), system.server(stored))
    print(
        f"ε = {share * scale:.2f}: SSIM {float(metrics.ssim(picture, strangers).mean()):.2f}, "
        f"same person {same.mean():.2f}, others {others.mean():.2f}"
    )

figure, axes = plt.subplots(len(rows), 6, figsize=(7, 1.3 * len(rows)))
for line, (name, pictures) in zip(axes, rows.items(), strict=True):
    for axis, picture in zip(line, pictures[::2], strict=False):
        axis.imshow(np.clip(picture, 0, 1))
        axis.axis("off")
    line[0].set_title(name, loc="left", fontsize=9)
plt.show()

# %% [markdown]
# ## In the experiments
#
# Let a function in a module of yours return the `System`, and every table runs with it:
# `python -m experiments.tradeoff --weights my_recogniser:system`. Then meet the attacker who
# expects the protection: `adaptive-attacker`, and docs/which-defence.md.
