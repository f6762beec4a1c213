"""Text infilling: what masks stand for, how much is hidden, sentences shuffled, and languages' tokens left alone."""

from __future__ import annotations

import copy
import random
from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.methods.driving import Run, assert_resumes
from tests.tasks.test_text2text import bart, t5
from tunewright.conformance.task_examples import tokenizer
from tunewright.contract.batch import Row
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.errors import MethodError
from tunewright.methods.inputs.text_infilling import TextInfilling
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.adapted import Adapted
from tunewright.pieces.corrupted_texts import infilled, permuted
from tunewright.tasks import get_task
from tunewright.training import micro_batches
from tunewright.training.train import Loop

TASK = get_task("text2text-generation")
WORDS = ("red", "blue", "green", "dog", "fox", "the", "very", "is")
MASK = -1


def texts(count: int = 12, words: int = 12) -> list[Record]:
    rng = random.Random(0)
    return [Record({"text": " ".join(rng.choices(WORDS, k=words))}, id=f"new:{i}", source="new") for i in range(count)]


def encoded(method: TextInfilling, records: list[Record], **options: Any) -> list[Row]:
    return [TASK.encode(method.example(r) or r, tokenizer(end=True), EncodeOptions(**options)) for r in records]


def drive(method: TextInfilling, model: Any = None, rows: list[Row] | None = None, **more: Any) -> Run:
    adapted = Adapted(model or t5(), copy.deepcopy(tokenizer(end=True)))
    method.prepare(adapted.model, adapted.tokenizer, random.Random(0))
    return Run(
        {"full": FullFineTuning(), "text-infilling": method},
        model=adapted,
        task=TASK.name,
        sources={"new": rows or encoded(method, texts())},
        **more,
    )


def read(r: Run, rows: list[Row], epoch: int = 0) -> list[Row]:
    return [row for row, _ in micro_batches.changed(Loop(r.stage), [(row, epoch) for row in rows])]


def sides(row: Row) -> tuple[list[int], list[int]]:
    at = len(row.fields["prompt_ids"])
    return list(row.input_ids[:at]), list(row.input_ids[at:])


@given(st.integers(2, 80), st.floats(0.02, 0.95), st.floats(0.3, 8), st.integers(0, 999))
def test_what_is_kept_stands_in_order_and_as_much_is_hidden_as_is_said(length, rate, mean, seed):
    ids = list(range(length))
    out = infilled(ids, rate, mean, MASK, random.Random(seed))
    kept = [t for t in out if t != MASK]
    assert all(a < b for a, b in pairwise(kept)) and MASK in out
    assert length - len(kept) == min(max(1, round(length * rate)), length - 1)


def test_spans_are_poissons_and_some_are_of_no_token():
    """Of 400 tokens between which spans lie apart: lengths of mean 3 and variance 3, a twentieth of them 0."""
    lengths = []
    for seed in range(300):
        out = infilled(list(range(400)), 0.15, 3.0, MASK, random.Random(seed))
        known = [-1, *out, 400]
        for k in range(1, len(known) - 1):
            if known[k] == MASK and known[k - 1] != MASK and known[k + 1] != MASK:
                lengths.append(known[k + 1] - (known[k - 1] if k > 1 else -1) - 1)
    assert np.mean(lengths) == pytest.approx(3.0, rel=0.08) and np.var(lengths) == pytest.approx(3.0, rel=0.2)
    assert Counter(lengths)[0] / len(lengths) == pytest.approx(np.exp(-3), rel=0.4)


def test_whole_sentences_change_their_order_each_as_likely():
    text = [1, 2, 9, 3, 9, 4, 5]
    found = Counter(tuple(permuted(text, [9], random.Random(i))) for i in range(600))
    first, second, last = [1, 2, 9], [3, 9], [4, 5]
    every = {(*a, *b, *c) for a in (first, second, last) for b in (first, second, last) for c in (first, second, last)}
    assert set(found) <= every and len(found) == 6 and all(n == pytest.approx(100, rel=0.35) for n in found.values())


@pytest.mark.parametrize("make", [t5, bart], ids=["t5", "bart"])
def test_the_decoder_writes_the_text_as_it_was(make):
    method = TextInfilling()
    r, rows = drive(method, make()), encoded(method, texts())
    mask = r.state("text-infilling").data["mask"]
    for before, row in zip(rows, read(r, rows), strict=True):
        source, target = sides(row)
        assert target == list(before.fields["prompt_ids"]) and mask in source and source[-1] == 2
        assert list(row.weights) == [0.0] * len(source) + [1.0] * len(target)
    assert [row.input_ids for row in read(r, rows, 1)] != [row.input_ids for row in read(r, rows)]
    assert read(r, rows[:1])[0].input_ids == read(r, rows)[0].input_ids


def test_a_languages_token_is_neither_hidden_nor_asked_for():
    method, reader = TextInfilling(rate=0.9), copy.deepcopy(tokenizer(end=True))
    reader.add_tokens(["[xx]"])
    at = reader.convert_tokens_to_ids("[xx]")
    record = method.example(Record({"text": "red dog is very green", "lang": "[xx]"}, id="a", source="new"))
    row = TASK.encode(record, reader, EncodeOptions(template="{lang} {prompt}"))
    assert row.fields["prompt_ids"][0] == at
    adapted = Adapted(t5(), reader)
    adapted.model.resize_token_embeddings(len(reader))
    method.prepare(adapted.model, reader, random.Random(0))
    r = Run({"full": FullFineTuning(), "text-infilling": method}, model=adapted, task=TASK.name, sources={"new": [row]})
    for epoch in range(20):
        source, target = sides(read(r, [row], epoch)[0])
        assert source[0] == at and at not in target and target == list(row.fields["prompt_ids"][1:])


def test_a_target_ends_as_the_tokenizer_ends_a_text():
    """mBART's ends with the end of text and the language's code, from which its decoder starts."""
    method, row = TextInfilling(), encoded(TextInfilling(), texts(1))[0]
    r = drive(method)
    state, ids = r.state("text-infilling"), row.fields["prompt_ids"]
    code = state.data["before"][-1]
    source, target = sides(
        method.row(row.replace(fields={**row.fields, "prompt_ids": [*ids, code]}), state, random.Random(0))
    )
    assert source[-2:] == target[-2:] == [2, code]
    source, target = sides(
        method.row(row.replace(fields={**row.fields, "prompt_ids": ids[:-1]}), state, random.Random(0))
    )
    assert target == ids and source[-1] != 2


@pytest.mark.parametrize("option", [{"rate": 0.7}, {"mean": 1.0}], ids=str)
def test_options_change_what_is_read(option):
    rows = encoded(TextInfilling(), texts())
    one, two = ([row.input_ids for row in read(drive(m), rows)] for m in (TextInfilling(), TextInfilling(**option)))
    assert one != two


def test_sentences_stay_where_they_are_not_permuted():
    method = TextInfilling(permute=False, rate=0.2)
    r, row = drive(method), encoded(method, texts(1))[0]
    state = r.state("text-infilling")
    state.data["ends"] = [row.fields["prompt_ids"][3]]
    moved, stays = (m.row(row, state, random.Random(1)) for m in (TextInfilling(rate=0.2), method))
    kept = [t for t in sides(stays)[0] if t != state.data["mask"]]
    rest = iter(row.fields["prompt_ids"])
    assert all(t in rest for t in kept), "in order"
    assert sides(moved)[0] != sides(stays)[0] and sides(moved)[1] == sides(stays)[1]


def test_a_run_goes_on_from_any_step_to_the_same_bits():
    assert_resumes(lambda listen: drive(TextInfilling(), listen=listen), 2)


def test_a_model_without_a_tokenizer_is_refused():
    rows = encoded(TextInfilling(), texts())
    methods = {"full": FullFineTuning(), "text-infilling": TextInfilling()}
    with pytest.raises(MethodError, match="the model has none"):
        Run(methods, model=Adapted(t5()), task=TASK.name, sources={"new": rows})
