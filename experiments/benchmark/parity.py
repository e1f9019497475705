"""How exactly this device computes the ascent's first gradient, and what rounding does to the end.

    python -m experiments.benchmark.parity --out FOLDER

The first gradient of each decoder in float32 without rounding ("highest"), in float32 as the
device computes it by default (tf32 on NVIDIA), and in bfloat16, each against float64 on the host's
CPU. Then SSIM and PSNR of R's pictures, and ACC, of features protected in each.
"""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import advface_jax
from advface_jax import ProtectConfig, cli, metrics, protect
from advface_jax.models.decoders import KINDS
from advface_jax.protect import ascent, shadow_round_trip
from experiments.benchmark.cases import multiplying
from experiments.measure import decoders, results_file
from experiments.measure.results_file import Row, markdown
from experiments.measure.sample import OfSample

WAYS: dict[str, tuple[str, Any]] = {
    "float32, highest": ("float32", "highest"),
    "float32, default": ("float32", "default"),
    "bfloat16": ("bfloat16", "default"),
}
FACES = 8  # of the gradients
HEADER = ("decoder", "precision", "error", "signs", "n", "ssim", "psnr", "acc")


def main(sample: OfSample) -> None:
    """Compare this device's precisions with float64 on the host, and what each does to the end."""
    began = time.monotonic()
    system, (crops, over, origin) = sample.open()
    images = jnp.asarray(crops.batch(np.arange(len(crops))), jnp.float32) / 255
    with multiplying("highest"):
        z = _in_batches(jax.jit(system.extractor), sample.batch, images)
    rows = [row for kind in KINDS for row in _gradients(system, kind, z[:FACES])]
    rows += _ends(system, images, z, over, sample.batch)
    cells = [[_written(row.get(key)) for key in HEADER] for row in rows]
    told = markdown([*HEADER], cells)
    command, seconds = cli.command("experiments.benchmark.parity"), time.monotonic() - began
    about = {"command": command, "config": origin, "seconds": seconds, "text": told}
    results_file.write_results(sample.out, "parity", rows, **about)
    cli.answer.print(told, markup=False, highlight=False, soft_wrap=True)


def _gradients(system: advface_jax.System, kind: str, z: jax.Array) -> list[Row]:
    """Of each way: the error relative to the norm in float64, and the share of equal signs."""
    shadow = decoders.decoder(system, kind, "shadow")
    with multiplying("highest"):
        x_tilde, z_tilde = shadow_round_trip(z, extractor=system.extractor, shadow=shadow)

    def gradient(decoder: Any, z: Any, x: Any) -> np.ndarray:
        return np.asarray(jax.jit(lambda d, z, x: ascent(d, x, "batch", None)(z))(decoder, z, x))

    with jax.enable_x64(True), jax.default_device(jax.devices("cpu")[0]):
        exact = gradient(*_cast((shadow, z_tilde, x_tilde), np.float64))
    rows = []
    for name, (dtype, precision) in WAYS.items():
        with multiplying(precision):
            found = gradient(shadow, z_tilde.astype(dtype), x_tilde.astype(dtype))
        away = np.linalg.norm(found.astype(np.float64) - exact) / np.linalg.norm(exact)
        equal = float((np.sign(found) == np.sign(exact)).mean())
        rows.append({"decoder": kind, "precision": name, "error": float(away), "signs": equal})
    return rows


def _cast(tree: Any, dtype: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x), dtype), tree)


def _ends(system, images: jax.Array, z: jax.Array, over, batch: int) -> list[Row]:
    """SSIM and PSNR of R's pictures, and ACC of stored features, by precision of the defence."""
    attacker, server = (jax.jit(f) for f in (system.attacker, system.network.server))
    rows = []
    for name, (dtype, precision) in WAYS.items():

        def store(z, dtype=dtype):
            how = {"extractor": system.extractor, "shadow": system.shadow}
            return protect(z.astype(dtype), **how, config=ProtectConfig()).astype(jnp.float32)

        with multiplying(precision):
            stored = _in_batches(store, batch, z)
        with multiplying("highest"):
            pictures = _in_batches(attacker, batch, stored)
            embedded = np.asarray(_in_batches(server, batch, stored))
        distances = metrics.squared_distance(embedded[over.left], embedded[over.right])
        found = metrics.ten_fold_accuracy(distances, over.same, over.fold)
        alike = {"ssim": metrics.ssim(pictures, images), "psnr": metrics.psnr(pictures, images)}
        row = {"decoder": system.kinds[0], "precision": name, "n": len(images)}
        rows.append(row | {k: float(v.mean()) for k, v in alike.items()} | {"acc": found.accuracy})
    return rows


def _in_batches(f: Any, batch: int, x: jax.Array) -> jax.Array:
    """f of all items; the last batch is filled up with the first items."""
    n = len(x)
    at = np.resize(np.arange(n), -(-n // batch) * batch).reshape(-1, batch)
    return jnp.concatenate([f(x[i]) for i in at])[:n]


def _written(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    cli.start(main, "experiments.benchmark.parity")
