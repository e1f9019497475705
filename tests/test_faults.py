"""Commands that are killed: which of their ends count as wrong; and files that are whole or not."""

import random
import signal
import subprocess

import pytest

from experiments.fault import killing
from experiments.fault.cases import Case
from experiments.measure.results_file import write_whole


class Ends:
    """A process that a signal ends: by itself, if it has a handler of SIGTERM."""

    def __init__(self, handler: bool):
        self.handler, self.sent = handler, None

    def wait(self, limit: float) -> int:
        if self.sent is None:
            raise subprocess.TimeoutExpired("", limit)
        return 143 if self.handler and self.sent == signal.SIGTERM else -self.sent

    def send_signal(self, sent: int) -> None:
        self.sent = sent


class Done(Ends):
    """One that has ended before."""

    def wait(self, limit: float) -> int:
        return 0


class Signals(random.Random):
    """Two SIGTERMs, then SIGKILL."""

    drawn = 0

    def uniform(self, a: float, b: float) -> float:
        return a

    def random(self) -> float:
        self.drawn += 1
        return 0.0 if self.drawn < 3 else 1.0


@pytest.mark.parametrize(
    ("writes", "handler", "badly"),
    [(True, True, 0), (True, False, 2), (False, False, 0)],
    ids=["with a handler", "without one", "before its first output"],
)
def test_a_sigterm_must_be_handled_after_the_first_output(
    tmp_path, monkeypatch, writes, handler, badly
):
    started = []

    def start(case, out, place):
        out.mkdir(exist_ok=True)
        started.append(out)
        if writes:  # each time more, as a run that goes on
            (out / "rows").write_text("." * len(started))
        return Done(handler) if len(started) > 3 else Ends(handler)

    monkeypatch.setattr(killing, "_start", start)
    monkeypatch.setattr(killing, "_peacefully", lambda *_: (0.0, 1.0))
    case = Case("rows", (), lambda out: {})
    found = killing.disturbed(case, tmp_path, 1, Signals(0))
    assert (found.kills, found.terms, found.badly) == (1, 2, badly) and len(started) == 4


def test_a_text_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "folder" / "rows.json"
    write_whole(file, "old")

    def stopped(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            write_whole(file, "new")
    assert file.read_text() == "old"
    write_whole(file, "new \udcff")  # a file name in a command
    assert file.read_text() == "new \\udcff"
    assert [*file.parent.iterdir()] == [file]
