"""The plan behind RESULTS.md: done steps are skipped, a failed one stops those that need it."""

import dataclasses
import importlib
import inspect
import json
import os
from types import SimpleNamespace

import pytest
import tyro

from experiments import all as everything
from experiments.measure import paper
from experiments.reproduction import plan
from experiments.reproduction.plan import Step

WRITER = """
import json, pathlib, shlex, sys
name, fate, out = sys.argv[1:4]
log = pathlib.Path(out).parent.parent / "log"
log.write_text((log.read_text() if log.exists() else "") + name + "\\n")
if fate in ("fails", "forgets"):
    sys.exit(3 * (fate == "fails"))
pathlib.Path(out).parent.mkdir(parents=True, exist_ok=True)
command = shlex.join(["python", "-m", "writer", *sys.argv[1:3], pathlib.Path(out).name])
pathlib.Path(out).write_text(json.dumps({"command": command}))
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "writer.py").write_text(WRITER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path


def step(folder, name, fate="writes", **more):
    result = folder / name / "result.json"
    return Step(name, "writer", (name, fate, str(result)), result, **more)


def verdicts(steps, **how):
    return [(o.step.name, o.verdict) for o in everything.follow(steps, **how)]


def ran(folder):
    log = folder / "log"
    names = log.read_text().split() if log.exists() else []
    log.unlink(missing_ok=True)
    return names


def test_done_steps_are_skipped_and_a_failed_one_stops_only_those_that_need_it(folder):
    steps = [
        step(folder, "a"),
        step(folder, "b", "fails"),
        step(folder, "c", needs=("b",)),
        step(folder, "d", needs=("c",)),
        step(folder, "e", needs=("a",)),
        step(folder, "f", "forgets"),
        step(folder, "g", data=(folder / "nothing.zip",)),
        step(folder, "h", needs=("g",)),
    ]
    dry = verdicts(steps, dry_run=True)
    assert dry[:6] == [(s.name, "to do") for s in steps[:6]] and ran(folder) == []
    first = ("made", "failed", "waits", "waits", "made", "failed", "not available", "waits")
    assert verdicts(steps) == [*zip("abcdefgh", first, strict=True)]
    assert ran(folder) == ["a", "b", "e", "f"]
    again = dict(verdicts(steps))
    assert again["a"] == again["e"] == "done, skipped" and ran(folder) == ["b", "f"]


def test_another_command_or_something_needed_made_anew_makes_it_anew(folder):
    one, two = step(folder, "a"), step(folder, "b", needs=("a",))
    verdicts([one, two])
    ran(folder)
    document = json.loads(one.result.read_text())
    one.result.write_text(json.dumps(document | {"command": document["command"] + " --limit 3"}))
    assert verdicts([one, two]) == [("a", "made"), ("b", "made")]
    later = two.result.stat().st_mtime + 1
    os.utime(one.result, (later, later))
    assert verdicts([one, two]) == [("a", "done, skipped"), ("b", "made")]
    two.result.write_text("{")
    assert verdicts([one, two]) == [("a", "done, skipped"), ("b", "made")]
    assert verdicts([step(folder, "a", shows=(("epsilon", 0.2),))]) == [("a", "made")]


@pytest.mark.parametrize(
    ("flags", "same"),
    [
        ("--seed 1 --out elsewhere --faces x.zip", True),
        ("--seed 2 --faces x.zip", False),
        ("--seed 1 --faces x.zip --flip", False),
        ("--seed 1 --faces y.zip", False),
        ("--seed 1 --faces x.zip x.zip", False),
        ("--seed 1 --faces z.zip x.zip", False),
    ],
)
def test_commands_are_the_same_in_any_order_and_wherever_files_lie(tmp_path, flags, same):
    result = tmp_path / "card.json"
    words = ("--faces", str(tmp_path / "x.zip"), "--seed", "1", "--out", str(tmp_path))
    one = Step("one", "experiments.train_decoder", words, result)
    assert str(tmp_path) in one.command, "it can be typed as it is printed"
    result.write_text(json.dumps({"command": f"python -m experiments.train_decoder {flags}"}))
    assert plan.is_done(one) is same


def test_failures_are_in_the_exit_status(folder, monkeypatch, capsys):
    steps = [step(folder, "a"), step(folder, "b", "fails")]
    monkeypatch.setattr(plan, "steps", lambda *a: steps)
    with pytest.raises(ValueError, match="1 of 2 steps failed: b"):
        everything.main(out=folder)
    assert "made" in capsys.readouterr().out
    everything.main(out=folder, only=("a",))
    with pytest.raises(ValueError, match="got --only x; the steps are a, b"):
        everything.main(out=folder, only=("x",))
    ran(folder)
    everything.main(out=folder, dry_run=True)
    assert ran(folder) == [] and "python -m writer b fails" in capsys.readouterr().out


def test_a_stopped_step_stops_the_plan(folder, monkeypatch):
    done = SimpleNamespace(returncode=130)
    monkeypatch.setattr(everything.subprocess, "run", lambda *a, **k: done)
    with pytest.raises(KeyboardInterrupt):
        everything.follow([step(folder, "a"), step(folder, "b")])


def parses(step):
    """The step's own words through the flags of the command that it runs."""
    module, *sub = step.module.split()
    if module == "advface_jax":
        module = f"advface_jax.commands.{sub[0]}"
    main = importlib.import_module(module).main
    taken = {}

    def stand_in(**flags):
        taken.update(flags)

    stand_in.__signature__ = inspect.signature(main)  # type: ignore[attr-defined]
    stand_in.__annotations__ = main.__annotations__
    tyro.cli(stand_in, args=list(step.words))
    groups = [vars(taken.pop(k)) for k, v in [*taken.items()] if dataclasses.is_dataclass(v)]
    return {k: v for group in (taken, *groups) for k, v in group.items()}


@pytest.mark.parametrize("preset", ["demo", "paper"])
def test_every_step_is_an_existing_command(tmp_path, monkeypatch, preset):
    for file in (f"{n}{end}" for n in (plan.SHADOW, plan.ATTACK) for end in (".zip", ".tsv")):
        place = tmp_path / ("faces" if file.endswith("zip") else "lists") / file
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(b"")
    monkeypatch.setenv("ADVFACE_DATA", str(tmp_path))
    steps = plan.steps(preset, tmp_path / "out", 40)
    by_name = {s.name: s for s in steps}
    names = [*by_name]
    assert len(names) == len(steps) and names[-1] == "report"
    for number, one in enumerate(steps):
        taken = parses(one)
        assert set(one.needs) <= set(names[:number]), "needs come first"
        place = taken.get("out", taken.get("to"))
        assert one.result == place or one.result.parent == place, "the result is where it is put"
        if one.name.endswith(("defenses", "transfer", "random-row")):
            assert taken["limit"] == 40 and taken["preset"] == preset
        if one.set:
            assert taken["set"] == one.set
    if preset == "paper":
        (tmp_path / "faces" / f"{plan.ATTACK}.zip").unlink()
        (without,) = [s for s in plan.steps(preset, tmp_path / "out", 40) if s.name == "defenses"]
        assert "--duetface" not in without.words, "it needs the attacker's faces, too"
        for before in ("", *(f"{name}-" for name in paper.SETS[1:])):
            kinds = ("tradeoff", "defenses", "accuracy", "transfer")
            assert {before + kind for kind in kinds} <= {*names}
        seeds = {f"resrec-{role}-{n}" for role in plan.ROLES for n in plan.SEEDS}
        assert set(by_name["spread"].needs) == seeds
        accuracy, table = by_name["accuracy"], by_name["defenses"]
        assert "--duetface-attacker" in table.words and "duetface-attacker" in table.needs
        assert [f.name for f in by_name["worst-case"].data] == [
            f"{plan.ATTACK}{e}" for e in (".zip", ".tsv")
        ]
        assert "--offline" in accuracy.words and set(accuracy.needs) == {"offline", "duetface"}


def test_without_data_the_plan_lists_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.delenv("ADVFACE_DATA", raising=False)
    steps = plan.steps("paper", tmp_path, None)
    verdict = {o.step.name: o for o in everything.follow(steps, dry_run=True)}
    assert verdict["resrec-shadow-1"].why == (
        "not available under ADVFACE_DATA: celeba_A_shadow_160.zip, celeba_A_shadow_160.tsv"
    )
    assert verdict["cfp_fp-defenses"].why == "CFP-FP's data are not available"
    assert verdict["report"].verdict == "to do"
    assert "--offline" not in verdict["accuracy"].step.words
