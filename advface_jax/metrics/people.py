"""Who is recognised among n faces, over all pairs of them, and intervals by person. In NumPy.

Embeddings are (n,e) floats of length 1. ``seen`` is what somebody reads off n stored items,
``known`` the embeddings of n photographs in the same order; an item is never compared with its own
photograph, except by ``cosine``.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jax.typing import ArrayLike

from advface_jax.metrics.verification import squared_distance

FARS = (1e-2, 1e-3)
FEWEST = 3
"""Different pairs that must lie below a threshold: fewer do not determine it."""
RESAMPLES = 1000
GALLERY = 25
"""People of a small gallery: a photograph each, the item's person among them."""


class Reading(NamedTuple):
    """What was read off each of n items.

    Attributes:
      accepted: for each false accept rate, (n,) the share of an item's pairs with other photographs
        of its person that are accepted; NaN for a person with one face. None where the different
        pairs are too few to find the threshold.
      first: (n,) 1.0 where the photograph most alike shows its person, else 0.0; likewise NaN.
      cosine: (n,) to the embedding of the item's own photograph.
      auc: of all pairs: the share of (same, different) that are in the right order, a tie half.
      first_of_25: (n,) the chance that in a gallery of ``GALLERY`` people, its own and others drawn
        at random, a photograph each, its person's is most alike; a tie is lost. NaN likewise, and
        everywhere with fewer people.
    """

    accepted: dict[float, np.ndarray | None]
    first: np.ndarray
    cosine: np.ndarray
    auc: float
    first_of_25: np.ndarray

    def tar(self, far: float) -> float | None:
        """The true accept rate at a false accept rate, every item with a partner the same weight;
        None with too few different pairs."""
        found = self.accepted[far]
        return None if found is None else float(np.nanmean(found))


def identify(
    seen: ArrayLike,
    known: ArrayLike,
    people: Sequence[str] | np.ndarray,
    fars: Sequence[float] = FARS,
) -> Reading:
    """Compare every item with every other item's photograph.

    A threshold is the largest cosine above which at most the share ``far`` of the different pairs
    lies; as many pairs as lie above it are accepted.

    Args:
      seen, known: (n,e), of length 1 each.
      people: n labels.
      fars: false accept rates.

    Raises:
      ValueError: shapes, lengths or numbers that do not fit, or no two faces of one person or of
        different people.

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> known = np.eye(4)[[0, 0, 1, 1]]  # two people, two photographs of each
      >>> read = metrics.identify(known, known, ["a", "a", "b", "b"], fars=[0.25])
      >>> float(read.first.mean()), read.auc
      (1.0, 1.0)
    """
    seen, known = np.asarray(seen), np.asarray(known)
    cosine = 1 - squared_distance(seen, known) / 2  # which checks both
    labels = np.unique(np.asarray(people), return_inverse=True)[1].reshape(-1)
    if len(labels) != len(seen):
        raise ValueError(f"got {len(labels)} people for {len(seen)} embeddings; wanted one each")
    alike = seen.astype(np.float32) @ known.astype(np.float32).T  # (n, n)
    same = labels[:, None] == labels
    np.fill_diagonal(same, False)
    different = labels[:, None] != labels
    if not same.any() or not different.any():
        raise ValueError(
            f"got {len(set(people))} people with {len(labels)} faces; wanted two faces of one "
            "person and one of another"
        )
    others, partners = np.sort(alike[different]), same.sum(1)
    with np.errstate(invalid="ignore"):  # 0/0 for a person with one face
        accepted: dict[float, np.ndarray | None] = dict.fromkeys(fars)
        for far in fars:
            above = int(far * len(others) + 1e-9)
            if above >= FEWEST:
                threshold = others[len(others) - 1 - above]
                accepted[far] = ((alike > threshold) & same).sum(1) / partners
    below = np.searchsorted(others, alike[same], "left") + np.searchsorted(
        others, alike[same], "right"
    )
    first_of_25 = _in_gallery(alike, same, labels)
    np.fill_diagonal(alike, -np.inf)
    first = np.where(partners > 0, labels[alike.argmax(1)] == labels, np.nan)
    auc = float(below.mean() / 2 / len(others))
    return Reading(accepted, first, cosine, auc, first_of_25)


def _in_gallery(alike: np.ndarray, same: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """``first_of_25``, over all galleries at once: (n,)."""
    item, partner = np.nonzero(same)
    people, others = labels.max() + 1, GALLERY - 1
    first = np.full(len(labels), np.nan)
    if people < GALLERY:
        return first
    score = alike[item, partner]
    # Sums over sets of t people of the product of the chances to beat each: the elementary
    # symmetric polynomials, person by person.
    sums = np.zeros((GALLERY, len(item)))
    sums[0] = 1
    for person in range(people):
        chance = (alike[:, labels == person][item] < score[:, None]).mean(1)
        chance[labels[item] == person] = 0  # of another person only
        sums[1:] += chance * sums[:-1]
    beaten = sums[others] / math.comb(int(people) - 1, others)
    some = np.unique(item)
    first[some] = np.bincount(item, beaten, len(labels))[some] / same.sum(1)[some]
    return first


def interval_by_person(
    values: ArrayLike, people: Sequence[str] | np.ndarray, seed: int = 0
) -> list[float]:
    """The 95 % percentile interval of a mean, by 1,000 seeded resamples of people.

    All faces of a drawn person are drawn with it, so faces of one person do not count as
    independent. Thresholds that were chosen on all faces are held fixed.

    Args:
      values: (n,), of a face each; NaN for a face that does not count.
      people: n labels.
      seed: of the resamples.

    Example:
      >>> import numpy as np
      >>> from advface_jax import metrics
      >>> low, high = metrics.interval_by_person(np.float64([0, 0, 1, 1]), ["a", "a", "b", "b"])
      >>> low, high
      (0.0, 1.0)
    """
    values = np.asarray(values, np.float64)
    labels = np.unique(np.asarray(people), return_inverse=True)[1].reshape(-1)
    real = np.isfinite(values)
    n = labels.max() + 1
    sums = np.bincount(labels[real], values[real], n)
    counts = np.bincount(labels[real], minlength=n)
    sums, counts = sums[counts > 0], counts[counts > 0]
    if not len(counts):
        raise ValueError("got no value but NaN; wanted at least one number")
    draws = np.random.default_rng(seed).multinomial(
        len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES
    )
    ends = np.quantile((draws @ sums) / (draws @ counts), (0.025, 0.975))
    return [round(float(x), 9) for x in ends]
