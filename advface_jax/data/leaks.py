"""Train/test identity overlap: by label, by picture, by a list of likely duplicates.

A decoder that has seen the people it is judged on looks better than it is. Labels are compared with
case, underscores and accents removed, pictures by a hash of their pixels. A label without a letter
("1234") means nothing outside its own data set: it is counted and not compared.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import unicodedata
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from advface_jax.data.faces import Faces
from advface_jax.data.tables import header, read_lines, read_table
from advface_jax.untrusted import TEXT_BYTES, BadFile, read_bytes

OnLeak = Literal["refuse", "warn"]
_HEADER = "# identities of a training set: sha256 of each normalised label, 16 digits"
_LEFT_OUT = "# bare numbers, left out: "


@dataclass(frozen=True)
class Leaks:
    """What training and evaluation share.

    Attributes:
      identities: The evaluation's labels that are in the training too.
      images: (training name, evaluation name) of equal pictures.
      people, trained: How many people the evaluation and the training have.
      bare, bare_trained: How many of these have bare numbers for labels, so that nothing is known.
    """

    identities: tuple[str, ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    people: int = 0
    trained: int = 0
    bare: int = 0
    bare_trained: int = 0

    def __bool__(self) -> bool:
        return bool(self.identities or self.images)

    def __str__(self) -> str:
        people = f"the evaluation's {self.people:,} people"
        said = []
        if self.identities:
            some = _some(self.identities)
            said.append(f"{len(self.identities):,} of {people} were seen in training (as {some})")
        if self.images:
            twins = [f"{right} = {left}" for left, right in self.images]
            said.append(f"{len(self.images):,} of its pictures were (as {_some(twins)})")
        if not said:
            said.append(f"no label of {people} is one of training")
        evaluation = self.bare, self.people, "evaluation"
        for bare, of, where in (evaluation, (self.bare_trained, self.trained, "training")):
            if bare:
                what = "are bare numbers, which mean nothing in another data set"
                said.append(f"{bare:,} of the {where}'s {of:,} labels {what}")
        return "; ".join(said)

    def counts(self) -> dict[str, int]:
        """The numbers alone, for a results file."""
        return {
            "people": self.people,
            "people_trained": self.trained,
            "shared_identities": len(self.identities),
            "shared_images": len(self.images),
            "bare_labels": self.bare,
            "bare_labels_trained": self.bare_trained,
        }


def _some(examples: Iterable[str], most: int = 3) -> str:
    examples = list(examples)
    return ", ".join(examples[:most]) + (", …" if len(examples) > most else "")


def normalised(label: str) -> str:
    """'George_W_Bush' and 'george w. bush' alike; '' for a label without a letter."""
    plain = unicodedata.normalize("NFKD", label)
    plain = "".join(c for c in plain if not unicodedata.combining(c)).casefold()
    words = re.sub(r"[\W_]+", " ", plain).strip()
    return words if re.search(r"[^\W\d_]", words) else ""


def fingerprint(label: str) -> str:
    """16 hexadecimal digits of a normalised label's sha256: not a name, but open to guessing."""
    return hashlib.sha256(normalised(label).encode()).hexdigest()[:16]


class Seen(NamedTuple):
    """The people of a training."""

    prints: frozenset[str]  # of the labels
    bare: int  # numbers among them


def seen_in(labels: Iterable[str]) -> Seen:
    """The people of a training set, from its labels."""
    labels = set(labels)
    prints = frozenset(fingerprint(label) for label in labels if normalised(label))
    return Seen(prints, sum(not normalised(label) for label in labels))


def find_leaks(
    training: Faces | Seen,
    evaluation: Faces | Iterable[str],
    *,
    aliases: Iterable[tuple[str, str]] = (),
    pictures: bool = False,
) -> Leaks:
    """The people, and on demand the pictures, that training and evaluation share.

    Args:
      training: The faces, or what ``read_identities`` gives.
      evaluation: The faces, or labels.
      aliases: Pairs of labels that are or may be one person, as ``read_aliases`` gives them; labels
        without a letter count in them too.
      pictures: Compare the pixels as well, which decodes both sets (about 1 ms a face).
    """
    seen = training if isinstance(training, Seen) else seen_in(training.identities)
    people = dict.fromkeys(evaluation.identities if isinstance(evaluation, Faces) else evaluation)
    raw = frozenset() if isinstance(training, Seen) else frozenset(training.identities)
    same: dict[str, set[str]] = {}  # a label and its aliases, in whichever of the two sets
    for one, other in aliases:
        same.setdefault(_key(one), set()).add(other)
        same.setdefault(_key(other), set()).add(one)

    def trained_on(label: str) -> bool:
        candidates = same.get(_key(label), set()) | ({label} if normalised(label) else set())
        return any(fingerprint(c) in seen.prints if normalised(c) else c in raw for c in candidates)

    shared = tuple(label for label in people if trained_on(label))
    images: tuple[tuple[str, str], ...] = ()
    if pictures:
        if not (isinstance(training, Faces) and isinstance(evaluation, Faces)):
            raise ValueError("pictures=True compares pixels: give both sets as Faces")
        known = {digest: name for digest, name in _digests(training)}
        images = tuple((known[d], name) for d, name in _digests(evaluation) if d in known)
    bare = sum(not normalised(label) for label in people.keys() - {*shared})
    return Leaks(shared, images, len(people), len(seen.prints) + seen.bare, bare, seen.bare)


def _key(label: str) -> str:
    return normalised(label) or label.strip()


def _digests(faces: Faces) -> Iterator[tuple[str, str]]:
    """(hash of the pixels, name) of each face that is readable."""
    for i, name in enumerate(faces.names):
        with contextlib.suppress(ValueError):
            yield hashlib.sha256(faces.crop(i).tobytes()).hexdigest(), name


def read_aliases(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Pairs of labels that are or may be one person, from a table with a header.

    It has the columns identity1 and identity2, or identity and lfw_lookalike ("-" for none); other
    columns are a ValueError.
    """
    try:
        columns = header(read_lines(path))[2]
    except ValueError as error:
        raise BadFile(f"{path} is no table: {error}") from None
    for pair in (("identity1", "identity2"), ("identity", "lfw_lookalike")):
        if set(pair) <= set(columns):
            rows = ((row.cells[pair[0]], row.cells[pair[1]]) for row in read_table(path, pair))
            return list(dict.fromkeys(r for r in rows if all(r) and r[1] != "-"))
    raise BadFile(
        f"{path} has the columns {', '.join(columns)[:300] or '(none)'}; wanted identity1 and "
        "identity2, or identity and lfw_lookalike, in a table with a header line"
    )


def write_identities(path: str | os.PathLike[str], labels: Iterable[str]) -> None:
    """Write the fingerprints of a training set's labels, sorted; count the bare numbers."""
    seen = seen_in(labels)
    lines = [_HEADER, f"{_LEFT_OUT}{seen.bare}", *sorted(seen.prints)]
    Path(path).write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_identities(path: str | os.PathLike[str]) -> Seen:
    """What ``write_identities`` wrote; ValueError for another file."""
    try:
        lines = read_bytes(path, TEXT_BYTES).decode("utf-8").splitlines()
        bare = int(lines[1].removeprefix(_LEFT_OUT))
        sound = all(re.fullmatch("[0-9a-f]{16}", line) for line in lines[2:])
        if lines[0] != _HEADER or bare < 0 or not sound:
            raise ValueError("another content")
    except (OSError, ValueError, IndexError) as error:
        raise BadFile(
            f"{path} is no list of a training's identities ({error}): wanted NAME.identities as "
            "`python -m experiments.train_decoder` writes it beside a decoder"
        ) from None
    return Seen(frozenset(lines[2:]), bare)


def refuse_or_warn(leaks: Leaks, what: str, on_leak: OnLeak) -> None:
    """Raise ValueError, or warn, when training and evaluation share people or pictures."""
    if not leaks:
        return
    if on_leak == "refuse":
        raise ValueError(
            f"{what}: {leaks}. Evaluate on other people, train without them, or take the result "
            "for what it is with on_leak='warn'"
        )
    warnings.warn(f"{what}: {leaks}", stacklevel=2)
