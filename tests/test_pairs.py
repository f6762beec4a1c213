"""Pairs lie in a batch as two sequences of one row."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tunewright.contract.batch import Row
from tunewright.contract.pairs import Pair, PairRows, paired
from tunewright.contract.records import Record
from tunewright.contract.task import EncodeOptions
from tunewright.errors import DataError
from tunewright.tasks import get_task


def rows() -> list[Row]:
    task, tokenizer = get_task("text-generation"), tiny.tokenizer(chat=False)
    said = [("Which topic?", "card declined", "river"), ("A user and", "an assistant talk.", "a shop")]
    records = [
        Record({"prompt": p, "chosen": c, "rejected": r}, id=f"p:{i}", where=f"p:{i}", source="p")
        for i, (p, c, r) in enumerate(said)
    ]
    return [task.encode(r, tokenizer, EncodeOptions()) for r in records]


@pytest.mark.parametrize("packed", [True, False])
def test_chosen_and_rejected_are_two_sequences_of_one_row(packed):
    task, plain = get_task("text-generation"), rows()
    batch = task.collate(PairRows(plain)[:], packed, epochs=[3, 4])
    assert (
        batch.row_ids == ["p:0", "p:1"]
        and batch.epochs == [3, 4]
        and batch.tokens == sum(p.size for p in PairRows(plain))
    )
    for i, row in enumerate(plain):
        for side, ids, weights in (
            (0, row.input_ids, row.weights),
            (1, row.fields["rejected_ids"], row.fields["rejected_weights"]),
        ):
            here = (batch.rows == i) & (batch.fields["pair"] == side)
            assert batch.labels[here].tolist() == [t for t, w in zip(ids, weights, strict=True) if w]
            assert batch.weights[here].tolist() == [1.0 - side] * int(here.sum())


def test_what_knows_nothing_of_pairs_trains_on_the_chosen_answers():
    task, model = get_task("text-generation"), tiny.llama()
    plain, pairs = task.collate(rows()), task.collate(PairRows(rows())[:])
    with torch.no_grad():
        a, b = (task.loss(task.forward(model, x), x).value for x in (plain, pairs))
    torch.testing.assert_close(
        (a * plain.weights).sum() / plain.weights.sum(), (b * pairs.weights).sum() / pairs.weights.sum()
    )


def test_a_row_with_one_answer_is_refused_with_its_place():
    row = Row("train.jsonl:7", "train", [1, 2], [0.0, 1.0])
    with pytest.raises(DataError, match="train.jsonl:7") as error:
        PairRows([*rows(), row])
    assert "chosen and rejected" in str(error.value)


def test_a_pair_counts_both_answers_and_stays_a_pair():
    row = rows()[0]
    pair = paired(row)
    assert (
        isinstance(pair, Pair)
        and paired(pair) is pair
        and pair.size == len(row.input_ids) + len(row.fields["rejected_ids"])
    )
