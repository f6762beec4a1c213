"""Recipes that teach skills from rows sorted by what they hold, as they are written: what is learnt and judged."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from tests import small
from tunewright.claims.papers import _skills
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run

FOLDER = Path(__file__).parents[2] / "recipes" / "papers"
TINY = ["model=./base", "data.max_length=128", "train.threads=1", "budget={steps: 1}"]


def words(count: int, key: str) -> str:
    return " ".join(random.Random(key).choices(small.WORDS, k=count))


def written(place: Path, name: str, files: dict[str, list[dict[str, Any]]]) -> Recipe:
    """One of the repository's recipes beside files that it names."""
    small.write_inputs(place, train=2, test=2)
    shutil.copy(FOLDER / name, place / name)
    for file, rows in files.items():
        (place / file).write_text("\n".join(map(json.dumps, rows)))
    (place / "general.txt").write_text("\n\n".join(words(12, f"general {i}") for i in range(5)))
    return Recipe.load(place / name, TINY)


def test_skills_are_learnt_up_to_three_at_once_and_judged_at_four_and_five(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))

    def row(k: int, i: int) -> dict[str, Any]:
        return {"prompt": words(4, f"{k} {i}"), "completion": words(k, f"{i} {k}"), "k": k}

    files = {"skills.jsonl": [row(1 + i % 5, i) for i in range(40)]}
    files |= {f"skills-{k}.jsonl": [row(k, i) for i in range(4)] for k in (4, 5)}
    recipe = written(tmp_path, "skill-composition-fine-tuning.yaml", files)
    report = run(recipe, tmp_path / "out", quiet=True).report
    lines = (tmp_path / "out" / "selection" / "main.jsonl").read_text().splitlines()[1:]
    taken = {told["id"]: told["rank"] is not None for told in map(json.loads, lines)}
    assert [taken[f"skills.jsonl:{i + 1}"] for i in range(40)] == [1 + i % 5 <= 3 for i in range(40)]
    assert report.target.metric == "loss" and report.target.n == 8


def test_sub_tasks_are_learnt_row_by_row_in_their_own_form_and_judged_one_by_one(tmp_path):
    names = {"keywords": 20, "sentence": 8, "complaint": 5}

    def told(name: str, count: int) -> list[dict[str, Any]]:
        asked = {"instruction": f"fee {name[0]}", "output": "cash fee"}
        return [{**asked, "input": words(5, f"{name} {i}")} for i in range(count)]

    files = {f"{name}.jsonl": told(name, count) for name, count in names.items()}
    files |= {f"{name}-test.jsonl": told(f"{name} test", 3) for name in names}
    session = assemble(written(tmp_path, "anytasktune.yaml", files))
    (stage,) = session.stages
    stream, seen = session.cursor(stage), Counter[str]()
    while seen.total() < sum(names.values()):
        seen.update(row.source for row, _ in stream.next_batch())
    assert seen == names
    assert Counter(r.source for r in session.eval.rows) == {f"{name}-test.jsonl": 3 for name in names}
    prompt = session.tokenizer.decode(session.eval.rows[0].fields["prompt_ids"])
    assert 0 <= prompt.index("fee") < prompt.index(words(5, "keywords test 0"))


def test_texts_by_rule_show_each_skill_that_is_asked_for_once_in_its_order():
    for row in _skills.parts(0, (4, 5), held_out=False)["eval"]:
        topic, _, asked = row["prompt"].partition(": ")
        names = asked.split(", ")
        phrases = [next(some[n] for some in _skills.KINDS.values() if n in some).format(t=topic) for n in names]
        assert row["completion"] == " ".join(phrases) and len(set(names)) == row["k"]
    assert len({p for some in _skills.KINDS.values() for p in some.values()}) == 20


def test_skills_that_are_held_out_are_in_no_combination_and_learnt_alone():
    parts = _skills.parts(0, (2, 3), held_out=True)
    kept_out, learnt = set(_skills.skills(True)), set(_skills.skills(False))

    def asked(rows: list[dict[str, Any]]) -> set[str]:
        return {n for r in rows for n in r["prompt"].partition(": ")[2].split(", ")}

    assert asked(parts["single"]) == kept_out | learnt and not kept_out & learnt and asked(parts["eval"]) == kept_out
    assert asked([r for r in parts["combined"] if r["k"] > 1]) == learnt
    assert asked([r for r in parts["combined"] if r["k"] == 1]) == kept_out | learnt
    assert Counter(r["k"] for r in parts["combined"]) == {1: 1000, 2: 1000, 3: 1000}
    assert {r["k"] for r in parts["single"]} == {1} and {r["k"] for r in parts["eval"]} == {2, 3}
    assert _skills.parts(1, (4, 5), held_out=False)["eval"] != _skills.parts(0, (4, 5), held_out=False)["eval"]
