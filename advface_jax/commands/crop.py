"""Photographs into 160×160 face crops, found by MTCNN.

    python -m advface_jax crop PHOTOS -o FACES
    python -m advface_jax crop photos.zip -o FACES --choose largest --format png

The other commands read FACES.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Annotated, Literal

import tyro

from advface_jax import checks, cli, cropping, detection
from advface_jax.data import crops, open_source
from advface_jax.data.formats.folders import SUFFIXES
from advface_jax.data.records import counted


def main(
    photos: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PHOTOS")],
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="FACES")],
    choose: crops.Choice = cropping.CropConfig.choose,
    margin: int = cropping.CropConfig.margin,
    size: int = cropping.CropConfig.size,
    min_face: float = cropping.CropConfig.min_face,
    format: Literal["jpg", "png"] = cropping.CropConfig.format,
    quality: int = cropping.CropConfig.quality,
    detector: str = "mtcnn",
    limit: int | None = None,
) -> None:
    """Find the face in each photograph by MTCNN and crop it as facenet-pytorch does.

    FACES keeps the folders of PHOTOS (identity/image.jpg), so that the other commands read it.
    Every photograph has its line in FACES/crops.tsv: whether it was cropped or why not, how many
    faces were found, box, probability and landmarks. Where no face is found, it is looked for again
    with grey around the photograph (column padding). A run that was stopped goes on where it was;
    unreadable photographs are tried again. PHOTOS is left as it is.

    Args:
      photos: A folder or a zip of identity/image.jpg, of any size; or any other set that the
        library reads.
      out: A new folder for the crops, or one that the same command has begun.
      choose: Which of several faces: centre, the largest near the middle; largest; probable; all
        (NAME.jpg, NAME.2.jpg and so on, the most probable first).
      margin: Pixels of the crop beside the face, both sides together.
      size: Of the crop; FaceNet takes 160.
      min_face: The smallest face looked for, in pixels of the photograph; larger is quicker.
      format: jpg, or png, which loses nothing and takes four times the space.
      quality: JPEG's.
      detector: mtcnn (fetched at first use, 2 MB), or a folder of weights_convert.
      limit: Only the first so many photographs.
    """
    if limit is not None:
        checks.positive(limit=limit)
    config = cropping.CropConfig(size, margin, choose, format, quality, min_face)
    settings = detection.DetectorConfig(min_face=min_face)
    cli.folder(out)
    if Path(photos).is_dir() and out.resolve().is_relative_to(Path(photos).resolve()):
        raise ValueError(
            f"{out} lies inside {photos}, where its crops would be taken for photographs: "
            "give a folder elsewhere"
        )
    source = open_source(photos)
    if not len(source):
        first = "; skipped: {}: {}".format(*source.skipped[0]) if source.skipped else ""
        kinds = ", ".join(sorted(SUFFIXES))
        raise ValueError(f"{photos} holds no photograph ({kinds}){first}")
    source = source.first(limit)
    cli.loading("the detector")
    network = detection.load_detector(detector)
    origin = {"photos": Path(photos).name, "detector": Path(detector).name}
    if Path(photos).exists():  # two folders may have one name, and the same files in them
        origin["path"] = str(Path(photos).resolve())

    began = time.monotonic()
    with cli.bar("photos") as bar:
        task = bar.add_task("crop", total=len(source), note="")

        def progress(done: int, total: int, faces: int) -> None:
            rate = faces / max(time.monotonic() - began, 1e-9)
            bar.update(task, completed=done, total=total, note=f"{rate:.1f} faces/s")

        find = functools.partial(detection.detect, detector=network, config=settings)
        rows = cropping.crop_all(source, out, config, find, origin, progress)
    asked = set(source.names) | {name for name, _ in source.skipped}
    _tell([row for row in rows if row.file in asked], out, choose)


def _tell(rows: list[cropping.Row], out: Path, choose: crops.Choice) -> None:
    photos = {row.file: row for row in rows}
    cropped = sum(row.status == cropping.CROPPED for row in rows)
    say = cli.answer.print
    say(f"{cropped:,} crops of {len(photos):,} photographs in {out}", soft_wrap=True)
    again = len({r.file for r in rows if r.status == cropping.CROPPED and r.padding != "0"})
    if again:
        say(f"{again:,} of them with a face only when padded with grey (column padding)")
    several = sum(row.faces.isdigit() and int(row.faces) > 1 for row in photos.values())
    if several:
        taken = "all were taken" if choose == "all" else f"one was taken: {choose}"
        say(f"{several:,} with several faces ({taken})")
    with_crop = {row.file for row in rows if row.status == cropping.CROPPED}
    lost = [row.status for name, row in photos.items() if name not in with_crop]
    if lost:
        say(f"{len(lost):,} without a crop: {counted(lost)}", soft_wrap=True)
    say(f"listed in {out / cropping.REPORT}", soft_wrap=True)
    if not cropped:
        raise ValueError("no photograph gave a crop; see the list for the reasons")
