"""The steps of ``experiments.accelerator``: run apart, limited in time, resumed."""

import json
import time
from pathlib import Path

import pytest

from experiments import accelerator
from experiments.accelerator import Step
from experiments.benchmark import kernels


def test_an_interrupted_accelerator_skips_what_is_done(tmp_path):
    step = Step("speed", ("experiments.throughput", "--batch", "1"), 60)
    command = ["-m", "experiments.throughput", "--batch", "1"]
    (tmp_path / "done.json").write_text(json.dumps(command))
    assert accelerator.run(step, tmp_path, time.monotonic() + 60) == "done before"
    other = step._replace(arguments=("experiments.throughput", "--batch", "0"))
    assert accelerator.run(other, tmp_path, time.monotonic()) == "left out: no time"


def test_a_step_has_flags_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_of_the_caller=1")
    code = ("timeit", "-n1", "-r1", "-s", "import os", "print(os.environ['XLA_FLAGS'])")
    step = Step("flags_nhwc", code, 60, accelerator.FLAGS["nhwc"])
    assert accelerator.run(step, tmp_path, time.monotonic() + 60).endswith(" s")
    given = f"--xla_of_the_caller=1 {accelerator.FLAGS['nhwc']}"
    assert (tmp_path / "log.txt").read_text().startswith(given)
    assert accelerator.run(step, tmp_path, time.monotonic() + 60) == "done before"
    assert accelerator.run(step._replace(flags="--no"), tmp_path, time.monotonic()) != "done before"


@pytest.mark.slow  # each step is a process that imports JAX
def test_a_failed_step_says_why_and_is_not_done(tmp_path):
    step = Step("speed", ("experiments.throughput", "--batch", "0"), 60)
    told = accelerator.run(step, tmp_path, time.monotonic() + 60)
    assert told.startswith("failed: error: got --batch 0") and not (tmp_path / "done.json").exists()
    slow = accelerator.run(step._replace(seconds=0.01), tmp_path, time.monotonic() + 60)
    assert slow.startswith("stopped after")


def test_every_step_is_a_command_with_a_table_on_the_page(tmp_path):
    names = [step.name for step in accelerator.steps(quick=True)]
    assert names == [step.name for step in accelerator.steps(quick=False)]
    (tmp_path / names[0]).mkdir()
    (tmp_path / names[0] / "parity.md").write_text("| a |\n")
    page = accelerator.page(tmp_path, {names[0]: "3 s", names[1]: "left out: no time"})
    assert "## parity: 3 s\n\n| a |" in page and "left out" in page


def test_kernels_of_no_trace(tmp_path):
    assert kernels.table(tmp_path) == []


def test_a_stopped_step_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "spawning.py").write_text(
        "import subprocess, time\n"
        "p = subprocess.Popen(['sleep', '20'])\nprint(p.pid, flush=True)\ntime.sleep(20)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "speed"
    folder.mkdir()
    (folder / "throughput.md").write_text("of an earlier --quick run")
    step = Step("speed", ("spawning",), 3)
    went = accelerator.run(step, folder, time.monotonic() + 60)
    assert "stopped" in went and "earlier" not in accelerator.page(tmp_path, {"speed": went})
    time.sleep(0.2)
    state = Path(f"/proc/{(folder / 'log.txt').read_text().split()[0]}/stat")
    assert not state.exists() or " Z " in state.read_text()
