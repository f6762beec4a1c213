"""Whole comparisons, from recipe to page and winner, stopped and gone on with."""

from __future__ import annotations

import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests import small
from tests.report.test_page import assert_safe
from tests.test_compare import TREE
from tunewright.compare import comparison as comparing
from tunewright.compare.arms import ComparedArm, arm_recipe, methods_or_selectors, parse_arms
from tunewright.compare.result import Comparison
from tunewright.errors import FolderError, Interrupted, MethodError, RecipeError, TunewrightError
from tunewright.recipe import Budget, Recipe
from tunewright.runs.run import run
from tunewright.trials.trial import Store, key_of, run_trial

NOW = datetime.datetime.now(datetime.UTC)
SEEDS = list(range(6))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    made = tmp_path_factory.mktemp("compare")
    small.write_inputs(made, train=60, test=12)
    return made


@pytest.fixture
def here(inputs, monkeypatch):
    """Trials run in this process: what the pool does is tested with the pool."""
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(inputs / "cache"))

    def run_all(trials, store, on_record=None, **_):
        found = {}
        for t in trials:
            known = store.get(key_of(t.recipe))
            found[key_of(t.recipe)] = record = (
                known if known and known.settled else run_trial(t.recipe, store, arm=t.arm)
            )
            on_record(record)
        return found

    monkeypatch.setattr(comparing, "run_all", run_all)
    return inputs


@pytest.mark.slow
def test_selectors_are_compared_by_what_the_same_methods_learn_of_as_many_tokens(here, tmp_path):
    lines = (here / "test.jsonl").read_text()
    (here / "apart.jsonl").write_text(lines.replace('"prompt": "', '"prompt": "pin '))
    recipe = Recipe.load(
        small.write_recipe(
            here,
            train__batch_tokens=128,
            keep=[],
            measurement__metric="loss",
            measurement__strengths=[1.0],
            data__validation="apart.jsonl",
        )
    )
    arms = methods_or_selectors(None, "got-d:keep=20+length,random:keep=20,none", recipe, Budget(tokens=400))
    found = comparing.compare(recipe, arms, seeds=2, budget=Budget(tokens=400), out=tmp_path / "out", quiet=True)
    assert [a.name for a in found.arms] == ["got-d:keep=20+length", "random:keep=20", "none"]
    assert all(r.status == "finished" and 400 <= r.tokens < 530 for a in found.arms for r in a.runs)
    assert {str(a.methods) for a in found.arms} == {"[{'lora': {'rank': 4}}]"}
    assert [a.select for a in found.arms] == [[{"got-d": {"keep": 20}}, "length"], [{"random": {"keep": 20}}], []]
    orders = [
        {r.order for run in a.runs for r in Store(tmp_path / "out" / "trials").attempts(run.key)} for a in found.arms
    ]
    assert len(set.union(*orders)) == 6  # rows of its own for each arm and seed
    reads, draws, all_rows = (a.runs[0].flops_per_token for a in found.arms)
    assert reads > draws * 1.2 and draws == pytest.approx(all_rows, rel=0.1)  # choosing is in what a token costs
    assert any("each arm is what its selectors keep, trained on with lora" in c for c in found.cautions)
    page = (tmp_path / "out" / "compare.html").read_text()
    assert "</b> selectors of rows on" in page
    best = tmp_path / "out" / "winner.yaml"
    if found.winner is not None:
        chosen = Recipe.load(best).data.select
        assert [use.model_dump() for use in chosen] == found.arm(found.winner).select


@pytest.mark.parametrize(
    ("methods", "select", "budget", "says"),
    [
        ("lora,full", "dsir,random", {"tokens": 400}, "one at a time"),
        (None, None, {"tokens": 400}, "nothing is named"),
        (None, "random,none", {"epochs": 1}, "an epoch of fewer rows is fewer tokens"),
        (None, "random", {"tokens": 400}, "at least two selectors"),
        (None, "random,lora", {"tokens": 400}, "'lora' selects no rows"),
        (None, "dsir,random", {"tokens": 400}, "selects by a target"),
        (None, "perplexity:model=other,random", {"tokens": 400}, "the recipe names none"),
    ],
)
def test_selectors_that_cannot_be_compared_are_refused_before_a_run(here, methods, select, budget, says):
    recipe = Recipe.load(small.write_recipe(here, "plain"))
    with pytest.raises(TunewrightError, match=says):
        methods_or_selectors(methods, select, recipe, Budget(**budget))


def test_a_comparison_from_recipe_to_page_and_winner(here, tmp_path):
    recipe = Recipe.load(
        small.write_recipe(
            here, train__batch_tokens=128, measurement__metric="loss", measurement__strengths=[0.25, 0.5, 1.0]
        )
    )
    (tmp_path / "wild.yaml").write_text("methods: [lora]\ntrain: {learning_rate: 1.0e+9}\n")
    out = tmp_path / "out"
    found = comparing.compare(
        recipe, parse_arms("lora,full,wild.yaml", tmp_path), seeds=3, budget=Budget(tokens=900), out=out, quiet=True
    )
    spent = [[r.tokens for r in a.runs] for a in found.arms[:2]]
    assert spent[0] == spent[1] and all(
        900 <= t < 1030 for t in spent[0]
    )  # one budget for all, to the last whole batch
    assert (
        {len(a.runs) for a in found.arms} == {3} and found.arm("wild").finished == [] and found.arm("wild").rate == 1e9
    )
    orders = [{r.order for r in Store(out / "trials").attempts(run.key)} for a in found.arms[:2] for run in a.runs]
    assert orders[:3] == orders[3:] and orders[0] != orders[1] != orders[2]
    assert Comparison.load(out) == found
    text = assert_safe((out / "compare.html").read_text()).text
    assert "wild" in text and "3 of 3 runs did not finish" in text and "were not tuned" in text
    assert found.winner in ("lora", "full")
    written = (out / "winner.yaml").read_text()
    assert written.startswith(f"# {found.winner}: chosen by tunewright compare among 3 methods")
    winner = Recipe.load(out / "winner.yaml")
    assert [u.name for u in winner.stages[0].methods] == [found.winner] and winner.stages[0].budget.steps == 4
    assert winner.measurement == recipe.measurement and winner.data.eval is not None
    assert run(winner, tmp_path / "run", quiet=True).report.target.after is not None
    started = {p: p.stat().st_mtime_ns for p in (out / "trials").glob("*/*.json")}
    comparing.compare(
        recipe, parse_arms("lora,full,wild.yaml", tmp_path), seeds=3, budget=Budget(tokens=900), out=out, quiet=True
    )
    assert {p: p.stat().st_mtime_ns for p in (out / "trials").glob("*/*.json")} == started  # nothing was run again


@pytest.mark.slow
def test_tuning_is_on_validation_rows_that_are_not_reported(here, tmp_path):
    recipe = Recipe.load(small.write_recipe(here, measurement__metric="loss"))
    out = tmp_path / "out"
    found = comparing.compare(
        recipe, parse_arms("lora,hft"), seeds=1, budget=Budget(steps=2), tune=True, out=out, quiet=True
    )
    assert all(len(a.tuning) >= 3 and a.rate in [t.rate for t in a.tuning] for a in found.arms)
    assert found.evaluated == 12  # the reported rows are eval's, all of them and no others
    records = [r for p in (out / "trials").iterdir() for r in Store(out / "trials").attempts(p.name)]
    tuning = [r for r in records if r.recipe["measurement"]["split"] == "validation"]
    assert (
        len(tuning) >= 12
        and {r.evaluated for r in tuning} == {6}
        and {r.recipe["data"]["eval"] for r in tuning} == {None}
    )
    assert not {r.key for r in tuning} & {run.key for a in found.arms for run in a.runs}
    assert all(r.recipe["data"]["validation"] == 0.1 for r in records)
    assert "Learning rates" in assert_safe((out / "compare.html").read_text()).text


def test_a_sequence_is_compared_by_what_is_known_of_all_tasks_at_the_end(here, tmp_path):
    file = small.write_recipe(
        here,
        data={"max_length": 128},
        tasks=[{"name": n, "train": "train.jsonl", "eval": "test.jsonl"} for n in ("one", "two")],
        methods=["lora"],
        budget={"steps": 2},
        keep=[],
        measurement__metric="loss",
        measurement__strengths=[1.0],
    )
    tree = yaml.safe_load(file.read_text())
    del tree["stages"]
    file.write_text(yaml.safe_dump(tree))
    recipe, out = Recipe.load(file), tmp_path / "out"
    found = comparing.compare(recipe, parse_arms("lora,joint"), seeds=1, out=out, quiet=True)
    lora, joint = found.arm("lora"), found.arm("joint")
    record = next(iter(Store(out / "trials").attempts(lora.runs[0].key)))
    assert found.tasks == ["one", "two"] and set(lora.runs[0].sequence) == {*lora.sequence}
    assert lora.sequence["forgetting"].value == -lora.sequence["backward_transfer"].value  # of two tasks they are one
    assert [r.steps for r in lora.runs] == [r.steps for r in joint.runs] == [4]  # one budget for all tasks
    assert joint.joint and joint.against is None and found.winner != "joint"
    assert record.sequence["forgetting"] == lora.sequence["forgetting"].value and joint.sequence == {}
    assert [u["name"] for u in record.recipe["stages"]] == ["one", "two"]
    text = assert_safe((out / "compare.html").read_text()).text
    assert "all at once" in text and "A sequence of 2 tasks (one, two)" in text and "Forgetting" in text
    with pytest.raises(RecipeError, match="no method to race against"):
        comparing.compare(recipe, parse_arms("lora,joint"), seeds=4, race=True, out=out)
    with pytest.raises(RecipeError, match="the recipe has none"):
        comparing.compare(Recipe.load(small.write_recipe(here)), parse_arms("lora,joint"), out=out)


def test_what_cannot_be_compared_is_refused(here, tmp_path):
    arms = parse_arms("lora,full")
    two = Recipe.load(
        small.write_recipe(here, stages=[{"name": n, "methods": ["lora"], "budget": {"steps": 1}} for n in "ab"])
    )
    with pytest.raises(RecipeError, match="one stage"):
        comparing.compare(two, arms, out=tmp_path / "out")
    with pytest.raises(RecipeError, match="no rows to compare on"):
        comparing.compare(Recipe.load(small.write_recipe(here, data__eval=None)), arms, out=tmp_path / "out")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "report.json").touch()
    with pytest.raises(FolderError, match="holds a run"):
        comparing.compare(Recipe.load(small.write_recipe(here)), arms, out=tmp_path / "run")


def test_arms_that_a_run_would_refuse_are_named_before_any_has_run(here, tmp_path, monkeypatch):
    monkeypatch.setattr(comparing, "run_all", lambda *_, **__: pytest.fail("an arm ran"))
    recipe = Recipe.load(small.write_recipe(here))
    arms = parse_arms("lora,lora:target_modules=no_such_layer,gram")
    with pytest.raises(MethodError, match=r"(?s)2 of 3 arms would be refused: .*no_such_layer.*; gram: ") as caught:
        comparing.compare(recipe, arms, out=tmp_path / "out", tune=True, quiet=True)
    assert "leave " in (caught.value.remedy or "") and caught.value.where == "--methods"
    with pytest.raises(MethodError, match="1 of 2 arms would be refused: gram: ") as caught:
        comparing.compare(recipe, parse_arms("lora,gram"), out=tmp_path / "out", quiet=True)
    assert caught.value.where != "--methods" and not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(MethodError, match="would be refused"):
        comparing.compare(recipe, parse_arms("lora,gram"), out=tmp_path / "out", quiet=True)
    assert (tmp_path / "out").is_dir()  # it was there before


def test_ctrl_c_says_how_to_go_on(here, tmp_path, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparing, "run_all", stop)
    with pytest.raises(Interrupted, match="stopped after 0 runs"):
        comparing.compare(
            Recipe.load(small.write_recipe(here)), parse_arms("lora,full"), out=tmp_path / "out", quiet=True
        )


def test_the_recipe_of_an_arm_differs_in_its_methods_and_own_training_alone():
    recipe = Recipe(**TREE)
    a, b = (arm_recipe(recipe, arm, Budget(tokens=10), 3) for arm in parse_arms("lora,full"))
    b.stages[0].methods = a.stages[0].methods
    assert a == b
    own = arm_recipe(
        recipe,
        ComparedArm("x", parse_arms("lora,full")[0].methods, train={"learning_rate": 0.5}),
        Budget(tokens=10),
        3,
        0.1,
    )
    assert own.train.learning_rate == 0.1  # what tuning chose


# -- with real processes -----------------------------------------------------------------------------------------------


def command(folder, *more):
    code = "from tunewright.commands.cli import main; main()"
    arguments = ["compare", "r.yaml", "--methods", "lora,full", "--seeds", "4", "--out", "out", "--workers", "1", *more]
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(__file__).parent.parent),
        "TUNEWRIGHT_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_kill_9_in_the_middle_loses_nothing(tmp_path):
    small.write_inputs(tmp_path)
    small.write_recipe(tmp_path, measurement__metric="loss")
    first = command(tmp_path)
    end = time.monotonic() + 100
    while len(list((tmp_path / "out" / "trials").glob("*/*.json"))) < 2:
        assert first.poll() is None and time.monotonic() < end, first.stderr.read()
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    time.sleep(0.5)  # its worker notices
    kept = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "trials").glob("*/*.json")}
    assert 2 <= len(kept) < 8 and not (tmp_path / "out" / "compare.json").exists()
    second = command(tmp_path, "--json")
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    after = {p: p.stat().st_mtime_ns for p in (tmp_path / "out" / "trials").glob("*/*.json")}
    assert len(after) == 8 and {p: after[p] for p in kept} == kept
    found = Comparison.model_validate_json(out)
    assert len(found.arms[0].finished) == 4 and (tmp_path / "out" / "winner.yaml").exists()
    assert not list((tmp_path / "out" / "trials" / ".work").iterdir())
