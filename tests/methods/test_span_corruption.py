"""Span corruption for encoder-decoders: source and target put together are the text; T5's own count of spans; runs."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.methods.driving import Run, assert_resumes
from tests.tasks.test_text2text import bart, t5
from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.batch import Row
from tunewright.contract.method import State
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.errors import MethodError
from tunewright.methods.inputs.span_corruption import SpanCorruption
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.adapted import Adapted
from tunewright.recipe import Recipe
from tunewright.runs.run import run as run_recipe
from tunewright.tasks import get_task
from tunewright.training import micro_batches
from tunewright.training.train import Loop

TASK = get_task("text2text-generation")
WORDS = ("red", "blue", "green", "dog", "fox", "the", "very", "is")


def texts(count: int = 12, words: int = 12, source: str = "new") -> list[Record]:
    rng = random.Random(source)
    return [
        Record({"text": " ".join(rng.choices(WORDS, k=words))}, id=f"{source}:{i}", source=source) for i in range(count)
    ]


def encoded(method: SpanCorruption, records: list[Record]) -> list[Row]:
    reader = tokenizer(end=True)
    return [TASK.encode(method.example(r) or r, reader, EncodeOptions()) for r in records]


def drive(method: SpanCorruption, model: Any = None, sources: Any = None, **more: Any) -> Run:
    sources = sources or {"new": encoded(method, texts())}
    adapted = Adapted(model or t5(), copy.deepcopy(tokenizer(end=True)))
    method.prepare(adapted.model, adapted.tokenizer, random.Random(0))
    return Run(
        {"full": FullFineTuning(), "span-corruption": method}, model=adapted, task=TASK.name, sources=sources, **more
    )


def read(r: Run, rows: list[Row], epoch: int = 0) -> list[Row]:
    """The rows as the loop trains on them."""
    return [row for row, _ in micro_batches.changed(Loop(r.stage), [(row, epoch) for row in rows])]


def sides(row: Row) -> tuple[list[int], list[int]]:
    at = len(row.fields["prompt_ids"])
    return list(row.input_ids[:at]), list(row.input_ids[at:])


def put_together(row: Row, marks: list[int]) -> list[int]:
    """The source with each mark replaced by what the target says behind it."""
    source, target = sides(row)
    assert target[-1] == source[-1] == 2, "both end"
    said: dict[int, list[int]] = {}
    for token in target[:-1]:
        if token in marks:
            said[mark := token] = []
        else:
            said[mark].append(token)
    assert all(said.values()) and list(said) == [t for t in source if t in marks]
    return [part for t in source for part in said.get(t, [t])]


@pytest.mark.parametrize("make", [t5, bart], ids=["t5", "bart"])
def test_source_and_target_are_the_text(make):
    method = SpanCorruption(rate=0.3, mean=2.0)
    r = drive(method, make())
    given_rows, marks = encoded(method, texts()), r.state("span-corruption").data["marks"]
    for before, row in zip(given_rows, read(r, given_rows), strict=True):
        assert put_together(row, marks) == list(before.fields["prompt_ids"])
        source, target = sides(row)
        assert list(row.weights) == [0.0] * len(source) + [1.0] * len(target)


@given(st.integers(2, 60), st.floats(0.05, 0.9), st.floats(1, 6))
def test_as_much_is_hidden_in_as_many_spans_as_t5_hides(words, rate, mean):
    """T5's random_spans_noise_mask: round(L rate) tokens, in round(those / mean) spans, 1 of each at least."""
    method = SpanCorruption(rate=rate, mean=mean)
    row = encoded(method, texts(1, words))[0]
    state = State(marks=list(range(1000, 1100)), bos=1, eos=2)
    made = method.row(row, state, random.Random(0))
    assert made is not None
    length = len(row.fields["prompt_ids"]) - 1
    source, target = sides(made)
    hidden = min(max(round(length * rate), 1), length - 1)
    spans = min(max(round(hidden / mean), 1), hidden, length - hidden)
    assert sum(t < 1000 for t in target) - 1 == hidden
    assert [t for t in source if t >= 1000] == list(range(1000, 1000 + spans))


def test_spans_are_drawn_anew_in_each_epoch_and_the_same_whatever_stands_beside():
    method = SpanCorruption(rate=0.3)
    r, rows = drive(method), encoded(method, texts())
    first, again, later = read(r, rows), read(r, rows[:1]), read(r, rows, epoch=1)
    assert again[0].input_ids == first[0].input_ids
    assert [a.input_ids for a in first] != [b.input_ids for b in later]


def test_rows_of_other_sources_stay_tasks():
    method = SpanCorruption(only=["pages"], rate=0.3)
    pages = encoded(method, texts(source="pages"))
    task = encoded(method, [Record({"prompt": "red dog", "completion": "warm"}, id="t:0", source="task")])
    r = drive(method, sources={"pages": pages, "task": task}, plan={"sources": {"pages": 12, "task": 1}})
    assert read(r, task)[0].input_ids == task[0].input_ids
    assert read(r, pages)[0].input_ids != pages[0].input_ids
    assert method.example(Record({"text": "red"}, id="t", source="task")) is None
    with pytest.raises(MethodError, match="no source is called 'page'") as error:
        drive(SpanCorruption(only=["page"]), sources={"pages": pages}, plan={"sources": {"pages": 12}})
    assert "pages" in str(error.value)


def test_a_text_of_one_token_asks_for_its_word():
    method = SpanCorruption()
    row = encoded(method, [Record({"text": "red"}, id="a", source="new")])[0]
    r = drive(method)
    short = row.replace(
        input_ids=[9, 2, 9, 2], weights=[0.0, 0.0, 1.0, 1.0], fields={**row.fields, "prompt_ids": [9, 2]}
    )
    assert read(r, [short])[0].input_ids == short.input_ids
    assert method.example(Record({"text": " "}, id="b", source="new")) is None


@pytest.mark.parametrize("option", [{"rate": 0.5}, {"mean": 1.0}, {"sentinels": 1}], ids=str)
def test_every_option_changes_what_is_read(option):
    base = {"rate": 0.4, "mean": 2.0}
    plain, other = SpanCorruption(**base), SpanCorruption(**{**base, **option})
    rows = encoded(plain, texts())
    one, two = ([row.input_ids for row in read(drive(m), rows)] for m in (plain, other))
    assert one != two


def test_a_run_goes_on_from_any_step_to_the_same_bits():
    assert_resumes(lambda listen: drive(SpanCorruption(rate=0.3), listen=listen), 2)


def test_a_model_without_a_tokenizer_is_refused():
    rows = encoded(SpanCorruption(), texts())
    with pytest.raises(MethodError, match="the model has none"):
        Run(
            {"full": FullFineTuning(), "span-corruption": SpanCorruption()},
            model=Adapted(t5()),
            task=TASK.name,
            sources={"new": rows},
        )


def test_a_stage_of_plain_texts_comes_before_a_task(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    t5().save_pretrained(tmp_path / "base")
    tokenizer(end=True).save_pretrained(tmp_path / "base")
    (tmp_path / "pages.jsonl").write_text("".join(json.dumps(dict(r)) + "\n" for r in texts()))
    pairs = [{"prompt": f"{w} dog", "completion": "warm" if w == "red" else "cold"} for w in WORDS[:4]]
    for part in ("few", "test"):
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pairs))
    tree = {
        "model": "./base",
        "task": TASK.name,
        "data": {"train": "few.jsonl", "eval": "test.jsonl"},
        "train": {"learning_rate": 1e-2, "batch_tokens": 128, "precision": "float32", "threads": 1},
        "stages": [
            {
                "name": "read",
                "data": {"train": "pages.jsonl"},
                "methods": ["full", {"span-corruption": {"sentinels": 8}}],
                "budget": {"steps": 2},
            },
            {"name": "task", "methods": ["full"], "budget": {"steps": 2}},
        ],
        "measurement": {"strengths": [1.0], "max_new_tokens": 4, "drift_sequences": 2},
    }
    (tmp_path / "r.yaml").write_text(json.dumps(tree))
    report = run_recipe(Recipe.load(tmp_path / "r.yaml"), tmp_path / "out", quiet=True).report
    assert report.run.status == "finished" and [s.name for s in report.stages] == ["read", "task"]
