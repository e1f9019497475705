"""The pages: commands have the flags that they name, and programs run; docstrings' too."""

import ast
import doctest
import functools
import importlib
import re
import shlex
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
# Programs that need what their page has not made (data, another public recogniser, several hosts),
# and those that other modules of tests run.
NOT_RUN = ("attacks.md", "decoys.md", "performance.md")
NOT_RUN += ("README.md", "CONTRIBUTING.md", "own-recogniser.md")


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
        main = importlib.import_module(module).main

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


@pytest.mark.slow  # FaceNet, and AdvFace at full size
@pytest.mark.long
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if "```python" in p.read_text("utf-8") and p.name not in NOT_RUN],
    ids=lambda p: p.name,
)
def test_the_programs_of_a_page_run(page):
    programs = [body for lang, body in FENCED.findall(page.read_text("utf-8")) if lang == "python"]
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        exec(compile("\n".join(programs), page.name, "exec"), {"__name__": "a page"})


EXPORTED = {name: getattr(advface_jax, name) for name in advface_jax.__all__}
PUBLIC = [name for name, thing in EXPORTED.items() if callable(thing)]  # the others are modules


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n == "load" else n for n in PUBLIC]
)
def test_the_example_of_a_docstring_runs(name):
    """``load`` reads FaceNet's weights; the others take small networks."""
    thing = getattr(advface_jax, name)
    (test, *_) = [t for t in doctest.DocTestFinder(recurse=False).find(thing, name)]
    assert test.examples, f"{name} has no example"
    result = doctest.DocTestRunner().run(test)
    assert result.failed == 0
