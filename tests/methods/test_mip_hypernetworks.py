"""Magnitude invariant hypernetworks: what is written no longer grows with what is read; kept for every source.

The encoding is that of the authors' package (JJGO/hyperlight, encode_input with "cos|sin"), entry for entry.
"""

from __future__ import annotations

import math

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.mip_hypernetworks import Hypernetwork, MIPHypernetworks, encoded
from tunewright.models.agreement import agrees
from tunewright.models.deltas import LowRank
from tunewright.models.per_task import PerTask
from tunewright.tasks import get_task

SOURCES = {"low": text_rows(6, "low"), "high": text_rows(6, "high")}
NUMBERS = {"low": (0.1,), "high": (0.9,), "between": (0.5,)}


def made(listen=None, **fields) -> Run:
    method = MIPHypernetworks(**{"rank": 2, "hidden": (8,), "numbers": NUMBERS, **fields})
    plan = {"sources": tuple(SOURCES)}
    return Run({"mip-hypernetworks": method}, sources=SOURCES, plan=plan, steps=6, listen=listen)


def changes(run: Run) -> dict[str, PerTask]:
    return {n: d["mip-hypernetworks"] for n, d in run.adapted.deltas().items()}


def written(run: Run, task: str) -> torch.Tensor:
    """All numbers that are made for a source."""
    return torch.cat([t.detach().flatten() for d in changes(run).values() for t in d.make(task).values()])


def test_numbers_are_read_at_constant_length_and_each_at_its_own_angle():
    g = torch.rand(50, 3, generator=torch.Generator().manual_seed(0))
    e = encoded(g)
    torch.testing.assert_close(e.square().sum(-1), torch.full((50,), 3.0))
    for row, of in zip(g.tolist(), e.tolist(), strict=True):
        wanted = [math.cos(math.pi * x / 2) for x in row] + [math.sin(math.pi * x / 2) for x in row]
        assert of == pytest.approx(wanted, abs=1e-6)


def test_a_plain_network_writes_in_proportion_to_what_it_reads_and_an_invariant_one_does_not():
    """h(c g) = c h(g) exactly at the start; with the encoding lengths differ by no more than directions make them."""
    tenth = {"low": (0.1,), "high": (1.0,)}
    plain, coded = (made(numbers=tenth, encoding=e, additive=False) for e in ("none", "cos-sin"))
    torch.testing.assert_close(written(plain, "low") * 10, written(plain, "high"), rtol=1e-4, atol=1e-8)
    ratio = float(written(coded, "low").norm() / written(coded, "high").norm())
    assert 0.3 < ratio < 3 and not torch.allclose(written(coded, "low") * 10, written(coded, "high"))


def test_what_is_written_is_added_to_what_is_learnt():
    both = made()
    state = both.state("mip-hypernetworks")
    learnt = torch.cat([p.detach() for p in state.learnt])
    network = state.network
    each = torch.cat([network(state.get("read")[0], i).detach() for i in range(len(state.learnt))])
    torch.testing.assert_close(written(both, "low"), learnt + each)
    assert float(each.abs().mean()) < float(learnt.abs().mean()), "what is written begins small"
    alone = made(additive=False)
    assert not hasattr(alone.state("mip-hypernetworks"), "learnt")


def test_the_start_is_normal_by_the_fan_out():
    network = Hypernetwork(2, (400,), (3000, 2000), torch.Generator().manual_seed(0))
    assert float(network.hidden[0].weight.std()) == pytest.approx((2 / 1.0001 / 400) ** 0.5, rel=0.1)
    for layer in network.outputs:
        assert float(layer.weight.std()) == pytest.approx(5000**-0.5, rel=0.02) and not layer.bias.any()


def test_only_the_network_and_what_is_learnt_train_and_all_sources_are_kept():
    run = made()
    loop = run.train()
    assert all(n.startswith("mip-hypernetworks.") for n in loop.trained.leaves)
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    ways = {task: written(run, task) for task in NUMBERS}
    assert not torch.equal(ways["low"], ways["high"])
    method, state = next((b.method, b.state) for b in run.methods)
    method.end_task(run.adapted, state)
    for delta in changes(run).values():
        assert delta.make is None and delta.tasks == ("low", "high", "between")
        assert all(isinstance(d, LowRank) and d.scale == 2.0 for d in delta.plain)
    kept = torch.cat([p.detach().flatten() for d in changes(run).values() for p in d.plain[2].parameters()])
    torch.testing.assert_close(kept, ways["between"])


def test_without_numbers_sources_lie_evenly_in_their_order():
    run = made(numbers={}, encoding="none")
    assert run.state("mip-hypernetworks").get("read").tolist() == [[0.0], [1.0]]


def test_rows_of_no_source_are_left_as_the_base():
    run, batch = made(), get_task("text-generation").collate(text_rows(3, "other"))
    said = [run.task.forward(m, batch).logits.detach() for m in (run.adapted.model.eval(), tiny.llama().eval())]
    assert torch.equal(*said)
    for fields in ({"others": "high"}, {"numbers": {"low": (0.1,)}}):
        run = made(**fields)
        assert not agrees(run.task.forward(run.adapted.model.eval(), batch).logits, said[0])
    known = run.task.collate(text_rows(3, "low"))
    assert not agrees(run.task.forward(run.adapted.model, known).logits, run.task.forward(tiny.llama(), known).logits)


def test_it_resumes():
    assert_resumes(lambda listen: made(listen), 3)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"numbers": {"low": (0.1,), "high": (1.5,)}}, "'high' has numbers outside"),
        ({"numbers": {"low": (0.1,), "high": (0.1, 0.2)}}, "unequal counts"),
        ({"numbers": {"other": (0.1,)}}, "no source of this stage has numbers"),
        ({"others": "hgih"}, "'hgih', which has no numbers"),
        ({"target_modules": ["q_prj"]}, "q_prj"),
    ],
)
def test_errors(fields, said):
    with pytest.raises(MethodError, match=said):
        made(**fields)
