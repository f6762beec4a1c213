"""Loss-based reweighting: a step's loss and gradient by hand from plain forwards of each row, and under splits."""

from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, text_rows
from tunewright.contract.batch import Outputs
from tunewright.errors import MethodError
from tunewright.methods.objectives.dynamic_loss_based_reweighting import (
    DynamicLossBasedReweighting,
    factors,
    row_factors,
)
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.training.train import Loop

ROWS = text_rows(5, prompt=3)


def stepped(micro: int | None = None, steps: int = 1, task: str = "text-generation", **fields):
    """(a loop whose gradients are those of its first step, what the step logged)."""
    text = task == "text-generation"
    rows = ROWS if text else [r.replace(weights=[1.0], label=i % 3) for i, r in enumerate(ROWS)]
    model = tiny.llama() if text else tiny.bert_classifier()
    methods = {"full": FullFineTuning(), "reweighted": DynamicLossBasedReweighting(**fields)}
    run = Run(methods, model=model, task=task, sources={"new": rows}, steps=steps, batch=5, micro_tokens=micro)
    loop = Loop(run.stage)
    return loop, loop.gradients(run.cursor.next_batch())


def by_hand(function: str, temperature: float) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients as the authors' trainer forms them, with one plain forward a row."""
    model = tiny.llama().eval()
    each, sizes = [], []
    for row in ROWS:
        ids = torch.tensor([list(row.input_ids)])
        labels = torch.tensor([[i if w > 0 else -100 for i, w in zip(row.input_ids, row.weights, strict=True)]])
        each.append(model(input_ids=ids, labels=labels).loss)
        sizes.append(sum(w > 0 for w in row.weights))
    told = [float(x.detach()) for x in each]
    low, high, total = min(told), max(told), 0.0
    scores = []
    for loss in told:
        h = -1 + 2 * (loss - low) / (high - low)
        f = {"linupper": min(h + 1, 1.0), "linear": (h + 1) / 2, "quadratic": 1 - h * h, "extremes": abs(h)}[function]
        scores.append(math.exp(f / temperature))
    for loss, score, n in zip(each, scores, sizes, strict=True):
        total = total + len(each) * score / sum(scores) * loss * n / sum(sizes)
    total.backward()
    return float(total.detach()), {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("function", ["linupper", "linear", "quadratic", "extremes"])
def test_a_steps_loss_and_gradient_are_the_authors(function):
    loop, record = stepped(function=function, temperature=0.4)
    loss, gradients = by_hand(function, 0.4)
    assert record["loss"] == pytest.approx(loss, rel=1e-5)
    for name, gradient in loop.trained.gradients().items():
        torch.testing.assert_close(gradient, gradients[name], atol=1e-6, rtol=1e-4)


def test_split_into_micro_batches_rows_are_still_weighed_among_all_and_no_logits_are_kept(monkeypatch):
    whole, record = stepped(temperature=0.4)
    expected = {n: g.clone() for n, g in whole.trained.gradients().items()}
    alike = stepped(start=0.9, steps=2)[1]["loss"]
    assert abs(record["loss"] - alike) > 1e-3  # of plain training

    def never(self):
        raise AssertionError("logits [S, V] were made")

    monkeypatch.setattr(Outputs, "logits", property(never))
    loop, again = stepped(micro=12, temperature=0.4)
    assert again["loss"] == pytest.approx(record["loss"], rel=1e-5)
    for name, gradient in loop.trained.gradients().items():
        torch.testing.assert_close(gradient, expected[name], atol=1e-6, rtol=1e-4)


def test_an_objective_that_reads_logits_without_saying_so_is_told(monkeypatch):
    monkeypatch.setattr(
        DynamicLossBasedReweighting, "objective", lambda self, outputs, batch, step, plan: outputs.logits.mean()
    )
    with pytest.raises(MethodError, match="needs_logits"):
        stepped(micro=12)


def test_weights_have_mean_1_and_stay_within_their_factor():
    losses = torch.tensor([0.1, 2.0, 2.5, 9.0])
    for function in ("linupper", "linear", "quadratic", "extremes"):
        found = factors(losses, function, 0.5)
        assert float(found.mean()) == pytest.approx(1.0)
        assert float(found.max() / found.min()) <= math.exp(2) * (1 + 1e-5)
    assert factors(losses, "linupper", 0.5).argmin() == 0
    upper = factors(torch.tensor([0.0, 6.0, 8.0, 10.0]), "linupper", 0.5)
    assert upper[1] == upper[2] == upper[3] > upper[0]  # an outlier counts no more than what is above the middle
    assert torch.equal(factors(torch.full((3,), 2.0), "linear", 0.1), torch.ones(3))
    assert factors(torch.tensor([7.0]), "extremes", 0.1).tolist() == [1.0]
    # a row of which nothing counts takes no part in the range
    losses, weights, rows = torch.tensor([1.0, 3.0, 0.0, 2.0]), torch.tensor([1.0, 3.0, 0.0, 1.0]), torch.arange(4)
    found = row_factors(losses, weights, rows, 4, "linear", 0.5)
    assert torch.equal(found[[0, 1, 3]], factors(losses[[0, 1, 3]], "linear", 0.5)) and found[2] == 1
    both = row_factors(
        torch.tensor([1.0, 3.0, 9.0]), torch.tensor([3.0, 1.0, 1.0]), torch.tensor([0, 0, 1]), 2, "linear", 1
    )
    assert torch.equal(both, factors(torch.tensor([1.5, 9.0]), "linear", 1))


def test_the_first_steps_are_plain_and_a_short_run_still_weighs():
    plain = stepped(start=0.5, steps=4)[1]["loss"]
    assert plain == pytest.approx(sum(by_size()), rel=1e-5)
    assert stepped(start=0.5, steps=1)[1]["loss"] == stepped(start=0.0, steps=4)[1]["loss"] != plain


def by_size() -> list[float]:
    """Each row's share of the plain loss."""
    model = tiny.llama().eval()
    total = sum(sum(w > 0 for w in row.weights) for row in ROWS)
    out = []
    for row in ROWS:
        ids = torch.tensor([list(row.input_ids)])
        log_p = model(input_ids=ids).logits[0].log_softmax(-1)[:-1].gather(-1, ids[0, 1:, None])[:, 0]
        out.append(-float((log_p.detach() * (torch.tensor(row.weights[1:]) > 0)).sum()) / total)
    return out


def test_a_classifiers_rows_are_weighed_too():
    plain, weighed = (stepped(task="text-classification", start=s, steps=4)[1]["loss"] for s in (0.5, 0.0))
    assert weighed > plain  # what the model gets wrong counts more
