"""Our readings where the paper is silent, as numbered notes to the ledger."""

from pathlib import Path

from experiments.measure.paper import Number

_TEXT = Path(__file__).with_name("readings.md").read_text(encoding="utf-8")
WARNING, *_NOTES = _TEXT.strip().split("\n\n")
READINGS = dict(note.split(": ", 1) for note in _NOTES)
NUMBERED = {name: number for number, name in enumerate(READINGS, 1)}


def notes(number: Number) -> list[int]:
    """The readings behind our value for a number of the paper."""
    mine = number.method.startswith("AdvFace")
    names = ["scale", "recogniser"]
    names += ["bound", "batch"] if mine else []
    names += {"Random": ["random"], "DP": ["dp"], "DuetFace": ["duetface"]}.get(number.method, [])
    names += ["offline"] if number.method == "AdvFace (offline)" else []
    if number.metric in ("acc", "drop", "srra"):
        names += ["folds"] + (["sides"] if number.method != "Unprotected" else [])
    if number.metric == "srra":
        names.append("srra")
    if number.metric not in ("acc", "drop") or mine:
        names.append("decoder")
    return sorted({NUMBERED[name] for name in names})
