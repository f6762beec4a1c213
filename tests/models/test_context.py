"""What the present forward's rows are: laid out as the batch is, gone afterwards, found again in a recomputation."""

from __future__ import annotations

import threading

import pytest
import torch

from tests import tiny
from tests.methods.driving import text_rows
from tunewright.contract.batch import Row
from tunewright.contract.pairs import paired
from tunewright.errors import MethodError
from tunewright.measure import generate
from tunewright.methods.adapters.loreft import orthonormal
from tunewright.models import context
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import PositionEdit, attach
from tunewright.models.recompute import recomputing
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def row(name: str, ids: list[int], prompt: int, **fields: object) -> Row:
    weights = [0.0] * prompt + [1.0] * (len(ids) - prompt)
    return Row(name, f"source of {name}", ids, weights, fields=fields)


ROWS = [row("a", [9, 8, 7, 6], 2), row("b", [9, 8, 7, 6, 5, 4], 3, prompt_ids=[9, 8, 7, 6]), row("c", [9, 8], 0)]


def edited(model=None, **more: object) -> Adapted:
    """A tiny model with an edit of the first and the last two tokens of each prompt on every block."""
    adapted = Adapted(model if model is not None else tiny.llama())
    g = torch.Generator().manual_seed(1)
    for site in adapted.structure.whole:
        R = orthonormal(1, 3, site.size, g)
        edit = PositionEdit(R, torch.randn(R.shape, generator=g), torch.randn(1, 3, generator=g), first=1, last=2)
        attach(site, "edit", edit)
    adapted.model.eval()
    return adapted


@pytest.mark.parametrize("packed", [False, True])
def test_a_batch_says_where_each_token_stands(packed):
    now = context.of_batch(TASK.collate(ROWS, packed))
    assert now.rows.ids == ("a", "b", "c") and now.rows.sources == tuple(r.source for r in ROWS)
    assert now.rows.prompts.tolist() == [2, 4, 0], "prompt_ids say it, else the tokens before the first loss"
    rows = [[0] * 4, [1] * 6, [2] * 2]
    if packed:
        assert now.row.tolist() == [sum(rows, [])] and now.place.tolist() == [[*range(4), *range(6), *range(2)]]
    else:
        assert now.place.tolist() == [[0, 1, 2, 3, -1, -1], [*range(6)], [0, 1, -1, -1, -1, -1]]
        assert now.row.tolist() == [[0] * 6, [1] * 6, [2] * 6]
    states = torch.zeros(*now.row.shape, 5)
    assert torch.equal(now.at(states)[1], now.place)
    assert now.asked(states)[now.row == 1].tolist() == [4] * int((now.row == 1).sum())


def test_pairs_are_two_sequences_of_one_row():
    fields = {"prompt_ids": [9, 8], "rejected_ids": [9, 8, 1], "rejected_weights": [0.0, 0.0, 1.0]}
    now = context.of_batch(TASK.collate([paired(row("a", [9, 8, 7, 6], 2, **fields))], True))
    assert now.rows.ids == ("a", "a") and now.rows.prompts.tolist() == [2, 2]
    assert now.row.tolist() == [[0] * 4 + [1] * 3]


def test_pictures_have_tokens_that_nobody_counts():
    batch = get_task("image-classification").collate(_pictures())
    now = context.of_batch(batch)
    row, place = now.at(torch.zeros(2, 5, 3))
    assert row.tolist() == [[0] * 5, [1] * 5] and place.tolist() == [[*range(5)]] * 2
    assert now.asked(torch.zeros(2, 5, 3)).tolist() == [[5] * 5] * 2


def _pictures():
    from tests.methods.driving import image_rows

    return image_rows(2)


def test_nothing_is_known_outside_of_a_forward_nor_in_another_thread():
    now = context.of_batch(TASK.collate(ROWS))
    with pytest.raises(MethodError, match="whoever runs the model has not said"):
        context.present()
    seen = []
    with pytest.raises(ZeroDivisionError), context.reading(now):
        assert context.present() is now
        other = threading.Thread(target=lambda: seen.append(context.told()))
        other.start()
        other.join()
        with context.reading(None):
            assert context.told() is None
        assert context.present() is now
        raise ZeroDivisionError
    assert context.told() is None and seen == [None]
    with pytest.raises(MethodError, match="has not said"):
        edited().model(torch.tensor([[9, 8, 7]]))


def test_what_is_not_known_of_rows_is_refused_in_words():
    nothing = context.Present(context.Rows())
    for ask, words in ((nothing.sources, "source"), (nothing.ids, "ids")):
        with pytest.raises(MethodError, match=words):
            ask()
    padded = context.of_batch(TASK.collate(ROWS))
    with pytest.raises(MethodError, match="adds or leaves out tokens"):
        padded.at(torch.zeros(3, 9, 4))
    unsaid = context.Present(context.Rows(), padded.row, padded.place)
    with pytest.raises(MethodError, match="where prompts end"):
        unsaid.asked(torch.zeros(3, 6, 4))


def test_blocks_that_are_computed_again_find_their_own_rows():
    def gradients(recompute: bool) -> dict[str, torch.Tensor]:
        adapted = edited()
        adapted.model.train()
        for p in adapted.delta_parameters().values():
            p.requires_grad_(True)
        batches = [TASK.collate(rows, True) for rows in (text_rows(3), text_rows(4, seed=1))]
        with recomputing(adapted.model, recompute):
            losses = [TASK.loss(TASK.forward(adapted.model, b), b).value.sum() for b in batches]
            sum(losses).backward()  # after both forwards: the last one's rows must not stand in for the first's
        return {n: p.grad for n, p in adapted.delta_parameters().items()}

    plain, again = gradients(False), gradients(True)
    assert all(float(g.abs().sum()) > 0 for g in plain.values())
    for n, g in plain.items():
        torch.testing.assert_close(again[n], g)


def test_the_librarys_own_generation_goes_on_from_the_prompt():
    adapted, prompts = edited(), [[9, 8, 7], [11, 12, 13, 14, 15], [20, 21, 22]]
    ours = generate.greedy(adapted.model, None, prompts, 6, ())
    theirs = generate._library(adapted.model, None, prompts, 6, set(), ())
    assert ours == theirs
    with adapted.base() as base:
        assert generate.greedy(base, None, prompts, 6, ()) != ours, "the edit says nothing"
    assert context.told() is None and not adapted.model._forward_pre_hooks


def test_prompts_share_no_reading_where_a_delta_reads_what_its_rows_are():
    adapted = edited()
    prompts = [[9, 8, 7, 6, 5], [9, 8, 7, 6, 5, 4, 3]]
    together = generate.greedy(adapted.model, None, prompts, 5, ())
    assert together == [generate.greedy(adapted.model, None, [p], 5, ())[0] for p in prompts]
    assert context.reads_rows(adapted.model) and not context.reads_rows(tiny.llama())
