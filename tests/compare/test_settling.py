"""What a comparison leaves to the rule: each arm's rate, of sequences too; and seeds that differ alike."""

from __future__ import annotations

import json

import yaml

from tests.test_compare import SEEDS, judged, record
from tunewright.compare import figures
from tunewright.compare.arms import parse_arms
from tunewright.compare.settling import settle
from tunewright.recipe import Budget, Recipe


def test_arms_of_a_sequence_have_the_rates_of_the_rule(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    for name in ("a", "b", "c"):
        rows = [{"prompt": f"{name} {i}", "completion": "yes"} for i in range(8)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    tree = {"model": "nano", "task": "text-generation", "data": {"eval": ["c.jsonl", "c.jsonl"]}}
    tree |= {"tasks": ["a.jsonl", "b.jsonl"], "methods": ["lora"]}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(tree))
    recipe = Recipe.load(tmp_path / "r.yaml")
    arms = parse_arms("lora,full", recipe)
    rates = settle(recipe, arms, Budget(steps=2))[2]
    assert rates.keys() == {"lora", "full"} and 0 < rates["full"] < rates["lora"]


def test_seeds_that_differ_by_the_same_rows_are_no_certainty():
    def arm(name, gain):
        return lambda seed, noise: record(name, seed, gain)

    made = judged(a=arm("a", 0.5), b=arm("b", 0.45))
    made.unit, made.evaluated = "fraction", 40
    figures._judge_gain(made, figures.Bounded.of(made))
    assert len(SEEDS) > 2
    apart = next(x.against for x in made.arms if x.against.word != "best")
    assert apart.difference.high > apart.difference.low, "an interval of no width"
