"""The recipes that mix kinds of rows, as they are written: what each stage draws of each kind, on a tiny model."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests import small
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble


def written(place: Path, name: str) -> Any:
    """A session of one of the repository's recipes beside files that it names."""
    small.write_inputs(place, train=2, test=2)
    shutil.copy(Path(__file__).parents[2] / "recipes" / "papers" / name, place / name)
    rng = random.Random(0)
    pair = {"task": 20, "task-test": 4, "general": 200, "math": 60, "code": 40, "math-test": 4}
    pair |= {"reasoning": 100, "reasoning-good": 20, "reasoning-test": 4}
    for file, count in pair.items():
        rows = [{"prompt": " ".join(rng.choices(small.WORDS, k=5)), "completion": "cash fee"} for _ in range(count)]
        (place / f"{file}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    said = [{"role": "user", "content": "lost card"}, {"role": "assistant", "content": "cash fee"}]
    (place / "chat.jsonl").write_text("\n".join([json.dumps({"messages": said})] * 300))
    (place / "general.txt").write_text("\n\n".join(" ".join(rng.choices(small.WORDS, k=12)) for _ in range(5)))
    (place / "text.txt").write_text("\n\n".join(" ".join(rng.choices(small.WORDS, k=12)) for _ in range(300)))
    return assemble(Recipe.load(place / name, ["model=./base", "data.max_length=128", "train.threads=1"]))


def drawn(session: Any, index: int) -> dict[str, float]:
    """The share of a stage's tokens that each source gives in its first pass."""
    part = session.stages[index]
    stream, tokens = session.cursor(part), dict[str, int]()
    while not stream.exhausted and stream.read < sum(len(d.rows) for d in part.rows.sources):
        for row, _ in stream.next_batch():
            name = row.source.removesuffix(".jsonl")
            tokens[name] = tokens.get(name, 0) + row.size
    total = sum(tokens.values())
    return {name: n / total for name, n in tokens.items()}


def test_dmt_learns_skills_and_then_conversation_with_a_little_of_them(tmp_path):
    session = written(tmp_path, "dmt.yaml")
    assert [s.start for s in session.recipe.stages] == ["base", "stages.skills"]
    assert set(drawn(session, 0)) == {"math", "code"}
    later = drawn(session, 1)
    again = later.pop("math", 0.0) + later.pop("code", 0.0)
    assert again == pytest.approx(0.02, abs=0.004) and later == {"chat": pytest.approx(1 - again)}


def test_a_specialist_is_a_fifth_of_what_a_mixture_learns(tmp_path):
    found = drawn(written(tmp_path, "specialist-or-generalist.yaml"), 0)
    assert found == {"task": pytest.approx(0.2, abs=0.01), "general": pytest.approx(0.8, abs=0.01)}


def test_reasoning_is_a_fifth_of_what_is_read_early_and_all_that_is_tuned_on(tmp_path):
    session = written(tmp_path, "front-loading-reasoning-data.yaml")
    assert [s.start for s in session.recipe.stages] == ["base", "stages.early"]
    assert drawn(session, 0) == {"reasoning": pytest.approx(0.2, abs=0.01), "text": pytest.approx(0.8, abs=0.01)}
    assert set(drawn(session, 1)) == {"reasoning-good"}
