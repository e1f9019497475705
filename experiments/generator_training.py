"""What the generator of faces of nobody is trained on: three phases of losses, one step each.

1. pixels: a conditional VAE. The identity code comes from the FaceNet embedding of a picture of the
   same person, the nuisance code from a small encoder; L1 and KL.
2. texture: also L1 on E's features (after Ψ's first pooling), and a discriminator on them, which
   judges reconstructions and faces from random codes.
3. identity: also L1 on Ψ's features at 17×17, the cosine between the embedding of the output and
   the embedding that the identity code stands for, and a push away from the training pictures.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

from advface_jax.models import facenet
from advface_jax.models.layers import Conv, max_pool
from experiments.generator import Generator, GeneratorConfig, gather


@dataclasses.dataclass(frozen=True)
class GeneratorTraining:
    """How the generator is trained: steps of the three phases, and the losses' weights.

    Attributes:
      apart: the highest cosine of a random identity's target with any training picture, and of its
        output before the push sets in.
    """

    steps: tuple[int, int, int] = (1400, 900, 600)
    batch: int = 16
    learning_rate: float = 2e-3
    kl: float = 1.5e-4
    stem: float = 0.2
    adversarial: float = 1.0
    middle: float = 0.1
    identity: float = 0.2
    push: float = 0.1
    apart: float = 0.47
    average: float = 0.995
    seed: int = 0


class Codes(NamedTuple):
    """Between embeddings and identity codes: the principal axes of the people's mean embeddings."""

    mean: jax.Array  # (e,)
    axes: jax.Array  # (e, k), each as long as the people's deviation along it

    def code(self, embedding: jax.Array) -> jax.Array:
        return (embedding - self.mean[None]) @ (self.axes / (self.axes**2).sum(0)[None])

    def embedding(self, code: jax.Array) -> jax.Array:
        e = code @ self.axes.T + self.mean[None]
        return e / jnp.linalg.norm(e, axis=-1, keepdims=True)


def fit_codes(embeddings: np.ndarray, identities: np.ndarray, size: int) -> Codes:
    """The codes of people with these embeddings (n,e), an identity each.

    Raises ValueError for no more people than numbers in a code.
    """
    _, who, count = np.unique(identities, return_inverse=True, return_counts=True)
    if len(count) <= size:
        raise ValueError(f"got {len(count)} people; wanted more than {size} people for {size} axes")
    means = np.zeros((len(count), embeddings.shape[1]))
    np.add.at(means, who, embeddings)
    means /= count[:, None]
    variance, axes = np.linalg.eigh(np.cov(means.T))
    axes = axes[:, ::-1][:, :size] * np.sqrt(variance[::-1][:size])
    return Codes(jnp.asarray(means.mean(0), jnp.float32), jnp.asarray(axes, jnp.float32))


class Encoder(nnx.Module):
    """A picture and its identity code to the mean and log variance of its nuisance code."""

    def __init__(self, config: GeneratorConfig, *, rngs: nnx.Rngs):
        widths = (12, 32, 64, 96, 128)
        self.layers = nnx.List(
            [
                Conv(a, b, 3, rngs=rngs, padding="same", bias=True)
                for a, b in zip(widths, widths[1:], strict=False)
            ]
        )
        inputs = 25 * widths[-1] + config.identity
        self.dense = nnx.Linear(inputs, 2 * config.nuisance, rngs=rngs)

    def __call__(self, images: jax.Array, identity: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = gather(halve(2 * images - 1))  # (b, 40, 40, 12)
        for i, layer in enumerate(self.layers):
            x = layer(x if i == 0 else halve(x))
            x = jnp.maximum(x, 0.2 * x)
        x = jnp.concatenate([x.reshape(x.shape[0], -1), identity], -1)  # (b, 25*128 + k)
        mean, log_variance = jnp.split(self.dense(x), 2, -1)
        return mean, jnp.clip(log_variance - 2, -8, 2)


class Discriminator(nnx.Module):
    """Places of Ψ's first pooling (b,38,38,64) to logits (b,6,6): real, or generated?"""

    def __init__(self, *, rngs: nnx.Rngs):
        self.first = Conv(64, 64, 3, rngs=rngs, bias=True)
        self.second = Conv(64, 96, 3, rngs=rngs, bias=True)
        self.third = Conv(96, 96, 3, rngs=rngs, bias=True)
        self.last = Conv(96, 1, 1, rngs=rngs, bias=True)

    def __call__(self, h: jax.Array) -> jax.Array:
        y = halve(jax.nn.leaky_relu(self.first(h), 0.2))  # (b, 18, 18, 64)
        y = halve(jax.nn.leaky_relu(self.second(y), 0.2))  # (b, 8, 8, 96)
        return self.last(jax.nn.leaky_relu(self.third(y), 0.2))[..., 0]  # (b, 6, 6)


def halve(x: jax.Array) -> jax.Array:
    """The mean of each four places: (b,h,w,c) -> (b,h/2,w/2,c)."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


class GeneratorState(NamedTuple):
    """Everything that a step reads and writes; a tree of arrays."""

    params: Any  # of generator and encoder
    average: Any  # the generator's, over time
    judge: Any
    optimizer: Any
    judge_optimizer: Any
    step: jax.Array


class Graphs(NamedTuple):
    generator: Any
    encoder: Any
    judge: Any
    optimizer: optax.GradientTransformation
    judge_optimizer: optax.GradientTransformation
    config: GeneratorTraining
    sizes: GeneratorConfig


def start(sizes: GeneratorConfig, config: GeneratorTraining) -> tuple[Graphs, GeneratorState]:
    """Fresh networks and their optimisers."""
    rngs = nnx.Rngs(config.seed)
    generator, g = nnx.split(Generator(sizes, rngs=rngs))
    encoder, e = nnx.split(Encoder(sizes, rngs=rngs))
    judge, d = nnx.split(Discriminator(rngs=rngs))
    first, second, third = config.steps
    rate = config.learning_rate
    schedule = optax.join_schedules(
        [
            optax.warmup_cosine_decay_schedule(
                rate / 20, rate, max(first // 20, 1), max(first, 2), rate / 4
            ),
            optax.cosine_decay_schedule(rate / 3, max(second, 1), 0.45),
            optax.cosine_decay_schedule(rate / 3, max(third, 1), 0.05),
        ],
        [first, first + second],
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))
    judge_optimizer = optax.adam(4e-4, b1=0.5, b2=0.99)
    params = {"generator": g, "encoder": e}
    state = GeneratorState(
        params,
        jax.tree.map(jnp.copy, g),
        d,
        optimizer.init(params),
        judge_optimizer.init(d),
        jnp.zeros((), jnp.int32),
    )
    return Graphs(generator, encoder, judge, optimizer, judge_optimizer, config, sizes), state


def _trunk(network: facenet.InceptionResNetV1, images: jax.Array, phase: int):
    """The stages that a phase looks at: after the first pooling, at 17×17, the embedding."""
    z = network.extractor(images)
    pooled = max_pool(z, 3, 2) / 0.6  # about unit deviation
    if phase < 3:
        return pooled, None, None
    seen = dict(network.server.stages(z))
    return pooled, seen["repeat_1"], seen["embedding"]


def _real(network: facenet.InceptionResNetV1, images: jax.Array, phase: int):
    z = network.extractor(images)
    pooled, middle = max_pool(z, 3, 2) / 0.6, None
    if phase == 3:
        for name, value in network.server.stages(z):
            if name == "repeat_1":
                middle = value
                break
    return pooled, middle


@functools.partial(jax.jit, static_argnames=("graphs", "phase"), donate_argnames="state")
def step(
    state: GeneratorState,
    pixels: jax.Array,  # (b,160,160,3) uint8
    targets: jax.Array,  # (b,e): embeddings of pictures of the same people
    strangers: jax.Array,  # (b/2,k): random identity codes
    bank: jax.Array,  # (n,e): all training embeddings
    network: facenet.InceptionResNetV1,
    codes: Codes,
    graphs: Graphs,
    phase: int,
) -> tuple[GeneratorState, dict[str, jax.Array]]:
    """One step of a phase: the new state, and the losses by name."""
    c = graphs.config
    if phase > 1:  # half of the work goes to random codes
        pixels, targets = pixels[: c.batch // 2], targets[: c.batch // 2]
    n = pixels.shape[0]
    images = pixels.astype(jnp.float32) / 255
    keys = jax.random.split(jax.random.fold_in(jax.random.key(c.seed), state.step), 4)
    mirrored = jax.random.bernoulli(keys[0], shape=(n, 1, 1, 1))
    images = jnp.where(mirrored, images[:, :, ::-1], images)
    identity = codes.code(targets)
    real = _real(network, images, phase) if phase > 1 else None
    judge = nnx.merge(graphs.judge, state.judge)

    def loss(params):
        mean, log_variance = nnx.merge(graphs.encoder, params["encoder"])(images, identity)
        eps = jax.random.normal(keys[1], mean.shape)
        nuisance = mean + eps * jnp.exp(log_variance / 2)
        kl = 0.5 * (mean**2 + jnp.exp(log_variance) - log_variance - 1).sum(-1).mean()
        who = identity
        if phase > 1:  # strangers in the light and pose of others
            mixed = jnp.sqrt(0.5) * (mean + jax.random.normal(keys[2], mean.shape))
            who = jnp.concatenate([identity, strangers])
            nuisance = jnp.concatenate([nuisance, lax.stop_gradient(mixed)])
        made = nnx.merge(graphs.generator, params["generator"])(who, nuisance)
        losses = {"pixels": jnp.abs(made[:n] - images).mean(), "kl": kl}
        total = losses["pixels"] + c.kl * kl
        if phase == 1 or real is None:
            return total, (losses, None)

        # strangers are judged from both sides, else identity hides in one of them
        turned = jax.random.bernoulli(keys[3], shape=(strangers.shape[0], 1, 1, 1))
        mirrored = jnp.where(turned, made[n:, :, ::-1], made[n:])
        pooled, middle, embedding = _trunk(network, jnp.concatenate([made[:n], mirrored]), phase)
        losses["stem"] = jnp.abs(pooled[:n] - real[0]).mean()
        fooled, pull = jax.value_and_grad(lambda h: -judge(h).mean())(lax.stop_gradient(pooled))
        # the judge's pull is as strong as the features' own, whatever its logits' scale
        strength = (
            c.adversarial * c.stem * pooled[:n].size ** -0.5 / (jnp.linalg.norm(pull) + 1e-12)
        )
        losses["fooled"] = fooled
        total += c.stem * losses["stem"] + (lax.stop_gradient(strength * pull) * pooled).sum()
        seen = real[1]
        if middle is not None and embedding is not None and seen is not None:
            scale = jnp.abs(seen).mean()
            losses["middle"] = jnp.abs(middle[:n] - seen).mean() / scale
            wanted = jnp.concatenate([targets, codes.embedding(strangers)])
            cosine = (embedding * wanted).sum(-1)
            losses["identity"] = 1 - cosine[:n].mean()
            losses["strangers"] = 1 - cosine[n:].mean()
            near = embedding[n:] @ bank.T  # (b/2, n)
            losses["nearest"] = near.max(-1).mean()
            push = jax.nn.relu(near - c.apart + 0.03).sum(-1).mean()
            total += c.middle * losses["middle"] + c.push * push
            total += c.identity * (1 - cosine.mean())
        return total, (losses, pooled)

    gradient, (losses, pooled) = jax.grad(loss, has_aux=True)(state.params)
    updates, optimizer = graphs.optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, updates)
    at = state.step.astype(jnp.float32)
    keep = jnp.minimum(c.average, at / (at + 10))
    now = params["generator"]  # type: ignore[index]
    average = jax.tree.map(lambda a, p: keep * a + (1 - keep) * p, state.average, now)
    d, judge_optimizer = state.judge, state.judge_optimizer
    if real is not None:

        def judged(d):
            judge = nnx.merge(graphs.judge, d)
            true, false = judge(real[0]), judge(lax.stop_gradient(pooled))
            return jax.nn.relu(1 - true).mean() + jax.nn.relu(1 + false).mean()

        losses["judge"], change = jax.value_and_grad(judged)(d)
        change, judge_optimizer = graphs.judge_optimizer.update(change, judge_optimizer, d)
        d = optax.apply_updates(d, change)
    return GeneratorState(params, average, d, optimizer, judge_optimizer, state.step + 1), losses


@functools.partial(jax.jit, static_argnames="graphs")
def nuisance_of(params: Any, pixels: jax.Array, targets: jax.Array, codes: Codes, graphs: Graphs):
    """The encoder's mean nuisance codes (b,m) of pictures, and their log variances."""
    encoder = nnx.merge(graphs.encoder, params["encoder"])
    return encoder(pixels.astype(jnp.float32) / 255, codes.code(targets))


@functools.partial(jax.jit, static_argnames="graphs")
def generate(average: Any, identity: jax.Array, nuisance: jax.Array, graphs: Graphs) -> jax.Array:
    """Pictures by the generator's averaged weights."""
    return nnx.merge(graphs.generator, average)(identity, nuisance)
