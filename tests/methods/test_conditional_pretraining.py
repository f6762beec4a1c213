"""conditional-pretraining: which token stands where, by scores, patterns and a model; that good can be asked for."""

from __future__ import annotations

import json
import random

import pytest
import torch
from pydantic import ValidationError

from tests import tiny
from tests.small import write_recipe
from tests.tasks.test_reward_modeling import alone, scorer
from tunewright.contract.batch import Row
from tunewright.contract.method import Needs, State
from tunewright.contract.records import Record
from tunewright.errors import DataError, MethodError
from tunewright.methods.inputs.conditional_pretraining import ConditionalPretraining, cut, flipped
from tunewright.methods.needs.segment_scores import SegmentScores, segments_of
from tunewright.models.adapted import Adapted
from tunewright.recipe import Recipe
from tunewright.runs.assemble import assemble
from tunewright.runs.run import run
from tunewright.tasks import get_task
from tunewright.training.judging import Judge

G, B = "<|good|>", "<|bad|>"


def record(**columns) -> Record:
    return Record(columns, id="t:1", where="t:1", source="t")


def marked(method: ConditionalPretraining, **columns) -> str:
    changed = method.example(record(**columns), random.Random(0))
    return changed["prompt"] if "prompt" in columns else changed["text"]


def test_segments_are_marked_by_their_scores():
    m = ConditionalPretraining(threshold=0.5, untagged=0)
    texts, scores = ["One. ", "Two! ", " ", "Three"], [0.5, 0.4, 0.0, 9]
    assert marked(m, texts=texts, scores=scores, text="".join(texts)) == f"{G}One. {B}Two!  {G}Three"
    assert marked(m, text="a b", score=0.4) == f"{B}a b" and marked(m, text="a b", score=1) == f"{G}a b"
    assert marked(m, prompt="Q", completion="a", score=1) == f"{G}Q"
    renamed = ConditionalPretraining(good="[+]", bad="[-]", untagged=0)
    assert marked(renamed, text="a", score=-1) == "[-]a" and marked(renamed, text="a", score=0) == "[+]a"


def test_patterns_make_segments_bad_and_every_judge_has_to_agree():
    m = ConditionalPretraining(avoid=(r"\d{3}", "fee"), untagged=0, segments="sentences")
    assert marked(m, text="Call me. Or 555! The fee? No") == f"{G}Call me. {B}Or 555! {B}The fee? {G}No"
    both = ConditionalPretraining(avoid=("x",), untagged=0, segments="lines")
    assert marked(both, text="a\nx\n", score=1) == f"{G}a\n{B}x\n" and marked(both, text="a\n", score=-1) == f"{B}a\n"
    assert marked(both, prompt="x", completion="b") == f"{G}x", "the answer is judged, not the question"


@pytest.mark.parametrize("by, n", [("whole", 1), ("lines", 2), ("sentences", 3)])
def test_cut_texts_are_whole_again(by, n):
    text = "One 1.5 two. Three!\nFour (no end)"
    assert len(cut(text, by)) == n and "".join(cut(text, by)) == text


def test_the_share_without_a_token_is_drawn_by_record():
    m = ConditionalPretraining(untagged=0.25)
    rngs = [random.Random(i) for i in range(4000)]
    bare = sum(m.example(record(text="a", score=1), rng)["text"] == "a" for rng in rngs)
    assert abs(bare / 4000 - 0.25) < 0.03
    assert m.example(record(text="a", score=1), random.Random(7)) == m.example(
        record(text="a", score=1), random.Random(7)
    )


def test_rows_that_nothing_scores_and_bad_patterns_are_refused():
    m = ConditionalPretraining()
    for columns, says in (
        ({"text": "a"}, "nothing scores this row"),
        ({"texts": ["a", "b"], "scores": [1], "text": "ab"}, "2 segments need as many scores"),
        ({"messages": []}, "marks texts"),
    ):
        with pytest.raises(DataError, match=says) as error:
            m.example(record(**columns), random.Random(0))
        assert error.value.where == "t:1" and error.value.remedy
    with pytest.raises(ValidationError, match="no regular expression"):
        ConditionalPretraining(avoid=("(",))


@pytest.mark.parametrize("packed", [True, False])
def test_what_the_model_calls_bad_is_flipped_as_input_and_as_label(packed):
    task, good, bad = get_task("text-generation"), 50, 51
    rows = [
        Row("a", "s", [good, 10, 11, good, 12], [1.0] * 5),
        Row("b", "s", [9, good, 13], [1.0] * 3),
        Row("c", "s", [14, 15, good, 16], [0.0, 0.0, 1.0, 1.0]),
    ]
    batch = task.collate(rows, packed)
    changed = flipped(batch, {"a": [0.4, 0.6], "b": [0.1]}, 0.5, good, bad)
    expected = [[bad, 10, 11, good, 12], [9, bad, 13], [14, 15, good, 16]]
    flat = [Row(r.id, "s", ids, r.weights) for r, ids in zip(rows, expected, strict=True)]
    other = task.collate(flat, packed)
    assert torch.equal(changed.inputs["input_ids"], other.inputs["input_ids"])
    assert torch.equal(changed.labels, other.labels)
    assert int((batch.inputs["input_ids"] == bad).sum()) == 0, "the batch that was given is as it was"


def test_segments_lie_between_their_tokens():
    assert segments_of([1, 7, 2, 3, 7, 7, 4], 7) == [[2, 3], [], [4]] and segments_of([1, 2], 7) == []


def test_the_model_scores_each_segment_as_a_text(tmp_path):
    tokenizer, model = tiny.tokenizer(chat=False), scorer()
    tokenizer.add_tokens([G, B])
    theirs = tiny.tokenizer(chat=False)
    rows = []
    for i, text in enumerate((f"{G}the card{G} was declined", f"In 1999{G}the town")):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        rows.append(Row(f"r:{i}", "s", ids, [1.0] * len(ids)))
    judge = Judge("judge", Adapted(model, theirs), tokenizer)

    class Context:
        adapted, device, cache, data_hashes = Adapted(tiny.llama(), tokenizer), "cpu", tmp_path, {}

        def source(self, name):
            return rows

        def judge(self, name):
            return judge

    given = SegmentScores(model="judge", token=G).compute(Context())
    said = {"r:0": ["the card", " was declined"], "r:1": ["the town"]}
    for row_id, texts in said.items():
        whole = [[*theirs(t, add_special_tokens=False)["input_ids"], tiny.EOS] for t in texts]
        assert given[row_id] == pytest.approx([alone(model, ids) for ids in whole], abs=1e-4)
    again = {"r:0": [0.0, 1.0], "r:1": [-1.0]}
    batch = get_task("text-generation").collate(rows)
    method = ConditionalPretraining(model="judge", threshold=0.5)
    state = State(good=tokenizer.convert_tokens_to_ids(G), bad=tokenizer.convert_tokens_to_ids(B))
    changed = method.batch(batch, Needs({"segment_scores": again}), state)
    assert int((changed.inputs["input_ids"] == state.data["bad"]).sum()) == 2
    assert ConditionalPretraining().batch(batch, Needs({}), state) is None


# -- whole runs --------------------------------------------------------------------------------------------------------


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny.llama().save_pretrained(tmp_path / "base")
    tiny.tokenizer().save_pretrained(tmp_path / "base")
    rng = random.Random(0)
    rows = []
    for _ in range(120):
        fine = rng.random() < 0.5
        rows.append({"text": " the card" if fine else " the fee", "score": 1.0 if fine else -1.0})
    for name, some in (("train", rows[:100]), ("test", rows[100:])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, some)))
    return tmp_path


def recipe(folder, **changes):
    given = {
        "new_tokens": [G, B],
        "keep": [],
        "stages__0__methods": ["full", {"conditional-pretraining": {"untagged": 0.1}}],
        "stages__0__budget": {"steps": 40},
        "measurement": {"drift_sequences": 2, "drift_tokens": 4, "strengths": [1.0]},
    }
    return Recipe.load(write_recipe(folder, **{**given, **changes}))


def test_tokens_that_the_tokenizer_lacks_are_refused_with_the_line_to_write(texts):
    with pytest.raises(MethodError, match="no token '<|good|>'") as error:
        run(recipe(texts, new_tokens=[]), texts / "out", quiet=True)
    assert f'new_tokens: ["{G}", "{B}"]' in error.value.remedy


def test_rows_that_are_measured_are_left_as_they_are(texts):
    session = assemble(recipe(texts))
    good, bad = session.tokenizer.convert_tokens_to_ids([G, B])
    for rows, there in ((session.stages[0].rows.rows, True), (session.eval.rows, False)):
        assert any({good, bad} & set(r.input_ids) for r in rows) == there
    torch.set_num_threads(1)


@pytest.mark.parametrize("beside", [["full"], [{"lora": {"rank": 8}}]])
def test_who_asks_for_good_gets_it_and_who_asks_for_bad_gets_that(texts, beside):
    from tunewright.finished.finished import open_run

    methods = [*beside, {"conditional-pretraining": {"untagged": 0.1}}]
    run(recipe(texts, stages__0__methods=methods, stages__0__budget={"steps": 60}), texts / "out", quiet=True)
    finished = open_run(texts / "out")
    tokenizer, model = finished.tokenizer, finished.adapted.outer
    fine = tokenizer(" the card", add_special_tokens=False)["input_ids"]
    foul = tokenizer(" the fee", add_special_tokens=False)["input_ids"]

    def log_p(asked: str, said: list[int]) -> float:
        ids = [tokenizer.convert_tokens_to_ids(asked), *said]
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0].log_softmax(-1)
        return sum(float(logits[t, i]) for t, i in enumerate(said))

    leaning = {asked: log_p(asked, fine) - log_p(asked, foul) for asked in (G, B)}
    assert leaning[G] > 1 and leaning[G] > leaning[B] + 2, leaning
    assert leaning[B] < -1 or beside != ["full"], leaning
