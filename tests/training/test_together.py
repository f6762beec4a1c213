"""What processes of one run do for one another in a step, with a second process that does what this one does."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from tunewright.errors import MethodError
from tunewright.machine.group import Group
from tunewright.training import together
from tunewright.training.randomness import Randomness


class Twin(Group):
    """The first of two processes, the second of which has the same numbers."""

    def sum(self, tensors):
        for tensor in tensors:
            tensor.mul_(2)

    def told(self, values):
        return [values, values]


def loop_of(*parameters):
    leaves = {f"p{i}": SimpleNamespace(leaf=p, parameter=p, divided=False) for i, p in enumerate(parameters)}

    def zero_grad():
        for p in parameters:
            p.grad = None

    return SimpleNamespace(
        group=Twin(0, 2),
        adapted=SimpleNamespace(divided=None),
        trained=SimpleNamespace(leaves=leaves, zero_grad=zero_grad),
        randomness=Randomness(0, 0, "cpu"),
        step_number=1,
        methods=[],
    )


def test_a_process_takes_its_share_and_gets_the_sums():
    weight, idle = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(1))
    weight.grad = torch.full((2,), 10.0)  # of something that was computed before
    loop, record, total, seen = loop_of(weight, idle), {"labels": 3}, torch.zeros(()), []
    for batch, counts in together.shared_out(loop, [1.0, 2.0, 3.0], record, total):
        seen.append((batch, counts))
        loss = (batch * weight).sum()
        record["loss/a"] = record.get("loss/a", 0.0) + loss.detach()
        loss.backward()
        total += loss.detach()
    assert seen == [(1.0, 1.0), (3.0, 1.0)] and float(total) == 2 * 8 and record == {"labels": 3, "loss/a": 16.0}
    assert weight.grad.tolist() == [10 + 2 * 4.0] * 2 and idle.grad is None


def test_each_micro_batch_has_its_own_draws_and_the_generators_go_on_alike():
    loop, drawn = loop_of(nn.Parameter(torch.ones(1))), []
    with loop.randomness.lent():
        torch.randint(1 << 62, ())
        after = torch.rand(3)
    loop.randomness = Randomness(0, 0, "cpu")
    with loop.randomness.lent():
        for _ in together.shared_out(loop, [1.0] * 4, {}, torch.zeros(())):
            drawn.append(torch.rand(3))
        assert torch.equal(torch.rand(3), after)
    assert len(drawn) == 2 and not torch.equal(*drawn)


def test_a_process_that_is_alone_goes_through_all():
    loop = loop_of(nn.Parameter(torch.ones(1)))
    loop.group = Group()
    assert list(together.shared_out(loop, [1.0, 2.0], {}, torch.zeros(()))) == [(1.0, 1.0), (2.0, 1.0)]
    assert together.sum_of(Group(), 3.0) == together.largest(Group(), 3.0) == 3.0
    assert together.sum_of(Twin(0, 2), 3.0) == 6.0 and together.largest(Twin(0, 2), 3.0) == 3.0


def test_states_that_differ_between_processes_are_named():
    class Other(Twin):
        def told(self, values):
            return [values, {**values, "mine.seen": "other"}]

    loop = loop_of()
    loop.group = Other(0, 2)
    loop.methods = [
        SimpleNamespace(name="mine", state=SimpleNamespace(named_buffers=lambda: [("seen", torch.ones(2))]))
    ]
    with pytest.raises(MethodError, match=r"'mine.seen' is not the same in all 2 processes after step 1"):
        together.check_alike(loop)
    loop.step_number = together.OFTEN + 1
    together.check_alike(loop)  # not at every step
