"""SI: shares in the fall of the loss along the way, what they become at its end, and how they hold a later task."""

from __future__ import annotations

import pytest
import torch

from tests import tiny
from tests.methods.rehearsing import SGD, ByHand
from tests.methods.sequences import Tasks
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.si import SI, carried_name, importance
from tunewright.methods.parameter_selection.lift import LIFT

PICTURES = "image-classification"
C, XI = 0.02, 0.2


@pytest.fixture(scope="module")
def two():
    """Two stages of plain descent on the same pictures by the loop and by hand: the formulas of the docstring."""
    hand, tasks = ByHand(PICTURES), Tasks(tiny.vit(), PICTURES)
    runs, known, found = [], None, []
    for _ in range(2):
        runs.append(tasks.stage({"si": SI(coefficient=C, damping=XI)}, hand.rows, **SGD))
        begun = {n: p.detach().clone() for n, p in hand.adapted.base_parameters().items()}
        share = {n: torch.zeros_like(p) for n, p in begun.items()}
        for rows in hand.batches:
            g = hand.gradient(hand.loss(rows))
            before = {n: p.detach().clone() for n, p in hand.adapted.base_parameters().items()}
            pull = {n: 2 * C * known[n] * (before[n] - begun[n]) if known else 0 * g[n] for n in g}
            hand.step({n: g[n] + pull[n] for n in g})
            for n, p in hand.adapted.base_parameters().items():
                share[n] += g[n] * (before[n] - p.detach())
        way = {n: p.detach() - begun[n] for n, p in hand.adapted.base_parameters().items()}
        mean = sum(float((d**2).sum()) for d in way.values()) / sum(d.numel() for d in way.values())
        raw = {n: share[n].clamp(min=0) / (way[n] ** 2 + XI * mean) for n in share}
        scale = sum(float(r.sum()) for r in raw.values()) / sum(r.numel() for r in raw.values())
        known = {n: r / scale + (known[n] if known else 0) for n, r in raw.items()}
        found.append((share, known))
    return hand, tasks, runs, found


def test_shares_add_up_to_the_fall_of_the_loss():
    """The path integral: at a small rate they sum up to the loss that the steps took away."""
    rows, small = ByHand(PICTURES).rows, {**SGD, "learning_rate": 1e-3, "batch": 12}
    run = Tasks(tiny.vit(), PICTURES).begin({"si": SI()}, rows, **{**small, "steps": 6})
    run.train()
    shares = {n: t for n, t in run.state("si").named_buffers() if n.startswith("share")}
    longer = Tasks(tiny.vit(), PICTURES).begin({"si": SI()}, rows, **{**small, "steps": 7})
    longer.train()
    fall = longer.records[0]["loss"] - longer.records[6]["loss"]
    assert fall > 0.05 and sum(float(t.sum()) for t in shares.values()) == pytest.approx(fall, rel=0.05)


def test_importances_and_the_held_steps_are_those_by_hand(two):
    hand, tasks, runs, found = two
    for (_, known), left in zip(found, tasks.left, strict=True):
        for n, values in left.values["importance"].items():
            torch.testing.assert_close(values, known[n], atol=2e-2, rtol=2e-2)
    for n, p in hand.adapted.base_parameters().items():
        torch.testing.assert_close(tasks.adapted.base_parameters()[n].detach(), p.detach(), atol=2e-5, rtol=1e-3)
    plain = Tasks(tiny.vit(), PICTURES)
    for _ in range(2):
        other = plain.stage({"si": SI(coefficient=0.0)}, hand.rows, **SGD)
    assert other.records[-1]["loss"] != pytest.approx(runs[1].records[-1]["loss"], rel=1e-4)  # it held something


def test_the_authors_example_a_number_that_did_nothing_is_free():
    share = {"a": torch.tensor([4.0, -1.0]), "b": torch.tensor([0.0])}
    way = {"a": torch.tensor([1.0, 1.0]), "b": torch.tensor([2.0])}
    got = importance(share, way, 0.5)  # mean squared way 2: 4 / (1 + 1), and nothing elsewhere; mean 2 / 3
    torch.testing.assert_close(got["a"], torch.tensor([3.0, 0.0]))
    assert got["b"].tolist() == [0.0]


def test_factors_that_go_on_training_are_held_and_folded_ones_are_refused():
    assert carried_name("l.0.q.delta.lora.lora_A", "one") == "l.0.q.delta.one-lora.lora_A"
    assert carried_name("head.weight", "one") == "head.weight"
    for carry in ("training", "fold"):
        tasks = Tasks(carry=carry)
        tasks.stage({"lora": LoRA(rank=2), "si": SI(coefficient=5.0)})
        later = {"si": SI(coefficient=5.0)} if carry == "training" else {"lora": LoRA(rank=2), "si": SI()}
        run = tasks.begin(later)
        if carry == "fold":
            with pytest.raises(MethodError, match="carry: training"):
                run.train()
            continue
        run.train()
        held = [n for n in run.state("si").data["held"] if run.state("si").get(f"share.{n}") is not None]
        assert held and all(".s0-lora." in n for n in held)


def test_single_entries_are_refused():
    with pytest.raises(MethodError, match="knows whole tensors alone"):
        Tasks().stage({"lift": LIFT(rank=2), "si": SI()})
