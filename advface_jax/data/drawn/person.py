"""The two codes of a drawn face: who it is, and how the picture was taken."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

BALD, SHORT, PARTED, FRINGE, LONG, CURLY = range(6)  # hair

_SKINS = np.array([[0.96, 0.80, 0.71], [0.87, 0.66, 0.53], [0.67, 0.46, 0.34], [0.36, 0.23, 0.17]])
_BLACK, _BROWN, _LIGHT_BROWN = [0.06, 0.05, 0.05], [0.18, 0.11, 0.07], [0.38, 0.22, 0.12]
_HAIRS = np.array([_BLACK, _BROWN, _LIGHT_BROWN, [0.50, 0.20, 0.09], [0.74, 0.56, 0.33]])
_IRISES = np.array([[0.20, 0.11, 0.06], [0.36, 0.23, 0.11], [0.33, 0.40, 0.25], [0.35, 0.50, 0.62]])
_STYLES = ([0, 0.05, 0.2, 0.2, 0.4, 0.15], [0.12, 0.4, 0.3, 0.06, 0.02, 0.1])  # women, men


def _trait(mean: float | tuple[float, float], spread: float) -> Any:
    """A number drawn about its mean, or about those of women and men."""
    means = mean if isinstance(mean, tuple) else (mean, mean)
    return dataclasses.field(metadata={"means": means, "spread": spread})


@dataclass(frozen=True, kw_only=True)
class Person:
    """What stays from picture to picture. Lengths are canonical; the rest is in 0..1."""

    wide: float = _trait(0.80, 0.045)  # head half-width
    chin: float = _trait((0.95, 0.97), 0.045)  # v of the chin
    jaw: float = _trait(
        (2.05, 2.35), 0.2
    )  # exponent of the lower face's superellipse: 2 oval, 3 square
    eye_gap: float = _trait(0.385, 0.026)  # u of an eye's centre
    eye_v: float = _trait(-0.15, 0.022)
    eye_wide: float = _trait(0.155, 0.013)
    eye_high: float = _trait((0.064, 0.056), 0.009)
    eye_tilt: float = _trait(0.0, 0.09)
    brow_high: float = _trait((0.195, 0.165), 0.024)  # above the eye
    brow_thick: float = _trait((0.024, 0.036), 0.007)
    brow_arch: float = _trait((0.055, 0.035), 0.018)
    brow_tilt: float = _trait(0.0, 0.09)
    nose_v: float = _trait(0.22, 0.035)  # of the tip
    nose_wide: float = _trait(0.135, 0.02)
    nose_high: float = _trait(0.30, 0.05)  # how far it stands out
    mouth_v: float = _trait(0.57, 0.025)
    mouth_wide: float = _trait(0.285, 0.028)
    lip: float = _trait((0.075, 0.060), 0.014)  # fullness
    socket: float = _trait(0.05, 0.02)  # depth of the eye sockets
    cheek: float = _trait(0.06, 0.025)
    age: float
    beard: float
    moustache: float
    glasses: int  # 0 none, 1 thin, 2 thick
    hair: int  # BALD .. CURLY
    hairline: float
    part: float
    skin: np.ndarray
    hair_colour: np.ndarray
    iris: np.ndarray
    lip_colour: np.ndarray
    seed: int  # of the skin's and the hair's texture


@dataclass(frozen=True)
class Shot:
    """What changes from picture to picture."""

    yaw: float
    pitch: float
    roll: float
    zoom: float
    shift: np.ndarray
    smile: float
    open: float  # of the mouth
    lids: float  # of the eyes: 1 as usual
    gaze: float
    brows: float  # raised
    light: np.ndarray  # towards it, unit
    ambient: float
    gain: np.ndarray  # RGB: exposure and colour of the light
    blur: float


def _float(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)  # a float64 here would double every picture's work


def draw_person(rng: np.random.Generator) -> Person:
    """A person, whose traits go together: age with grey, dark skin with dark hair, and so on."""
    man = int(rng.random() < 0.5)
    age = rng.beta(1.5, 2.0)
    tone = rng.beta(1.1, 1.6) * 2.999
    skin = _SKINS[int(tone)] + (tone % 1) * (_SKINS[int(tone) + 1] - _SKINS[int(tone)])
    skin = skin * rng.normal(1, [0.02, 0.03, 0.05])
    pick = 4 * rng.beta(0.8, 1.6 + tone)  # dark skin rarely has light hair
    colour = _HAIRS[int(pick)] + (pick % 1) * (_HAIRS[min(int(pick) + 1, 4)] - _HAIRS[int(pick)])
    grey = np.clip((age - 0.55) * 3 * rng.random(), 0, 0.9)
    colour = colour + grey * (np.array([0.66, 0.65, 0.64]) - colour)

    def around(mean: float, spread: float) -> float:
        return float(mean + spread * np.clip(rng.normal(), -2, 2))

    traits = [field for field in dataclasses.fields(Person) if field.metadata]
    return Person(
        **{f.name: around(f.metadata["means"][man], f.metadata["spread"]) for f in traits},
        age=age,
        beard=float(man * max(0.0, rng.uniform(-1.2, 1))),
        moustache=float(man * max(0.0, rng.uniform(-1.2, 1))),
        glasses=int(rng.choice(3, p=[0.82, 0.09, 0.09])),
        hair=int(rng.choice(6, p=_STYLES[man])),
        hairline=around(-0.72 - 0.1 * (age > 0.6) * man, 0.07),
        part=float(rng.choice([-1, 1]) * rng.uniform(0.1, 0.5)),
        skin=_float(np.clip(skin, 0.08, 0.97)),
        hair_colour=_float(colour),
        iris=_float(_IRISES[min(int(rng.exponential(0.5) + rng.random() * (3.4 - tone)), 3)]),
        lip_colour=_float(skin * ([0.86, 0.58, 0.58] if man else [0.90, 0.50, 0.54])),
        seed=int(rng.integers(2**31)),
    )


def draw_shot(rng: np.random.Generator) -> Shot:
    """A shot: a small turn, an expression, a light."""
    light = np.array([rng.normal(0, 0.5), rng.normal(-0.45, 0.25), 1.0])
    smile = rng.uniform(-0.15, 1)
    return Shot(
        yaw=float(np.clip(rng.normal(0, 0.16), -0.4, 0.4)),
        pitch=float(np.clip(rng.normal(0, 0.07), -0.15, 0.15)),
        roll=rng.normal(0, 0.04),
        zoom=rng.normal(1.05, 0.025),
        shift=_float(rng.normal(0, 0.02, 2)),
        smile=smile,
        open=float(max(0.0, smile - 0.35 + rng.normal(0, 0.15))),
        lids=rng.uniform(0.75, 1.1) - 0.2 * max(smile, 0),
        gaze=rng.normal(0, 0.018),
        brows=rng.normal(0, 0.012),
        light=_float(light / np.linalg.norm(light)),
        ambient=rng.uniform(0.38, 0.62),
        gain=_float(rng.uniform(0.82, 1.12) * (1 + rng.normal(0, 0.04) * np.array([1, 0, -1]))),
        blur=rng.uniform(0.35, 0.9),
    )
