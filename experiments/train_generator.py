"""Train the generator of faces of nobody (experiments.generator).

    python -m experiments.train_generator --out runs/generator \\
        --faces celeba_A_shadow_160.zip celeba_B_attack_160.zip \\
        --listing celeba_A_shadow_160.tsv celeba_B_attack_160.tsv --where lfw_lookalike=-

Writes generator.safetensors with its card (.json), losses.json into --out, and a
checkpoint every --save-every steps: the same command resumes it. `experiments.nobody --select` then
chooses the people to ship.
"""

import dataclasses
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import advface_jax
from advface_jax import checkpoint, checks, cli, data
from experiments import common
from experiments import generator_training as training
from experiments.generator import GeneratorConfig, Nobody, write_generator

POOL = 60_000  # random identities, of which those that resemble nobody are trained on


def main(
    out: Path,
    faces: tuple[str, ...],
    listing: tuple[Path, ...] = (),
    where: tuple[str, ...] = (),
    weights: str = "facenet-512-q8",
    steps: tuple[int, int, int] = training.GeneratorTraining.steps,
    seed: int = training.GeneratorTraining.seed,
    limit: int | None = None,
    save_every: int = 100,
    restart: bool = False,
) -> None:
    """Train the generator of faces of nobody on real faces. Interrupt it at will.

    Args:
      out: Folder for the generator, its card, the losses and the checkpoint.
      faces: Folders or zips of 160×160 crops.
      listing: A tab-separated list for each of them.
      where: Keep rows of the listings by COLUMN=VALUE, as lfw_lookalike=-
      weights: The recogniser: a known name or a checkpoint folder of weights_convert.
      steps: Steps of the three phases: pixels, texture, identity.
      seed: Of the weights, the order, the flips and the codes.
      limit: Use only the first so many faces of each set.
      save_every: Steps between checkpoints.
      restart: Throw an earlier run in --out away.
    """
    checks.positive(save_every=save_every)
    system = advface_jax.load(weights)
    config = training.GeneratorTraining(steps=steps, seed=seed)
    sizes = GeneratorConfig()
    crops = read(faces, listing, where, limit)
    if len(crops) < config.batch:
        raise ValueError(f"got {len(crops)} faces; wanted a batch of {config.batch} at least")
    settings = {
        "generator": dataclasses.asdict(sizes),
        "train": dataclasses.asdict(config),
        "weights": system.card["source"],
        "weights_sha256": system.card["sha256"],
        "faces": [Path(f).name for f in faces],
        "where": list(where),
        "faces_read": len(crops),
        "identities": len(set(crops.identities)),
        "limit": limit,
    }
    settings = json.loads(json.dumps(settings))
    run = Run(system, crops, embed(system, crops, out), sizes, config, settings, out, save_every)
    if not restart:
        run.resume()
    run.to_the_end()
    run.write()


def read(
    faces: tuple[str, ...],
    listing: tuple[Path, ...],
    where: tuple[str, ...],
    limit: int | None = None,
) -> data.Faces:
    """Several sets as one. ValueError for lists that are not one for each set."""
    if listing and len(listing) != len(faces):
        raise ValueError(f"got {len(listing)} listings for {len(faces)} sets; wanted one for each")
    rows = dict(w.split("=", 1) for w in where) or None
    sets = [
        data.read_faces(f, listing=lst, where=rows, limit=limit)
        for f, lst in zip(faces, listing or (None,) * len(faces), strict=True)
    ]
    return data.Faces(
        tuple(f"{i}/{name}" for i, s in enumerate(sets) for name in s.names),
        tuple(who for s in sets for who in s.identities),
        np.concatenate([s.images for s in sets]),
    )


def embed(system: advface_jax.System, crops: data.Faces, out: Path) -> np.ndarray:
    """The embeddings of all faces (n,e), kept in ``out`` beside the run."""
    place = out / "embeddings.npz"
    if place.exists():
        with np.load(place) as kept:
            if kept["names"].tolist() == list(crops.names):
                return kept["embeddings"]
    parts = []
    with cli.bar("faces") as bar:
        task = bar.add_task("embedding", total=len(crops), note="")
        for i in range(0, len(crops), 64):
            parts.append(system.embed(crops.images[i : i + 64].astype(np.float32) / 255, batch=64))
            bar.advance(task, len(parts[-1]))
    out.mkdir(parents=True, exist_ok=True)
    np.savez(place, names=np.array(crops.names), embeddings=np.concatenate(parts))
    return np.concatenate(parts)


class Run:
    """One training run: its state, its losses, and the folder that holds both."""

    def __init__(
        self,
        system: advface_jax.System,
        crops: data.Faces,
        embeddings: np.ndarray,
        sizes: GeneratorConfig,
        config: training.GeneratorTraining,
        settings: dict[str, Any],
        out: Path,
        save_every: int,
    ):
        self.system, self.crops, self.embeddings = system, crops, embeddings
        self.config, self.settings, self.out, self.save_every = config, settings, out, save_every
        who = np.array(crops.identities)
        self.codes = training.fit_codes(embeddings, who, sizes.identity)
        self.bank = jnp.asarray(embeddings)
        self.mates = defaultdict(list)
        for i, person in enumerate(crops.identities):
            self.mates[person].append(i)
        self.pool = self._strangers(sizes)
        self.graphs, self.state = training.start(sizes, config)
        self.step, self.seconds = 0, 0.0
        self.losses: list[dict[str, float]] = []

    def _strangers(self, sizes: GeneratorConfig) -> np.ndarray:
        """Random identity codes whose embeddings are near no training picture's."""
        rng = np.random.default_rng([self.config.seed, 1])
        pool = rng.standard_normal((POOL, sizes.identity), np.float32)
        mean, axes = np.asarray(self.codes.mean), np.asarray(self.codes.axes)
        nearest = []
        for part in np.array_split(pool, 60):
            e = part @ axes.T + mean
            e /= np.linalg.norm(e, axis=1, keepdims=True)
            nearest.append((e @ self.embeddings.T).max(1))
        near = np.concatenate(nearest)
        keep = near <= max(self.config.apart, float(np.quantile(near, 0.02)))
        return pool[keep]

    def resume(self) -> None:
        """Take up the checkpoint in the folder, if there is one."""
        place = self.out / "checkpoint"
        if not checkpoint.exists(place):
            return
        tree, card = checkpoint.restore(place)
        if card.get("settings") != self.settings:
            raise ValueError(
                f"{self.out} holds a run with other settings: give another --out, or --restart to "
                "throw it away"
            )
        leaves, structure = jax.tree.flatten(self.state)
        saved = [jnp.asarray(tree[f"leaf_{i:04d}"]) for i in range(len(leaves))]
        self.state = jax.tree.unflatten(structure, saved)
        self.step, self.seconds = card["step"], card["seconds"]
        self.losses = json.loads((self.out / "losses.json").read_text())[: self.step]
        cli.console.print(f"resuming at step {self.step:,}")

    def save(self) -> None:
        leaves = jax.tree.leaves(self.state)
        self.out.mkdir(parents=True, exist_ok=True)
        (self.out / "losses.json").write_text(json.dumps(self.losses) + "\n")
        card = {"settings": self.settings, "step": self.step, "seconds": self.seconds}
        checkpoint.save(
            self.out / "checkpoint", {f"leaf_{i:04d}": v for i, v in enumerate(leaves)}, card
        )

    def batch(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels, embeddings of pictures of the same people, and random codes."""
        b, n = self.config.batch, len(self.crops)
        epoch, at = divmod(self.step, n // b)
        chosen = data.epoch_order(n, self.config.seed, epoch)[at * b : (at + 1) * b]
        rng = np.random.default_rng([self.config.seed, 2, self.step])
        mates = [rng.choice(self.mates[self.crops.identities[i]]) for i in chosen]
        strangers = self.pool[rng.integers(len(self.pool), size=b // 2)]
        return self.crops.images[chosen], self.embeddings[mates], strangers

    def phase(self) -> int:
        return 1 + int(np.searchsorted(np.cumsum(self.config.steps)[:2], self.step, side="right"))

    def to_the_end(self) -> None:
        total = sum(self.config.steps)
        with cli.bar("steps") as bar:
            task = bar.add_task("training", total=total, completed=self.step, note="")
            since, at = time.monotonic(), self.seconds
            while self.step < total:
                phase = self.phase()
                pixels, targets, strangers = self.batch()
                self.state, losses = training.step(
                    self.state,
                    pixels,
                    targets,
                    strangers,
                    self.bank,
                    self.system.network,
                    self.codes,
                    self.graphs,
                    phase,
                )
                self.losses.append({k: round(float(v), 5) for k, v in losses.items()})
                self.step += 1
                self.seconds = at + time.monotonic() - since
                note = " ".join(f"{k} {v:.3f}" for k, v in self.losses[-1].items())
                bar.update(task, completed=self.step, note=f"phase {phase} {note}")
                if self.step % self.save_every == 0 or self.step == total:
                    self.save()

    def nuisances(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and root of the covariance of all pictures' nuisance codes."""
        means, variances = [], []
        for i in range(0, len(self.crops), 256):
            mean, log_variance = training.nuisance_of(
                self.state.params,
                self.crops.images[i : i + 256],
                self.embeddings[i : i + 256],
                self.codes,
                self.graphs,
            )
            means.append(np.asarray(mean))
            variances.append(np.exp(np.asarray(log_variance)))
        code = np.concatenate(means).astype(np.float64)
        spread = np.cov(code.T) + np.diag(np.concatenate(variances).mean(0))
        return code.mean(0), np.linalg.cholesky(spread)

    def write(self) -> None:
        mean, root = self.nuisances()
        made = nnx.merge(self.graphs.generator, self.state.average)
        card = {
            **self.settings,
            "steps_done": self.step,
            "seconds": round(self.seconds),
            "losses": self.losses[-1],
            "command": cli.command("experiments.train_generator"),
            **common.surroundings(),
        }
        centre, axes = (np.asarray(a) for a in self.codes)
        nobody = Nobody(made, mean, root, centre, axes, card)
        write_generator(self.out / "generator.safetensors", nobody)
        cli.console.print(f"{self.out}: generator.safetensors and its card, losses.json")


if __name__ == "__main__":
    cli.start(main, "experiments.train_generator")
