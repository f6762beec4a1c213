"""Rows of a method's own in the inner step: joined to the step's, or with gradients apart."""

from __future__ import annotations

import pytest
import torch

from tests.methods.driving import Run, text_rows
from tunewright.contract.batch import Loss
from tunewright.contract.method import Method
from tunewright.errors import DataError, MethodError
from tunewright.methods.objectives.stablemax import StableMax
from tunewright.methods.optimization.perp_grad import PerpGrad
from tunewright.methods.preferences.dpo import DPO
from tunewright.methods.regularization.e2wm import ElasticLoRA
from tunewright.training.inner import Inner

ROWS = text_rows(9)
OWN = text_rows(5, "own")


def inner(methods=None, **options) -> tuple[Inner, Run]:
    from tunewright.training.train import Loop

    run = Run(methods or {}, sources={"new": ROWS}, **options)
    loop = Loop(run.stage)
    return Inner(loop, loop.take()[0]), run


def by_hand(run: Run, rows, loss=None) -> tuple[dict[str, torch.Tensor], float]:
    """Gradient of the mean loss of all targets of `rows`, one batch, by autograd alone."""
    batch = run.task.collate(list(rows))
    outputs = run.task.forward(run.adapted.model, batch)
    values = -outputs.log_probs() if loss is None else loss(outputs)
    total = (values * batch.weights).sum() / batch.weights.sum()
    names = dict(run.adapted.base_parameters())
    return dict(zip(names, torch.autograd.grad(total, list(names.values())), strict=True)), total.item()


def close(a, b) -> None:
    assert a.keys() == b.keys()
    for n in a:
        torch.testing.assert_close(a[n], b[n], atol=2e-6, rtol=2e-4)


@pytest.mark.parametrize("micro", [None, 16])
def test_joined_rows_are_one_loss_with_the_steps_and_others_have_gradients_apart(micro):
    step, run = inner(micro_tokens=micro)
    own, loss = by_hand(run, [*step.rows, *OWN[:3]])
    close(step.gradients(also=OWN[:3]), own)
    assert step.record["loss"] == pytest.approx(loss, rel=1e-5) and step.record["joined_rows"] == 3
    seen: list[int] = []

    def squares(outputs, batch, places):
        seen.extend(places)
        return Loss(outputs.logits.square().mean(-1))

    close(step.gradients_of(OWN)[0], by_hand(run, OWN)[0])
    found, value = step.gradients_of(OWN, squares)
    wanted, total = by_hand(run, OWN, lambda o: o.logits.square().mean(-1))
    close(found, wanted)
    assert value == pytest.approx(total, rel=1e-5) and seen == list(range(5))
    close(step._loop.trained.gradients(), own)  # what the step's rows gave is still there
    step.leave({n: 2 * g for n, g in own.items() if "lm_head" not in n})
    left = step._loop.trained.gradients()
    assert "lm_head.weight" not in left
    close(left, {n: 2 * own[n] for n in left})


def test_rows_apart_meet_the_stages_objective_and_no_penalty():
    step, run = inner({"stablemax": StableMax(), "e2wm": ElasticLoRA(coefficient=1e4, data="train", samples=2)})
    with torch.no_grad():
        for p in run.adapted.base_parameters().values():
            p.mul_(1.5)  # away from the start, so that the penalty has a gradient
    g, loss = step.gradients_of(OWN)
    plain, _ = inner({"stablemax": StableMax()})
    plain._loop.adapted.model.load_state_dict(run.adapted.model.state_dict())
    close(g, plain._loop.trained.gradients() | plain.gradients_of(OWN)[0])
    assert loss == plain.gradients_of(OWN)[1] and "penalty/e2wm" not in step.record
    assert loss != pytest.approx(by_hand(run, OWN)[1], rel=1e-3)  # not the task's own loss


def test_rows_that_are_no_pairs_are_refused_where_pairs_train_and_made_rows_take_none():
    step, _ = inner()
    step._loop.methods.bound.append(type("B", (), {"method": DPO()})())
    with pytest.raises(DataError, match="one answer"):
        step.gradients(also=OWN)
    step, _ = inner()
    step._loop.rollouts = type("R", (), {"bound": type("B", (), {"name": "grpo"})()})()
    with pytest.raises(MethodError, match="'grpo' trains on what the model says"):
        step.gradients_of(OWN)


def test_what_is_left_goes_through_gradient_methods_and_to_the_optimizer():
    class Doubled(Method):
        """Step with twice the gradient."""

        def step(self, inner: Inner) -> None:
            inner.leave({n: 2 * g for n, g in inner.gradients().items()})

    plain = {"optimizer": type("O", (), {"name": "sgd"})(), "max_grad_norm": None, "learning_rate": 0.1}
    twice = Run({"doubled": Doubled(), "perp-grad": PerpGrad()}, sources={"new": ROWS}, steps=1, **plain)
    once = Run({"perp-grad": PerpGrad()}, sources={"new": ROWS}, steps=1, **{**plain, "learning_rate": 0.2})
    twice.train(), once.train()
    a, b = (dict(r.adapted.base_parameters()) for r in (twice, once))
    close({n: p.detach() for n, p in a.items()}, {n: p.detach() for n, p in b.items()})
