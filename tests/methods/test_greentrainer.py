"""GreenTrainer: what a probing step takes off the loss, the best choice by brute force, and the operations of a run."""

from __future__ import annotations

import itertools
import random
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes
from tests.methods.selecting import BASES, gradient_numbers, rows_for, state_numbers, stayed
from tunewright.contract.method import Needs, State
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.needs.probing_step import ProbingStep, in_order
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.methods.parameter_selection.greentrainer import GreenTrainer, best_choice, costs, of_backward
from tunewright.models.adapted import Adapted


def brute(gains, own, passing, budget):
    """(largest sum of gains, choice) over every set of tensors, counted from the output."""
    best, chosen = 0.0, ()
    for size in range(1, len(gains) + 1):
        for picked in itertools.combinations(range(len(gains)), size):
            cost = sum(own[k] for k in picked) + sum(passing[: max(picked) + 1])
            gain = sum(gains[k] for k in picked)
            if cost <= budget and gain > best + 1e-12:
                best, chosen = gain, picked
    return best, chosen


@pytest.mark.parametrize("seed", range(30))
def test_the_choice_is_the_best_of_all(seed):
    rng = random.Random(seed)
    n = 7
    gains = [rng.uniform(-0.3, 1.0) for _ in range(n)]
    own, passing = ([float(rng.randrange(0, 9)) for _ in range(n)] for _ in range(2))
    budget = rng.randrange(5, 50)
    found = best_choice(gains, own, passing, float(budget), parts=budget)
    best, _ = brute(gains, own, passing, budget)
    assert sum(gains[k] for k in found) == pytest.approx(best)
    assert found == sorted(found) and (not found or best > 0)
    if found:
        assert sum(own[k] for k in found) + sum(passing[: found[-1] + 1]) <= budget


def test_costs_that_are_rounded_never_go_over_the_budget():
    rng = random.Random(1)
    for _ in range(50):
        gains = [rng.random() for _ in range(12)]
        own, passing = ([rng.uniform(0, 9) for _ in range(12)] for _ in range(2))
        found = best_choice(gains, own, passing, 31.7)
        assert found and sum(own[k] for k in found) + sum(passing[: found[-1] + 1]) <= 31.7
    assert best_choice([1.0], [5.0], [5.0], 9.0) == [] and best_choice([-1.0], [0.0], [0.0], 9.0) == []


def test_a_share_of_all_is_a_smaller_one_of_the_backward_pass():
    assert of_backward(0.5, 1.0, 2.0) == pytest.approx(0.25) and of_backward(1.0, 1.0, 2.0) == 1.0
    assert of_backward(0.3, 1.0, 2.0) == 0.05, "not above 0"


@pytest.mark.parametrize("kind", BASES)
def test_the_probe_is_a_first_step_of_adam_by_hand(kind):
    make, task = BASES[kind]
    rows = rows_for(task)
    r = Run({"greentrainer": GreenTrainer()}, model=make(), task=task, sources={"new": rows})
    before = {n: p.detach().clone() for n, p in r.adapted.base_parameters().items()}
    probed = ProbingStep(rows=5).compute(r.provider.context, None, State(rate=1e-3, probes=2))
    picked = random.Random("0/probing_step/train/2").sample(rows, 5)
    model, batch = make(), r.task.collate(picked, False, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def backward():
        optimizer.zero_grad()
        loss = r.task.loss(r.task.forward(model, batch), batch)
        total = (loss.value * batch.weights).sum() / batch.weights.sum()
        total.backward()
        return float(total.detach())

    first = backward()
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer.step()
    second = backward()
    wanted = {
        n: 0.0 if p.grad is None else -float((p.grad * (p.detach() - start[n])).sum())
        for n, p in model.named_parameters()
    }
    size = max(map(abs, wanted.values()))
    assert probed.falls.keys() == wanted.keys()
    assert all(abs(probed.falls[n] - w) < 0.02 * size for n, w in wanted.items())
    assert first - second == pytest.approx(sum(wanted.values()), rel=0.5), "it tells the fall of the loss"
    assert all(torch.equal(p, before[n]) for n, p in r.adapted.base_parameters().items())


def test_tensors_come_in_the_order_of_the_forward_pass():
    model = tiny.llama()
    ids = torch.tensor([[5, 6, 7]])
    order = in_order(model, [n for n, _ in model.named_parameters()], lambda: model(ids))
    block = [n.split("layers.0.")[1] for n in order if "layers.0." in n]
    attention = [f"self_attn.{n}.weight" for n in ("q_proj", "k_proj", "v_proj", "o_proj")]
    assert block[0] == "input_layernorm.weight" and block[1:5] == attention
    assert block[5] == "post_attention_layernorm.weight" and block[-1] == "mlp.down_proj.weight"
    assert order[0] == "model.embed_tokens.weight" and order[-1] == "model.norm.weight"


@pytest.mark.parametrize("kind", BASES)
def test_a_run_takes_its_share_of_full_tunings_operations(kind):
    make, task = BASES[kind]
    spent = {}
    for name, method in (("full", FullFineTuning()), ("some", GreenTrainer(rho=0.6, selections=1))):
        r = Run({name: method}, model=make(), task=task, sources={"new": rows_for(task)}, steps=3)
        loop = r.train()
        spent[name] = loop.flops
    chosen = loop.trained.leaves
    assert chosen and spent["some"] <= 0.61 * spent["full"]
    assert spent["some"] >= 0.4 * spent["full"], "the budget is used"
    same = stayed(r.adapted.model, make())
    assert all(bool(same[n].all()) != (n in chosen) for n in same)
    count = sum(p.numel() for n, p in make().named_parameters() if n in chosen)
    assert loop.trained.count() == count == gradient_numbers(loop) and state_numbers(loop) == 2 * count


def test_a_budget_for_all_trains_all_that_gains():
    r = Run({"greentrainer": GreenTrainer(rho=1.0, selections=1)}, steps=1)
    chosen = set(r.train().trained.leaves)
    probed = ProbingStep(rows=8).compute(r.provider.context, None, State(rate=1e-2, probes=0))
    with r.adapted.base():
        at_start = ProbingStep(rows=8).compute(r.provider.context, None, State(rate=1e-2, probes=0))
    assert chosen == {n for n, fall in at_start.falls.items() if fall > 0} and probed.falls != at_start.falls


def test_it_chooses_again_from_fresh_rows_and_moments_wait():
    seen = []
    r = Run({"greentrainer": GreenTrainer(rho=0.5, selections=3)}, steps=6, listen=lambda loop: seen.append(
        (set(loop.trained.leaves), dict(loop.optimizers.parked))))  # fmt: skip
    r.train()
    assert r.state("greentrainer").data["probes"] == 3
    assert seen[0][0] == seen[1][0] and seen[2][0] == seen[3][0] and seen[4][0] == seen[5][0]
    gone = seen[1][0] - seen[2][0]
    assert all(f"{n}|exp_avg" in seen[2][1] for n in gone)


def test_a_new_head_always_trains_and_a_table_that_is_the_head_costs_a_matrix():
    adapted = Adapted(tiny.bert_classifier())
    adapted.new = ("classifier.weight", "classifier.bias")
    rows = rows_for("text-classification")
    r = Run({"greentrainer": GreenTrainer(rho=0.4)}, model=adapted, task="text-classification",
            sources={"new": rows}, steps=1)  # fmt: skip
    assert set(adapted.new) <= set(r.train().trained.leaves)
    for tied, own in ((True, 2.0 * 320 * 32), (False, 32.0)):
        plain = Adapted(tiny.llama(tied=tied))
        assert costs(plain.structure, plain.base_parameters())["model.embed_tokens.weight"] == (own, 0.0)


def test_a_budget_that_reaches_nothing_is_refused_and_deltas_train_along():
    with pytest.raises(MethodError, match="no tensor fits"):
        Run({"greentrainer": GreenTrainer(rho=0.2)}, model=tiny.llama(vocabulary=4000), steps=1).train()
    r = Run({"lora": LoRA(rank=2), "greentrainer": GreenTrainer()}, steps=1)
    assert set(r.adapted.trainable_deltas()) <= set(r.train().trained.leaves)


def test_where_the_step_overshoots_the_slope_counts():
    r = Run({"greentrainer": GreenTrainer(rho=0.5)}, steps=2, plan={"learning_rate": 5.0})
    probed = ProbingStep(rows=8).compute(r.provider.context, None, State(rate=5.0, probes=0))
    small = ProbingStep(rows=8).compute(r.provider.context, None, State(rate=1e-6, probes=0))
    assert min(probed.falls.values()) < 0 <= min(probed.slopes.values())
    assert all(small.falls[n] == pytest.approx(s, rel=1e-2, abs=1e-9) for n, s in small.slopes.items())

    class Overshot(GreenTrainer):
        def choose(self, candidates, plan, needs, state):
            found = needs.probing_step
            falls = dict.fromkeys(found.falls, -1.0)
            return super().choose(candidates, plan, Needs({"probing_step": replace(found, falls=falls)}), state)

    assert Run({"greentrainer": Overshot(rho=0.5)}, steps=2).train().trained.leaves


@pytest.mark.parametrize("at", [1, 2, 4])
def test_resumes(at):
    assert_resumes(lambda listen: Run({"greentrainer": GreenTrainer()}, steps=6, listen=listen), at)
