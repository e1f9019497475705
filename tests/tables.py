"""A quick run of a table: a few synthetic faces, a small recogniser, small decoders' files."""

from pathlib import Path
from typing import Any

import numpy as np
from networks import small_decoder
from PIL import Image

from advface_jax import data
from advface_jax.models.decoders import Kind
from advface_jax.system import write_decoder
from experiments.measure import inputs, sample
from experiments.measure.inputs import Inputs
from experiments.measure.table import Table

FIELDS = {"method", "epsilon", "ssim", "psnr", "mse", "acc", "srra", "n"}


def given(set: str | None = None, seed: int = 0) -> Inputs:
    """Eight faces of four people, in two folds."""
    crops = data.read_faces("synthetic", names=data.synthetic_names(4, 2))
    over = inputs.draw(crops, None, 0)
    origin = {"set": set, "faces": "synthetic", "folds": len(np.unique(over.fold)), "seed": seed}
    return Inputs(crops, over, origin)


def small_sample(out: Path, **changes: Any) -> sample.Sample:
    """Batches of three: of eight faces the last batch is padded."""
    return sample.Sample(**{"out": out, "batch": 3, **changes})


def written(folder: Path, kind: Kind, role: str, seed: int = 0) -> str:
    """A decoder's file, as a flag names it."""
    path = folder / f"{kind}-{role}-{seed}" / f"{kind}-{role}.safetensors"
    number = 1 + 2 * seed + (role == "attacker") + 100 * ["transrec", "resrec", "urec"].index(kind)
    card = {"weights": "random", "weights_sha256": "00", "train": {"seed": seed}}
    write_decoder(path, small_decoder(kind, number), card)
    return str(path)


def by_method(table: Table) -> dict[str, dict[str, Any]]:
    return {r.get("condition", r["method"]): r for r in table.rows}


def is_picture(file: Path) -> bool:
    """Whether it shows anything."""
    with Image.open(file) as picture:
        return min(picture.size) > 100 and np.asarray(picture.convert("L")).std() > 5
