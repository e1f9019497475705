"""The cases of ``throughput --training``: steps of training a decoder, in turn with PyTorch's."""

import dataclasses
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax

from advface_jax import data, sharding
from advface_jax.models.state import flatten
from advface_jax.training import step, train
from experiments.benchmark import peer
from experiments.benchmark.cases import Bench, multiplying
from experiments.benchmark.timing import OURS, Entry, Spread, interleaved, timed
from experiments.measure.results_file import Row

STEPS = 4  # of one run


@dataclasses.dataclass(frozen=True)
class Training:
    """Settings of one training to time: ``train.train_step`` of a new decoder.

    ``stored``: on features that were protected before, as an adaptive attacker trains; without E.
    """

    decoder: str
    batch: int
    devices: int
    stored: bool = False
    work: Literal["training"] = "training"
    dtype: Literal["float32"] = "float32"

    @property
    def config(self) -> train.TrainConfig:
        return train.TrainConfig(batch=self.batch, flip=False)

    def start(self, bench: Bench) -> tuple[train.Trainer, step.TrainState]:
        return train.start(bench.decoders[self.decoder].config, self.config, self.batch)

    def faces(self) -> np.ndarray:
        return np.resize(data.synthetic_faces(8, 1).images, (self.batch, 160, 160, 3))


def entries(
    bench: Bench,
    decoder: str,
    batch: int,
    variants: Sequence[str],
    side: tuple[peer.Peer, Path] | None,
) -> list[Entry]:
    """Ours, on all devices that can share the batch, also as an adaptive attacker's, and with a
    torch ``side`` its variants; the whole iteration is there the compiled loss and its gradient."""
    case = Training(decoder, batch, sharding.most(batch, len(jax.devices())))
    found = [_ours(bench, c) for c in (case, dataclasses.replace(case, stored=True))]
    return found + [_theirs(bench, case, v, *side) for v in variants if side]


def _ours(bench: Bench, case: Training) -> Entry:
    mesh = sharding.across(case.batch, jax.devices()[: case.devices])
    trainer, state = case.start(bench)
    state, front = sharding.replicate((state, bench.system.extractor), mesh)
    if case.stored:
        z = np.resize(bench.z, (case.batch, *bench.z.shape[1:]))
        front = train.Given(sharding.split(z, mesh))
    pixels = sharding.split(case.faces(), mesh)
    began = time.perf_counter()
    program = train.train_step.lower(state, pixels, front, trainer).compile()
    figures = {"compile_s": time.perf_counter() - began}

    def run(steps: int) -> Any:
        nonlocal state
        for _ in range(steps):
            state, _ = program(state, pixels, front)
        return state

    return Entry(OURS, case, lambda steps: timed(functools.partial(run, steps)), figures)


def _theirs(bench: Bench, case: Training, variant: str, other: peer.Peer, folder: Path) -> Entry:
    """The torch side's. ValueError unless its first gradient equals ours."""
    file = folder / f"{case.decoder} {case.batch}.npz"
    if not file.exists():
        _write(bench, case, file)
    how = {"kind": bench.decoders[case.decoder].config.kind, "precision": "default"}
    how |= {"learning_rate": case.config.learning_rate, "variant": variant}
    impl = peer.NAMES[variant].replace(" of the iteration", "")
    return other.entry("train", impl, case, file, **how)


def _write(bench: Bench, case: Training, file: Path) -> None:
    """The step's first gradient, for the other side's check: the change of the weights in a
    descent at a rate of 1."""
    trainer, state = case.start(bench)
    trainer = trainer._replace(optimizer=optax.sgd(1.0))
    state = state._replace(optimizer=trainer.optimizer.init(state.params))
    before, pixels = _weights(trainer, state), case.faces()
    with multiplying("highest"):
        state, _ = train.train_step(state, pixels, bench.system.extractor, trainer)
    after = _weights(trainer, state)
    arrays = {f"gradient.{name}": w - after[name] for name, w in before.items()}
    arrays["images"] = pixels.astype(np.float32) / 255
    peer.write_arrays(file, bench.system.extractor, before, **arrays)


def _weights(trainer: train.Trainer, state: step.TrainState) -> dict[str, np.ndarray]:
    """The trained weights by name, as copies: the next step overwrites them."""
    weights = flatten(step.finished(trainer, state))
    return {n: np.array(w) for n, w in weights.items() if not n.endswith((".mean", ".var"))}


def rows(entries: Sequence[Entry], repeats: int) -> list[Row]:
    """All entries in turn, and a row each."""
    runs = {i: functools.partial(entry.run, STEPS) for i, entry in enumerate(entries)}
    made = []
    for i, samples in interleaved(runs, repeats, "training steps").items():
        share = STEPS * entries[i].case.batch
        faces = Spread.of([share / s.wall for s in samples])
        core = Spread.of([1e3 * s.cpu / share for s in samples])
        row = {"impl": entries[i].impl, **dataclasses.asdict(entries[i].case)}
        row |= {"device": jax.devices()[0].device_kind, "n": len(samples)}
        row |= faces.fields("trained_faces_per_s")
        made.append(row | core.fields("core_ms_per_face", "core_ms") | entries[i].figures)
    return made
