"""Synthetic faces, drawn by arithmetic: a height field, for light and parallax, under a skin."""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from advface_jax import checks
from advface_jax.data.drawn import painting
from advface_jax.data.drawn.painting import RED, bump, inside, noise, paint, radius
from advface_jax.data.drawn.person import Person, Shot, draw_person, draw_shot
from advface_jax.data.faces import SIZE, Faces

VETTED = Path(__file__).parents[2] / "assets" / "nobody" / "people.json"
_BEYOND = 1_000_000  # the number of the first person who was not vetted


def synthetic_names(identities: int = 64, per_identity: int = 4) -> dict[str, tuple[int, int]]:
    """The names of a set of drawn faces, each with the numbers of its person and its picture.

    Example:
      >>> from advface_jax import data
      >>> list(data.synthetic_names(1, 2))
      ['synthetic_0000/0000.png', 'synthetic_0000/0001.png']
    """
    numbers = itertools.product(range(identities), range(per_identity))
    return {f"synthetic_{i:04d}/{j:04d}.png": (i, j) for i, j in numbers}


def synthetic_faces(
    identities: int = 64, per_identity: int = 4, seed: int = 0, names: Iterable[str] | None = None
) -> Faces:
    """Draw ``per_identity`` pictures each of ``identities`` people who do not exist.

    Every picture follows from (seed, person, picture) alone, so that a larger set begins with the
    people of a smaller one. Nothing is downloaded; a picture takes about 25 ms.

    The first 64 people of seed 0, in their first four pictures, were chosen because to FaceNet they
    resemble none of the people in the training sets of the shipped decoders
    (``experiments.nobody``). Other people, pictures and seeds were not compared with these.

    Args:
      identities, per_identity: People, and pictures of each, named "synthetic_0007/0002.png".
      seed: Of the people.
      names: Draw only these, in this order.

    Raises:
      ValueError: there is nothing to draw, or a name is not one of the set.

    Example:
      >>> from advface_jax import data
      >>> data.synthetic_faces(2, 1).images.shape  # uint8
      (2, 160, 160, 3)
    """
    checks.positive(identities=identities, per_identity=per_identity)
    if seed < 0:
        raise ValueError(f"got seed={seed}; wanted 0 or larger")
    known = synthetic_names(identities, per_identity)
    chosen = tuple(known if names is None else names)
    strange = [name for name in chosen if name not in known]
    if strange or not chosen:
        raise ValueError(
            f"names={strange[:3] or '[]'}: take them from synthetic_names({identities}, "
            f"{per_identity}), which look like {next(iter(known))!r}"
        )
    vetted = dict(enumerate(_vetted())) if seed == 0 else {}
    beyond = _BEYOND if vetted else 0
    shots = [(vetted.get(i, beyond + i), j) for i, j in (known[name] for name in chosen)]
    return Faces(chosen, tuple(name.split("/")[0] for name in chosen), draw(seed, shots))


@functools.cache
def _vetted() -> tuple[int, ...]:
    return tuple(json.loads(VETTED.read_text(encoding="utf-8"))["people"])


def draw(seed: int, shots: Sequence[tuple[int, int]]) -> np.ndarray:
    """Pictures, each a (person, picture): uint8 (n,160,160,3)."""
    images = np.empty((len(shots), SIZE, SIZE, 3), np.uint8)
    for row, (i, j) in enumerate(shots):
        rng = np.random.default_rng([seed, i, j])
        images[row] = render(draw_person(np.random.default_rng([seed, i])), draw_shot(rng), rng)
    return images


def render(p: Person, s: Shot, rng: np.random.Generator) -> np.ndarray:
    """One picture, uint8 (160,160,3); ``rng`` draws what lies behind, and the grain."""
    grid = ((np.arange(SIZE) + 0.5) / SIZE * 2 - 1).astype(np.float32)
    x, y = np.meshgrid(grid, grid)
    a, b = x - s.shift[0], y - s.shift[1]
    c, d = math.cos(s.roll) / s.zoom, math.sin(s.roll) / s.zoom
    a, b = c * a + d * b, c * b - d * a
    u, v = a, b
    for _ in range(2):  # parallax: what stands out moves with the turn of the head
        # a parabola: the sphere's steep rim would show the same skin twice
        z = 0.6 * np.clip(1 - radius(p, u, v) ** 2, -0.3, None) - 0.3 + _nose(p, u, v)
        u, v = (a - z * math.sin(s.yaw)) / math.cos(s.yaw), b - z * math.sin(s.pitch)

    skin = np.empty((SIZE, SIZE, 3), np.float32)
    skin[:] = p.skin
    painting.paint_skin(skin, p, u, v)
    painting.paint_mouth(skin, p, s, u, v)
    for side in (-1, 1):
        painting.paint_eye(skin, p, s, u, v, side)
        painting.paint_brow(skin, p, s, u, v, side)
    shade, gleam = _light(s, _height(p, s, u, v))
    rim = inside(radius(p, u, v) - 0.88, 0.35)
    skin *= (shade * (0.72 + 0.28 * rim))[..., None]
    skin += 0.10 * gleam[..., None]

    blobs = 0.5 + 0.5 * noise(int(rng.integers(2**31)), 1.7 * x + 9, 1.7 * y + 9)[..., None]
    colours = rng.uniform(0, 0.3, (3, 3)) + rng.uniform(0.02, 0.65, (3, 1))
    near, far, cloth = colours.astype(np.float32)
    canvas = near + (far - near) * blobs
    front, behind, hair = painting.hair_of(p, u, v)
    towards = 0.75 + 0.35 * np.clip(x * s.light[0] - y * s.light[1], -1, 1)
    hair *= (towards * (0.6 + 0.6 * s.ambient))[..., None]
    paint(canvas, cloth * (0.8 + 0.2 * blobs), inside(0.92 - 0.15 * np.abs(a) - b, 0.04))
    paint(canvas, hair * 0.7, behind)
    neck = np.maximum(np.abs(a) - p.wide * 0.62 - 0.25 * np.clip(b - 0.8, 0, 1), 0.4 - b)
    paint(canvas, p.skin * 0.55 * (0.5 + s.ambient), inside(neck, 0.05))
    ear = ((np.abs(u) - p.wide * 0.98) / 0.10) ** 2 + ((v + 0.02) / 0.22) ** 2
    paint(canvas, p.skin * (0.85 * RED) * shade.mean(), inside(np.sqrt(ear) - 1, 0.15))
    paint(canvas, skin, inside(radius(p, u, v) - 1, 0.025))
    paint(canvas, hair, front)
    if p.glasses:
        painting.paint_glasses(canvas, p, u, v)
    return _develop(canvas * s.gain, s.blur, rng)


def _light(s: Shot, z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lambert's light and a highlight on the height field z, both float32 (160, 160)."""
    dz_v, dz_u = np.gradient(z, 2 / SIZE)
    length = np.sqrt(dz_u**2 + dz_v**2 + 1)
    half = s.light + np.array([0, 0, 1], np.float32)
    half /= np.linalg.norm(half)
    ways = s.light, half
    lit, gleam = (np.clip((w[2] - dz_u * w[0] - dz_v * w[1]) / length, 0, None) for w in ways)
    return s.ambient + (1.12 - s.ambient) * lit / math.sqrt(s.light[2]), gleam**24


def _develop(canvas: np.ndarray, blur: float, rng: np.random.Generator) -> np.ndarray:
    """The lens's blur over three pixels each way, the sensor's noise, and 8 bits."""
    for axis in (0, 1):
        pad = np.pad(canvas, [(1, 1) if i == axis else (0, 0) for i in range(3)], mode="edge")
        before, here, after = (pad.take(range(i, i + SIZE), axis) for i in range(3))
        canvas = (here + blur * (before + after)) / (1 + 2 * blur)
    canvas = canvas + 0.008 * rng.standard_normal(canvas.shape, np.float32)
    return (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)


def _nose(p: Person, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    ridge = np.clip((v - p.eye_v + 0.14) / (p.nose_v - p.eye_v + 0.14), 0, 1)
    high = p.nose_high * ridge * (0.25 + 0.75 * ridge) * inside(v - p.nose_v - 0.03, 0.14)
    return high * np.exp(-((u / (0.09 + 0.03 * ridge)) ** 2))


def _height(p: Person, s: Shot, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """How far the face stands out towards the camera, for the light."""
    a = np.abs(u)
    z = 0.75 * np.sqrt(np.clip(1.02 - radius(p, u, v) ** 2, 0, None)) + _nose(p, u, v)
    z = z + 0.10 * bump(u, v, (0, p.nose_v - 0.01), (0.085, 0.075))
    z = z + 0.10 * bump(a, v, (p.nose_wide - 0.02, p.nose_v + 0.02), (0.05, 0.06))
    z = z - p.socket * bump(a, v, (p.eye_gap - 0.03, p.eye_v - 0.03), (0.20, 0.11))
    z = z + 0.030 * bump(a, v, (p.eye_gap, p.eye_v), (0.15, 0.08))
    z = z + 0.04 * bump(a, v, (p.eye_gap - 0.05, p.eye_v - p.brow_high), (0.25, 0.07))
    lift = 0.04 * s.smile
    z = z + (p.cheek + lift) * bump(a, v, (0.45, 0.16 - lift), (0.19, 0.17))
    fold = a - (p.nose_wide + 0.07 + 0.45 * (v - p.nose_v))  # from the nose to the mouth's corner
    depth = 0.006 + 0.016 * max(s.smile, 0) + 0.014 * p.age
    z = z - depth * bump(fold, v, (0, 0.38), (0.035, 0.21))
    z = z + 0.035 * bump(u, v, (0, p.mouth_v), (p.mouth_wide, 0.14))
    z = z - 0.025 * bump(u, v, (0, p.mouth_v + p.lip + 0.09), (0.17, 0.04))
    z = z + 0.05 * bump(u, v, (0, p.chin - 0.14), (0.17, 0.10))
    z = z - 0.012 * bump(u, v, (0, (p.nose_v + p.mouth_v) / 2 + 0.02), (0.03, 0.07))
    lines = np.sin((v + 0.02 * np.cos(4 * u)) * 75) * bump(u, v, (0, -0.55), (0.4, 0.12))
    bags = bump(a, v, (p.eye_gap - 0.02, p.eye_v + 0.13), (0.14, 0.022))
    return z + max(p.age - 0.4, 0) * (0.006 * lines - 0.03 * bags)
