"""Faces that do not exist and R's pictures of them, side by side, with a slider over ε."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from experiments.page.document import picture

MOST = 8  # faces on a page


@dataclasses.dataclass(frozen=True)
class Strip:
    """R's pictures of a few drawn faces.

    Attributes:
      labels: of the settings, as "ε = 0.2".
      originals: (k,h,w,3) uint8.
      pictures: (s,k,h,w,3) uint8, for each setting.
      ssim: (s,k).
    """

    labels: Sequence[str]
    originals: np.ndarray
    pictures: np.ndarray
    ssim: np.ndarray

    def save(self, path: Path) -> dict[str, Any]:
        """Write all pictures into one file, a line for each setting, and say what is in it."""
        lines = [np.concatenate(list(line[:MOST]), 1) for line in (self.originals, *self.pictures)]
        Image.fromarray(np.concatenate(lines)).save(path, quality=88)
        ssim = [[round(float(x), 3) for x in line[:MOST]] for line in self.ssim]
        return {"file": path.name, "shown": list(self.labels), "ssim": ssim}


def strip(about: Mapping[str, Any], folder: Path) -> str:
    """The HTML of what ``Strip.save`` wrote; nothing if its file is gone."""
    file = folder / Path(about["file"]).name
    if not file.is_file():
        return ""
    shown, ssim = about["shown"], about["ssim"]
    faces, last = len(ssim[0]), len(shown) - 1
    size = f"--faces:{faces};--lines:{len(shown) + 1};background-image:url({picture(file)})"
    cell = '<div class="face" role="img" aria-label="{}" style="--x:{};--y:{}"></div>'
    originals = "".join(cell.format(f"Face {i + 1}, drawn", i, 0) for i in range(faces))
    decoded = "".join(
        "<figure>" + cell.format("", i, 1) + "<figcaption></figcaption></figure>"
        for i in range(faces)
    )
    ends = escape(json.dumps({"shown": shown, "ssim": ssim}), quote=True)
    return (
        f'<section class="strip" data-strip="{ends}"><h2>What a thief sees</h2>'
        "<p>These faces do not exist: code draws them. Above the face, below what the attacker's "
        "decoder R makes of the stored feature. A lower SSIM is less like the face.</p>"
        f'<label>Stored: <output>{escape(shown[0])}</output> <input type="range" min="0" '
        f'aria-label="Stored" max="{last}" value="0" aria-valuetext="{escape(shown[0])}"></label>'
        f'<div class="sheet" style="{size}"><div class="line">{originals}</div>'
        f'<div class="line">{decoded}</div></div></section>'
    )
