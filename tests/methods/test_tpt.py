"""TPT: the surest views by sorting, the step by hand, the reset by order, the prompt by what it is added to.

The authors' functions for the selection and for the entropy of the mean (azshue/TPT, tpt_classification.py) were read;
they compute, for one row, what is computed here for several.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunewright.conformance.adapting import convolutional, deep
from tunewright.conformance.bench import MODELS, rows_of
from tunewright.contract.unlabelled import Unlabelled
from tunewright.errors import MethodError
from tunewright.measure.adapting import Stream
from tunewright.methods.test_time.tpt import TPT, agreement, confident, prompted
from tunewright.models.adapted import Adapted
from tunewright.tasks import get_task

TEXT, PICTURES = "text-classification", "image-classification"


def rows(task: str, count: int = 4) -> list[Any]:
    return rows_of(get_task(task), "stream", count)


def stream(task: str = TEXT, make: Any = None, reset: Any = None, **fields: Any) -> Stream:
    given = {"views": 6, "confident": 0.5, "learning_rate": 0.05, **fields}
    made = make or (MODELS[TEXT] if task == TEXT else deep)
    return Stream("tpt", TPT(**given), Adapted(made()), get_task(task), reset=reset)


def test_the_surest_share_of_the_views_counts_of_each_row_apart() -> None:
    logits = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(1)) * 3
    chosen = confident(logits, 0.3)
    assert chosen.shape == (3, 3)
    for row in range(3):
        p = logits[:, row].softmax(-1)
        surest = (-(p * p.log()).sum(-1)).sort().indices[:3]
        assert chosen[:, row].tolist() == surest.tolist()
        mean = p[surest].mean(0)
        expected = float(-(mean * mean.log()).sum())
        assert float(agreement(logits, chosen)[row]) == pytest.approx(expected, abs=1e-5)
    assert confident(logits, 0.01).shape == (1, 3), "one at least"


def test_two_sure_views_that_differ_do_not_agree() -> None:
    logits = torch.tensor([[[20.0, 0.0]], [[0.0, 20.0]]])
    both, one = torch.tensor([[0], [1]]), torch.tensor([[0]])
    assert float(agreement(logits, both)) == pytest.approx(0.6931, abs=1e-3)
    assert float(agreement(logits, one)) == pytest.approx(0.0, abs=1e-3)


def test_a_prompt_is_added_to_the_first_tokens_alone() -> None:
    model = MODELS[TEXT]()
    inputs = get_task(TEXT).collate(rows(TEXT)).inputs
    prompt = torch.randn(2, 32)
    plain = model.get_input_embeddings()(inputs["input_ids"])
    with prompted(model, prompt):
        changed = model.get_input_embeddings()(inputs["input_ids"])
    assert torch.allclose(changed[:, :2], plain[:, :2] + prompt, atol=1e-6) and torch.equal(
        changed[:, 2:], plain[:, 2:]
    )
    assert torch.equal(model.get_input_embeddings()(inputs["input_ids"]), plain), "and to nothing afterwards"
    with prompted(model, torch.zeros(50, 32)):
        assert torch.equal(model.get_input_embeddings()(inputs["input_ids"]), plain), "longer than the row"


def test_of_texts_the_prompt_moves_and_of_pictures_the_norms() -> None:
    assert set(stream(TEXT).moving.parameters) == {"tpt.prompt"}
    assert stream(TEXT, prompt_tokens=3).moving.parameters["tpt.prompt"].shape == (3, 32)
    norms = set(stream(PICTURES).moving.parameters)
    assert norms and all("layernorm" in n for n in norms)
    assert set(stream(TEXT, tunes="norms").moving.parameters) > {"bert.embeddings.LayerNorm.weight"}
    with pytest.raises(MethodError, match="reads no tokens"):
        stream(PICTURES, convolutional, tunes="prompt")


def test_a_step_lowers_the_entropy_of_the_mean_of_the_views_that_were_chosen() -> None:
    seen: list[float] = []

    class Watched(TPT):
        """Note the loss of every step."""

        def adapt(self, batch: Any, forward: Any, weights: Any, model: Any, state: Any, row_rng: Any) -> Any:
            descend = weights.descend

            def noted(loss: Any, make: Any) -> None:
                seen.append(float(loss.detach()))
                descend(loss, make)

            weights.descend = noted
            try:
                return super().adapt(batch, forward, weights, model, state, row_rng)
            finally:
                weights.descend = descend

    method = Watched(views=6, confident=0.5, learning_rate=0.02, steps=6)
    with Stream("tpt", method, Adapted(MODELS[TEXT]()), get_task(TEXT)) as s:
        s.answer(rows(TEXT, 1))
    assert len(seen) == 6 and seen[-1] < seen[0]
    assert sum(b < a for a, b in zip(seen, seen[1:], strict=False)) >= 4


def test_the_answer_is_of_the_row_itself_by_the_prompt_of_one_adamw_step() -> None:
    """AdamW's first step from zero is the rate against the gradient's sign, of entries whose gradient is not tiny."""
    s = stream(TEXT, views=1, confident=1.0, learning_rate=0.05)
    (row,) = rows(TEXT, 1)
    model, batch = MODELS[TEXT](), get_task(TEXT).collate([row])
    prompt = torch.zeros(4, 32, requires_grad=True)
    with prompted(model, prompt):
        p = model(**batch.inputs).logits.softmax(-1)
        g = torch.autograd.grad(-(p * p.log()).sum(), prompt)[0]
        with torch.no_grad():
            stepped = -0.05 * g / (g.abs() + 1e-8)
    with prompted(model, stepped), torch.no_grad():
        expected = model(**batch.inputs).logits
    with s:
        assert torch.allclose(s.answer([row]), expected, atol=1e-3)
    with torch.no_grad():
        assert not torch.allclose(model(**batch.inputs).logits, expected, atol=1e-2)


def test_each_row_begins_anew_unless_the_stream_says_never() -> None:
    some = rows(TEXT, 4)
    answers = {}
    for reset in (None, "never"):
        for order in (1, -1):
            with stream(TEXT, reset=reset) as s:
                parts = s.batches(some[::order], 1)
                given = [s.answer(part) for part in parts]
                answers[reset, order] = torch.cat(given)
    assert torch.equal(answers[None, 1], answers[None, -1].flip(0))
    assert not torch.allclose(answers["never", 1], answers["never", -1].flip(0), atol=1e-4)


def test_views_are_64_of_which_a_tenth_counts_as_published() -> None:
    method = TPT()
    assert (method.views, method.confident, method.steps, method.learning_rate) == (64, 0.1, 1, 5e-3)
    logits = torch.randn(method.views, 1, 5)
    assert len(confident(logits, method.confident)) == 6
    with stream(PICTURES, views=8) as s:
        batch = Unlabelled.of(s.task.collate(rows(PICTURES, 1)))
        assert s.answer(rows(PICTURES, 1)).shape == s.forward(batch).logits.shape
        assert (s.forward.calls, s.moving.backwards) == (3, 1)
