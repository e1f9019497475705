"""A set of photographs into a folder of crops: resumable, and every photograph accounted for."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np

from advface_jax import checks, lock
from advface_jax.data import crops
from advface_jax.data.records import Source, unsafe
from advface_jax.data.threads import in_order
from advface_jax.detection import Detections, DetectorConfig
from advface_jax.untrusted import TEXT_BYTES, BadFile, read_bytes, read_json

REPORT, CARD = "crops.tsv", "crops.json"
CROPPED = "cropped"
_VERSION = 2  # of the way from a photograph to its crops, in the card: another way, another number
_WORKERS = 4  # one decodes, one waits for the network, one writes: more do not help
_WINDOW = 16  # photographs in flight
_LARGEST = 4096  # of a crop: several are in memory at once
_PADDING, _GREY = 0.25, 127  # of the larger side, at each edge; chosen by measurement (docs)


@dataclasses.dataclass(frozen=True)
class CropConfig:
    """The settings of a folder of crops, which holds crops of one setting only."""

    size: int = crops.SIZE
    margin: int = crops.MARGIN
    choose: crops.Choice = "centre"
    format: Literal["jpg", "png"] = "jpg"
    quality: int = 95
    min_face: float = DetectorConfig.min_face

    def __post_init__(self) -> None:
        checks.positive(size=self.size)
        if self.size > _LARGEST:
            raise ValueError(f"got size={self.size}; wanted at most {_LARGEST} pixels a side")
        checks.choice(self.choose, "choose", ("centre", "largest", "probable", "all"))
        checks.choice(self.format, "format", ("jpg", "png"))
        if not 0 <= self.margin < self.size:
            raise ValueError(
                f"got margin={self.margin}; wanted pixels of the crop, from 0 to {self.size - 1}"
            )
        if not 1 <= self.quality <= 100:
            raise ValueError(f"got quality={self.quality}; wanted JPEG's, from 1 to 100")
        DetectorConfig(min_face=self.min_face)


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of crops.tsv: one face of a photograph, or the reason why there is no crop.

    Attributes:
      file, crop: The photograph's name and the crop's, empty without one.
      status: "cropped", "no face", or what was wrong.
      faces: How many were found.
      size: The photograph's, upright, as WxH.
      box_x1y1x2y2, probability, landmarks_5xy: As in ``Detections``, in pixels of the photograph.
      padding: Pixels of grey that were put around the photograph when its faces were looked for
        again; 0 where the first look was enough.
    """

    file: str
    crop: str
    status: str
    faces: str = ""
    size: str = ""
    box_x1y1x2y2: str = ""
    probability: str = ""
    landmarks_5xy: str = ""
    padding: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row))


def read_report(out: Path) -> list[Row]:
    r"""The rows of a folder's crops.tsv, but for a last one that a kill cut short; or ValueError.

    Example:
      >>> import pathlib, tempfile
      >>> from advface_jax import cropping
      >>> out = pathlib.Path(tempfile.mkdtemp())
      >>> head = "\t".join(cropping.COLUMNS)
      >>> _ = (out / "crops.tsv").write_text(head + "\na.jpg\t\tno face" + 6 * "\t" + "\n")
      >>> cropping.read_report(out)[0].status
      'no face'
    """
    try:
        text = read_bytes(out / REPORT, TEXT_BYTES).decode("utf-8", "replace")
    except BadFile:
        if (out / REPORT).exists():
            raise
        return []
    whole = text[: text.rfind("\n") + 1]
    try:
        lines = list(csv.reader(io.StringIO(whole), "excel-tab"))
    except csv.Error as error:
        raise BadFile(f"{out / REPORT} is damaged ({error}): remove it to crop anew") from error
    return [Row(*line) for line in lines[1:] if len(line) == len(COLUMNS)]


def crop_all(
    source: Source,
    out: Path,
    config: CropConfig,
    find: Callable[[np.ndarray], Detections],
    origin: Mapping[str, Any],
    progress: Callable[[int, int, int], None] = lambda done, total, faces: None,
) -> list[Row]:
    """Crop the photographs of ``source`` into ``out`` as identity/image.jpg: crops.tsv's rows.

    A later run with the same settings and ``origin`` goes on where the earlier one stopped, and
    tries unreadable photographs again. A crop has its name only when it is whole. Where no face is
    found, it is looked for again with grey around the photograph, as tight photographs need it.

    Args:
      source: The photographs.
      out: A new folder, or one of an earlier run.
      config: Which face, and how it is cut.
      find: Finds the faces of a photograph, uint8 (h, w, 3).
      origin: What else the crops depend on, for the folder's card.
      progress: Called with how many photographs are done, how many there are (both without an
        earlier run's), and how many crops were written.

    Raises:
      ValueError: ``out`` holds anything else, crops of other settings, or another process writes
        it.

    Example:
      >>> import pathlib, tempfile
      >>> from PIL import Image
      >>> from advface_jax import cropping, data, detection
      >>> photos, out = pathlib.Path(tempfile.mkdtemp()), pathlib.Path(tempfile.mkdtemp())
      >>> face = data.synthetic_faces(1, 1).images[0]
      >>> Image.fromarray(face).resize((320, 320)).save(photos / "photo.png")
      >>> config, source = cropping.CropConfig(), data.open_source(photos)
      >>> rows = cropping.crop_all(source, out / "faces", config, detection.detect, {})
      >>> rows[0].status
      'cropped'
    """
    if out.exists():
        _claimed(out, config, origin)
    with lock.only_writer(out):
        return _crop_all(source, out, config, find, origin, progress)


def _crop_all(source, out: Path, config: CropConfig, find, origin, progress) -> list[Row]:
    _claim(out, config, origin)
    wanted, refused = _targets(source, config)
    before = _finished(read_report(out), out, config)
    rows = {name: lines for name, lines in before.items() if name not in refused}
    rows |= refused
    _write_report(out, [row for lines in rows.values() for row in lines])
    todo = [name for name in wanted if name not in rows]
    progress(0, len(todo), 0)
    faces = 0

    def work(name: str) -> list[Row]:
        return _crop_one(source, name, out, wanted[name], config, find)

    with (
        # closed at once, so that a stopped run does stop
        contextlib.closing(in_order(work, todo, _WINDOW, _WORKERS)) as results,
        open(out / REPORT, "a", encoding="utf-8", newline="") as report,
    ):
        for done, result in enumerate(results, 1):
            lines = result.result()
            rows[lines[0].file] = lines
            report.write(_lines(lines))
            report.flush()
            faces += sum(row.status == CROPPED for row in lines)
            progress(done, len(todo), faces)
    order = {name: n for n, name in enumerate(source.names)}
    names = sorted(rows, key=lambda name: (order.get(name, len(order)), name))
    ordered = [row for name in names for row in rows[name]]
    _write_report(out, ordered)
    return ordered


def _claim(out: Path, config: CropConfig, origin: Mapping[str, Any]) -> None:
    """Write the card of a new ``out``; ValueError as for ``_claimed``."""
    if not _claimed(out, config, origin):
        _write(out / CARD, (json.dumps(_card(config, origin), indent=2) + "\n").encode())


def _card(config: CropConfig, origin: Mapping[str, Any]) -> dict[str, Any]:
    return {**dataclasses.asdict(config), **origin, "version": _VERSION}


def _claimed(out: Path, config: CropConfig, origin: Mapping[str, Any]) -> bool:
    """Whether ``out`` has crops of the same settings; ValueError unless it is new."""
    card = _card(config, origin)
    if (out / CARD).is_file():
        try:
            made = read_json(out / CARD)
        except BadFile:
            raise BadFile(f"{out / CARD} is damaged; crop into another folder") from None
        made.setdefault("version", 1)
        if "path" in card:
            made.setdefault("path", card["path"])  # earlier cards know the photographs by name only
        differing = [k for k in sorted(card | made) if card.get(k) != made.get(k)]
        if differing:
            said = "; ".join(f"{k} {made.get(k)!r} there, {card.get(k)!r} now" for k in differing)
            raise ValueError(f"{out} holds crops of other settings ({said}); give another folder")
        return True
    ours = (lock.NAME, f".{CARD}.part")  # what a killed run leaves before the card
    if out.exists() and (not out.is_dir() or any(p.name not in ours for p in out.iterdir())):
        raise ValueError(
            f"{out} is not empty and holds no crops of this command (no {CARD}); give a new folder"
        )
    return False


def _targets(source: Source, config: CropConfig) -> tuple[dict[str, str], dict[str, list[Row]]]:
    """The crop's name (without its ending) of each photograph, and rows of those without one."""
    stems = {name: str(PurePosixPath(name).with_suffix("")) for name in source.names}
    first: dict[str, str] = {}
    for name, stem in stems.items():
        first.setdefault(stem, name)
    refused = {name: [Row(name, "", reason)] for name, reason in source.skipped}
    for name, stem in stems.items():
        # With "all", a photograph's second face is NAME.2, which may be another photograph's name.
        numbered = re.fullmatch(r"(.+)\.\d+", stem) if config.choose == "all" else None
        other = (first.get(numbered[1]) if numbered else None) or first[stem]
        if unsafe(name) or Path(name).drive:
            refused[name] = [Row(name, "", "with an unsafe path")]
        elif "\r" in name:
            refused[name] = [Row(name, "", "a line break in its name: rename it")]
        elif other != name:
            refused[name] = [Row(name, "", f"duplicate name: its crop might be {other}'s")]
    return {name: stem for name, stem in stems.items() if name not in refused}, refused


def _finished(rows: Iterable[Row], out: Path, config: CropConfig) -> dict[str, list[Row]]:
    """An earlier run's rows of the photographs that are done."""
    by_file: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_file[row.file].append(row)

    def finished(lines: Sequence[Row]) -> bool:
        # Without a number of faces the photograph was unreadable: it may be whole now.
        if not all(row.faces.isdigit() and not unsafe(row.crop) for row in lines):
            return False
        expected = max(int(lines[0].faces), 1) if config.choose == "all" else 1
        there = all((out / row.crop).is_file() for row in lines if row.status == CROPPED)
        return len(lines) == expected and there

    return {name: lines for name, lines in by_file.items() if finished(lines)}


def _crop_one(
    source: Source,
    name: str,
    out: Path,
    stem: str,
    config: CropConfig,
    find: Callable[[np.ndarray], Detections],
) -> list[Row]:
    try:
        photo = crops.decode(source.read(name))
    except (OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        known = reason.startswith(("unreadable", "too large"))
        return [Row(name, "", " ".join((reason if known else f"unreadable: {reason}").split()))]
    h, w, _ = photo.shape
    size = f"{w}x{h}"
    if min(h, w) < config.min_face:
        return [Row(name, "", f"too small: {size}, faces from {config.min_face:g}", "0", size)]
    found, padding = _find(photo, find)
    pixels = str(padding)
    rows = []
    for i in crops.choose(found.boxes, found.probabilities, (h, w), config.choose):
        number = f".{len(rows) + 1}" if rows else ""
        target = f"{stem}{number}.{config.format}"
        status = CROPPED
        try:
            face = crops.cut(photo, found.boxes[i], size=config.size, margin=config.margin)
        except ValueError as error:
            target, status = "", str(error)
        else:
            suffix = ".png" if config.format == "png" else ".jpg"
            _write(out / target, crops.encode(face, suffix, config.quality))
        places = found.boxes[i], found.landmarks[i]
        box, marks = (",".join(f"{v:.2f}" for v in part.ravel()) for part in places)
        probability = f"{found.probabilities[i]:.4f}"
        faces = str(len(found))
        rows.append(Row(name, target, status, faces, size, box, probability, marks, pixels))
    return rows or [Row(name, "", "no face", "0", size, padding=pixels)]


def one_face(
    photo: np.ndarray, config: CropConfig, find: Callable[[np.ndarray], Detections]
) -> np.ndarray:
    """The crop of the photograph's face by ``config.choose``; ValueError where there is none.

    Example:
      >>> import numpy as np
      >>> from PIL import Image
      >>> from advface_jax import cropping, data, detection
      >>> photo = Image.fromarray(data.synthetic_faces(1, 1).images[0]).resize((320, 320))
      >>> cropping.one_face(np.asarray(photo), cropping.CropConfig(), detection.detect).shape
      (160, 160, 3)
    """
    found, _ = _find(photo, find)
    chosen = crops.choose(found.boxes, found.probabilities, photo.shape[:2], config.choose)
    if not len(chosen):
        raise ValueError("no face")
    return crops.cut(photo, found.boxes[chosen[0]], size=config.size, margin=config.margin)


def _find(photo: np.ndarray, find: Callable[[np.ndarray], Detections]) -> tuple[Detections, int]:
    """The faces, and how many pixels of grey at each edge it took to find them.

    Grey is for tight photographs: what is small there, the first look would have found as well.
    """
    found = find(photo)
    h, w, _ = photo.shape
    n = min(round(_PADDING * max(h, w)), h, w)  # a banner gets a frame, not a wall
    if len(found) or (h + 2 * n) * (w + 2 * n) > crops.MAX_PIXELS:
        return found, 0
    padded = np.pad(photo, ((n, n), (n, n), (0, 0)), constant_values=_GREY)
    found = find(padded)
    boxes, landmarks = found.boxes - np.float32(n), found.landmarks - np.float32(n)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    tight = (boxes[:, 2:] - boxes[:, :2]).max(1) >= max(h, w) / 2
    real = tight & ((middle > 0) & (middle < (w, h))).all(1)
    return Detections(boxes[real], found.probabilities[real], landmarks[real]), n


def _write(path: Path, data: bytes) -> None:
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(data)
        os.replace(part, path)
    except OSError as error:  # of a full disk: the message has no path
        with contextlib.suppress(OSError):
            part.unlink()
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error


def _lines(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, "excel-tab", lineterminator="\n")
    # csv does not quote a carriage return where lines end otherwise, and cannot read it back.
    cells = ([cell.replace("\r", "\\r") for cell in dataclasses.astuple(row)] for row in rows)
    writer.writerows(cells)
    return text.getvalue()


def _write_report(out: Path, rows: Sequence[Row]) -> None:
    header = "\t".join(COLUMNS) + "\n"
    _write(out / REPORT, (header + _lines(rows)).encode())
