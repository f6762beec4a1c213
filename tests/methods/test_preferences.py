"""dpo, ipo, kto-pair, simpo: their formulas in fp64 beside ours, what they aim at, and that a loop follows them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tests import tiny
from tests.methods.driving import text_rows
from tunewright.conformance.bench import Tiny
from tunewright.contract.batch import Outputs, Row
from tunewright.contract.method import Needs
from tunewright.contract.pairs import PairRows
from tunewright.methods.needs.reference_log_probs import log_probs_at
from tunewright.methods.preferences.dpo import DPO, dpo_loss
from tunewright.methods.preferences.ipo import IPO, ipo_loss
from tunewright.methods.preferences.kto_pair import KTOPair, kto_pair_loss
from tunewright.methods.preferences.simpo import SimPO, simpo_loss
from tunewright.pieces.pairs import answer_means, answer_sums
from tunewright.tasks import get_task

METHODS = {"dpo": DPO, "ipo": IPO, "kto-pair": KTOPair, "simpo": SimPO}


def ratios(seed: int = 0, n: int = 6) -> tuple[Tensor, Tensor]:
    return tuple(5 * torch.randn(2, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def rows(n: int = 6) -> list[Row]:
    made = []
    for row, other in zip(text_rows(n), text_rows(n, seed=9), strict=True):
        ids = [*row.input_ids[:2], *other.input_ids[2:]]
        made.append(
            Row(
                row.id,
                row.source,
                row.input_ids,
                row.weights,
                fields={"rejected_ids": ids, "rejected_weights": other.weights},
            )
        )
    return made


def batch_and_outputs(model):
    task = get_task("text-generation")
    batch = task.collate(PairRows(rows())[:])
    return batch, task.forward(model, batch)


def alone(model, row: Row, ids) -> tuple[float, int]:
    """log p(answer | prompt) of one sequence, by a plain forward in fp64, and its number of tokens."""
    model = model.double()
    with torch.no_grad():
        logits = model(torch.tensor([list(ids)])).logits[0]
    model.float()
    picked = logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(list(ids))[1:, None])[1:, 0]
    return float(picked.sum()), len(picked)


def test_an_answers_log_probability_is_the_sum_over_its_own_tokens_given_the_prompt():
    model = tiny.llama()
    batch, outputs = batch_and_outputs(model)
    total, mean = answer_sums(outputs.log_probs(), batch), answer_means(outputs.log_probs(), batch)
    for i, row in enumerate(rows()):
        for side, ids in enumerate((row.input_ids, row.fields["rejected_ids"])):
            expected, count = alone(model, row, ids)
            assert total[side][i].item() == pytest.approx(expected, abs=1e-4)
            assert mean[side][i].item() == pytest.approx(expected / count, abs=1e-4)


def test_dpo_is_the_published_formula_and_log_2_at_the_start():
    c, r = ratios()
    for beta in (0.1, 1.0):
        expected = [-math.log(1 / (1 + math.exp(-beta * (a - b)))) for a, b in zip(c.tolist(), r.tolist(), strict=True)]
        assert dpo_loss(c, r, beta).tolist() == pytest.approx(expected, rel=1e-9)
    assert dpo_loss(c, c, 0.1).tolist() == pytest.approx([math.log(2)] * 6)
    s = 0.2
    assert torch.allclose(dpo_loss(c, r, 0.5, s), (1 - s) * dpo_loss(c, r, 0.5) + s * dpo_loss(r, c, 0.5))


def test_dpos_gradient_is_the_papers_equation():
    c, r = ratios()
    c.requires_grad_(), r.requires_grad_()
    dpo_loss(c, r, 0.3).sum().backward()
    expected = -0.3 * torch.sigmoid(0.3 * (r - c)).detach()
    assert torch.allclose(c.grad, expected) and torch.allclose(r.grad, -expected)


def test_dpo_depends_on_beta_times_the_ratios_only():
    c, r = ratios()
    assert torch.allclose(dpo_loss(c, r, 0.2), dpo_loss(2 * c, 2 * r, 0.1))


def test_ipo_is_zero_exactly_at_its_margin_and_pulls_back_beyond_it():
    tau = 0.25
    c = torch.tensor([2.0, 0.0, 5.0], dtype=torch.float64, requires_grad=True)
    loss = ipo_loss(c, torch.zeros(3, dtype=torch.float64), tau)
    assert loss.tolist() == pytest.approx([0.0, 1 / (4 * tau**2), 9.0])
    loss.sum().backward()
    assert c.grad[0] == 0 and c.grad[1] < 0 < c.grad[2]


def test_kto_on_pairs_is_the_published_formula_without_gradient_through_its_points():
    c, r = ratios()
    beta, above, below = 0.2, max(0.0, float(c.mean())), max(0.0, float(r.mean()))
    sigmoid = (
        [1 / (1 + math.exp(-beta * (x - below))) for x in c.tolist()],
        [1 / (1 + math.exp(-beta * (above - x))) for x in r.tolist()],
    )
    expected = sum(1 - s for part in sigmoid for s in part) / 12
    assert float(kto_pair_loss(c, r, beta).mean()) == pytest.approx(expected, rel=1e-9)
    c.requires_grad_()
    kto_pair_loss(c, r, beta)[0].backward()
    assert c.grad[0] < 0 and bool((c.grad[1:] == 0).all())


def test_simpo_is_length_normalised_and_needs_no_reference():
    a, b = ratios()
    expected = [math.log(1 + math.exp(-(2 * (x - y) - 1))) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert simpo_loss(a, b, 2.0, 1.0).tolist() == pytest.approx(expected, rel=1e-9)
    assert SimPO().needs() == ()
    model = tiny.llama()
    batch, outputs = batch_and_outputs(model)
    level = Outputs(
        torch.zeros(len(batch.labels), 10), batch.labels % 10
    )  # every token equally likely: lengths must not matter
    told = SimPO(gamma=0.0).objective(level, batch)
    assert told.value.tolist() == pytest.approx([math.log(2)] * 6)
    assert len({int(n) for n in answer_sums(torch.ones(len(batch.labels)), batch)[0]}) > 1


@pytest.mark.parametrize("name", METHODS)
def test_training_widens_the_margin_and_logs_it(name):
    t = Tiny([(name, METHODS[name]())], steps=12).run()
    first, last = t.records[0], t.records[-1]
    starts = {"dpo": math.log(2), "ipo": 25.0, "kto-pair": 0.5}
    if name in starts:
        assert first["loss"] == pytest.approx(starts[name], rel=1e-4) and first[f"margin/{name}"] == pytest.approx(
            0, abs=1e-5
        )
    assert last[f"margin/{name}"] > first[f"margin/{name}"] and last[f"accuracy/{name}"] == 1.0
    assert last[f"chosen_reward/{name}"] - last[f"rejected_reward/{name}"] == pytest.approx(
        last[f"margin/{name}"], abs=1e-5
    )


@pytest.mark.parametrize("name", METHODS)
def test_what_is_logged_does_not_depend_on_micro_steps(name):
    t = Tiny([(name, METHODS[name]())], steps=3, dropout=False).run()
    rows, told = t.loop.stage.rows.next_batch(), []
    for micro in (None, 8):
        t.loop.micro_tokens = micro
        told.append(t.loop.gradients(rows))
    assert told[0].keys() == told[1].keys() and told[1][f"margin/{name}"] != 0
    assert all(told[0][k] == pytest.approx(told[1][k], rel=1e-4, abs=1e-4) for k in told[0])


def test_the_reference_is_the_base_after_training_too():
    t = Tiny([("dpo", DPO())], steps=3)
    need = DPO().needs()[0]
    batch = t.task.collate(PairRows(t.rows["train"])[:])
    context = t.loop.stage.signals.__self__.context
    before = need.compute(context, batch)
    t.run()
    assert torch.equal(need.compute(context, batch), before)
    with torch.no_grad():
        now = log_probs_at(t.task.forward(t.adapted.model, batch), 1.0)
    assert not torch.allclose(now, before)


def test_the_objective_reads_the_reference():
    model = tiny.llama()
    batch, outputs = batch_and_outputs(model)
    with torch.no_grad():
        same = outputs.log_probs()
        told = DPO(beta=0.5).objective(outputs, batch, Needs({"reference_log_probs": same}))
    assert told.value.tolist() == pytest.approx([math.log(2)] * 6)
