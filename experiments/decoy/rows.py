"""A row for each setting of the decoy: recognition, pictures, and what each attacker reads."""

from collections.abc import Mapping, Sequence

import numpy as np

from advface_jax import metrics
from advface_jax.data import Pairs
from experiments.decoy.cases import NEAR, UNLIKE, Case
from experiments.decoy.readings import Embeddings, Measured
from experiments.measure.results_file import Row
from experiments.measure.table import Column
from experiments.measure.table_rows import FARS, FEWEST, swapped

JUDGED = 1500
"""Faces, the first ones, that attackers' readings are judged over: every one with every other."""
LINKED = ("sibling", "Ψ", "less")
COLUMNS = (
    Column("ACC %", "acc", 100),
    Column("TAR %", "tar", 100, 1),
    Column("cos Ψ", "cosine", 1, 3),
    Column("refused %", "refused_share", 100, 1),
    Column("at .90", "refused_90", 100, 1),
    Column("SSIM", "ssim", 1, 3),
    Column("SSIM decoy", "ssim_decoy", 1, 3),
    Column("type II %", "srra_far_1e-3", 100, 1),
    Column("shadow", "tar_shadow", 100, 1),
    Column("sibling", "tar_sibling", 100, 1),
    *(Column(f"{p}×{p}", f"tar_sibling, {p}×{p}", 100, 1) for p in UNLIKE),
    Column("far", "tar_far", 100, 1),
    *(Column(f"Ψ ± {share:g}", f"tar_Ψ ± {share:g}", 100, 1) for share in NEAR),
    Column("Ψ tuned", "tar_Ψ tuned", 100, 1),
    Column("estimated", "tar_estimated", 100, 1),
    Column("decoy known", "tar_known", 100, 1),
    Column("public Ψ", "tar_Ψ", 100, 1),
    Column("foreign keys", "tar_foreign", 100, 1),
    Column("less Ψ", "tar_less", 100, 1),
    Column("Ψ, estimated", "tar_Ψ_estimated", 100, 1),
    Column("Ψ, decoy known", "tar_Ψ_known", 100, 1),
    Column("linked", "link_sibling", 100, 1),
    Column("names", "tar_names", 100, 1),
)
NARROW = ("ACC %", "TAR %", "refused %", "SSIM", "sibling", "1×1", "far", "public Ψ")
"""Of them, what a terminal has room for."""
HOW_TO_READ = (
    "ACC, over the pairs: stored against an undefended photograph. TAR: the share of other "
    "photographs of the person accepted, at a false accept rate of 1e-2 over the first "
    "1,500 faces (chance 1). TAR and cos Ψ are by the server's own recogniser, with a key by the "
    "private one; refused: faces below the threshold, and below .90, which are counted in all "
    "else. SSIM: R's picture with the enrolled face, and with the decoy; type II: that picture "
    "accepted by the server as another photograph of the person, at 1e-3. The other columns are "
    "TAR of attackers."
    " shadow: a sibling that may stand in the objective; sibling, 1×1, 5×5: siblings that never "
    "do, stitched from other faces, by 3×3 and by those patches; far: another family of "
    "recognisers, stitched; Ψ ± s: Ψ with noise on its kernels, nearer than anything public; "
    "Ψ tuned: Ψ trained further on named public faces; estimated: the step away from "
    "E(R(stored)) amplified, best of two factors; decoy known: the step away from the true decoy "
    "amplified, best of three; each read by the sibling, or by the public Ψ. Foreign keys: the "
    "mean over eight patterns of the attacker's; less Ψ: that less what the public Ψ reads. "
    "Linked: two stored items of one person, by the sibling. Names: the best linker that learnt "
    "from stolen, named items of other people. One seed; 95 % intervals of TARs by person are "
    "in the JSON file."
)


def row(
    method: str,
    case: Case | None,
    epsilon: float | None,
    found: Measured,
    bare: Embeddings,
    people: Sequence[str],
    over: Pairs,
    threshold: float,
) -> Row:
    """The numbers of one setting; ``bare`` is what the readers make of undefended photographs."""
    private = bool(case and case.key)
    read = dict(found.read)
    replayed = read.pop("replayed")
    own_patterns = by_foreign(read)
    read = {name: seen for name, seen in read.items() if not name.startswith("foreign ")}
    refused = [None if case is None else found.cosine < at for at in (threshold, 0.9)]
    line: Row = {
        "method": method + (" with a key" if private else ""),
        "epsilon": epsilon,
        **({} if case is None else {k: v for k, v in case._asdict().items() if k != "epsilon"}),
        "n": len(found.cosine),
        "pairs": len(over),
        "judged": min(JUDGED, len(found.cosine)),
        "cosine": float(found.cosine.mean()),
        "cosine_worst": float(found.cosine.min()),
        "refused": None if refused[0] is None else int(refused[0].sum()),
        "refused_share": None if refused[0] is None else float(refused[0].mean()),
        "refused_90": None if refused[1] is None else float(refused[1].mean()),
        **{name: float(values.mean()) for name, values in found.likeness.items()},
    }
    own, served = bare["private" if private else "recogniser"], read["recogniser"]
    distances = metrics.squared_distance(served[over.left], own[over.right])
    line["acc"] = metrics.ten_fold_accuracy(distances, over.same, over.fold).accuracy
    line |= {f"srra{k}": v for k, v in _replays(served, replayed, people, over).items()}
    tars: dict[str, float | None] = {}

    def judge(name: str, seen: np.ndarray, known: np.ndarray) -> None:
        reading = judged(seen, known, people)
        tars[name], line[f"rank1_{name}"] = reading.tar(1e-2), float(np.nanmean(reading.first))
        if (accepted := reading.accepted[1e-2]) is not None:
            label = "tar_ci" if name == "recogniser" else f"tar_{name}_ci"
            line[label] = metrics.interval_by_person(
                np.asarray(accepted, np.float64), people[:JUDGED]
            )
        line[f"tar_far_1e-3_{name}"] = reading.tar(1e-3)
        if name in LINKED:
            line[f"link_{name}"] = tar(seen, seen, people)

    for name, seen in read.items():
        kind = "recogniser" if name == "Ψ" or name.startswith("Ψ, ") else name
        kind = "sibling" if name.startswith("decoy ") else kind
        judge(name, seen, own if name == "recogniser" else bare[kind])
    for name, seen in own_patterns.items():
        judge(name, seen, bare["recogniser"])
    line["tar"], line["rank1"] = tars.pop("recogniser"), line.pop("rank1_recogniser")
    line |= {f"tar_{name}": value for name, value in tars.items()}
    best = {"estimated": "decoy est", "known": "decoy k", "far": "far, ", "names": "names "}
    best |= {"Ψ_estimated": "Ψ, decoy est", "Ψ_known": "Ψ, decoy k"}
    for name, starts in best.items():
        values = [v for k, v in tars.items() if k.startswith(starts) and v is not None]
        line[f"tar_{name}"] = max(values, default=None)
    return line


def _replays(
    served: np.ndarray, replayed: np.ndarray, people: Sequence[str], over: Pairs
) -> dict[str, float | None]:
    """Type II at a false accept rate over all different stored items."""
    some, who = served[:JUDGED], np.asarray(people[:JUDGED])
    different = np.triu(who[:, None] != who)  # each pair once
    far = np.clip(2 - 2 * some @ some.T, 0, 4)[different]
    found: dict[str, float | None] = dict.fromkeys(FARS)
    for name, rate in FARS.items():
        if rate * len(far) >= FEWEST and over.same.any():
            threshold = metrics.threshold_at_far(far, rate)
            found[name] = metrics.srra(swapped(served, replayed, over), threshold)
    return found


def judged(seen: np.ndarray, known: np.ndarray, people: Sequence[str]) -> metrics.Reading:
    """Every one of the first ``JUDGED`` faces against every other one's photograph."""
    seen, known, people = seen[:JUDGED], known[:JUDGED], people[:JUDGED]
    return metrics.identify(seen, known, people, tuple(FARS.values()))


def tar(seen: np.ndarray, known: np.ndarray, people: Sequence[str]) -> float | None:
    """TAR at a false accept rate of 1e-2 over those faces; None with too few of them."""
    return judged(seen, known, people).tar(1e-2)


def by_foreign(read: Mapping[str, np.ndarray]) -> Embeddings:
    """What an attacker makes of the readings by patterns of his own: their mean, and that less what
    the public Ψ reads. Empty without any."""
    foreign = [seen for name, seen in read.items() if name.startswith("foreign ")]
    if not foreign:
        return {}
    mean = np.mean(foreign, 0)
    return {"foreign": unit(mean), "less": unit(mean - read["Ψ"])}


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
