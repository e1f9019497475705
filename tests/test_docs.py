"""The pages: commands have the flags that they name, and programs run; docstrings' too."""

import ast
import doctest
import functools
import importlib
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest
import tyro

import advface_jax
from weights_convert import __main__ as weights_convert

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
OURS = re.compile(r"\bpython -m ((?:advface_jax|experiments|weights_convert)\b.*)")
NOT_RUN = ("README.md", "CONTRIBUTING.md")  # other modules of tests run these
GOES_ON = "# goes on from the README's example\n"
# What on a page says that a command needs your own data, or hardware: a word in capitals, a file or
# folder that a clone has not, the paper's preset, other hosts, another program.
NEEDS = re.compile(
    r"(?:^| )(?:[A-Z]{2}\w*|IN|--preset paper|--set \w+|--(?:hosts|aot|peer|engine) \S+|tfds:\S+"
    r"|\S+\.(?:zip|bin|onnx|npz)|\S+:\w+|\S*160\w*|AgeDB|cfp-dataset\S*|\S*[Ww]eb[Ff]ace\S*"
    r"|img_celeba|lfw-\w+)(?= |$)"
)
# Of the commands that need nothing, those that other tests run, at a smaller size.
ELSEWHERE = {
    "advface_jax export": "test_export",
    "experiments.decoy_cost": "test_decoy_screening",
    "experiments.decoys": "test_decoys_table",
    "experiments.throughput": "test_throughput",
    "experiments.tradeoff": "test_tradeoff",
}
# The others run here, with words that make them small: the last of two equal flags counts.
RUN = {
    "experiments.all": "",
    "experiments.faults": "--only crop --kills 1",
    "experiments.fuzz": "--cases 50",
    "experiments.long_run": "--faces 32 --batch 16 --workers 0 --shard-size 16 --steps 1",
    "experiments.report": "",
    "experiments.reuse": "",
    "experiments.service_load": "--enrolled 1 --seconds 2 --rates 1 --kill 0",
    "experiments.train_decoder": "",
}


def commands(text: str):
    """Every ``python -m`` of ours on a page, in blocks and in lines, as its words."""
    blocks = [body for language, body in FENCED.findall(text) if not language]
    rest = FENCED.sub("", text)
    lines = [" ".join(code.split()) for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", rest)]
    for block in blocks:
        lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        for part in re.split(r"&&|\|", line):
            if found := re.search(OURS, part):
                words = shlex.split(found[1], comments=True)
                if "NAME" not in " ".join(words[:2]):
                    yield words


ASKED = sorted({tuple(words) for page in PAGES for words in commands(page.read_text("utf-8"))})


def parsed(words):
    """Read the words after a command as it would itself, and go no further."""
    module, *rest = words
    if module == "advface_jax":
        name, *rest = rest
        module = f"advface_jax.commands.{name}"
    if module == "weights_convert":
        main = weights_convert.run
    else:
        found = importlib.import_module(module)
        main = found.main
        if hasattr(found, "publish") or hasattr(found, "TABLE"):  # flags of every table
            rest = [word for word in rest if word not in ("--json", "--html")]

    @functools.wraps(main)
    def reached(*_, **__):
        return True

    return tyro.cli(reached, args=rest)


def test_the_pages_have_commands():
    assert len(ASKED) > 50


@pytest.mark.parametrize("words", ASKED, ids=" ".join)
def test_a_command_of_a_page_has_these_flags(words, capsys):
    if words in (("advface_jax",), ("experiments",)) or "--help" in words:
        return
    if not any(word.startswith("-") for word in words):
        return  # a command named, without what it needs
    try:
        assert parsed(words)
    except SystemExit:
        pytest.fail(capsys.readouterr().err)


def needs_nothing(words) -> bool:
    """Whether a clone alone is enough for this command, by its words."""
    given = re.sub(r"(?:-o|--out) \S+", "", " ".join(words))  # what it writes it makes itself
    named = 2 if words[0] == "advface_jax" else 1
    return len(words) > named and not NEEDS.search(given)


def test_every_command_is_run_or_visibly_needs_something():
    lone = [w for w in ASKED if needs_nothing(w) and w[0] not in RUN]
    names = {" ".join(w[:2]) if w[0] == "advface_jax" else w[0] for w in lone}
    assert names == set(ELSEWHERE), "each is run by a test, here or where ELSEWHERE says"
    for name, module in ELSEWHERE.items():
        text = (ROOT / "tests" / f"{module}.py").read_text("utf-8")
        assert name.split(".")[-1].split()[-1] in text, f"{module} does not run {name}"


@pytest.mark.slow
@pytest.mark.long  # each a process, seconds
@pytest.mark.parametrize(
    "words", [w for w in ASKED if needs_nothing(w) and w[0] in RUN], ids=" ".join
)
def test_a_command_that_needs_nothing_runs(words, tmp_path):
    shutil.copytree(ROOT / "docs" / "results", tmp_path / "results")
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    small = [] if {"--case", "--help"} & {*words} else RUN[words[0]].split()
    call = [sys.executable, "-m", *words, *small]
    done = subprocess.run(call, cwd=tmp_path, env=environ, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_wrong_flag_is_seen():
    with pytest.raises(SystemExit):
        parsed(("experiments.tradeoff", "--presets", "paper"))


def test_every_command_is_on_the_page_of_experiments():
    text = (ROOT / "docs" / "experiments.md").read_text("utf-8")
    files = (ROOT / "experiments").glob("*.py")
    names = [file.stem for file in files if not file.stem.startswith("_")]
    assert names and [n for n in names if f"`python -m experiments.{n}`" not in text] == []


@pytest.mark.parametrize(
    ("page", "program"),
    [(p.name, body) for p in PAGES for lang, body in FENCED.findall(p.read_text("utf-8")) if lang],
)
def test_a_program_of_a_page_names_what_exists(page, program):
    names = {}
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            exec(compile(ast.Module([node], []), page, "exec"), names)
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id)
            if module is not None and module.__name__.startswith("advface_jax"):
                assert hasattr(module, node.attr), f"{node.value.id}.{node.attr}"


def python(page: Path) -> list[str]:
    return [body for lang, body in FENCED.findall(page.read_text("utf-8")) if lang == "python"]


@pytest.mark.slow  # FaceNet, and AdvFace at full size
@pytest.mark.long
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if "```python" in p.read_text("utf-8") and p.name not in NOT_RUN],
    ids=lambda p: p.name,
)
def test_the_programs_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    programs = python(page)
    if any(program.startswith(GOES_ON) for program in programs):
        programs = python(ROOT / "README.md") + programs
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        exec(compile("\n".join(programs), page.name, "exec"), {"__name__": "a page"})


PAGE = (ROOT / "docs" / "site" / "api.md").read_text("utf-8")
# These take FaceNet's or MTCNN's weights, or seconds.
HEAVY = ("load", "tuned", "convolutional", "open_features", "evolved")
HEAVY += ("decoy", "solve_channels", "start", "blur", "solved")
HEAVY += ("load_detector", "detect", "crop_all", "one_face", "train_step")


def documented() -> dict[str, object]:
    """The functions, and the classes of ``advface_jax`` itself, on the page of the API."""
    found = {name: getattr(advface_jax, name) for name in advface_jax.__all__}
    for name, options in re.findall(r"automodule:: (\S+)\n((?:   :.*\n)*)", PAGE):
        module = importlib.import_module(name)
        chosen = re.search(r":members: (.+)", options)
        names = chosen[1].split(", ") if chosen else getattr(module, "__all__", None) or dir(module)
        things = {n: getattr(module, n) for n in names if n[0] != "_"}
        if not chosen and "imported-members" not in options:
            things = {n: t for n, t in things.items() if getattr(t, "__module__", "") == name}
        found |= {n: t for n, t in things.items() if callable(t) and not inspect.isclass(t)}
    for name in re.findall(r"autofunction:: (\S+)", PAGE):
        module, _, last = name.rpartition(".")
        found[last] = getattr(importlib.import_module(module), last)
    return {name: thing for name, thing in found.items() if callable(thing)}


EXAMPLES = documented()


def marked(name: str):
    heavy = [pytest.mark.slow] if name == "load" else [pytest.mark.slow, pytest.mark.long]
    return pytest.param(name, marks=heavy if name in HEAVY else ())


@pytest.mark.parametrize("name", [marked(name) for name in EXAMPLES])
def test_the_example_of_a_docstring_runs(name, tmp_path, monkeypatch):
    """Most take small networks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (test, *_) = [t for t in doctest.DocTestFinder(recurse=False).find(EXAMPLES[name], name)]
    assert test.examples, f"{name} has no example"
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        result = doctest.DocTestRunner().run(test)
    assert result.failed == 0
