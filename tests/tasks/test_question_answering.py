"""Spans that answer questions: where they stand in windows, their loss and their search against transformers' own way,
SQuAD's scores, and whole runs.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, BertConfig, BertForQuestionAnswering

from tests import tiny
from tunewright.contract.batch import Outputs, Row
from tunewright.contract.records import Record, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data.truncate import fit_length, trained_tokens
from tunewright.data.view import token_view
from tunewright.errors import RecipeError
from tunewright.finished.export import export
from tunewright.loading.builtin import shipped
from tunewright.measure import squad
from tunewright.measure.rows import RowResult, read_rows
from tunewright.measure.target import check_metric
from tunewright.planning.check import check_recipe
from tunewright.planning.init import starter
from tunewright.recipe import Recipe
from tunewright.report.schema import Report
from tunewright.runs.run import resume, run
from tunewright.tasks import get_task
from tunewright.tasks._passages import LONGEST_ANSWER, best_span, windows_of
from tunewright.tasks.question_answering import lengths_of

TASK = get_task("question-answering")
TOKENIZER = AutoTokenizer.from_pretrained(shipped()["nano-encoder"])
QUESTION = "Where does Ada Lovelace live?"
CONTEXT = "Alan lives in Oxford. Ada Lovelace, who writes, lives in New York, near the river. Grace lives in Rome."
ANSWERS = {"text": ["New York"], "answer_start": [CONTEXT.index("New York")]}


def record(**values: Any) -> Record:
    return Record({"question": QUESTION, "context": CONTEXT, "answers": ANSWERS, **values}, id="r", source="s")


def encoded(max_length: int = 512, tokenizer: Any = TOKENIZER, **values: Any) -> Row:
    return TASK.encode(record(**values), tokenizer, EncodeOptions(max_length=max_length))


def model(seed: int = 0, **changes: Any) -> BertForQuestionAnswering:
    torch.manual_seed(seed)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "initializer_range": 0.3}
    return BertForQuestionAnswering(BertConfig(vocab_size=len(TOKENIZER), **sizes, **still, **changes)).eval()


def spoken(row: Row, window: int = 0) -> str:
    """The text of a window's target tokens."""
    first, last = row.fields["targets"][2 * window : 2 * window + 2]
    return TOKENIZER.decode(row.input_ids[first : last + 1], skip_special_tokens=True).strip()


# -- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answers",
    [
        ANSWERS,
        [{"text": "New York", "answer_start": ANSWERS["answer_start"][0]}],
        ["New York"],
        "New York",
        {"text": "New York", "answer_start": ANSWERS["answer_start"][0]},
        {"text": ["New York"], "answer_start": None},
        {"text": ["New York"]},
    ],
)
def test_answers_are_read_in_every_form_that_data_sets_have(answers: Any) -> None:
    row = encoded(answers=answers)
    assert spoken(row).lower() == "new york" and row.fields["reference"] == "New York" and not row.fields["moved"]
    assert row.input_ids == TOKENIZER(QUESTION, CONTEXT)["input_ids"]
    assert trained_tokens(row) == 2 and row.fields["text"] == QUESTION


@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, [], {"text": []}])
def test_where_the_context_does_not_tell_the_class_token_is_the_target(answers: Any) -> None:
    row = encoded(answers=answers)
    assert row.fields["targets"] == [0, 0] and row.fields["reference"] == ""


def test_an_answer_that_is_elsewhere_is_found_again_where_it_occurs_once() -> None:
    row = encoded(answers={"text": ["New York"], "answer_start": [3]})
    assert row.fields["moved"] and spoken(row).lower() == "new york"


def test_a_text_without_a_place_stands_where_it_occurs_first() -> None:
    row = encoded(answers=["lives"])
    begin, end = row.fields["offsets"][2 * (row.fields["targets"][0] - row.fields["first"]) :][:2]
    assert begin <= CONTEXT.index("lives") < end  # a byte's piece holds the space before it


BAD: dict[str, tuple[dict[str, Any], str, str]] = {
    "not there": ({"answers": ["Paris"]}, "answers", "does not hold the answer 'Paris'"),
    "there thrice": ({"answers": {"text": ["lives"], "answer_start": [0]}}, "answers", "it occurs 3 times"),
    "below zero": ({"answers": {"text": ["."], "answer_start": [-1]}}, "answers", "does not stand at character -1"),
    "no column": ({"answers": None}, "answers", "no texts"),
    "fewer places": ({"answers": {"text": ["a", "b"], "answer_start": [1]}}, "answers", "of one length"),
    "an empty text": ({"answers": [" "]}, "answers", "is no text"),
    "a number": ({"answers": [3]}, "answers", "is no text"),
    "no text": ({"answers": {"answer_start": [3]}}, "answers", "has no text"),
    "a place in words": ({"answers": {"text": ["Ada"], "answer_start": ["x"]}}, "answers", "no number of characters"),
    "no question": ({"question": ""}, "question", "missing or empty"),
    "a number for a context": ({"context": 3}, "context", "missing or empty"),
    "half a character": ({"context": "a\ud800b"}, "context", "half of a character"),
    "a long question": ({"question": "why " * 600}, "question", "leaves no room"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_rows_say_what_is_wrong(case: str) -> None:
    values, field, reason = BAD[case]
    first, bad, last = TASK.encode_many([record(), record(**values), record()], TOKENIZER, EncodeOptions())
    assert first == last == encoded(1024)
    assert isinstance(bad, RowProblem) and bad.field == field and reason in bad.reason and bad.remedy


def test_a_row_without_answers_says_so() -> None:
    values = {k: v for k, v in record().items() if k != "answers"}
    with pytest.raises(RowProblem, match="has no answers"):
        TASK.encode(Record(values, id="r", source="s"), TOKENIZER, EncodeOptions())


def test_the_template_asks_the_question() -> None:
    options = EncodeOptions(template="{title}: {question}")
    row = TASK.encode(record(title="Ada"), TOKENIZER, options)
    assert row.input_ids == TOKENIZER(f"Ada: {QUESTION}", CONTEXT)["input_ids"]


# -- windows ---------------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 300), st.integers(1, 60), st.integers(0, 59))
def test_windows_cover_everything_and_overlap_by_the_stride(count: int, room: int, stride: int) -> None:
    windows = windows_of(count, room, min(stride, room - 1))
    assert windows[0][0] == 0 and windows[-1][1] == count and all(0 < b - a <= room for a, b in windows)
    assert all(later[0] == one[1] - min(stride, room - 1) for one, later in zip(windows, windows[1:], strict=False))
    assert all(one[1] < later[1] for one, later in zip(windows, windows[1:], strict=False))


@pytest.mark.parametrize("max_length", [24, 30, 36, 40])
def test_windows_are_those_of_the_tokenizers_own_overflow(max_length: int) -> None:
    row = encoded(max_length)
    room = max_length - row.fields["first"] - row.fields["behind"]
    read = TOKENIZER(
        QUESTION,
        CONTEXT,
        truncation="only_second",
        max_length=max_length,
        stride=min(max_length // 3, room // 2),
        return_overflowing_tokens=True,
    )
    batch = TASK.collate([row])
    ours = [ids[: int(m.sum())].tolist() for ids, m in zip(*batch.inputs.values(), strict=False)]
    assert ours == read["input_ids"] and len(ours) > 1
    assert sum(lengths_of(row)) == len(row.input_ids)


def test_a_window_without_the_whole_answer_is_taught_that_there_is_none() -> None:
    row = encoded(30)
    batch = TASK.collate([row])
    pairs = batch.labels.view(-1, 2).tolist()
    held = [w for w, pair in enumerate(pairs) if pair != [0, 0]]
    assert held and len(held) < len(pairs)
    for w in held:
        a, b = pairs[w]
        assert TOKENIZER.decode(batch.inputs["input_ids"][w, a : b + 1]).strip().lower() == "new york"


@pytest.mark.parametrize("policy, kept", [("auto", 1), ("split", 1), ("drop", 0)])
def test_what_becomes_of_a_long_context_is_as_truncation_says(policy: Any, kept: int) -> None:
    assert len(fit_length(encoded(30), 30, policy)) == kept
    assert fit_length(encoded(512), 512, policy) == [encoded(512)]
    with pytest.raises(RowProblem, match="max_length is 30"):
        fit_length(encoded(30), 30, "fail")


def test_the_answer_is_shown_as_what_counts() -> None:
    shown = [text for text, weight in token_view(encoded(), TOKENIZER) if weight > 0]
    assert "".join(shown).replace(" ", "").lower() == "newyork"


# -- loss and answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answers", [ANSWERS, []])
def test_the_loss_is_transformers_own(answers: Any) -> None:
    net, row = model(), encoded(answers=answers)
    batch = TASK.collate([row])
    with torch.no_grad():
        ours = TASK.loss(TASK.forward(net, batch), batch).value.mean()
        start, end = batch.labels[:1], batch.labels[1:]
        theirs = net(**batch.inputs, start_positions=start, end_positions=end).loss
    assert ours.item() == pytest.approx(theirs.item(), abs=1e-5)
    assert ("token_type_ids" in batch.inputs) == ("token_type_ids" in TOKENIZER(QUESTION, CONTEXT))


def test_a_model_without_segments_is_not_given_any() -> None:
    batch = TASK.collate([encoded(tokenizer=tiny.tokenizer(encoder=True, chat=False))])
    batch.inputs["token_type_ids"] = torch.ones_like(batch.inputs["input_ids"])
    net = BertForQuestionAnswering(
        BertConfig(
            vocab_size=500, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
            type_vocab_size=1,
        )
    )  # fmt: skip
    assert TASK.forward(net, batch).logits.shape == (2, batch.fields["width"])


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000))
def test_the_best_span_is_the_best_of_all(count: int, seed: int) -> None:
    start, end = torch.randn(2, count, generator=torch.Generator().manual_seed(seed))
    spans = [(i, j) for i in range(count) for j in range(i, min(count, i + LONGEST_ANSWER))]
    first, last = max(spans, key=lambda s: float(start[s[0]] + end[s[1]]))
    found = best_span(start, end)
    assert (found.first, found.last) == (first, last) and found.score == float(start[first] + end[last])


def read_out(row: Row, places: dict[int, tuple[float, float]]) -> str:
    """What is answered where some places of `input_ids` have (start, end) logits, and all others 0."""
    batch = TASK.collate([row])
    logits = torch.full((len(batch.labels), batch.fields["width"]), 0.0)
    bounds = [0, *torch.tensor(lengths_of(row)).cumsum(0).tolist()]
    for place, (start, end) in places.items():
        w = max(k for k, begin in enumerate(bounds[:-1]) if begin <= place)
        logits[2 * w, place - bounds[w]], logits[2 * w + 1, place - bounds[w]] = start, end
    return TASK.predict(Outputs(logits, batch.labels), batch, [row])[0][0]


def test_the_answer_is_the_best_window_s_unless_the_class_token_says_none() -> None:
    row = encoded(30)
    first, last = next(
        row.fields["targets"][2 * w : 2 * w + 2]
        for w in range(len(row.fields["windows"]))
        if spoken(row, w).lower() == "new york"
    )
    assert read_out(row, {first: (5.0, 0.0), last: (0.0, 5.0)}) == "New York"
    starts = [0, *torch.tensor(lengths_of(row)).cumsum(0).tolist()[:-1]]
    sure = {s: (6.0, 6.0) for s in starts}
    assert read_out(row, {**sure, first: (5.0, 0.0), last: (0.0, 5.0)}) == ""
    unsure = {**sure, starts[0]: (1.0, 1.0)}  # the least of all windows' counts
    assert read_out(row, {**unsure, first: (5.0, 0.0), last: (0.0, 5.0)}) == "New York"


def test_what_is_taught_is_what_is_read_out() -> None:
    """Outputs that are sure of the labels answer as the row says, in whatever window."""
    for max_length in (24, 30, 512):
        for answers in (ANSWERS, [], ["Rome"], ["Alan lives in"]):
            row = encoded(max_length, answers=answers)
            batch = TASK.collate([row])
            logits = 20.0 * torch.nn.functional.one_hot(batch.labels, batch.fields["width"])
            [(answer, reference)] = TASK.predict(Outputs(logits.float(), batch.labels), batch, [row])
            held = any(pair != [0, 0] for pair in batch.labels.view(-1, 2).tolist())
            assert reference == row.fields["reference"]
            assert answer == (reference if held or not reference else ""), (max_length, answers)


# -- scores ----------------------------------------------------------------------------------------------------------

SQUAD = [  # answer, right ones, exact match, F1: by hand, after SQuAD's script
    ("Denver Broncos", ["Denver Broncos"], 1, 1),
    ("the Denver Broncos!", ["Denver Broncos"], 1, 1),
    ("Broncos", ["Denver Broncos"], 0, 2 / 3),
    ("the AFC champion Denver Broncos", ["Denver Broncos", "The Broncos"], 0, 2 * 2 / (4 + 2)),
    ("gold, gold", ["gold"], 0, 2 / 3),
    ("Santa Clara", ["Santa Clara, California", "Levi's Stadium"], 0, 2 * 2 / (2 + 3)),
    ("", [], 1, 1),
    ("", ["Denver"], 0, 0),
    ("Denver", [], 0, 0),
    ("24\u201310", ["24-10"], 0, 0),
    ("February 7 , 2016", ["February 7, 2016"], 1, 1),
    ("a", ["an"], 1, 1),
]


@pytest.mark.parametrize("answer, right, exact, f1", SQUAD)
def test_scores_are_those_of_squads_script(answer: str, right: list[str], exact: float, f1: float) -> None:
    assert squad.squad_exact_match(answer, "\n".join(right)) == exact
    assert squad.squad_f1(answer, "\n".join(right)) == pytest.approx(f1)


def test_rows_with_and_without_an_answer_have_figures_of_their_own() -> None:
    rows = [RowResult(id=str(i), answer="x", reference=r, score=s) for i, (r, s) in enumerate([("x", 1), ("", 0)])]
    assert squad.by_kind(rows) == {"with an answer": 1.0, "without one": 0.0}
    assert squad.by_kind(rows[:1]) == {}


# -- runs ------------------------------------------------------------------------------------------------------------


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def rows_of(count: int) -> list[dict[str, Any]]:
    people, places = ("Ada", "Alan", "Grace", "Mary"), ("London", "New York", "Rome", "Oxford", "Paris")
    out = []
    for i in range(count):
        person, place = people[i % 4], places[(i * 7) % 5]
        context = f"{people[(i + 1) % 4]} is old. {person} lives in {place}. It rains."
        none = i % 6 == 5
        answers = {"text": [] if none else [place], "answer_start": [] if none else [context.index(place)]}
        question = f"Where does {'Zoe' if none else person} live?"
        out.append({"question": question, "context": context, "answers": answers})
    return out


def recipe(folder: Path, **changes: Any) -> Recipe:
    model().save_pretrained(folder / "base")
    TOKENIZER.save_pretrained(folder / "base")
    write(folder / "train.jsonl", rows_of(24))
    write(folder / "test.jsonl", rows_of(9))
    tree = {
        "model": "./base",
        "task": "question-answering",
        "data": {"train": "train.jsonl", "eval": "test.jsonl", "max_length": 128},
        "methods": ["full"],
        "train": {"learning_rate": 5e-3, "batch_tokens": 256, "precision": "float32", "threads": 1, "device": "cpu"},
        "budget": {"steps": 12},
        "measurement": {"strengths": [1]},
    }
    (folder / "r.yaml").write_text(json.dumps(tree))
    return Recipe.load(folder / "r.yaml", [f"{k.replace('__', '.')}={json.dumps(v)}" for k, v in changes.items()])


@pytest.mark.parametrize(
    "changes",
    [
        {"methods": ["full", "mean-teacher"]},
        {"methods": [{"lora": {"rank": 4}}, "pela"]},
        {"methods": [{"lora": {"rank": 4}}]},
        {"methods": ["full"], "after": [{"wise-ft": {"amount": 0.5}}]},
    ],
    ids=str,
)
def test_a_run_of_it(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = recipe(tmp_path, **changes)
    run(made, tmp_path / "out", quiet=True)
    report = Report.load(tmp_path / "out")
    assert report.target is not None and report.target.metric == "squad_f1"
    others = {o.name or o.metric for o in report.target.others}
    assert others == {"squad_exact_match", "with an answer", "without one"}
    rows = list(read_rows(tmp_path / "out" / "rows.jsonl"))
    assert rows[0].prompt == "Where does Ada live?" and rows[0].reference == "London"
    assert report.drift is not None
    resume(tmp_path / "out", verify=True, quiet=True)
    export(tmp_path / "out", tmp_path / "model")
    again = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "model", local_files_only=True).eval()
    reader = AutoTokenizer.from_pretrained(tmp_path / "model", local_files_only=True)
    for row, wrote in zip(rows, rows_of(9), strict=True):
        assert row.tuned == plain_answer(again, reader, wrote)


def plain_answer(net: Any, reader: Any, row: dict[str, Any]) -> str:
    """What plain transformers answers: the best pair of a start and an end in the context, or none."""
    read = reader(row["question"], row["context"], return_offsets_mapping=True, return_tensors="pt")
    sides, offsets = read.sequence_ids(0), read.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        out = net(**{k: v for k, v in read.items() if k in ("input_ids", "attention_mask", "token_type_ids")})
    start, end = out.start_logits[0].tolist(), out.end_logits[0].tolist()
    places = [i for i, side in enumerate(sides) if side == 1]
    i, j = max(((a, b) for a in places for b in places if a <= b < a + 30), key=lambda ab: start[ab[0]] + end[ab[1]])
    return "" if start[0] + end[0] > start[i] + end[j] else row["context"][offsets[i][0] : offsets[j][1]].strip()


def test_a_base_with_a_head_of_its_own_keeps_it_and_its_drift_is_a_divergence(tmp_path: Path) -> None:
    run(recipe(tmp_path), tmp_path / "out", quiet=True)
    report = Report.load(tmp_path / "out")
    assert report.drift is not None and report.drift.measure == "kl" and report.drift.value.value > 0
    assert report.target is not None and not report.target.fresh_head


def test_a_base_without_a_head_gets_one(tmp_path: Path) -> None:
    made = recipe(tmp_path, model="nano-encoder", budget__steps=2)
    run(made, tmp_path / "out", quiet=True)
    report = Report.load(tmp_path / "out")
    assert report.target is not None and report.target.fresh_head
    assert report.drift is not None and report.drift.measure == "1-cka"


def test_check_names_rows_whose_answer_was_moved(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    rows = rows_of(24)
    rows[2]["answers"]["answer_start"] = [0]
    write(tmp_path / "train.jsonl", rows)
    found = check_recipe(made).report
    moved = [n for n in found.notices if n.kind == "answer moved"]
    assert [n.where for n in moved] == [("train.jsonl:3",)], found.notices


def test_equal_questions_of_another_context_are_no_overlap(tmp_path: Path) -> None:
    made = recipe(tmp_path)
    rows = rows_of(9)
    write(tmp_path / "test.jsonl", [{**r, "context": "Then. " + r["context"], "answers": []} for r in rows])
    assert not [n for n in check_recipe(made).report.notices if n.kind == "overlap"]
    write(tmp_path / "test.jsonl", [{**r, "answers": []} for r in rows])
    assert [n for n in check_recipe(made).report.notices if n.kind == "overlap"]


def test_init_takes_it_for_questions_with_a_context(tmp_path: Path) -> None:
    write(tmp_path / "rows.jsonl", rows_of(30))
    text = starter("nano-encoder", tmp_path / "rows.jsonl")
    assert "task: question-answering" in text and "- full" in text


@pytest.mark.parametrize("metric", ["accuracy", "span_f1", "exact_match", "pair_accuracy"])
def test_metrics_of_other_rows_are_refused(metric: str) -> None:
    with pytest.raises(RecipeError):
        check_metric(metric, TASK)
