"""`tasks`: what a recipe's one line becomes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunewright.data.read import read_all
from tunewright.errors import DataError, TunewrightError
from tunewright.recipe import Recipe

DOMAINS = {"bank": ("fee", "rate"), "city": ("bus", "train"), "home": ("lamp", "oven")}


def write(folder: Path, name: str, rows: list[dict]) -> str:
    (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return name


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    for name, count in (("train", 3), ("test", 2)):
        of = [
            {"text": f"{c} {k}", "label": c, "domain": d} for k in range(count) for d, cs in DOMAINS.items() for c in cs
        ]
        write(tmp_path, f"{name}.jsonl", of)
        for domain in DOMAINS:
            write(tmp_path, f"{domain}-{name}.jsonl", [r for r in of if r["domain"] == domain])
    return tmp_path


def load(folder: Path, tasks: str, data: str = "{train: train.jsonl, eval: test.jsonl}", more: str = "") -> Recipe:
    lines = ["model: nano", "task: text-classification", f"data: {data}", f"tasks: {tasks}", "methods: [lora]", more]
    (folder / "r.yaml").write_text("\n".join(lines))
    return Recipe.load(folder / "r.yaml")


def texts(recipe: Recipe, sources) -> list[str]:
    return [r["text"].split()[0] for s in sources for r in read_all(s, recipe.base).records]


def test_classes_make_tasks_of_their_own(rows):
    recipe = load(rows, "{by: label, count: 3}", more="budget: {steps: 7}")
    assert [s.name for s in recipe.stages] == ["task-1", "task-2", "task-3"]
    assert [s.start for s in recipe.stages] == ["base", "stages.task-1", "stages.task-2"]
    assert [s.budget.steps for s in recipe.stages] == [7, 7, 7] and recipe.sequence.scenario == "class-incremental"
    assert [t.classes for t in recipe.sequence.tasks] == [["bus", "fee"], ["lamp", "oven"], ["rate", "train"]]
    assert sorted(texts(recipe, recipe.data_for(recipe.stages[1]).train)) == ["lamp"] * 3 + ["oven"] * 3
    judged = [s for s in recipe.data.eval if s.name in recipe.sequence.tasks[2].eval]
    assert sorted(texts(recipe, judged)) == ["rate"] * 2 + ["train"] * 2
    assert len(texts(recipe, recipe.data.train)) == 18 and len(texts(recipe, recipe.data.eval)) == 12


def test_what_it_became_reads_back_as_the_same(rows):
    recipe = load(rows, "{by: domain}")
    (rows / "again.yaml").write_text(recipe.dump(absolute=True))
    again = Recipe.load(rows / "again.yaml")
    assert again.dump(absolute=True) == recipe.dump(absolute=True) and again.sequence == recipe.sequence
    assert [s.name for s in again.stages] == ["bank", "city", "home"] and again.sequence.by == "domain"


def test_in_python_it_is_the_same(rows, monkeypatch):
    monkeypatch.chdir(rows)
    given = dict(model="nano", task="text-classification", data={"train": "train.jsonl", "eval": "test.jsonl"})
    made = Recipe(**given, tasks={"by": "domain"}, methods=["lora"])
    assert made.stages == load(rows, "{by: domain}").stages


@pytest.mark.parametrize(
    ("tasks", "classes", "ordered"),
    [
        ("{by: domain, order: [home, bank, city]}", ["lamp", "fee", "bus"], "as written"),
        ("{by: domain, order_seed: 2}", None, "drawn by seed 2"),
        ("{by: label, count: 3, first: 4}", ["bus", "rate", "train"], "sorted"),
    ],
)
def test_the_order_and_the_first_task_are_as_asked_for(rows, tasks, classes, ordered):
    sequence = load(rows, tasks).sequence
    firsts = [t.classes[0] for t in sequence.tasks]
    assert sequence.ordered == ordered and (firsts == classes if classes else firsts != ["fee", "bus", "lamp"])
    if classes is None:
        assert sorted(t.name for t in sequence.tasks) == ["bank", "city", "home"]
        assert load(rows, tasks).sequence == sequence


def test_files_are_tasks_and_each_is_measured_on_its_own_rows(rows):
    first = "{name: money, train: bank-train.jsonl, eval: bank-test.jsonl, max_length: 64}"
    listed = f"[{first}, {{train: city-train.jsonl, eval: city-test.jsonl}}]"
    recipe = load(rows, listed, "{max_length: 128}")
    assert [s.name for s in recipe.stages] == ["money", "city-train"]
    assert [recipe.data_for(s).max_length for s in recipe.stages] == [64, 128]
    assert [s.path for s in recipe.data.eval] == ["bank-test.jsonl", "city-test.jsonl"]
    assert [t.eval for t in recipe.sequence.tasks] == [["money"], ["city-train"]]
    assert len(texts(recipe, recipe.data.train)) == 12  # the head has the classes of all
    other = load(rows, "[bank-train.jsonl, city-train.jsonl]", "{eval: [bank-test.jsonl, city-test.jsonl]}")
    assert [s.name for s in other.data.eval] == ["bank-train", "city-train"]
    assert [s.path for s in other.data.eval] == ["bank-test.jsonl", "city-test.jsonl"]


def test_shared_classes_are_told_and_a_known_task_may_be_said(rows):
    write(rows, "bank-train.jsonl", [{"text": "x", "label": "bus"}, {"text": "y", "label": "fee"}])
    both = "[{train: bank-train.jsonl, eval: bank-test.jsonl}, {train: city-train.jsonl, eval: city-test.jsonl}]"
    assert load(rows, both, "{max_length: 128}").sequence.scenario == "domain-incremental"
    assert load(rows, "{by: domain, scenario: task-incremental}").sequence.scenario == "task-incremental"


def test_a_head_of_classes_to_come_is_drawn_unless_the_recipe_says(rows):
    assert load(rows, "{by: domain}").train.head == "random"
    assert load(rows, "{by: domain}", more="train: {head: probe}").train.head == "probe"


def test_one_pass_over_each(rows):
    recipe = load(rows, "{by: domain, online: true, carry: frozen}")
    assert {s.budget.epochs for s in recipe.stages} == {1} and {s.carry for s in recipe.stages} == {"frozen"}
    assert recipe.sequence.online and not load(rows, "{by: domain}").sequence.online


def test_blurry_borders_spread_some_rows_and_lose_none(rows):
    many = [{"text": f"{c} {k}", "label": c, "domain": d} for k in range(40) for d, cs in DOMAINS.items() for c in cs]
    write(rows, "train.jsonl", many)
    recipe = load(rows, "{by: label, count: 3, blurry: {disjoint: 0.5, blur: 25%}}")
    learnt = [texts(recipe, recipe.data_for(s).train) for s in recipe.stages]
    assert sum(map(len, learnt)) == len(many) and recipe.sequence.scenario == "class-incremental"
    for (own, shared), mine in zip(((t.classes) for t in recipe.sequence.tasks), learnt, strict=True):
        assert mine.count(own) == 40  # whole, and nowhere else
        assert 25 < mine.count(shared) < 40 and len(set(mine)) == 4  # the shared classes of all three
    assert [s.where for s in recipe.data.eval] == [{"label": t.classes} for t in recipe.sequence.tasks]


def test_validation_rows_are_cut_too(rows):
    recipe = load(rows, "{by: domain}", "{train: train.jsonl, eval: test.jsonl, validation: test.jsonl}")
    assert [s.name for s in recipe.data.validation] == [t.validation[0] for t in recipe.sequence.tasks]
    assert [s.where for s in recipe.data.validation] == [{"domain": [d]} for d in DOMAINS]


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ("[]", "two tasks or more"),
        ("[bank-train.jsonl]", "two tasks or more, and here is one"),
        ("5", "which column cuts the data, got 5"),
        ("{count: 3}", "neither `of` nor `by`"),
        ("{by: label}", "write count"),
        ("{by: domian}", "did you mean 'domain'"),
        ("{by: domain, count: 9}", "has 3 values"),
        ("{by: domain, order: [bank, city, hmoe]}", "no row has it\n  -> did you mean 'home'"),
        ("{by: domain, order: [bank, city]}", "leaves out 'home'"),
        ("{by: domain, order: [bank, city, home], order_seed: 1}", "keep one"),
        ("{by: domain, scenario: domain-incremental}", "no class is in two tasks"),
        ("{by: domain, cuont: 2}", "cuont"),
        ("[bank-train.jsonl, city-train.jsonl]", "'data.train' and a list"),
    ],
)
def test_what_is_wrong_is_said_in_one_message(rows, tasks, says):
    with pytest.raises(TunewrightError) as caught:
        load(rows, tasks)
    assert says in str(caught.value) and str(caught.value).count("\n") == 1


def test_rows_to_measure_on_are_there_for_each_task(rows):
    with pytest.raises(TunewrightError, match="data.eval lists 1 sources for 2 tasks"):
        load(rows, "[bank-train.jsonl, city-train.jsonl]", "{eval: test.jsonl}")
    with pytest.raises(TunewrightError, match="no rows to be measured on"):
        load(rows, "[bank-train.jsonl, {train: city-train.jsonl, eval: city-test.jsonl}]", "{max_length: 128}")
    some = [json.loads(t) for t in (rows / "test.jsonl").read_text().splitlines()]
    write(rows, "test.jsonl", [r for r in some if r["domain"] != "home"])
    with pytest.raises(TunewrightError, match="no eval row has domain 'home'"):
        load(rows, "{by: domain}")
    write(rows, "test.jsonl", [*some, {**some[0], "domain": "sea"}])
    with pytest.raises(TunewrightError, match="eval rows have domain 'sea', which no training row has"):
        load(rows, "{by: domain}")
    write(rows, "test.jsonl", [*some, {"text": "x", "label": "fee"}])
    with pytest.raises(TunewrightError, match=r"test.jsonl:13: the row has no domain"):
        load(rows, "{by: domain}")


def test_one_label_in_two_spellings_is_asked_about(rows):
    write(rows, "city-train.jsonl", [{"text": "x", "label": "Fee "}, {"text": "y", "label": "bus"}])
    both = "[{train: bank-train.jsonl, eval: bank-test.jsonl}, {train: city-train.jsonl, eval: city-test.jsonl}]"
    with pytest.raises(TunewrightError, match="'Fee ' of the task 'city-train' is written 'fee' in 'bank-train'"):
        load(rows, both, "{max_length: 128}")


def test_stages_and_tasks_are_two_ways(rows):
    with pytest.raises(TunewrightError, match="'tasks' and 'stages' are both written"):
        load(rows, "{by: domain}", more="stages: [{name: a, methods: [lora]}]")
    with pytest.raises(TunewrightError, match="online is one pass"):
        load(rows, "{by: domain, online: true}", more="budget: {steps: 3}")


def test_a_source_whose_where_means_no_row_is_named_so(tmp_path):
    write(tmp_path, "t.jsonl", [{"text": f"a{i}", "label": "x", "team": str(i % 2)} for i in range(4)])
    tree = {
        "model": "nano-encoder",
        "task": "text-classification",
        "data": {"train": {"path": "t.jsonl", "where": {"team": ["nope"]}}, "eval": "t.jsonl"},
        "tasks": {"by": "team"},
        "methods": ["full"],
        "budget": {"steps": 1},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    with pytest.raises(DataError, match="no row has team: nope"):
        Recipe.load(tmp_path / "r.yaml")
