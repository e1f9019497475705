"""CFP-FP and AgeDB-30 made small of faces of nobody, in the files and folders of the true sets."""

import io
from pathlib import Path

import numpy as np
from face_files import archive, bin_set, folder
from PIL import Image
from scipy.io import savemat

from advface_jax import data

FOLDS = 10


def crops(people: int = FOLDS) -> list[tuple[bytes, bytes]]:
    """Two encoded pictures of each of the first people of nobody."""
    faces = data.read_faces("synthetic", names=data.synthetic_names(people, 2))
    encoded = []
    for image in faces.images:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "PNG")
        encoded.append(file.getvalue())
    return list(zip(encoded[::2], encoded[1::2], strict=True))


def cfp_fp(place: Path) -> None:
    """place/faces/cfp_fp.zip and place/lists/cfp_fp: ten people, ten folds, two pairs a fold."""
    people = crops()
    files, frontal, profile, protocol = {}, [], [], {}
    for p, (front, side) in enumerate(people, 1):
        frontal.append(f"{p:03d}/frontal/01.jpg")
        profile.append(f"{p:03d}/profile/01.jpg")
        files |= {frontal[-1]: front, profile[-1]: side}
        other = p % len(people) + 1
        protocol[f"Split/FP/{p:02d}/same.txt"] = f"{p},{p}"
        protocol[f"Split/FP/{p:02d}/diff.txt"] = f"{p},{other}"
    for name, images in (("Pair_list_F.txt", frontal), ("Pair_list_P.txt", profile)):
        lines = [f"{n} ../Data/Images/{image}" for n, image in enumerate(images, 1)]
        protocol[name] = "\r\n".join(lines)
    (place / "faces").mkdir(parents=True, exist_ok=True)
    archive(place / "faces" / "cfp_fp.zip", files)
    folder(place / "lists" / "cfp_fp", {k: v.encode() for k, v in protocol.items()})


def agedb_30(place: Path) -> None:
    """place/faces/agedb_30 and the .mat under lists/, of ten folds, as MATLAB writes it."""
    people = crops()
    names = [(f"{2 * p}_A_B{p}_20_f", f"{2 * p + 1}_A_B{p}_55_f") for p in range(len(people))]
    files = {
        f"{name}.jpg": image
        for pair, images in zip(names, people, strict=True)
        for name, image in zip(pair, images, strict=True)
    }
    folder(place / "faces" / "agedb_30", files)
    splits = np.empty((len(people), 1), object)
    for f, (young, old) in enumerate(names):
        other = names[(f + 1) % len(names)][1]
        images = np.empty((2, 2), object)
        for i, pair in enumerate(((young, old), (young, other))):
            for side, name in enumerate(pair):
                item = np.empty((1, 1), [("name", object), ("age", object)])
                item["name"][0, 0], item["age"][0, 0] = name, 30
                images[side, i] = item
        split = np.empty((1, 1), [("pair", object), ("same", object)])
        split["pair"][0, 0], split["same"][0, 0] = images, np.array([[1, -1]])
        splits[f, 0] = split
    (place / "lists").mkdir(parents=True, exist_ok=True)
    savemat(place / "lists" / "test_splits_30_years.mat", {"splits": splits})


def insightface(place: Path, name: str) -> None:
    """place/faces/NAME.bin of ten pairs, half of them same."""
    people = crops(6)
    images = [image for pair in people[:5] for image in pair]
    for one, other in zip(people[:5], people[1:], strict=True):
        images += [one[0], other[1]]
    (place / "faces").mkdir(parents=True, exist_ok=True)
    bin_set(place / "faces" / f"{name}.bin", images, [True] * 5 + [False] * 5)
