"""Test-centric arrangement: turns against the masked matrix that they are defined on, states against transformers' own,
and that a run learns in the order of its turns.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from tests import small
from tunewright.conformance.reading import Reads
from tunewright.contract.method import call
from tunewright.contract.records import Record
from tunewright.data.select.test_centric_arrangement import Arrangement, turns
from tunewright.errors import DataError
from tunewright.recipe import Recipe
from tunewright.runs import run as running
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run

TOPICS = ("card lost", "card stolen", "fee for cash", "fee abroad", "pin wrong", "pin lost", "rate of a loan", "loan")
POOL = [Record({"text": t}, id=f"p:{i}", source="s", where=f"p.txt:{i}") for i, t in enumerate(TOPICS)]
AIMED = [Record({"text": t}, id=f"t:{i}", source="t") for i, t in enumerate(("pin card lost", "loan fee", "pin"))]


def by_mask(similar: np.ndarray, k: int) -> list[list[int]]:
    """Turns as they are defined: the largest of each target row's column among what is left, until k are taken."""
    left, out = similar.astype(float).copy(), list[list[int]]()
    while sum(map(len, out)) < min(k, left.shape[1]):
        turn = sorted({int(row.argmax()) for row in left})
        left[:, turn] = -np.inf
        out.append(turn)
    return out


@pytest.mark.parametrize(("m", "n", "k"), [(1, 9, 9), (4, 30, 30), (4, 30, 11), (7, 5, 5), (40, 60, 60)])
def test_each_target_row_takes_the_nearest_that_is_left_when_a_turn_begins(m: int, n: int, k: int) -> None:
    similar = np.random.default_rng(m * n).integers(0, 12, (m, n))  # with ties: the earlier is nearer
    found = turns(np.argsort(-similar, axis=1, kind="stable"), k)
    expected = by_mask(similar, k)
    assert found[:-1] == expected[:-1] and found[-1] == expected[-1][: len(found[-1])]
    assert sum(map(len, found)) == k and all(len(t) <= m for t in found)


def test_by_states_the_order_is_that_of_transformers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = Reads(Arrangement())
    e = []
    for record in reads.records:
        ids = torch.tensor([list(reads.readers["start"].rows_of(record)[0].input_ids)])
        with torch.no_grad():
            states = reads.adapted.model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0].double()
        e.append((states.mean(0) / states.mean(0).norm()).numpy())
    similar = np.array(e[:4]) @ np.array(e).T  # the target is the first four records
    found = reads.selected(Arrangement())
    assert list(found.indices) == [i for turn in by_mask(similar, 12) for i in turn] and found.indices[:4] == [
        0,
        1,
        2,
        3,
    ]
    np.testing.assert_allclose(found.scores["similarity"], similar.max(0), rtol=1e-4)
    of = {i: t for t, turn in enumerate(by_mask(similar, 12), 1) for i in turn}
    assert list(found.scores["turn"]) == [of[i] for i in range(12)]
    far = reads.selected(Arrangement(order="farthest", keep=7))
    assert list(far.indices) == [i for turn in by_mask(-similar, 12) for i in turn][:7]
    np.testing.assert_allclose(far.scores["similarity"], similar.max(0), rtol=1e-4)
    monkeypatch.setattr("tunewright.data.select.test_centric_arrangement.CHUNK", 1)
    assert list(reads.selected(Arrangement()).indices) == list(found.indices)


def of_words(method: Arrangement, seed: int = 0, target: list[Record] = AIMED) -> Any:
    return call(method, "select", records=POOL, target=target, readers={}, rng=random.Random(seed))


def test_by_words_no_model_is_named_and_rare_words_decide() -> None:
    method = Arrangement(compare="words")
    assert method.speakers() == () and Arrangement(model="small").speakers() == ("small",)
    texts = [r["text"] for r in (*POOL, *AIMED)]
    counts = CountVectorizer(token_pattern=r"\w+").fit_transform(texts)
    vectors = TfidfTransformer(smooth_idf=True).fit_transform(counts).toarray()
    similar = vectors[len(POOL) :] @ vectors[: len(POOL)].T
    found = of_words(method)
    assert list(found.indices) == [i for turn in by_mask(similar, 8) for i in turn]
    assert list(found.indices[:3]) == [0, 5, 7], "one for each target row"
    few = of_words(Arrangement(compare="words", most_targets=1), seed=3)
    drawn = random.Random(3).sample(range(3), 1)[0]
    assert list(few.indices) == [i for turn in by_mask(similar[drawn : drawn + 1], 8) for i in turn]
    with pytest.raises(DataError, match="no record shares a word"):
        of_words(method, target=[Record({"text": "unheard"}, id="t")])


def test_what_is_kept_by_chance_is_what_the_nearest_keep_in_another_order() -> None:
    near, mixed = (of_words(Arrangement(compare="words", keep=5, order=o), seed=1) for o in ("nearest", "random"))
    assert sorted(near.indices) == sorted(mixed.indices) and list(near.indices) != list(mixed.indices)
    assert list(mixed.indices) != list(of_words(Arrangement(compare="words", keep=5, order="random"), seed=2).indices)
    gone = [i for i, reason in enumerate(near.reasons) if reason]
    assert sorted([*gone, *near.indices]) == list(range(8)) and near.reasons[gone[0]] == "5 come before it"
    assert [near.scores["turn"][i] for i in gone] == [0.0] * 3 and Arrangement.orders


def ids_of_first_pass(session: Any) -> list[str]:
    part = session.stages[0]
    stream, ids = session.cursor(part), list[str]()
    while len(ids) < len(part.rows.rows):
        ids += [row.id for row, _ in stream.next_batch()]
    return ids


@pytest.mark.parametrize("compare", ["states", "words"])
def test_a_run_learns_turn_by_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compare: str) -> None:
    small.write_inputs(tmp_path, train=12)
    rows = [json.loads(x) for x in (tmp_path / "train.jsonl").read_text().splitlines()]
    (tmp_path / "aimed.jsonl").write_text("\n".join(json.dumps({**r, "completion": "yes"}) for r in rows[4:7]))
    changes = {
        "data__select": [{"test-centric-arrangement": {"compare": compare, "keep": 9}}],
        "data__validation": "aimed.jsonl",
        "measurement__strengths": [1.0],
        "stages__0__budget": {"steps": 1},
    }
    seen = list[list[str]]()
    finish = running.finish

    def watched(work: Any, cached: Any) -> Any:
        seen.append(ids_of_first_pass(work.session))
        return finish(work, cached)

    monkeypatch.setattr(running, "finish", watched)
    file = small.write_recipe(tmp_path, **changes)
    run(file, tmp_path / "out", quiet=True)
    _, *lines = map(json.loads, (tmp_path / "out" / "selection" / "main.jsonl").read_text().splitlines())
    ranked = sorted((x for x in lines if x["rank"] is not None), key=lambda x: x["rank"])
    turn_of = [x["scores"]["test-centric-arrangement.turn"] for x in ranked]
    assert turn_of == sorted(turn_of) and len(turn_of) == 9 and max(turn_of) >= 3
    assert seen == [[x["id"] for x in ranked]]
    if compare == "words":  # no model is waited for
        assert ids_of_first_pass(assemble(Recipe.load(file))) == seen[0]
