"""What ``throughput --training`` measures: steps of training a decoder, in turn with PyTorch's."""

import dataclasses
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from advface_jax import data, sharding
from advface_jax.models.state import flatten
from advface_jax.training import step, train
from experiments.benchmark import peer
from experiments.benchmark.cases import OURS, Bench, multiplying, timed_under_a_bar
from experiments.benchmark.timing import Sample, Spread, timed
from experiments.measure import results_file

STEPS = 4
"""Of one run."""


@dataclasses.dataclass(frozen=True)
class Training:
    """One thing to time: ``train.train_step`` of such a decoder, fresh, on so many faces."""

    decoder: str
    batch: int
    devices: int
    work: Literal["training"] = "training"
    dtype: Literal["float32"] = "float32"

    @property
    def config(self) -> train.TrainConfig:
        return train.TrainConfig(batch=self.batch, flip=False)


class Entry(NamedTuple):
    impl: str
    case: Training
    run: Callable[[], Sample]
    told: dict[str, Any]


def faces(case: Training) -> np.ndarray:
    return np.resize(data.synthetic_faces(8, 1).images, (case.batch, 160, 160, 3))


def entries(
    bench: Bench,
    decoder: str,
    batch: int,
    variants: Sequence[str],
    side: tuple[peer.Peer, Path] | None,
) -> list[Entry]:
    """Ours, on all devices that can share the batch, and with a torch ``side`` its "eager" and
    "compile" (to which all other variants come), where asked for."""
    case = Training(decoder, batch, sharding.most(batch, len(jax.devices())))
    found = [_ours(bench, case)]
    if side:
        found += [_theirs(bench, case, v, *side) for v in dict.fromkeys(map(_known, variants))]
    return found


def _known(variant: str) -> str:
    how, plus, layout = variant.partition("+")
    return ("eager" if how == "eager" else "compile") + plus + layout


def _ours(bench: Bench, case: Training) -> Entry:
    mesh = sharding.across(case.batch, jax.devices()[: case.devices])
    trainer, state = train.start(bench.decoders[case.decoder].config, case.config, case.batch)
    state, front = sharding.replicate((state, bench.system.extractor), mesh)
    pixels = sharding.split(faces(case), mesh)
    began = time.perf_counter()
    program = train.train_step.lower(state, pixels, front, trainer).compile()
    told = {"compile_s": time.perf_counter() - began}

    def steps():
        nonlocal state
        loss = None
        for _ in range(STEPS):
            state, loss = program(state, pixels, front)
        return loss

    return Entry(OURS, case, lambda: timed(steps), told)


def _theirs(bench: Bench, case: Training, variant: str, other: peer.Peer, folder: Path) -> Entry:
    """The torch side's, once its first gradient was found to be ours. ValueError if it is not."""
    file = folder / f"{case.decoder} {case.batch}.npz"
    if not file.exists():
        _write(bench, case, file)
    name = f"{file.stem} {variant}"
    told = other.ask(
        "train",
        name,
        file=str(file),
        kind=bench.decoders[case.decoder].config.kind,
        precision="default",
        learning_rate=case.config.learning_rate,
        variant=variant,
    )
    peer.refuse_disagreement(told, case.dtype, f"{peer.name(variant)}, training {case.decoder}")
    return Entry(peer.name(variant), case, lambda: other.run(name, STEPS)[0], told)


def _write(bench: Bench, case: Training, file: Path) -> None:
    """The very step's first gradient, for the other side to be checked against: what the weights
    lose in a descent at a rate of 1."""
    trainer, state = train.start(bench.decoders[case.decoder].config, case.config, case.batch)
    trainer = trainer._replace(optimizer=optax.sgd(1.0))
    state = state._replace(optimizer=trainer.optimizer.init(state.params))
    before = _weights(trainer, state)
    pixels = faces(case)
    with multiplying("highest"):
        state, _ = train.train_step(state, pixels, bench.system.extractor, trainer)
    after = _weights(trainer, state)
    peer.write_training(
        file,
        pixels.astype(np.float32) / 255,
        extractor=bench.system.extractor,
        weights=before,
        gradient={name: w - after[name] for name, w in before.items()},
    )


def _weights(trainer: train.Trainer, state: step.TrainState) -> dict[str, np.ndarray]:
    """What is trained, by name: copies, for the next step overwrites it."""
    weights = flatten(step.finished(trainer, state))
    return {n: np.array(w) for n, w in weights.items() if not n.endswith((".mean", ".var"))}


def rows(entries: Sequence[Entry], repeats: int) -> list[results_file.Row]:
    """All in turn, and what they took."""
    runs = {i: entry.run for i, entry in enumerate(entries)}
    found = timed_under_a_bar(runs, repeats, "training steps")
    return [_row(entry, found[i]) for i, entry in enumerate(entries)]


def _row(entry: Entry, samples: Sequence[Sample]) -> results_file.Row:
    share = STEPS * entry.case.batch
    faces = Spread.of([share / s.wall for s in samples])
    core = Spread.of([1e3 * s.cpu / share for s in samples])
    return {
        "impl": entry.impl,
        **dataclasses.asdict(entry.case),
        "device": jax.devices()[0].device_kind,
        "n": len(samples),
        "trained_faces_per_s": faces.median,
        "trained_faces_per_s_quartiles": [faces.low, faces.high],
        "core_ms_per_face": core.median,
        "core_ms_quartiles": [core.low, core.high],
        **entry.told,
    }
