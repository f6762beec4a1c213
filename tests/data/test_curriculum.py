"""The curriculum: difficulties against other ways of getting them, orders by their definitions, and that a run learns
in the order that the selection says.
"""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import small
from tests.data.test_selectors_with_models import own_loss
from tunewright.conformance.reading import Reads
from tunewright.contract.records import Record
from tunewright.data.select._lexical import compressed_share, reading_ease, syllables
from tunewright.data.select.curriculum_lm_pretraining import CurriculumLMPretraining as Curriculum
from tunewright.data.select.curriculum_lm_pretraining import interleaved, paced
from tunewright.recipe import Recipe
from tunewright.runs import run as running
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run


def records(*texts: str) -> list[Record]:
    return [Record({"text": t}, id=str(i), source="s") for i, t in enumerate(texts)]


def test_a_text_s_share_is_gzip_s_less_its_frame():
    for text in ("a" * 500, "The quick brown fox jumps over the lazy dog. " * 3, "žluťoučký kůň"):
        raw = text.encode()
        assert compressed_share(text) * len(raw) == len(gzip.compress(raw, 9)) - 18 + 6  # frames of gzip and zlib
    assert compressed_share("") == 0.0


def test_reading_ease_is_flesch_s_formula_on_words_counted_by_hand():
    counted = {"cat": 1, "made": 1, "table": 2, "reading": 2, "university": 5, "the": 1, "idea": 2, "why": 1, "42": 1}
    assert {w: syllables(w) for w in counted} == counted
    text = "The cat made a table. Reading at university, why?"
    assert reading_ease(text) == pytest.approx(206.835 - 1.015 * 9 / 2 - 84.6 * 15 / 9)
    assert reading_ease("It is 3.5 metres.") == reading_ease("It is 3 5 metres.")  # no sentence ends inside a number


@pytest.mark.parametrize(
    ("difficulty", "texts"),
    [
        ("compression", ["go go go go go go go go", "go on and on and on and on", "jump quickly over lazy dogs"]),
        ("diversity", ["a a a a a a a a", "a b a b c c a b", "one two three four five six seven eight"]),
        ("readability", ["The cat sat. It ran.", "The cat sat on the wide old mat.", "Universities institutionalise."]),
    ],
)
def test_easy_texts_come_first(difficulty: str, texts: list[str]):
    found = Curriculum(difficulty=difficulty).select(records(*texts[::-1]), {}, random.Random(0))
    assert list(found.indices) == [2, 1, 0]
    assert sorted(found.scores["difficulty"], reverse=True) == list(found.scores["difficulty"])


@pytest.mark.parametrize("difficulty", ["perplexity", "length", "fertility"])
def test_what_a_model_says_of_rows_orders_them(difficulty: str):
    method = Curriculum(difficulty=difficulty)
    reads = Reads(method)
    rows = [reads.readers["start"].rows_of(r)[0] for r in reads.records]
    words = [len(f"{r.get('prompt', '')} {r.get('completion', '')} {r.get('text', '')}".split()) for r in reads.records]
    expected = {
        "perplexity": lambda: [own_loss(reads.adapted.model, row) for row in rows],
        "length": lambda: [len(row.input_ids) for row in rows],
        "fertility": lambda: [len(row.input_ids) / n for row, n in zip(rows, words, strict=True)],
    }[difficulty]()
    found = reads.selected(method)
    np.testing.assert_allclose(found.scores["difficulty"], expected, rtol=1e-5)
    assert [expected[i] for i in found.indices] == sorted(expected) and len({*found.indices}) == 12


@pytest.mark.parametrize(
    ("pace", "c"),
    [("linear", lambda t: t), ("quadratic", lambda t: t * t), ("inverse-quadratic", lambda t: 1 - (1 - t) ** 2)],
)
def test_groups_take_the_time_that_the_pace_gives_them(pace: str, c: Callable[[float], float]):
    """c(t) is the difficulty reached at t: the group learnt then is floor(K c(t)), looked up on a fine grid of t."""
    found = paced(list(range(100, 500)), pace, 8, random.Random(0))
    group = [(i - 100) // 50 for i in found]
    assert group == sorted(group) and len({*found}) == len(found) and found != sorted(found)
    grid = [min(7, int(8 * c((t + 0.5) / 40_000))) for t in range(40_000)]
    time = np.bincount(grid, minlength=8) / len(grid)
    got = np.bincount(group, minlength=8)
    assert got.max() == 50
    np.testing.assert_allclose(got, time / time.max() * 50, atol=0.6)


def test_each_interleaved_run_goes_from_easy_to_hard_over_all():
    found = interleaved(list(range(11)), 3)
    assert found == [0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8]
    assert interleaved([4, 7], 5) == [4, 7]


def test_a_warm_up_orders_a_drawn_share_and_the_rest_follows_mixed():
    pool = records(*("ab " * n for n in range(40, 0, -1)))
    method = Curriculum(warmup=0.5)
    found = method.select(pool, {}, random.Random(1))
    order, d = list(found.indices), found.scores["difficulty"]
    assert sorted(order) == list(range(40))
    first, rest = [d[i] for i in order[:20]], [d[i] for i in order[20:]]
    assert first == sorted(first) and rest != sorted(rest) and order[20:] != sorted(order[20:])
    assert sorted(order[:20]) != sorted(method.select(pool, {}, random.Random(2)).indices[:20])
    slow = Curriculum(order="quadratic").select(pool, {}, random.Random(0))
    gone = [i for i, reason in enumerate(slow.reasons or ()) if reason]
    assert len(gone) == 40 - len(slow.indices) > 20 and "quadratic" in (slow.reasons or [])[gone[0]]


# -- in a run ----------------------------------------------------------------------------------------------------------


def passes(session: Any, count: int = 2) -> list[list[str]]:
    """The ids of the rows in each pass, as a fresh cursor gives them."""
    part = session.stages[0]
    stream, n = session.cursor(part), len(part.rows.rows)
    ids: list[str] = []
    while len(ids) < count * n:
        ids += [row.id for row, _ in stream.next_batch()]
    return [ids[k * n : (k + 1) * n] for k in range(count)]


def test_the_first_pass_is_in_order_whatever_is_shuffled(tmp_path: Path):
    small.write_inputs(tmp_path, train=16)
    select = {"data__select": [{"curriculum-lm-pretraining": {"difficulty": "readability"}}]}
    lines = [json.loads(x) for x in (tmp_path / "train.jsonl").read_text().splitlines()]
    ease = [reading_ease(f"{x['prompt']}\n{x['completion']}") for x in lines]
    by_hand = [f"train.jsonl:{i + 1}" for i in sorted(range(16), key=lambda i: -ease[i])]
    first, second = passes(assemble(Recipe.load(small.write_recipe(tmp_path, **select))))
    assert [i.rpartition(":")[2] for i in first] == [i.rpartition(":")[2] for i in by_hand]
    assert second != first and sorted(second) == sorted(first)
    # a budget that ends before its rows do is told
    session = assemble(Recipe.load(small.write_recipe(tmp_path, "few", stages__0__budget={"tokens": 40}, **select)))
    (said,) = session.stages[0].cautions(partial(session.plan, session.stages[0]))
    assert said.startswith("curriculum-lm-pretraining: the budget ends at")
    # another selector's order is drawn anew, and `shuffle: false` repeats this one
    plain = small.write_recipe(tmp_path, "plain", data__select=[{"length": {"least": 1}}])
    assert passes(assemble(Recipe.load(plain)), 1)[0] != sorted(first, key=lambda i: int(i.rpartition(":")[2]))
    still = small.write_recipe(tmp_path, "still", data__shuffle=False, **select)
    assert passes(assemble(Recipe.load(still))) == [first, first]


def test_a_curriculum_by_the_stage_s_model_is_learnt_as_its_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A selector that waits for the stage, with one behind it that reads texts and keeps the order."""
    small.write_inputs(tmp_path, train=12)
    select = [{"curriculum-lm-pretraining": {"difficulty": "perplexity"}}, {"random": {"keep": 8}}]
    changes = {"measurement__strengths": [1.0], "stages__0__budget": {"steps": 1}}
    seen: list[list[str]] = []
    finish = running.finish

    def watched(work: Any, cached: Any) -> Any:
        seen.extend(passes(work.session, 1))
        return finish(work, cached)

    monkeypatch.setattr(running, "finish", watched)
    run(small.write_recipe(tmp_path, data__select=select, **changes), tmp_path / "out", quiet=True)
    _, *lines = map(json.loads, (tmp_path / "out" / "selection" / "main.jsonl").read_text().splitlines())
    ranked = sorted((x for x in lines if x["rank"] is not None), key=lambda x: x["rank"])
    losses = [x["scores"]["curriculum-lm-pretraining.difficulty"] for x in ranked]
    assert losses == sorted(losses) and len(losses) == 8
    assert seen == [[x["id"] for x in ranked]]
