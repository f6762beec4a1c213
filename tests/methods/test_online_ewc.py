"""Online EWC: the Fisher is the task's own at the weights it ended with, runs on decayed, and weighs the next task."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from tests import small
from tunewright.conformance.bench import Tiny
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.online_ewc import OnlineEWC, normalised
from tunewright.recipe import Recipe
from tunewright.runs.run import run
from tunewright.training.carry import earlier_of


def by_hand(t: Tiny) -> dict[str, torch.Tensor]:
    """Mean squared gradient of single rows' mean losses at the present weights, by site."""
    rows, sites = t.rows["train"], t.adapted.structure.linear_sites()
    totals = {s.name: torch.zeros_like(s.weight) for s in sites}
    for row in rows:
        batch = t.task.collate([row])
        for s in sites:
            s.weight.requires_grad_(True)
            s.weight.grad = None
        with t.adapted.evaluating():
            loss = t.task.loss(t.task.forward(t.adapted.model, batch), batch)
        ((loss.value * batch.weights).sum() / batch.weights.sum()).backward()
        for s in sites:
            totals[s.name] += s.weight.grad.square() / len(rows)
            s.weight.grad = None
            s.weight.requires_grad_(False)
    return totals


def mean(fisher) -> float:
    """Over all entries of all weights."""
    return sum(float(f.sum()) for f in fisher.values()) / sum(f.numel() for f in fisher.values())


def test_the_importance_is_of_the_weights_that_the_task_ended_with():
    t = Tiny([("lora", LoRA(rank=2)), ("online-ewc", OnlineEWC(samples=8, coefficient=0.0))], dropout=False)
    before = normalised(by_hand(t))
    t.run()
    (first, second) = t.left[0], t.loop.methods
    kept = first.values["fisher"]
    # the bench went through one stage before this one: what its end left is what this one began with
    state = next(b.state for b in second if b.name == "online-ewc")
    for site, expected in before.items():
        torch.testing.assert_close(kept[site], expected, atol=1e-4, rtol=1e-3)
    for site, own in normalised(by_hand(t)).items():
        torch.testing.assert_close(state.get(f"fisher.{site}"), 0.95 * kept[site] + own, atol=1e-4, rtol=1e-3)
    assert sum(float(f.sum()) for f in before.values()) == pytest.approx(
        sum(f.numel() for f in before.values()), rel=1e-4
    )


def test_the_penalty_is_the_weighted_square_of_the_change():
    t = Tiny([("lora", LoRA(rank=2)), ("online-ewc", OnlineEWC(samples=8, coefficient=30.0))], dropout=False)
    begun = {n: p.detach().clone() for n, p in t.adapted.base_parameters().items()}
    deltas = {s: {n: d.change().detach().clone() for n, d in of.items()} for s, of in t.adapted.deltas().items()}
    fisher = t.left[0].values["fisher"]
    first = t.loop.one_step()
    # every low-rank piece trains here, those carried from the stage before too: all of their change counts
    second = t.loop.one_step()
    assert first["penalty/online-ewc"] == pytest.approx(
        15.0 * sum(float((fisher[s] * sum(of.values()).square()).sum()) for s, of in deltas.items()), rel=1e-4
    )
    assert second["penalty/online-ewc"] != first["penalty/online-ewc"] and begun


def test_three_tasks_in_a_row_through_files(tmp_path):
    small.write_inputs(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "train.jsonl").read_text().splitlines()]
    for k, name in enumerate(("one", "two", "three")):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(r) for r in rows[k::3]))
    ewc = {"online-ewc": {"samples": 6, "gamma": 0.5, "coefficient": 10.0}}
    each = {"each": [f"{n}.jsonl" for n in ("one", "two", "three")], "methods": [{"lora": {"rank": 2}}, ewc]}
    file = small.write_recipe(tmp_path, stages=[{**each, "budget": {"steps": 2}}])
    out = tmp_path / "out"
    run(Recipe.load(file, out=out))
    stages = {n: out / "stages" / n for n in ("one", "two", "three")}
    left = earlier_of(stages)
    assert [(one.stage, one.method) for one in left] == [(n, "online-ewc") for n in stages]
    means = [mean(one.values["fisher"]) for one in left]
    assert means == pytest.approx([1.0, 1.5, 1.75], rel=1e-4)
    assert load_file(stages["one"] / "left.safetensors")
    logged = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    penalties = {m["stage"]: m["penalty/online-ewc"] for m in logged if m["step"] == 2}
    assert penalties["one"] == 0.0 and penalties["two"] > 0 and penalties["three"] > 0
