"""The features of a drawn face, each painted onto a canvas in canonical coordinates.

(u, v) = (0, 0) is the middle of the crop, 1 is 80 pixels, v points down. The eyes lie near
v = -0.15, the mouth near 0.57, the chin near 0.95, as in MTCNN crops with margin 14.
u, v: float32 (160, 160); a canvas: float32 (160, 160, 3), changed in place.
"""

from __future__ import annotations

import math

import numpy as np
from numpy import ndarray as Array

from advface_jax.data.drawn.person import BALD, CURLY, FRINGE, LONG, PARTED, SHORT, Person, Shot

RED = np.array([1.02, 0.84, 0.83], np.float32)  # what blood does to a skin


def noise(seed: int, u: Array, v: Array) -> Array:
    """Smooth noise in -1..1 with one bump a unit of (u, v), from seed and place alone."""
    table = np.random.default_rng(seed).uniform(-1, 1, (64, 64)).astype(np.float32)
    i, j = np.floor(u), np.floor(v)
    s, t = u - i, v - j
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    a, b = i.astype(np.intp) & 63, j.astype(np.intp) & 63
    c, d = (a + 1) & 63, (b + 1) & 63
    top = table[b, a] * (1 - s) + table[b, c] * s
    return top * (1 - t) + (table[d, a] * (1 - s) + table[d, c] * s) * t


def inside(distance: Array, soft: float = 0.0125) -> Array:
    """Coverage of the region where distance < 0, its edge ``soft`` wide (a pixel is 0.0125)."""
    x = np.clip(0.5 - distance / soft, 0, 1)
    return x * x * (3 - 2 * x)


def bump(u: Array, v: Array, at: tuple, size: tuple) -> Array:
    return np.exp(-(((u - at[0]) / size[0]) ** 2) - ((v - at[1]) / size[1]) ** 2)


def paint(canvas: Array, colour: Array | float, cover: Array) -> None:
    canvas += (np.asarray(colour, np.float32) - canvas) * cover[..., None]


def radius(p: Person, u: Array, v: Array) -> Array:
    """0 in the middle of the head, 1 on its outline."""
    middle = -0.12
    k = np.where(v < middle, 2.2, p.jaw).astype(v.dtype)
    high = np.where(v < middle, 0.98, p.chin - middle).astype(v.dtype)
    return ((np.abs(u) / p.wide) ** k + (np.abs(v - middle) / high) ** k) ** (1 / k)


def paint_skin(canvas: Array, p: Person, u: Array, v: Array) -> None:
    a = np.abs(u)
    paint(canvas, p.skin * RED, 0.5 * bump(a, v, (0.48, 0.2), (0.22, 0.2)))
    paint(canvas, p.skin * RED, 0.6 * bump(u, v, (0, p.nose_v), (0.13, 0.09)))
    socket = 0.5 * bump(a, v, (p.eye_gap - 0.02, p.eye_v), (0.2, 0.11))
    paint(canvas, p.skin * [0.72, 0.66, 0.68], socket)
    blotch = noise(p.seed, 9 * u + 20, 9 * v + 20) + 0.7 * noise(p.seed + 1, 40 * u, 40 * v)
    canvas *= (1 + 0.022 * blotch)[..., None]
    spots = np.clip(noise(p.seed + 2, 14 * u + 30, 14 * v + 30) - 0.84, 0, 1) * 2.5
    paint(canvas, p.skin * 0.55, np.clip(spots, 0, 0.3) * (0.2 + p.age))
    # nostrils, and the shadow under the nose
    paint(canvas, p.skin * 0.62, 0.55 * bump(u, v, (0, p.nose_v + 0.085), (p.nose_wide, 0.03)))
    nostril = bump(a, v, (0.062 + 0.2 * (p.nose_wide - 0.135), p.nose_v + 0.062), (0.036, 0.018))
    paint(canvas, p.skin * 0.18, 0.85 * nostril)
    if p.beard + p.moustache:
        hairs = np.clip(0.75 + 0.5 * noise(p.seed + 3, 60 * u, 30 * v), 0, 1)
        edge = 0.38 + 0.25 * (1 - (a / 0.8) ** 2) - v
        mouth = ((u / (p.mouth_wide + 0.03)) ** 2 + ((v - p.mouth_v) / 0.13) ** 2) ** 0.5
        beard = inside(edge, 0.2) * inside(1 - mouth, 0.25)
        beard = np.maximum(beard, inside(a * -1 + 0.66, 0.14) * inside(0.05 - v, 0.2))
        above = bump(u, v, (0, p.mouth_v - 0.125), (p.mouth_wide * 0.95, 0.05))
        cover = np.maximum(beard * p.beard, np.clip(1.4 * above, 0, 1) * p.moustache)
        paint(canvas, 0.25 * p.skin + 0.65 * p.hair_colour, 0.9 * cover * hairs)


def paint_mouth(canvas: Array, p: Person, s: Shot, u: Array, v: Array) -> None:
    wide = p.mouth_wide * (1 + 0.22 * s.smile)
    t = np.clip(u / wide, -1.2, 1.2)
    line = p.mouth_v - 0.06 * s.smile * (t**2 - 0.35) + 0.006 * np.cos(9 * t)
    full = np.sqrt(np.clip(1 - t**2, 0, None))
    gap = 0.085 * s.open * full**1.5
    bow = 1 - 0.22 * np.exp(-((t / 0.13) ** 2)) - 0.25 * t**2
    top = line - gap * 0.4 - p.lip * 0.85 * full * bow
    bottom = line + gap * 0.6 + p.lip * 1.15 * full
    lips = inside(top - v, 0.03) * inside(v - bottom, 0.035) * np.clip(4 * full, 0, 1)
    paint(canvas, p.lip_colour, 0.85 * lips)
    shine = bump(u, v, (0, p.mouth_v + gap.max() * 0.6 + p.lip * 0.6), (0.11, 0.018))
    paint(canvas, np.minimum(p.lip_colour * 1.35, 1), 0.4 * shine)
    between = 0.85 * np.exp(-(((v - line) / 0.011) ** 2)) * inside(np.abs(t) - 1, 0.1)
    paint(canvas, p.lip_colour * 0.3, between)
    if s.open > 0.02:
        inner = inside(line - gap * 0.4 - v, 0.015) * inside(v - line - gap * 0.6, 0.015)
        inner = inner * (full > 0)
        teeth = np.array([0.88, 0.85, 0.79]) * (1 - 0.55 * t[..., None] ** 2)
        paint(canvas, np.array([0.22, 0.07, 0.07]), inner)
        row = inner * inside(v - line - gap * 0.45, 0.02) * inside(np.abs(t) - 0.8, 0.2)
        paint(canvas, teeth, row)
    corner = bump(np.abs(u), v, (wide, p.mouth_v - 0.04 * s.smile), (0.025, 0.02))
    paint(canvas, p.skin * 0.5, 0.5 * corner)


def paint_eye(canvas: Array, p: Person, s: Shot, u: Array, v: Array, side: int) -> None:
    x = (u * side - p.eye_gap) / p.eye_wide  # -1 at the nose, 1 at the temple
    y = v - p.eye_v + p.eye_tilt * p.eye_wide * x
    full = np.clip(1 - np.abs(x) ** 2.2, 0, None)
    upper, lower = -p.eye_high * s.lids * full**0.75, 0.62 * p.eye_high * full
    within = inside(np.maximum(upper - y, y - lower), 0.018) * (full > 0)
    r = np.hypot(u * side - p.eye_gap - side * s.gaze, y + 0.012)
    shade = 1 - 0.28 * x[..., None] ** 2 - 0.35 * np.exp(-(((y - upper) / 0.025) ** 2))[..., None]
    paint(canvas, np.array([0.86, 0.83, 0.80]) * shade, within)
    ring = np.clip(r / 0.068, 0, 1)[..., None]
    iris = p.iris * (1.25 - 0.75 * ring**3) * np.minimum(shade + 0.1, 1)
    paint(canvas, iris, within * inside(r - 0.068, 0.016))
    paint(canvas, 0.03, within * inside(r - 0.028, 0.014))
    glint = 0.02 if s.light[0] > 0 else -0.02, -0.02
    spot = np.hypot(u * side - p.eye_gap - side * (s.gaze + glint[0]), y + 0.012 - glint[1])
    paint(canvas, 1, 0.85 * within * inside(spot - 0.011, 0.014))
    reach = inside(np.abs(x) - 1.04, 0.12)
    lash = np.exp(-(((y - upper) / 0.013) ** 2)) * reach
    paint(canvas, 0.25 * p.hair_colour * p.skin, 0.9 * lash)
    paint(canvas, p.skin * 0.5, 0.4 * np.exp(-(((y - lower) / 0.012) ** 2)) * reach)
    crease = np.exp(-(((y - upper + 0.042) / 0.013) ** 2)) * inside(np.abs(x) - 0.95, 0.3)
    paint(canvas, p.skin * 0.5, (0.35 + 0.2 * p.age) * crease)


def paint_brow(canvas: Array, p: Person, s: Shot, u: Array, v: Array, side: int) -> None:
    x = (u * side - p.eye_gap - 0.01) / 0.215
    bend = (x - 0.2) ** 2 * np.where(x < 0.2, 0.35, 1.2).astype(x.dtype) - 0.4
    line = p.eye_v - p.brow_high - s.brows + p.brow_arch * bend + p.brow_tilt * 0.2 * x
    thick = p.brow_thick * (1.1 - 0.55 * np.clip(x + 0.2, 0, 1.2) ** 1.5)
    hairs = 0.8 + 0.3 * noise(p.seed + 4, 45 * u + 12 * v, 25 * v)
    cover = np.exp(-(((v - line) / np.maximum(thick, 0.006)) ** 4)) * inside(np.abs(x) - 1, 0.28)
    paint(canvas, 0.75 * p.hair_colour * (0.55 + 0.45 * p.skin), np.clip(0.9 * cover * hairs, 0, 1))


def paint_glasses(canvas: Array, p: Person, u: Array, v: Array) -> None:
    a, thick = np.abs(u), 0.012 * p.glasses
    dark = p.hair_colour * 0.3
    k = 3.5 if p.glasses == 2 else 2.4
    across, down = np.abs(a - p.eye_gap) / 0.27, np.abs(v - p.eye_v - 0.03) / 0.19
    lens = (across**k + down**k) ** (1 / k) - 1
    paint(canvas, 1, 0.07 * inside(lens, 0.05) * inside(u + v * 0.6, 0.5))
    bridge = np.maximum(np.abs(v - p.eye_v + 0.02) - thick, a - p.eye_gap + 0.27)
    arms = np.maximum(np.abs(v - p.eye_v + 0.03) - thick, p.eye_gap + 0.26 - a)
    arms = np.maximum(arms, a - p.wide)
    frame = np.minimum(np.abs(lens) * 0.22 - thick, np.minimum(bridge, arms))
    paint(canvas, dark, 0.92 * inside(frame, 0.016))


def hair_of(p: Person, u: Array, v: Array) -> tuple[Array, Array, Array]:
    """Cover in front of the face, cover behind it, and the hair's colour (160, 160, 3)."""
    if p.hair == BALD:
        return np.zeros_like(u), np.zeros_like(u), np.zeros((*u.shape, 3), u.dtype)
    curly, long = p.hair == CURLY, p.hair == LONG
    out = np.abs(u) / p.wide  # 1 at the side of the head
    wave = (0.066 if curly else 0.03) * noise(p.seed + 5, 7 * u + 9, 7 * v)

    line = p.hairline + 0.065 * out**2 + 0.45 * np.clip(out - 0.62, 0, 1)
    if p.hair == PARTED:
        combed = inside((u - p.part) * math.copysign(1, p.part), 0.2)
        line = line - 0.04 + 0.16 * combed * np.clip(1 - np.abs(u - p.part) / 0.9, 0, 1)
    if p.hair == FRINGE:
        fringe = -0.43 + 0.05 * np.cos(3 * u) + 0.03 * noise(p.seed + 6, 12 * u, 0 * v)
        line = np.maximum(line, fringe)
    falls = {SHORT: -0.1, PARTED: 0.0, FRINGE: 0.3, LONG: 2.0, CURLY: 0.15}[p.hair]  # to this v
    puff = {SHORT: 0.02, PARTED: 0.06, FRINGE: 0.05, LONG: 0.12, CURLY: 0.16}[p.hair]
    scalp = radius(p, 0.93 * u, 0.90 * v - 0.012) - 1 - puff + wave
    temple = 0.93 - 0.06 * (p.hair in (FRINGE, LONG, CURLY)) - 0.08 * long * np.clip(v + 0.3, 0, 1)
    temple = p.wide * (temple - out) + wave
    front = np.maximum(inside(v - line + wave, 0.06), inside(temple, 0.05))
    front = front * inside(scalp, 0.05) * inside(v - falls + wave, 0.12)
    behind = inside(np.maximum(scalp - 0.04, v - falls + wave), 0.06)
    if long:
        curtain = p.wide * (out - 1.16 - 0.1 * np.clip(v, -1, 1)) + wave
        behind = np.maximum(behind, inside(np.maximum(curtain, -0.2 - v), 0.05))
        beside = inside(np.maximum(curtain, temple), 0.05) * inside(-0.3 - v, 0.1)
        front = np.maximum(front, beside)

    middle = p.part if p.hair == PARTED else 0.0
    flow = u + 3 * wave if curly else np.arctan2(u - middle, 1.3 - v)
    strands = noise(p.seed + 7, 55 * flow + 6 * wave, 3 * v + 5)
    strands = strands + 0.6 * noise(p.seed + 8, 25 * flow, 2 * v)
    gloss = np.exp(-(((v + 0.86 - 0.25 * u**2) / 0.1) ** 2))
    tone = 1 + 0.33 * strands + 0.5 * gloss - 0.35 * np.clip(v + 0.2, 0, 1)
    return front, behind, p.hair_colour * np.clip(tone, 0.35, 2)[..., None]
