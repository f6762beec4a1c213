"""`each`: a sequence of tasks as one entry of `stages`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunewright.errors import RecipeError
from tunewright.recipe import Recipe

TREE = {"model": "nano", "task": "text-generation", "data": {"train": "all.jsonl"}}

TEXT = """\
model: nano
task: text-generation
data: {train: all.jsonl}
stages:
  - name: warm
    methods: [full]
  - each:
      - first.jsonl
      - {name: two, train: second.jsonl, max_length: 64}
      - third task.jsonl
    methods: [lora]
    start: base
    carry: training
    budget: {steps: 5}
  - name: last
    methods: [lora]
"""


def written(tmp_path: Path, text: str) -> Recipe:
    file = tmp_path / "r.yaml"
    file.write_text(text)
    return Recipe.load(file)


def test_an_entry_becomes_a_stage_for_each(tmp_path):
    recipe = written(tmp_path, TEXT)
    assert [s.name for s in recipe.stages] == ["warm", "first", "two", "third-task", "last"]
    assert [s.start for s in recipe.stages] == ["base", "base", "stages.first", "stages.two", "stages.third-task"]
    one, two, three = recipe.stages[1:4]
    assert {s.carry for s in (one, two, three)} == {"training"} and {s.budget.steps for s in (one, two, three)} == {5}
    assert [recipe.data_for(s).train[0].path for s in (one, two, three)] == [
        "first.jsonl",
        "second.jsonl",
        "third task.jsonl",
    ]
    assert recipe.data_for(two).max_length == 64 and recipe.data_for(one).max_length != 64


def test_in_python_and_written_out_it_is_the_same(tmp_path):
    short = Recipe(**TREE, stages=[{"each": ["a.jsonl", "b.jsonl"], "methods": ["lora"]}])
    long = Recipe(
        **TREE,
        stages=[
            {"name": "a", "data": {"train": "a.jsonl"}, "methods": ["lora"]},
            {"name": "b", "data": {"train": "b.jsonl"}, "methods": ["lora"]},
        ],
    )
    assert short.dump() == long.dump()


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("      - first.jsonl\n", "      - second.jsonl\n      - second.jsonl\n", 8, "named 'second'"),
        ("      - first.jsonl\n", "      - 3\n", 8, "a file, or a mapping"),
        ("      - first.jsonl\n", "      - {max_length: 3}\n", 8, "a file, or a mapping"),
        ("  - each:\n", "  - name: x\n    each:\n", 7, "`name` is of one stage"),
        ("train: second.jsonl, max_length", "train: second.jsonl, max_lenght", 9, "max_lenght"),
        ("    carry: training\n", "    cary: training\n", 13, "cary"),
    ],
)
def test_what_is_wrong_is_said_where_it_is_written(tmp_path, old, new, line, words):
    assert old in TEXT
    with pytest.raises(RecipeError) as caught:
        written(tmp_path, TEXT.replace(old, new))
    assert words in str(caught.value)
    assert f"r.yaml:{line}" in str(caught.value) or f"r.yaml:{line + 1}" in str(caught.value), str(caught.value)


def test_an_empty_sequence_is_refused():
    with pytest.raises(RecipeError, match="each"):
        Recipe(**TREE, stages=[{"each": [], "methods": ["lora"]}])


def test_each_task_may_start_from_one_place(tmp_path):
    text = TEXT.replace("  - each:\n", "  - each:\n      start: base\n      of:\n").replace("      - ", "        - ")
    recipe = written(tmp_path, text.replace("    start: base\n    carry", "    carry"))
    assert [s.start for s in recipe.stages] == ["base", "base", "base", "base", "stages.third-task"]
    assert recipe.data_for(recipe.stages[2]).max_length == 64
    for old, new, line, words in (
        ("      start: base\n      of:", "      begin: base\n      of:", 7, "what they start from"),
        ("      start: base\n      of:", "      start: [base]\n      of:", 7, "what they start from"),
        ("      start: base\n", "", 99, None),
        ("max_length: 64", "max_lenght: 64", 11, "max_lenght"),
    ):
        changed = text.replace("    start: base\n    carry", "    carry").replace(old, new)
        if words is None:
            assert written(tmp_path, changed).stages[2].start == "stages.first"
            continue
        with pytest.raises(RecipeError, match=words) as caught:
            written(tmp_path, changed)
        assert f"r.yaml:{line}" in str(caught.value)
    with pytest.raises(RecipeError, match="written twice"):
        written(tmp_path, text)


ROUNDS = """\
model: nano
task: text-generation
data: {train: all.jsonl}
stages:
  - {name: warm, methods: [full]}
  - name: go
    rounds: 3
    start: base
    methods: [lora]
    budget: {steps: 5}
  - {name: last, methods: [lora]}
"""


def test_rounds_are_stages_each_from_where_the_last_ended(tmp_path):
    recipe = written(tmp_path, ROUNDS)
    assert [s.name for s in recipe.stages] == ["warm", "go-1", "go-2", "go-3", "last"]
    assert [s.start for s in recipe.stages] == ["base", "base", "stages.go-1", "stages.go-2", "stages.go-3"]
    assert [s.round for s in recipe.stages] == [None, 1, 2, 3, None]
    assert {s.budget.steps for s in recipe.stages[1:4]} == {5} and not any(s.rounds for s in recipe.stages)
    again = tmp_path / "again.yaml"
    again.write_text(recipe.dump())
    assert Recipe.load(again).stages == recipe.stages
    anew = written(tmp_path, ROUNDS.replace("rounds: 3", "rounds: {times: 2, start: stages.warm}"))
    assert [s.start for s in anew.stages] == ["base", "base", "stages.warm", "stages.go-2"]


@pytest.mark.parametrize(
    ("rounds", "says"),
    [
        ("rounds: 0", "how often a stage is gone through"),
        ("rounds: true", "how often a stage is gone through"),
        ("rounds: {times: 2, from: base}", "how often a stage is gone through"),
        ("rounds: {times: 2, start: 3}", "what every round starts from is a name"),
        ("rounds: 2\n    each: [a.jsonl]", "are both written"),
        ("rounds: 2\n    round: 1", "are both written"),
    ],
)
def test_bad_rounds_are_named_with_their_line(tmp_path, rounds, says):
    with pytest.raises(RecipeError, match=says) as e:
        written(tmp_path, ROUNDS.replace("rounds: 3", rounds))
    assert "r.yaml:7" in str(e.value)
    with pytest.raises(RecipeError, match="needs a name"):
        Recipe(**TREE, stages=[{"rounds": 2, "methods": ["lora"]}])


def test_an_error_in_a_stage_of_rounds_names_its_line(tmp_path):
    with pytest.raises(RecipeError, match="no method is named 'lorra'") as e:
        written(tmp_path, ROUNDS.replace("start: base\n    methods: [lora]", "start: base\n    methods: [lorra]"))
    assert "r.yaml:9" in str(e.value)


def test_a_stage_knows_which_ones_it_goes_on_from(tmp_path):
    stages = [{"name": n, "methods": ["lora"]} for n in ("one", "two", "three", "four", "five")]
    stages[3]["start"], stages[4]["start"] = "base", "stages.two"
    made = Recipe(**TREE, stages=stages)
    ways = {s.name: made.way_to(s) for s in made.stages}
    assert ways == {"one": (), "two": ("one",), "three": ("two", "one"), "four": (), "five": ("two", "one")}


def test_the_page_of_recipes_writes_a_sequence(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "recipe.md").read_text(encoding="utf-8")
    (shown,) = [b for b in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL) if "each:" in b]
    (tmp_path / "recipe.yaml").write_text(shown)
    stages = Recipe.load(tmp_path / "recipe.yaml").stages
    assert [s.name for s in stages] == ["account", "bills", "returns"]
    assert stages[1].data is not None and stages[1].data.replay == {"stages.account": 0.2}
    assert [s.start for s in stages] == ["base", "stages.account", "stages.bills"]


def test_rows_of_the_last_stage_are_the_recipes_where_every_stage_has_its_own():
    first = {"name": "domain", "methods": ["full"], "data": {"train": "texts.jsonl"}}
    last = {"name": "task", "methods": ["lora"], "data": {"train": ["pairs.jsonl"], "max_length": 64}}
    recipe = Recipe(model="nano", task="text-generation", data={"eval": "eval.jsonl"}, stages=[first, last])
    assert (
        [s.path for s in recipe.data.train]
        == ["pairs.jsonl"]
        == [s.path for s in recipe.data_for(recipe.stages[1]).train]
    )
    assert recipe.data_for(recipe.stages[1]).max_length == 64 and recipe.data.max_length == 1024
    assert [s.path for s in recipe.data_for(recipe.stages[0]).train] == ["texts.jsonl"]
    with pytest.raises(RecipeError, match="'train' is missing"):
        Recipe(**{**TREE, "data": {"eval": "eval.jsonl"}, "stages": [{**first, "data": {"max_length": 9}}, last]})
    both = Recipe(**{**TREE, "stages": [first, last]})
    assert [s.path for s in both.data.train] == ["all.jsonl"]


def test_a_fault_in_the_rows_of_the_last_stage_is_placed_there(tmp_path):
    text = "model: nano\ntask: text-generation\nstages:\n  - name: one\n    methods: [lora]\n    data:\n"
    with pytest.raises(RecipeError, match=re.escape("r.yaml:7: unknown key 'wieght'")):
        written(tmp_path, text + "      train: [{path: a.jsonl, wieght: 2}]\n")
