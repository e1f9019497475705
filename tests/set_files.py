"""CFP-FP and AgeDB-30 made small of synthetic faces, in the files and folders of the real sets."""

import functools
from pathlib import Path

from face_files import agedb, archive, bin_set, cfp, encoded, folder
from PIL import Image

from advface_jax import data

FOLDS = 10


@functools.cache
def crops() -> list[tuple[bytes, bytes]]:
    """Two encoded pictures of each of the first synthetic people."""
    faces = data.read_faces("synthetic", names=data.synthetic_names(FOLDS, 2))
    files = [encoded(Image.fromarray(image)) for image in faces.images]
    return list(zip(files[::2], files[1::2], strict=True))


def cfp_fp(place: Path) -> None:
    """place/faces/cfp_fp.zip and place/lists/cfp_fp: ten people, ten folds, two pairs a fold."""
    people = range(1, FOLDS + 1)
    frontal, profile = ([f"{p:03d}/{v}/01.jpg" for p in people] for v in ("frontal", "profile"))
    files = dict(zip(frontal, [one for one, _ in crops()], strict=True))
    files |= dict(zip(profile, [other for _, other in crops()], strict=True))
    (place / "faces").mkdir(parents=True, exist_ok=True)
    archive(place / "faces" / "cfp_fp.zip", files)
    splits = {f"FP/{p:02d}/same": f"{p},{p}" for p in people}
    splits |= {f"FP/{p:02d}/diff": f"{p},{p % FOLDS + 1}" for p in people}
    cfp(place / "lists" / "cfp_fp", frontal, profile, splits)


def agedb_30(place: Path) -> None:
    """place/faces/agedb_30 and the .mat under lists/, of ten folds."""
    names = [(f"{2 * p}_A_B{p}_20_f", f"{2 * p + 1}_A_B{p}_55_f") for p in range(FOLDS)]
    for pair, images in zip(names, crops(), strict=True):
        files = {f"{name}.jpg": image for name, image in zip(pair, images, strict=True)}
        folder(place / "faces" / "agedb_30", files)
    folds = [
        [(young, old, 1), (young, names[(f + 1) % FOLDS][1], -1)]
        for f, (young, old) in enumerate(names)
    ]
    agedb(place / "lists" / "04_FINAL_protocol_30_years.mat", folds)


def insightface(place: Path, name: str) -> None:
    """place/faces/NAME.bin of ten pairs, half of them same."""
    people = crops()[:6]
    images = [image for pair in people[:5] for image in pair]
    for one, other in zip(people[:5], people[1:], strict=True):
        images += [one[0], other[1]]
    (place / "faces").mkdir(parents=True, exist_ok=True)
    bin_set(place / "faces" / f"{name}.bin", images, [True] * 5 + [False] * 5)
