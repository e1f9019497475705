"""The faces and pairs that a command measures, from the flags or by preset."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from advface_jax import cli, data
from advface_jax.data import leaks
from advface_jax.data.listing import read_listing
from experiments.measure import evaluation_sets, paper

Preset = Literal["demo", "paper"]
Missing = Literal["refuse", "drop"]
DEMO_PEOPLE, DEMO_PICTURES = 24, 4  # 288 pairs
PACKS = (".bin", ".rec")  # insightface's, whose pictures are all 112×112


class Inputs(NamedTuple):
    """The faces, the pairs over them, and where they came from, for the results file."""

    faces: data.Faces
    pairs: data.Pairs
    origin: dict[str, Any]


def read(
    preset: Preset,
    faces: str | None,
    listing: Path | None,
    pairs: Path | None,
    limit: int | None,
    seed: int,
    resize: bool = False,
    set: paper.Set = "lfw",
    missing: Missing = "refuse",
) -> Inputs:
    """Reads the faces that the pairs need, and no others; without pairs, draws some.

    Args:
      preset: demo: embedded synthetic faces. paper: those of ``set``, from the flags or from the
        folder in ADVFACE_DATA (``evaluation_sets``).
      faces, listing: As ``data.read_faces`` takes them; None by preset.
      pairs: A list; None for the pairs that the faces carry, else drawn from the identities.
      limit: Keeps as many same as different pairs of every fold, in order.
      seed: Of drawn pairs.
      resize: Takes pictures of other sizes than 160×160; packs of insightface always do.
      set: Of the preset paper.
      missing: Refuses pairs whose faces are not there (ValueError), or drops and counts them.

    Raises:
      ValueError: paper without data, data that cannot be read, or a set without paper.
    """
    faces, pairs = places(preset, faces, listing, pairs, set)
    is_pack = Path(faces).suffix in PACKS or (Path(faces) / "train.rec").is_file()
    resize = resize or is_pack
    origin_of_pairs, named = str(pairs and Path(pairs).name), None
    if pairs is not None:
        named = data.read_pairs(pairs)
    elif faces != "synthetic" and listing is None and (carried := data.open_source(faces).pairs):
        origin_of_pairs, named = "those of the faces", carried
    if named:
        named = data.subset(named, limit)
        needed = data.pair_names(named)
        crops = data.read_faces(faces, listing=listing, names=needed, resize=resize)
        over = indexed(named, crops, missing)
    else:
        origin_of_pairs = "drawn from the identities"
        names = data.synthetic_names(DEMO_PEOPLE, DEMO_PICTURES) if faces == "synthetic" else None
        crops = data.read_faces(faces, listing=listing, names=names, resize=resize)
        drawn = draw(crops, limit, seed)
        used = np.unique(np.concatenate([drawn.left, drawn.right]))
        crops = crops.select(used)
        left, right = np.searchsorted(used, drawn.left), np.searchsorted(used, drawn.right)
        over = data.Pairs(left, right, drawn.same, drawn.fold)
    origin = {
        "preset": preset,
        "set": set if preset == "paper" else None,
        "faces": Path(faces).name,
        "faces_sha256": hashlib.sha256(crops.images.tobytes()).hexdigest(),
        "faces_read": len(crops),
        "faces_skipped": len(crops.skipped),
        "pairs": origin_of_pairs,
        "folds": len(np.unique(over.fold)),
        "limit": limit,
        "seed": seed,
        **({"resized": True} if resize else {}),
        **dropped(over, missing),
    }
    return Inputs(crops, over, origin)


def places(
    preset: Preset, faces: str | None, listing: Path | None, pairs: Path | None, set: paper.Set
) -> tuple[str, Path | None]:
    """The faces and the pairs that the flags or the preset name; None: no list of pairs.

    Raises:
      ValueError: As for ``read``, as far as it shows before anything is opened.
    """
    if preset == "paper":
        faces, pairs = evaluation_sets.find(set, faces, pairs)
    elif set != "lfw":
        raise ValueError(f"got --set {set} with --preset {preset}: sets belong to --preset paper")
    cli.present(faces=faces, listing=listing, pairs=pairs)
    return faces or "synthetic", pairs


def draw(crops: data.Faces | data.FeatureSet, limit: int | None, seed: int) -> data.Pairs:
    """Pairs from the identities, in ten folds where the people suffice, at most ``limit``."""
    images = Counter(crops.identities)
    folds = min(10, len(images) // 2, sum(n > 1 for n in images.values()))
    return data.subset(data.make_pairs(crops, folds=max(folds, 2), seed=seed), limit)


def indexed(
    named: Sequence[data.NamedPair], faces: data.Faces | data.FeatureSet, missing: Missing
) -> data.Pairs:
    """``data.index_pairs``, whose error names the flag."""
    try:
        return data.index_pairs(named, faces, missing)
    except ValueError as error:
        if missing == "refuse" and faces.names:
            raise ValueError(
                f"{error}; --missing drop leaves out the pairs that lack one"
            ) from None
        raise


def dropped(over: data.Pairs, missing: Missing) -> dict[str, Any]:
    """For the results file, where pairs may have been dropped."""
    return {"missing": missing, "pairs_left_out": over.dropped} if missing == "drop" else {}


def seen_in_training(
    trained: Mapping[str, Path], crops: data.Faces, on_leak: leaks.OnLeak
) -> dict[str, dict[str, int] | None]:
    """Train/test identity overlap in numbers, for each model; None where its list is missing.

    Args:
      trained: A model's name, and its list of identities as train_decoder writes it beside a
        decoder, or a listing with columns file and identity.
      crops: The measured faces.
      on_leak: warn, or refuse.

    Raises:
      ValueError: Measured people were seen in training, and ``on_leak`` is refuse.
    """
    counts: dict[str, dict[str, int] | None] = {}
    for name, path in trained.items():
        if not path.is_file():
            counts[name] = None
            continue
        if path.suffix == ".identities":
            seen = leaks.read_identities(path)
        else:
            seen = leaks.seen_in(identity for _, identity in read_listing(path, None))
        found = leaks.find_leaks(seen, crops)
        leaks.refuse_or_warn(found, f"the training of {name} ({path.name})", on_leak)
        counts[name] = found.counts()
    return counts


def shared(public: data.Faces, crops: data.Faces, on_leak: leaks.OnLeak) -> dict[str, int]:
    """The people and the pictures that attackers' faces share with the measured ones, in numbers.

    Raises:
      ValueError: There are some, and ``on_leak`` is refuse.
    """
    found = leaks.find_leaks(public, crops, pictures=True)
    leaks.refuse_or_warn(found, "the attackers' faces", on_leak)
    return found.counts()


def pairs_sum(over: data.Pairs) -> str:
    """A checksum of the pairs, for the key of a finished row: lists differ over the same faces."""
    columns = (over.left, over.right, over.same, over.fold)
    told = b"".join(np.asarray(one).astype("<i8").tobytes() for one in columns)
    return hashlib.sha256(told).hexdigest()


def distinct(identities: tuple[str, ...], most: int = 6) -> list[int]:
    """The first face of each of the first identities."""
    first = {identity: i for i, identity in reversed(list(enumerate(identities)))}
    return sorted(first.values())[:most]
