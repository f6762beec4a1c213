"""ADEPT through the slots: which blocks are copied, what trains, and each tensor's rate, against the rules by hand."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from tests import tiny
from tests.methods.driving import Run, assert_resumes, logits, text_rows
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.needs.fisher import mean_loss
from tunewright.methods.surgery.adept import Adept, expanded, multipliers
from tunewright.models.agreement import differing

ROWS = text_rows(6)


def make(listen=None, model=None, beside=None, steps=6, **fields) -> Run:
    method = Adept(**{"source": "train", "samples": 4, "share": 0.34, **fields})
    model = model if model is not None else tiny.llama(layers=3)
    return Run({"adept": method, **(beside or {})}, model=model, listen=listen, steps=steps, sources={"new": ROWS})


def losses(run: Run, model) -> float:
    """The mean loss over the rows that importance is measured on."""
    was, run.adapted.model = run.adapted.model, model
    try:
        with torch.no_grad():
            batches = list(run.provider.context.batches("train", 4))
            return sum(float(mean_loss(run.provider.context, b)) for b in batches) / len(batches)
    finally:
        run.adapted.model = was


def test_the_block_without_which_the_loss_rises_least_is_copied():
    run = make()
    rises = []
    for i in range(3):
        less = tiny.llama(layers=3)
        with torch.no_grad():
            for p in less.model.layers[i].parameters():
                p.zero_()
        rises.append(losses(run, less) - losses(run, tiny.llama(layers=3)))
    least = min(range(3), key=rises.__getitem__)
    (done,) = run.adapted.operated
    assert len(set(rises)) == 3 and done.surgery.order == sorted([0, 1, 2, least])
    assert done.surgery.silent == [least + 1]


def test_copies_stand_after_their_originals_lowest_scores_first():
    surgery = expanded([0.3, 0.1, 0.2, 0.1], 2)
    assert surgery.order == [0, 1, 1, 2, 3, 3] and surgery.silent == [2, 5] and surgery.preserves
    assert expanded([0.1, 0.1], 1).order == [0, 0, 1]


def test_it_says_what_the_base_says_and_the_copies_alone_train():
    model = tiny.llama(layers=3)
    before, base = logits(model), {n: t.clone() for n, t in tiny.llama(layers=3).state_dict().items()}
    run = make(model=model)
    assert torch.equal(logits(model), before)
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    loop = run.train()
    copied = f"model.layers.{run.adapted.operated[0].surgery.silent[0]}."
    assert set(loop.trained.leaves) == {n for n in start if n.startswith(copied)}
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, start[n])}
    assert moved and all(n.startswith(copied) for n in moved)
    assert run.records[-1]["loss"] < run.records[0]["loss"]
    with run.adapted.base() as own:
        assert not differing(dict(own.state_dict()), base)


def test_rates_follow_importance_by_the_rule():
    """At a drawing: mean of |w| times the mean over batches of |dL/dw|, by autograd on a copy of the model."""
    told = {}

    def listen(loop):
        if loop.step_number == 2:
            told["factors"] = dict(run.state("adept").data["factors"])
            told["model"] = copy.deepcopy(run.adapted.model)
        if loop.step_number == 3:
            told["after"] = dict(run.state("adept").data["factors"])
            groups = [(g["lr"], p) for o in loop.optimizers.optimizers for g in o.param_groups for p in g["params"]]
            told["rates"] = {loop.optimizers.names[id(p)]: rate for rate, p in groups}

    run = make(every=2, listen=listen, steps=4)
    assert set(run_factors := set(run.train().trained.leaves)) == set(told["after"])
    assert set(told["factors"].values()) == {1.0}  # zero outputs: nothing has a gradient but they, and they are zero
    model = told["model"].eval()
    total, count = {n: torch.zeros_like(p) for n, p in model.named_parameters()}, 0
    was, run.adapted.model = run.adapted.model, model
    for p in model.parameters():
        p.requires_grad_(True)
    for batch in run.provider.context.batches("train", 4):
        model.zero_grad()
        mean_loss(run.provider.context, batch).backward()
        for n, p in model.named_parameters():
            total[n] += p.grad.abs()
        count += 1
    run.adapted.model = was
    named = dict(model.named_parameters())
    kept = {n: float((named[n].detach().abs() * total[n] / count).mean()) for n in run_factors}
    low, high = min(kept.values()), max(kept.values())
    for n, i in kept.items():
        expected = 2 * (high - i) / (high - low)
        assert told["after"][n] == pytest.approx(expected, abs=1e-4)
        assert told["rates"][n] == pytest.approx(1e-2 * expected, abs=1e-6)
    assert min(told["after"].values()) == 0 and max(told["after"].values()) == 2


def test_multipliers_lie_between_0_and_twice():
    assert multipliers({"a": 1.0, "b": 3.0, "c": 2.0}, 2.0) == {"a": 2.0, "b": 0.0, "c": 1.0}
    assert multipliers({"a": 1.0, "b": 1.0}, 3.0) == {"a": 1.5, "b": 1.5}


def test_gradients_of_the_estimate_do_not_enter_the_next_step():
    """No parameter holds a gradient when an estimate is done."""
    run = make(every=2, steps=2)
    found = []
    run.stage.signals = lambda b, batch, when, real=run.stage.signals: (
        real(b, batch, when),
        found.append([n for n, p in run.adapted.model.named_parameters() if p.grad is not None]),
    )[0]
    run.train()
    assert found and not any(found)


def test_short_stages_are_estimated_every_tenth_of_their_steps():
    drawn = []

    def listen(loop):
        drawn.append((loop.step_number, loop.redraw_every))

    make(listen=listen, steps=3, every=500).train()
    assert drawn[0][1] == 2
    drawn.clear()
    make(listen=listen, steps=40, every=500).train()
    assert drawn[0][1] == 4


@pytest.mark.parametrize("beside", [{}, {"lora": LoRA(rank=2)}], ids=["alone", "lora"])
def test_resumes_bit_for_bit(beside):
    assert_resumes(lambda listen: make(listen, every=2, beside=beside), 3)


def test_low_rank_changes_train_in_the_copies_alone():
    run = make(beside={"lora": LoRA(rank=2)})
    loop = run.train()
    copied = f"model.layers.{run.adapted.operated[0].surgery.silent[0]}."
    assert loop.trained.leaves and all(n.startswith(copied) and ".delta.lora." in n for n in loop.trained.leaves)


def test_rows_that_stand_for_what_is_kept_are_asked_for():
    with pytest.raises(MethodError, match="a method needs rows of 'keep'"):
        make(source="keep")


def test_a_model_with_norms_after_the_sum_is_refused():
    model = tiny.bert()
    with torch.no_grad():
        for n, p in model.named_parameters():
            if "LayerNorm.weight" in n:
                p.mul_(torch.linspace(0.5, 2.0, len(p)))
    rows = [replace(r, fields={"mask_id": 3, "vocabulary": 200}) for r in text_rows(4, prompt=0)]
    with pytest.raises(MethodError, match="'adept'.*should leave what the model says as it is"):
        Run({"adept": Adept(source="train", samples=2)}, model=model, task="fill-mask", sources={"new": rows})
