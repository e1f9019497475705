"""The rows of the worst case: each attack on a defence, and the worst of them by what they take."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from advface_jax import metrics
from advface_jax.attacks import Attack
from advface_jax.data import Pairs
from experiments.attack.attacking import Attacked, Read
from experiments.attack.floors import FLOORS
from experiments.measure import decoyed
from experiments.measure.compared import Case
from experiments.measure.results_file import Row, markdown
from experiments.measure.table_rows import verdicts

HARMS = {"ssim": "SSIM", "type2": "replay %", "tar_far_1e-2": "TAR %", "rank1": "rank 1 %"}
GROUPS = {
    "without": "without Ψ",
    "with": "with Ψ",
    "names": "with stolen names",
    "secret": "with the secret",
}


def group(knows: Sequence[str]) -> str:
    """Which attacker that is: with the key or the start, with Ψ, with stolen names (and without
    Ψ), or without all of these."""
    if {"key", "start"} & {*knows}:
        return "secret"
    if "recogniser" in knows:
        return "with"
    return "names" if "names" in knows else "without"


class Use(NamedTuple):
    """What recognition keeps of a defence, and at which threshold it accepts."""

    row: Row
    threshold: float


def use(attacked: Attacked, people: Sequence[str], pairs: Pairs) -> Use:
    """Stored against stored (the paper's protocol), and stored against an undefended photograph."""
    row: Row = {}
    threshold = 0.0
    served, probes = attacked.served, attacked.probes
    for ending, other in (("", served), ("_raw_probe", probes)):
        distances = metrics.squared_distance(served[pairs.left], other[pairs.right])
        verified = metrics.ten_fold_accuracy(distances, pairs.same, pairs.fold)
        right, _ = verdicts(distances, verified, pairs)
        whose = np.asarray(people)[pairs.left].tolist()
        found = metrics.identify(served, other, people)
        threshold = threshold if ending else verified.threshold
        row |= {
            f"acc{ending}": verified.accuracy,
            f"acc{ending}_ci": metrics.interval_by_person(right, whose),
            f"auc{ending}": found.auc,
            f"use_tar_far_1e-3{ending}": found.tar(1e-3),
        }
    return Use(row, threshold)


def row(
    case: Case,
    attack: Attack,
    read: Read,
    attacked: Attacked,
    kept: Use,
    people: Sequence[str],
    pairs: Pairs,
    reader: str,
) -> Row:
    """One attack on one defence.

    ``ssim``, ``psnr``, ``mse``: of the picture. ``type1``, ``type2``: the picture accepted by the
    server as the image that is stored, and as another image of that person, at the threshold of the
    stored pairs. ``tar_far_…``, ``rank1``, ``cosine``, ``read_auc``: what the attacker reads (off
    the item, or off the picture with ``reader``) against the photographs of everybody, over all
    pairs. ``rank1_of_25``: among photographs of 25 people, chance .04. ``…_ci``: 95 % intervals by
    person.
    """
    whose = list(people)
    line: Row = {
        "defence": case.name,
        "attack": attack.name,
        "knows": list(attack.knows),
        "attacker": group(attack.knows),
        "reads": attack.reads,
        "read_by": reader if attack.reads == "picture" else None,
        "epsilon": case.epsilon,
        **dict.fromkeys((*("ssim", "psnr", "mse", "lpips"), "type1", "type2")),
    }
    for name, values in (read.likeness or {}).items():
        line |= _mean(name, values, whose)
    if read.replayed is not None:
        left, right = pairs.left[pairs.same], pairs.right[pairs.same]
        alike = metrics.squared_distance(read.replayed, attacked.served)
        line |= _mean("type1", alike < kept.threshold, whose)
        other = metrics.squared_distance(
            np.concatenate([read.replayed[left], read.replayed[right]]),
            np.concatenate([attacked.served[right], attacked.served[left]]),
        )
        theirs = np.asarray(people)[np.concatenate([left, right])].tolist()
        line |= _mean("type2", other < kept.threshold, theirs)
    found = metrics.identify(read.seen, read.known, people)
    for far, name in ((1e-2, "tar_far_1e-2"), (1e-3, "tar_far_1e-3")):
        accepted = found.accepted[far]
        line |= {name: None} if accepted is None else _mean(name, accepted, whose)
    for name in ("first", "first_of_25", "cosine"):
        line |= _mean(name.replace("first", "rank1"), getattr(found, name), whose)
    line |= {
        "read_auc": found.auc,
        **kept.row,
        "n": len(people),
        "people": len(set(people)),
        "pairs": len(pairs),
        "cost": {**case.cost, **attack.cost},
    }
    return {k: _short(v) for k, v in line.items()}


def shuffled(
    case: Case, attacked: Attacked, kept: Use, people: Sequence[str], pairs: Pairs, seed: int
) -> Row:
    """The floor of reading identities: every item taken for somebody else."""
    labels, rng = np.asarray(people), np.random.default_rng(seed)
    other = np.array([rng.choice(np.flatnonzero(labels != one)) for one in labels])
    attack = Attack("shuffled people", (), "identity", len)
    read = Read(attacked.probes[other], attacked.probes, None, None)
    return row(case, attack, read, attacked, kept, people, pairs, "")


def _short(value: Any) -> Any:
    """A number to six digits: there are thousands in the file."""
    if isinstance(value, (list, tuple)):
        return [_short(one) for one in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _mean(name: str, values: np.ndarray, people: Sequence[str]) -> Row:
    values = np.asarray(values, np.float64)
    if np.isnan(values).all():  # too few faces for a gallery
        return {name: None}
    return {
        name: float(np.nanmean(values)),
        f"{name}_ci": metrics.interval_by_person(values, people),
    }


def worst(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, Any]]]:
    """By defence and attacker: of each harm the largest value, and the attack that does it.

    Who has more can do what needs less: with Ψ or with names every attack without Ψ is possible,
    too, and with the secret every one with Ψ.
    """
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for defence in dict.fromkeys(r["defence"] for r in rows):
        ours = [r for r in rows if r["defence"] == defence]
        found[defence] = {}
        for name in GROUPS:
            able = ("without", name, *(("with",) if name == "secret" else ()))
            some = [r for r in ours if r["attacker"] in able]
            if not any(r["attacker"] == name for r in some):
                continue
            found[defence][name] = {k: _largest(some, k) for k in HARMS}
    return found


def _largest(rows: Sequence[Row], key: str) -> dict[str, Any] | None:
    some = [r for r in rows if r.get(key) is not None]
    if not some:
        return None
    largest = max(some, key=lambda r: r[key])
    return {"value": largest[key], "ci": largest.get(f"{key}_ci"), "attack": largest["attack"]}


HEADER = ["", "ACC %", "raw probe %", "attacker", *HARMS.values(), "by (TAR)"]


def lines(rows: Sequence[Row], found: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The one table: a line for each defence, and for each attacker with more who takes more."""
    shown = []
    for defence, groups in found.items():
        first = next(r for r in rows if r["defence"] == defence)
        least = groups.get("without")
        told = [(k, h) for k, h in groups.items() if k == "without" or h != least]
        for i, (name, harms) in enumerate(told):
            uses = [_percent(first.get(k)) for k in ("acc", "acc_raw_probe")]
            start = ["  ″", "", ""] if i else [defence, *uses]
            by = harms["tar_far_1e-2"] or harms["ssim"]
            shown.append([*start, GROUPS[name], *_texts(harms), by["attack"]])
    return shown


def _texts(harms: Mapping[str, Any]) -> list[str]:
    texts = []
    for k, worst in harms.items():
        if worst is None:
            texts.append("–")
        elif k == "ssim":
            texts.append(f"{worst['value']:.3f}")
        else:
            texts.append(_percent(worst["value"]))
    return texts


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def leaderboard(
    rows: Sequence[Row],
    found: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    results: str = "worst_case.json",
) -> str:
    """A page with the defences by what an attacker without Ψ reads, and then the floors;
    ``results`` is the file that has every attack on each."""

    def harm(defence: str) -> float:
        worst = found[defence].get("without", {}).get("tar_far_1e-2")
        return worst["value"] if worst else math.inf

    ranked = sorted((d for d in found if d not in FLOORS and "without" in found[d]), key=harm)
    shown = []
    for d in [*ranked, *(f for f in FLOORS if f in found)]:
        first = next(r for r in rows if r["defence"] == d)
        uses = [_percent(first[k]) for k in ("acc", "acc_raw_probe")]
        who, harms = next(iter(found[d].items()))  # the template is read with Ψ alone
        name = d if who == "without" else f"{d}, {GROUPS[who]}"
        shown.append([name, *uses, *_texts(harms)])
    first = rows[0]
    where = (
        f"{first['n']:,} faces of {first['people']:,} people ({settings['faces']}), "
        f"{first['pairs']:,} pairs; weights {settings['weights']}; attackers with "
        f"{settings['public_faces']:,} public faces. ε = {settings['epsilon']:g}, decoys' "
        f"{decoyed.bound(settings['epsilon']):g}. Every attack on each, and how it was measured: "
        f"[{results}]({results})."
    )
    parts = [
        "# Leaderboard, sorted by TAR: each cell is the best attacker without Ψ for that column",
        where,
        markdown(["defence", "ACC %", "raw probe %", *HARMS.values()], shown),
        "To join, see CONTRIBUTING.md: one file with a function, and `--defense` or `--attack`.",
    ]
    return "\n\n".join(parts) + "\n"
