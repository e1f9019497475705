"""The tables of RESULTS.md that the paper does not have, one function each."""

from collections.abc import Callable, Sequence

from experiments.attack import rows as worst
from experiments.measure.results_file import Row, markdown
from experiments.reproduction.ledger import Run
from experiments.reproduction.paper_tables import METRICS, mean_of, shown, values

LFW_FACES = 7701  # in the 6,000 pairs


def others(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """The measured ones: (title, text)."""
    parts = []
    for title, experiment, build in OTHERS:
        text = [t for run in runs if run.experiment == experiment if (t := build(run))]
        parts += [(title, "\n\n".join(text))] if text else []
    return [*parts, *_time(runs)]


def _ablations(run: Run) -> str:
    keys = ("ssim", "psnr", "acc", "srra", "srra_same_image")
    header = ("", "SSIM", "PSNR dB", "ACC %", "SRRA %", "same image %", "changes")
    lines = [
        [r.get("condition", r["method"]), *values(r, keys), r.get("ablation", "")] for r in run.rows
    ]
    return _of(run, markdown(header, lines))


def _decoys(run: Run) -> str:
    near, *far = [
        "SFace" if "sface" in name else name
        for name in run.config.get("siblings") or [run.config["sibling"]]
    ]
    shares = {
        "ACC %": "acc",
        "TAR %": "tar",
        "refused %": "refused_share",
        "replay %": "srra_far_1e-3",
        f"{near} %": "tar_sibling",
        "its 1×1 patches %": "tar_sibling, 1×1",
        f"{''.join(far[:1]) or 'another family'} %": "tar_far",
        "Ψ, public %": "tar_Ψ",
    }

    def line(r: Row) -> list[str]:
        name = r["method"] if r["epsilon"] is None else f"{r['method']}, ε = {r['epsilon']:g}"
        if n := r.get("shadows"):
            name += f", {n} shadow recogniser{'s' * (n > 1)}"
        known = [r.get(key) for key in shares.values()]
        ssim = "–" if r.get("ssim") is None else f"{r['ssim']:.3f}"
        return [name, ssim, *("–" if n is None else f"{100 * n:.1f}" for n in known)]

    return _of(run, markdown(("", "SSIM of R's picture", *shares), [line(r) for r in run.rows]))


def _reuse(run: Run) -> str:
    rows = [r for r in run.rows if "trained_on" in r]
    networks = dict.fromkeys(r["method"] for r in rows)
    conditions = sorted({r["measured_on"] for r in rows})

    def cell(method: str, condition: str) -> str:
        for r in rows:
            if (r["method"], r["measured_on"]) == (method, condition):
                ends = " to ".join(shown("acc", x) for x in r.get("acc_ci") or ())
                return shown("acc", r["acc"]) + (f" ({ends})" if ends else "")
        return "–"

    lines = [[method, *(cell(method, at) for at in conditions)] for method in networks]
    header = ("ACC % (95 % over pairs)", *(f"measured on {at} features" for at in conditions))
    return _of(run, markdown(header, lines))


def _offline(run: Run) -> str:
    lines = [
        [r["method"], shown("acc", r["acc"]), f"{r.get('separation', 0):.3f}", f"{r['pairs']:,}"]
        for r in run.rows
    ]
    header = ("of the training set", "ACC %", "separation", "pairs")
    return _of(run, markdown(header, lines))


def _random(run: Run) -> str:
    keys = ("ssim", "psnr", "acc", "srra")
    lines = [[r["method"], *values(r, keys)] for r in run.rows]
    lines += [
        [f"*{name} in the paper*", *values(numbers, keys)]
        for name, numbers in run.document["notes"]["paper"].items()
    ]
    reached = dict(run.document["notes"]["at_the_paper_s_psnr"])
    goal = f"At the paper's {reached.pop('psnr'):g} dB (interpolated)"
    found = [f"{k}: SSIM {at['ssim']:.3f}" if at else f"{k}: never" for k, at in reached.items()]
    text = markdown(("", "SSIM", "PSNR dB", "ACC %", "SRRA %"), lines)
    return _of(run, f"{text}\n\n{goal}: {'; '.join(found)}.")


def _worst_case(run: Run) -> str:
    lines = worst.lines(run.rows, run.document["notes"]["worst"])
    told = (
        "What an attacker takes at most: the similarity of a picture (SSIM), a picture accepted as "
        "another photograph of that person (replay), the person found among all photographs (TAR "
        "at a false accept rate of 1e-2, rank 1)."
    )
    return _of(run, f"{told}\n\n{markdown(worst.HEADER, lines)}")


def _of(run: Run, text: str) -> str:
    faces = max((r.get("n") or 0 for r in run.rows), default=0)
    return f"{text}\n\n`{run.file}`, {faces:,} faces: `{run.document['command']}`"


def _time(runs: Sequence[Run]) -> list[tuple[str, str]]:
    lines = []
    for run in runs:
        rate = run.document.get("notes", {}).get("faces_per_s")
        if run.experiment == "defenses" and rate and run.config.get("preset") == "paper":
            whole = max(r.get("n") or 0 for r in run.rows) >= LFW_FACES
            seconds = run.document["seconds"] if whole else LFW_FACES / rate
            minutes = f"{seconds / 60:,.1f}" + (" (measured)" if whole else "")
            lines.append([run.document["hardware"], f"{rate:.2f}", minutes, f"`{run.file}`"])
    text = (
        f"{markdown(('hardware', 'faces/s', 'minutes', 'from'), lines)}\n\nThe {LFW_FACES:,} faces "
        "of LFW's 6,000 pairs; where it was not measured, at the rate of the run's median batch, "
        "without compilation (a minute or two)."
    )
    return [("Time of a full LFW Table 1", text)] if lines else []


def _spread(run: Run) -> str | None:
    found = run.document.get("notes", {}).get("spread")
    if not found:
        return None

    lines = []
    for metric in ("ssim", "psnr", "mse", "acc", "srra"):
        protected, bare = found["protected"][metric], found["unprotected"][metric]
        cells = [bare["over_attackers"], protected["over_shadows"], protected["over_attackers"]]
        lines.append([METRICS[metric], *(mean_of(metric, spread) for spread in cells)])
    header = ("", "unprotected, over R", "AdvFace over S, R averaged", "AdvFace over R, S averaged")
    told = "Mean (95 % of Student's t, which may exceed 0 or 100 %). "
    told += f"S: {'; '.join(found['shadows'])}. R: {'; '.join(found['attackers'])}."
    return _of(run, f"{markdown(header, lines)}\n\n{told}")


OTHERS: tuple[tuple[str, str, Callable[[Run], str | None]], ...] = (
    ("Spread over the seeds of S and R", "transfer", _spread),
    ("Offline mode: the training", "finetune", _offline),
    ("Features as a data set (§4.4): trained on protected ones only", "reuse", _reuse),
    ("Which noise the paper's Random row was", "random_row", _random),
    ("The worst case: adaptive attackers", "worst_case", _worst_case),
    ("Decoys, and who still reads (TAR at FAR 1e-2)", "decoys", _decoys),
    ("Ablations: what the paper leaves open", "ablations", _ablations),
)
