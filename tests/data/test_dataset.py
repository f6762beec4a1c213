"""Encoded rows: the cache's keys and safety, what becomes of long, empty and bad rows, shares."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.contract.records import Problem, RowProblem
from tunewright.contract.task import EncodeOptions
from tunewright.data import dataset, store
from tunewright.data.caution import repeated
from tunewright.data.dataset import build, cursor, stored
from tunewright.data.encode import encode_all
from tunewright.data.labels import labels_of
from tunewright.data.pack import TOLERANCE, leak, sample_rows
from tunewright.data.places import as_written
from tunewright.data.read import read_all
from tunewright.data.truncate import fit_length, trained_tokens
from tunewright.errors import DataError
from tunewright.models.attention import prepare_attention
from tunewright.recipe import Source
from tunewright.recipe.tables import as_table
from tunewright.tasks import get_task
from tunewright.tasks.image_classification import image_options

TASK = get_task("text-generation")
PAIRS = [
    {"prompt": "Which topic is this?", "completion": "card arrival"},
    {"prompt": "a", "completion": "b"},
    {"prompt": "In 1999", "completion": "the river rose"},
]


def write(folder, name, rows):
    (folder / name).write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows))
    return Source(path=name)


def make(tmp_path, rows=PAIRS, *, options=None, tokenizer=None, name="t.jsonl", task=TASK, **more):
    source = write(tmp_path, name, rows)
    return build(
        [source],
        task,
        tokenizer or tiny.tokenizer(),
        options or EncodeOptions(),
        tmp_path / "cache",
        base=tmp_path,
        **more,
    )


def test_rows_come_back_from_the_cache_as_they_were_encoded(tmp_path):
    made = make(tmp_path)
    source = Source(path="t.jsonl")
    encoded = encode_all(read_all(source, tmp_path), TASK, tiny.tokenizer(), EncodeOptions())
    assert list(made.rows) == encoded.rows and made.rows[-1] == made.rows[2] and made.rows[:2] == encoded.rows[:2]
    assert made.counts["rows"] == 3 and made.counts["tokens"] == sum(r.size for r in encoded.rows) == int(
        made.rows.lengths.sum()
    )
    with pytest.raises(IndexError):
        made.rows[3]


def test_equal_content_is_encoded_once_and_anything_that_matters_makes_it_anew(tmp_path, monkeypatch):
    calls = []
    own = dataset.encode_all
    monkeypatch.setattr(dataset, "encode_all", lambda *a: calls.append(1) or own(*a))
    first = make(tmp_path)
    assert make(tmp_path).hash == first.hash and len(calls) == 1
    other = tiny.tokenizer()
    other.chat_template = other.chat_template.replace("{{ message['content'] }}", "{{ message['content'] }} ")
    changes = [
        {"options": EncodeOptions(template="x {text}")},
        {"tokenizer": other},
        {"rows": PAIRS[:2]},
        {"name": "u.jsonl"},
    ]
    for n, change in enumerate(changes, 2):
        make(tmp_path, **change)
        assert len(calls) == n


def test_a_changed_cache_file_is_noticed_and_made_again(tmp_path):
    before = make(tmp_path)
    tokens = before.rows.folder / "tokens.npy"
    good = tokens.read_bytes()
    tokens.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert make(tmp_path).hash == before.hash and tokens.read_bytes() == good
    (before.rows.folder / store.MANIFEST).unlink()
    assert make(tmp_path).hash == before.hash and not list(before.rows.folder.parent.glob(".writing-*"))


def test_bad_rows_fail_a_run_and_are_named(tmp_path):
    rows = [PAIRS[0], {"prompt": "a", "completion": ""}, "{"]
    for _ in range(2):  # from the cache too
        with pytest.raises(DataError, match="2 of 3 rows") as caught:
            make(tmp_path, rows)
        assert "t.jsonl:2" in str(caught.value) and "t.jsonl:3" in str(caught.value)
    assert make(tmp_path, rows, problems="skip").counts["problems"] == 2


def long_text(n: int) -> Row:
    return Row("r", "s", list(range(n)), [1.0] * n, fields={"kind": "plain"})


def test_pieces_of_a_long_row_train_each_token_once():
    pieces = fit_length(long_text(23), 6, "split")
    assert all(len(p.input_ids) <= 6 for p in pieces) and [i for p in pieces for i in p.input_ids[1:]] == list(
        range(1, 23)
    )
    assert [p.id for p in pieces] == ["r#0", "r#1", "r#2", "r#3", "r#4"]


def test_truncation_policies():
    row = long_text(7)
    assert fit_length(row, 7, "fail") == [row] and fit_length(row, 6, "drop") == []
    with pytest.raises(RowProblem, match="7 tokens, and max_length is 6"):
        fit_length(row, 6, "fail")
    labelled = Row("r", "s", [1, 2, 3, 4, 9], [1.0], label=0)
    assert fit_length(labelled, 3, "split")[0].input_ids == [1, 2, 9]
    prompt_only = Row("r", "s", list(range(10)), [0.0] * 8 + [1.0] * 2, fields={"prompt_ids": list(range(8))})
    pieces = fit_length(prompt_only, 5, "split")
    assert [p.input_ids for p in pieces] == [[4, 5, 6, 7, 8], [8, 9]] and not any(
        "prompt_ids" in p.fields for p in pieces
    )
    for kind, pieces in (("plain", ["r#0", "r#1"]), ("mask", ["r#0", "r#1"]), ("chat", []), ("choice", [])):
        assert [p.id for p in fit_length(replace(row, fields={"kind": kind}), 4, "auto")] == pieces
    assert fit_length(labelled, 3, "auto") == []
    pair = Row("r", "s", [1, 2], [0.0, 1.0], fields={"rejected_ids": [1] * 9})
    assert fit_length(pair, 5, "split") == []


def test_long_and_untrained_rows_are_counted_and_refused_if_all(tmp_path):
    untrained = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "weight": 0}]}
    rows = [PAIRS[1], untrained, {"prompt": "x" * 300, "completion": "y"}]
    counts = make(tmp_path, rows, options=EncodeOptions(max_length=40)).counts
    assert (counts["rows"], counts["zero_trained"], counts["too_long"], counts["read"]) == (1, 1, 1, 3)
    with pytest.raises(DataError, match="no row has a token that would be trained"):
        make(tmp_path, [untrained] * 2)
    with pytest.raises(DataError, match="longer than max_length"):
        make(tmp_path, options=EncodeOptions(max_length=2))


def test_a_zero_weight_row_has_no_trained_token_even_if_its_first_has():
    assert trained_tokens(Row("r", "s", [1, 2], [1.0, 0.0])) == 0


def test_pictures_are_cached_as_small_numbers(tmp_path):
    np.savez(
        tmp_path / "p.npz", x=np.random.default_rng(0).integers(0, 255, (4, 20, 20), dtype=np.uint8), y=np.arange(4) % 3
    )
    options = EncodeOptions(
        labels=labels_of([Source(path="p.npz")], tmp_path),
        image=image_options(config=tiny.vit().config),
    )
    task = get_task("image-classification")
    made = build([Source(path="p.npz")], task, None, options, tmp_path / "cache", base=tmp_path)
    assert made.rows[1].fields["pixels"].dtype == np.uint8 and options.labels == ("0", "1", "2")
    assert task.forward(tiny.vit(), task.collate(made.rows[:])).logits.shape == (4, 3)
    assert made.counts["trained_tokens"] == 4


def test_shares_follow_weights_and_without_any_each_row_comes_once(tmp_path):
    a, b = write(tmp_path, "a.jsonl", PAIRS * 3), write(tmp_path, "b.jsonl", PAIRS)
    args = (TASK, tiny.tokenizer(), EncodeOptions(), tmp_path / "cache")
    both = build([a, b], *args, base=tmp_path)
    assert (
        both.shares() == pytest.approx({"a.jsonl": 0.75, "b.jsonl": 0.25})
        and len(both.rows) == 12
        and both.rows[-1].source == "b.jsonl"
    )
    weighed = build([a.model_copy(update={"weight": 3.0}), b], *args, base=tmp_path)
    assert weighed.shares() == pytest.approx({"a.jsonl": 0.75, "b.jsonl": 0.25})
    equal = build([x.model_copy(update={"weight": 1.0}) for x in (a, b)], *args, base=tmp_path)
    assert equal.shares() == pytest.approx({"a.jsonl": 0.5, "b.jsonl": 0.5}), "equal weights are weights too"
    assert "b.jsonl is gone through 2 times" in " ".join(repeated(equal.sources))
    replayed = cursor(
        build([a], *args, base=tmp_path),
        seed=0,
        batch_tokens=64,
        replay={"general": (build([b], *args, base=tmp_path), 0.25)},
    )
    assert replayed.weights == pytest.approx({"a.jsonl": 0.75, "b.jsonl": 0.25})


@pytest.mark.parametrize("maker", ["llama", "qwen3"])
def test_packed_attention_does_not_leak(maker, tmp_path):
    rows, model = sample_rows(make(tmp_path).rows), tiny.MAKERS[maker]()
    assert leak(model, TASK, rows, packed=False) < TOLERANCE
    assert prepare_attention(model) and leak(model, TASK, rows) < TOLERANCE


def test_leak_is_large_for_rows_that_see_each_other(tmp_path):
    class Leaky(type(TASK)):
        def collate(self, rows, packed=False, **more):
            batch = super().collate(rows, packed, **more)
            if packed:  # one long row instead of several
                total = batch.inputs["input_ids"].shape[1]
                batch.inputs["position_ids"] = torch.arange(total)[None]
                batch.cu_seqlens = torch.tensor([0, total], dtype=torch.int32)
                batch.fields["max_length"] = total
            return batch

    assert leak(tiny.llama(), Leaky(), sample_rows(make(tmp_path).rows)) > 10 * TOLERANCE


def test_what_is_wrong_names_the_columns_of_the_file(tmp_path):
    """A label that is missing, in a file that calls it otherwise, was said to be wrong in a column that nobody had."""
    rows = [{"body": f"card {i}", "kind": str(i % 2)} for i in range(6)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, [*rows, {"body": "lost", "kind": None}])))
    source = Source(path="rows.jsonl", columns={"text": "body", "label": "kind"})
    task, options = get_task("text-classification"), EncodeOptions(labels=("0", "1"))
    (problem,) = stored(source, task, tiny.tokenizer(), options, tmp_path / "cache", base=tmp_path).problems
    assert problem.field == "kind" and problem.where == "rows.jsonl:7"
    said = Problem("f:1", "label", "'label' or `text` is wrong, and label in words is a word", 'write "label"')
    found = as_written(said, source)
    assert found.reason == "'kind' or `body` is wrong, and label in words is a word" and found.remedy == 'write "kind"'
    table = as_table(Source(path="rows.jsonl"), "income", None)
    assert as_written(said, table).field == "income"
    assert as_written(said, Source(path="rows.jsonl")) == said
    wrong = Source(path="rows.jsonl", columns={"text": "body", "label": "kynd"})
    with pytest.raises(DataError, match="columns names 'kynd', which the row does not have"):
        labels_of([wrong], tmp_path, task)
