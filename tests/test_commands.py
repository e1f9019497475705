"""All commands: their help, their flags, and what is printed into pipes and other encodings."""

import dataclasses
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advface_jax import __main__ as advface
from advface_jax import cli, starting
from experiments import __main__ as experiments
from experiments import all as everything
from experiments import (
    finetune,
    report,
    reuse,
    throughput,
    tradeoff,
    train_decoder,
    transfer,
    verify,
)
from experiments.measure import table

ROOT = Path(__file__).parents[1]
MODULES = [
    *(f"advface_jax.commands.{name}" for name in advface.COMMANDS),
    *(f"experiments.{p.stem}" for p in (ROOT / "experiments").glob("*.py") if p.stem[0] != "_"),
    "weights_convert.__main__",
]


@pytest.mark.parametrize("module", MODULES)
def test_every_help_has_an_example_and_names_the_output_alike(module, run):
    found = importlib.import_module(module)
    if module.startswith("weights_convert"):
        code, text = run(found.main, "--help")
    else:
        code, text = run(lambda: cli.start(found.main, module), "--help")
    assert code == 0
    if not module.endswith(".serve"):  # what it writes is its store
        assert "--out" in text and "-o" in text.replace(",", " ").split(), "results go to --out, -o"
    examples = text.partition("Examples:\n")[2].partition("\n\n")[0]
    assert "python -m" in examples
    about = text.partition("\n\n")[2].partition("Examples:")[0]
    assert max(map(len, about.splitlines())) <= 80


def test_flags_keep_their_older_names(run, tmp_path):
    asked = {
        transfer: ("--shadow", "--attacker", "resrek"),
        everything: ("--only", "resrek", "-o", tmp_path),
        reuse: ("--out", tmp_path, "--features", tmp_path, "--faces", "resrek"),
    }
    for module, words in asked.items():
        code, text = run(lambda module=module: cli.start(module.main, "x"), *words)
        assert code == 1 and "resrek" in text, text
    older = ("--dtype", "float32", "--precision", "highest", "--decoder", "resrek")
    code, text = run(lambda: cli.start(throughput.main, "x"), *older)
    assert code == 1 and "no decoder at resrek: wanted transrec, resrec, urec" in text
    older = ("--to", tmp_path / "R.md", "--results", "nowhere")
    code, text = run(lambda: cli.start(report.main, "x"), *older)
    assert code == 1 and "nowhere, which is no folder" in text


@pytest.mark.parametrize(
    ("module", "words", "said"),
    [
        (tradeoff, ("--epsilons", "0.1", "-1"), "got epsilon=-1; wanted a finite bound"),
        (tradeoff, ("--shadow", "resrek"), "resrek: wanted transrec, resrec, urec"),
        (tradeoff, ("--limit", "0"), "got limit=0"),
        (tradeoff, ("--faces", "nowhere"), "--faces nowhere, which does not exist"),
        (tradeoff, ("--pairs", "nowhere"), "--pairs nowhere, which does not exist"),
        (tradeoff, ("--set", "cfp_fp"), "sets belong to --preset paper"),
        (tradeoff, ("--steps", "0"), "got steps=0"),
        (verify, ("--trained-on", "nowhere"), "--trained-on nowhere, which"),
        (train_decoder, ("-o", "here", "--faces", "nowhere"), "--faces nowhere, which"),
        (finetune, ("-o", "here", "--faces", "synthetic", "--held-people", "0"), "held_people=0"),
    ],
)
def test_what_needs_no_weights_is_refused_before_them(module, words, said, run, monkeypatch):
    monkeypatch.setattr("advface_jax.load", None)
    code, text = run(lambda: cli.start(module.main, "x"), *words)
    assert code == 1 and said in text, text


def test_a_file_in_the_way_of_the_results_is_seen_at_once(run, monkeypatch, tmp_path):
    monkeypatch.setattr("advface_jax.load", None)
    (tmp_path / "taken").touch()
    code, text = run(lambda: cli.start(tradeoff.main, "x"), "-o", tmp_path / "taken" / "below")
    assert code == 1 and "taken is a file; wanted a folder" in text
    nowhere = Path("/proc")
    if nowhere.is_dir():
        code, text = run(lambda: cli.start(tradeoff.main, "x"), "-o", nowhere / "results")
        assert code == 1 and "nothing can be written into /proc" in text


@pytest.mark.parametrize("main", [advface.main, experiments.main])
def test_without_a_name_the_commands_are_listed(main, run):
    code, text = run(main)
    assert code == 0 and len([line for line in text.splitlines() if line[:1].islower()]) > 3
    assert "tradeoff " in text or "crop " in text
    code, text = run(main, "nonsense")
    assert code == 2 and "no command nonsense" in text and "usage: python -m" in text
    assert "usage: advface COMMAND" in run(advface.main, name="/bin/advface")[1]


def test_a_package_that_lacks_is_named(run):
    def main(package: str) -> None:
        """Needs a package."""
        raise ModuleNotFoundError(f"No module named {package!r}", name=package)

    code, text = run(lambda: cli.start(main, "x"), "--package", "h5py")
    assert code == 1 and "this needs h5py, which is not installed: pip install h5py" in text


def test_a_table_has_pictures_and_pages_beside_it(tmp_path, capsys):
    pictures = {"a.png": lambda path: path.write_bytes(b"drawn")}
    made = table.Table("a", "A", [{"n": 1}], ("n",), [["1"]], {}, {}, table.Spent(0, 1))
    made = dataclasses.replace(made, pages={"order.md": "# Order\n"}, pictures=pictures)
    table.publish(made, tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"a.json", "a.md", "a.png", "order.md"}
    assert "order.md" in capsys.readouterr().err


PRINTS = r"""
import sys
sys.argv[1:] = []
from advface_jax import cli, runtime, starting

def main():
    for _ in range(200):
        cli.answer.print("\u03b5 = 0.2 \u2192 \u03a8 \u65e5 \udcff")
        cli.console.print("\u03b5, too")
    open("done", "w").close()

cli.start(main, "x")
"""


def started(folder: Path, **surroundings: str) -> subprocess.Popen[bytes]:
    environ = {**os.environ, "PYTHONUTF8": "0", **surroundings}
    pipe = subprocess.PIPE
    call = [sys.executable, "-c", PRINTS]
    return subprocess.Popen(call, cwd=folder, env=environ, stdout=pipe, stderr=pipe)


@pytest.mark.parametrize(
    ("surroundings", "said"),
    [
        ({"PYTHONIOENCODING": "cp1252"}, b"eps = 0.2 -> Psi \\u65e5 \\udcff"),
        ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}, b"eps = 0.2 -> Psi"),
        ({"PYTHONIOENCODING": "utf-8", "TERM": "dumb"}, "ε = 0.2 → Ψ 日 \\udcff".encode()),
    ],
)
def test_a_stream_of_another_encoding_gets_words_it_can_have(surroundings, said, tmp_path):
    process = started(tmp_path, **surroundings)
    out, errors = process.communicate()
    assert process.returncode == 0 and said in out.splitlines()[0], errors[-500:]


def test_the_work_goes_on_when_nobody_reads_what_is_printed(tmp_path):
    process = started(tmp_path, PYTHONIOENCODING="utf-8")
    assert process.stdout and process.stderr
    process.stdout.readline()
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0 and (tmp_path / "done").exists(), errors[-500:]
    assert b"Broken" not in errors and b"Traceback" not in errors
    process.stderr.close()


def test_shared_flags_are_taken_out_and_json_goes_where_a_table_would(run, tmp_path, monkeypatch):
    made = table.Table("t", "T", [{"n": 1}], ["", "n"], [["a", "1"]], {}, {}, table.Spent(0, 0))

    def main(out: cli.Out = tmp_path):
        """Publish.

        Args:
          out: Where.
        """
        table.publish(made, out)
        sys.exit(0)

    monkeypatch.setattr(sys.modules[__name__], "publish", table.publish, raising=False)
    code, text = run(lambda: cli.start(main, "x"), "--json", "--quiet", "--html", "-o", tmp_path)
    document = json.loads(text[: text.rindex("}") + 1])
    assert code == 0 and document["rows"] == [{"n": 1}] and "json" not in document["command"]
    assert "<title>T</title>" in (tmp_path / "t.html").read_text("utf-8")
    assert cli.Shared.quiet and cli.bar("faces").disable
    monkeypatch.delattr(sys.modules[__name__], "publish")
    code, text = run(lambda: cli.start(main, "x"), "--json")
    assert code == 1 and "prints no table" in text
    code, text = run(lambda: cli.start(main, "x"), "-o", tmp_path)
    assert (
        code == 0 and not cli.Shared.quiet and not cli.Shared.html and "\x1b" not in text
    )  # no colours in a pipe


def test_completion_has_every_subcommand_and_its_flags(run):
    code, text = run(advface.main, "--tyro-print-completion", "bash", name="advface")
    assert not code and all(name in text for name in advface.COMMANDS) and "--margin" in text


@pytest.mark.parametrize(
    ("words", "whose"),
    [
        (["python", "-m", "experiments.tradeoff", "--help"], "experiments"),
        (["python", "/x/bin/advface", "crop"], "advface"),
        (["python", "-m", "pytest"], "pytest"),
        (["python"], ""),
    ],
)
def test_only_our_own_commands_say_that_jax_is_loading(words, whose):
    assert starting.command(words) == whose and (whose in starting.OURS) == (
        whose not in ("pytest", "")
    )
