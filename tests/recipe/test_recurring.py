"""Streams whose tasks are drawn: values that come again (SCoLe), and blurry tasks that differ (Si-Blurry)."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from tunewright.data.read import read_all
from tunewright.errors import TunewrightError
from tunewright.recipe import Recipe
from tunewright.recipe.recurring import varying
from tunewright.recipe.tasks import BlurrySpec

CLASSES = [f"c{i}" for i in range(8)]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    for name, count in (("train", 40), ("test", 2)):
        made = [{"text": f"{c} {k}", "label": c} for k in range(count) for c in CLASSES]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, made)))
    return tmp_path


def load(folder: Path, tasks: str) -> Recipe:
    lines = ["model: nano-encoder", "task: text-classification", "data: {train: train.jsonl, eval: test.jsonl}"]
    (folder / "r.yaml").write_text("\n".join([*lines, f"tasks: {tasks}", "methods: [lora]", "budget: {steps: 2}"]))
    return Recipe.load(folder / "r.yaml")


def learnt(recipe: Recipe) -> list[list[str]]:
    """The texts that each stage learns from."""
    return [
        [r["text"] for s in recipe.data_for(stage).train for r in read_all(s, recipe.base).records]
        for stage in recipe.stages
    ]


def test_tasks_of_a_few_values_come_again_with_other_rows(rows):
    recipe = load(rows, "{by: label, recurring: {tasks: 30, values: 2, share: 25%, seed: 3}}")
    each = learnt(recipe)
    drawn = [sorted({t.split()[0] for t in of}) for of in each]
    assert len(each) == 30 and all(len(of) == 2 for of in drawn)
    often = Counter(c for of in drawn for c in of)
    assert set(often) == set(CLASSES) and max(often.values()) < 16  # none in more than half
    sizes = Counter(t.split()[0] for of in each for t in of)
    assert all(2 < sizes[c] / often[c] < 18 for c in CLASSES)  # about ten of forty, window by window
    twice = [of for of, names in zip(each, drawn, strict=True) if "c0" in names]
    assert {t for t in twice[0] if t.startswith("c0 ")} != {t for t in twice[1] if t.startswith("c0 ")}
    sequence = recipe.sequence
    assert [t.name for t in sequence.tasks] == CLASSES and sequence.scenario is None and recipe.train.head == "random"
    assert [s.name for s in recipe.stages[:2]] == ["task-1", "task-2"] and recipe.stages[4].start == "stages.task-4"
    judged = [s for s in recipe.data.eval if s.name in sequence.tasks[3].eval]
    assert [r["text"] for s in judged for r in read_all(s, recipe.base).records] == ["c3 0", "c3 1"]
    assert sequence.ordered == "drawn by seed 3" and sequence.seen("task-1") == sequence.tasks


def test_the_draws_are_equal_for_equal_seeds_and_read_back(rows):
    asked = "{by: label, recurring: {tasks: 12, values: 3}}"
    first, other = load(rows, asked), load(rows, "{by: label, recurring: {tasks: 12, values: 3, seed: 1}}")
    assert learnt(load(rows, asked)) == learnt(first) != learnt(other)
    (rows / "again.yaml").write_text(first.dump(absolute=True))
    again = Recipe.load(rows / "again.yaml")
    assert again.sequence == first.sequence and learnt(again) == learnt(first)


def test_blurry_tasks_differ_in_what_they_have_alone_and_share(rows):
    asked = "{by: label, count: 3, blurry: {disjoint: 0.5, blur: 30%, stochastic: SEED}}"
    shapes = set()
    for seed in range(4):
        recipe = load(rows, asked.replace("SEED", str(seed)))
        each = [Counter(t.split()[0] for t in of) for of in learnt(recipe)]
        assert sum(map(Counter, each), Counter()) == dict.fromkeys(CLASSES, 40)  # no row is lost or comes twice
        whole = [sum(n == 40 for n in of.values()) for of in each]
        assert sum(whole) == 4  # half of the values are one task's alone
        groups = [t.classes for t in recipe.sequence.tasks]
        assert sorted(c for of in groups for c in of) == CLASSES and all(groups)
        shapes.add((tuple(whole), tuple(map(len, groups))))
        assert recipe.sequence.ordered == f"drawn by seed {seed}"
        assert learnt(load(rows, asked.replace("SEED", str(seed)))) == learnt(recipe)
    assert len(shapes) == 4  # by the seed
    groups, parts = varying(CLASSES, 3, BlurrySpec(disjoint=0.0, blur=0.2, stochastic=5), "here")
    assert parts.own == [0, 0, 0] and sorted(c for g in groups for c in g) == CLASSES
    assert parts.ends == sorted(parts.ends) and parts.ends[0] == 0 and parts.ends[-1] == 0.2


@pytest.mark.parametrize(
    ("tasks", "says"),
    [
        ("{by: label, recurring: {tasks: 5, values: 9}}", "9 values a task were asked for, and there are 8"),
        ("{by: label, recurring: {tasks: 3, values: 1}}", "in 3 tasks of 1 values 5 of 8 never come"),
        ("{by: label, count: 4, recurring: {tasks: 9, values: 2}}", "'recurring' draws which values a task has"),
        ("{by: label, recurring: {tasks: 9, values: 2}, order_seed: 1}", "'order_seed' is written"),
        ("{by: label, recurring: {tasks: 9}}", "recurring.values"),
        ("[train.jsonl, test.jsonl]", "'data.train' and a list"),
        ("{of: [a.jsonl, b.jsonl], recurring: {tasks: 9, values: 2}}", "'recurring' cuts one data set"),
        ("{by: label, blurry: {stochastic: 1}}", "how many tasks the values are drawn for"),
        ("{by: label, count: 3, first: 2, blurry: {stochastic: 1}}", "'blurry.stochastic' draws which values"),
        ("{by: label, count: 8, blurry: {stochastic: 1}}", "too few to be drawn for 8 tasks"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_message(rows, tasks, says):
    with pytest.raises(TunewrightError) as caught:
        if "of:" in tasks:
            lines = [
                "model: nano-encoder",
                "task: text-classification",
                "data: {}",
                f"tasks: {tasks}",
                "methods: [lora]",
            ]
            (rows / "r.yaml").write_text("\n".join(lines))
            Recipe.load(rows / "r.yaml")
        load(rows, tasks)
    assert says in str(caught.value) and str(caught.value).count("\n") == 1
