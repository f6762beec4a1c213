"""Copying and induction on made sequences: what is asked is told by the context, and is read as the model says it."""

from __future__ import annotations

import random

import pytest
import torch

from tests import tiny
from tunewright.measure import in_context
from tunewright.tasks import get_task


def test_each_token_that_is_asked_stands_behind_its_forerunner_alone():
    ids = range(100, 200)
    said, asked = in_context.copying(ids, random.Random(0), 6)
    assert said[:6] == said[6:] and len(set(said)) == 6 and asked == [7, 8, 9, 10, 11]
    said, asked = in_context.induction(ids, random.Random(1), pairs=4, rounds=3)
    assert len(said) == 24 and len(set(said)) == 8 and asked == list(range(9, 24, 2))
    follows = {a: b for a, b in zip(said[::2], said[1::2], strict=True)}
    assert all(said[k] == follows[said[k - 1]] for k in asked)
    rounds = [said[i : i + 8 : 2] for i in (0, 8, 16)]
    assert all(sorted(r) == sorted(rounds[0]) for r in rounds) and len({tuple(r) for r in rounds}) > 1


@pytest.mark.parametrize("kind", in_context.KINDS)
def test_the_share_is_that_of_a_plain_forward(kind):
    tokenizer, model = tiny.tokenizer(), tiny.llama().eval()
    rows = in_context.made(tokenizer, kind, 5)
    assert rows[0].input_ids == in_context.made(tokenizer, kind, 5)[0].input_ids != rows[1].input_ids
    special = set(tokenizer.all_special_ids)
    with torch.no_grad():  # all tokens that are asked become the likeliest at their places in the first sequence
        model.lm_head.weight.copy_(torch.randn_like(model.lm_head.weight))
    expected = []
    for row in rows:
        asked = [i for i, w in enumerate(row.weights) if w]
        assert asked and not special & {row.input_ids[i] for i in asked}
        said = model(torch.tensor([row.input_ids])).logits[0].argmax(-1).tolist()
        expected.append(sum(said[i - 1] == row.input_ids[i] for i in asked) / len(asked))
    found = in_context.read(model, get_task("text-generation"), rows)
    assert found.right == pytest.approx(expected) and found.asked == [sum(map(bool, r.weights)) for r in rows]


def test_a_model_that_copies_has_everything_right():
    """An oracle in the model's place: its logits favour what followed the last token when it was said before."""
    tokenizer, model = tiny.tokenizer(), tiny.llama().eval()

    def forward(input_ids=None, **rest):
        out = torch.zeros(*input_ids.shape, model.config.vocab_size)
        for r, ids in enumerate(input_ids.tolist()):
            for t in range(1, len(ids)):
                before = [k for k in range(t) if ids[k] == ids[t]]
                if before:
                    out[r, t, ids[before[-1] + 1]] = 1.0
        return type("Out", (), {"logits": out})()

    class Copying(torch.nn.Module):
        config = model.config

        def __init__(self):
            super().__init__()
            self.held = torch.nn.Parameter(torch.zeros(1))

        def forward(self, **inputs):
            return forward(**inputs)

    for kind in in_context.KINDS:
        rows = in_context.made(tokenizer, kind, 3)
        assert in_context.read(Copying(), get_task("text-generation"), rows).right == [1.0] * 3
