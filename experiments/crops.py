"""How close the face finder and the crops come to facenet-pytorch's, and how quickly.

    ADVFACE_DATA=FOLDER python -m experiments.crops

Writes crops.json and crops.md into --out.
"""

import csv
import os
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from advface_jax import checks, cli, detection
from advface_jax.data import crops, open_source
from experiments.measure.table import Column, Spent, Table, printed, publish

COLUMNS = (
    Column("n", "n", digits=0),
    Column("faces found", "faces_found", digits=0),
    Column("same face %", "same_face", 100),
    Column("median IoU", "median_iou", digits=4),
    Column("landmarks, px", "median_landmark_distance", digits=3),
)


class Reference(NamedTuple):
    file: str
    box: np.ndarray  # (4,)
    landmarks: np.ndarray  # (5,2)


class Compared(NamedTuple):
    file: str  # one photograph
    faces: int
    overlap: float  # with the reference's box
    distance: float  # of the landmarks, their mean


def main(
    out: cli.Out = Path("results"),
    photos: str | None = None,
    reference: Path | None = None,
    finished: str | None = None,
    choose: crops.Choice = "centre",
    min_face: float = detection.DetectorConfig.min_face,
    limit: int | None = None,
) -> None:
    """Compare boxes, landmarks and finished crops with those of facenet-pytorch 2.6.0.

    Without flags, on the 140 photographs of the folder that the variable ADVFACE_DATA names.

    Args:
      out: Folder for the results.
      photos: Folder or zip of photographs.
      reference: Tab-separated list with columns file, box_x1y1x2y2, landmarks_5xy (a crops.tsv is
        one).
      finished: Folder or zip of 160×160 JPEG crops (margin 14, quality 95) by the same file names,
        of which some are of these photographs.
      choose: Which of several faces: centre, largest or probable.
      min_face: The smallest face looked for, in pixels.
      limit: At most so many photographs.
    """
    began = time.monotonic()
    if choose == "all":
        raise ValueError(
            "choose='all' has no single face to compare: wanted centre, largest or probable"
        )
    config = detection.DetectorConfig(min_face=min_face)
    if limit is not None:
        checks.positive(limit=limit)
    cli.folder(out)
    photos, reference, finished = _inputs(photos, reference, finished)
    cli.present(photos=photos, reference=reference, finished=finished)
    source = open_source(photos)
    present = set(source.names)
    wanted = [row for row in read_reference(reference) if row.file in present][:limit]
    if not wanted:
        raise ValueError(f"{photos} has none of the files that {reference} lists")
    ready = open_source(finished) if finished else None
    by_stem = [(PurePosixPath(name).stem, name) for name in ready.names] if ready else []
    times = Counter(stem for stem, _ in by_stem)
    crop_of = {stem: name for stem, name in by_stem if times[stem] == 1}
    cli.loading("the detector")
    network = detection.load_detector()
    detection.detect(crops.decode(source.read(wanted[0].file)), network, config)  # compiles

    compared: list[Compared] = []
    differences: list[float] = []
    seconds = processor = 0.0
    with cli.bar("photos") as bar:
        task = bar.add_task("find", total=len(wanted), note="")
        for row in wanted:
            start, start_processor = time.perf_counter(), time.process_time()
            photo = crops.decode(source.read(row.file))
            found = detection.detect(photo, network, config)
            chosen = crops.choose(found.boxes, found.probabilities, photo.shape[:2], choose)
            data = [crops.encode(crops.cut(photo, found.boxes[i]), ".jpg") for i in chosen]
            seconds += time.perf_counter() - start
            processor += time.process_time() - start_processor
            compared.append(compare(row, found, chosen))
            name = crop_of.get(PurePosixPath(row.file).stem)
            if ready and name and data:
                ours, theirs = (crops.decode(d) for d in (data[0], ready.read(name)))
                differences.append(float(np.abs(ours.astype(int) - theirs.astype(int)).mean()))
            bar.update(task, advance=1, note=f"{sum(c.faces for c in compared)} faces")

    rows = [summary("all", compared)]
    folders = sorted({c.file.partition("/")[0] for c in compared if "/" in c.file})
    if len(folders) < 10:  # sets, not people
        rows += [summary(f, [c for c in compared if c.file.startswith(f"{f}/")]) for f in folders]
    rows[0] |= {
        "photos_per_second": len(compared) / seconds,
        "faces_per_second": sum(c.faces for c in compared) / seconds,
        "core_seconds_per_photo": processor / len(compared),
    }
    if differences:
        rows[0] |= {
            "finished_crops": len(differences),
            "finished_crops_equal": sum(d == 0 for d in differences),
            "median_pixel_difference": float(np.median(differences)),
        }
    used = {"photos": Path(photos).name, "reference": Path(reference).name, "choose": choose}
    used |= {"min_face": min_face, "seed": None, "limit": limit}
    notes = {
        "other_faces": [c.file for c in compared if c.overlap < 0.5],
        "same_face": "overlap (IoU) with the reference's box of 0.5 or more",
        "rates": "decoding, finding, cutting and encoding, one photograph at a time",
    }
    labels = [row["method"].partition(", ")[2] for row in rows]
    table = Table(
        name="crops",
        title="Faces found and cropped, against facenet-pytorch 2.6.0",
        rows=rows,
        header=["photographs", *(column.title for column in COLUMNS)],
        lines=printed(labels, rows, [{}] * len(rows), COLUMNS)[1],
        settings=used,
        notes=notes,
        spent=Spent(0, time.monotonic() - began),
        remarks=_remarks(rows[0]),
        caption="MTCNN's faces against the reference's",
    )
    publish(table, out)


def read_reference(path: Path) -> list[Reference]:
    """The rows of a list that have a box; ValueError for missing columns or wrong numbers."""
    with open(path, newline="", encoding="utf-8") as lines:
        table = csv.DictReader(lines, delimiter="\t")
        lacking = {"file", "box_x1y1x2y2", "landmarks_5xy"} - set(table.fieldnames or [])
        if lacking:
            raise ValueError(f"{path} lacks the columns {', '.join(sorted(lacking))}")
        try:
            return [
                Reference(row["file"], _numbers(row["box_x1y1x2y2"], 4), marks.reshape(5, 2))
                for row in table
                if row["box_x1y1x2y2"]
                for marks in [_numbers(row["landmarks_5xy"], 10)]
            ]
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path}, line {table.line_num}: {error}") from error


def _numbers(text: str, n: int) -> np.ndarray:
    values = np.array([float(v) for v in text.split(",")])
    if len(values) != n:
        raise ValueError(f"{len(values)} numbers, wanted {n}")
    return values


def compare(row: Reference, found: detection.Detections, chosen: np.ndarray) -> Compared:
    """The chosen face against the reference's; without a face the overlap is 0."""
    if not len(chosen):
        return Compared(row.file, 0, 0.0, float("inf"))
    box, marks = found.boxes[chosen[0]], found.landmarks[chosen[0]]
    low, high = np.maximum(box[:2], row.box[:2]), np.minimum(box[2:], row.box[2:])
    common = np.maximum(high - low, 0).prod()
    union = (box[2:] - box[:2]).prod() + (row.box[2:] - row.box[:2]).prod() - common
    distance = np.linalg.norm(marks - row.landmarks, axis=1).mean()
    return Compared(row.file, len(found), float(common / union), float(distance))


def summary(name: str, compared: Sequence[Compared]) -> dict[str, Any]:
    """A row of the results."""
    middle = float(np.median([c.distance for c in compared]))
    return {
        "method": f"MTCNN, {name}",
        "n": len(compared),
        "faces_found": sum(c.faces for c in compared),
        "same_face": float(np.mean([c.overlap >= 0.5 for c in compared])),
        "median_iou": float(np.median([c.overlap for c in compared])),
        # None: no face was found in half of the photographs.
        "median_landmark_distance": middle if np.isfinite(middle) else None,
    }


def _inputs(
    photos: str | None, reference: Path | None, finished: str | None
) -> tuple[str, Path, str | None]:
    if place := os.environ.get("ADVFACE_DATA"):
        if photos is None and finished is None:
            finished = str(Path(place) / "faces" / "lfw_pairs_160.zip")
        photos = photos or str(Path(place) / "faces" / "raw_photos.zip")
        reference = reference or Path(place) / "lists" / "raw_photos.tsv"
    if photos is None or reference is None:
        raise ValueError(
            "give --photos and --reference, or set ADVFACE_DATA to a folder with "
            "faces/raw_photos.zip and lists/raw_photos.tsv"
        )
    return photos, reference, finished


def _remarks(first: dict[str, Any]) -> list[str]:
    said = [
        f"{first['photos_per_second']:.1f} photographs/s, {first['faces_per_second']:.1f} faces/s; "
        f"{first['core_seconds_per_photo']:.3f} core seconds a photograph."
    ]
    if "finished_crops" in first:
        said.append(
            f"Of {first['finished_crops']} finished crops {first['finished_crops_equal']} are "
            f"equal in each pixel (median difference {first['median_pixel_difference']:.2f})."
        )
    return said


if __name__ == "__main__":
    cli.start(main, "experiments.crops")
