"""EWC and MAS: what moving costs is what the papers' sums over earlier tasks say, of weights and not of factors."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from tests import tiny
from tests.methods.driving import text_rows
from tests.methods.sequences import Tasks
from tunewright.catalogue import load_method
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.ewc import EWC
from tunewright.methods.continual.mas import MAS
from tunewright.methods.parameter_selection.full import FullFineTuning
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import deltas_of
from tunewright.tasks import get_task

TASK = get_task("text-generation")


def weights(tasks: Tasks) -> dict[str, torch.Tensor]:
    """W + s B A of every adapted layer, from the factors themselves."""
    found = {}
    for site in tasks.adapted.structure.linear_sites():
        found[site.name] = site.weight.detach().double().clone()
        for d in deltas_of(site).values():
            found[site.name] += d.scale * (d.lora_B @ d.lora_A).detach().double()
    return found


def sensitivities(tasks: Tasks, rows, value, of) -> dict[str, torch.Tensor]:
    """Mean over rows of `of` the gradient of `value(row's batch, outputs)`, by site, over its mean over all entries."""
    sites = tasks.adapted.structure.linear_sites()
    totals = {s.name: torch.zeros_like(s.weight) for s in sites}
    for s in sites:
        s.weight.requires_grad_(True)
    for row in rows:
        batch = TASK.collate([row])
        with tasks.adapted.evaluating():
            told = value(TASK.forward(tasks.adapted.model, batch), batch)
        grads = torch.autograd.grad(told, [s.weight for s in sites])
        for s, g in zip(sites, grads, strict=True):
            totals[s.name] += of(g) / len(rows)
    for s in sites:
        s.weight.requires_grad_(False)
    mean = sum(float(t.sum()) for t in totals.values()) / sum(t.numel() for t in totals.values())
    return {n: t / mean for n, t in totals.items()}


def loss(outputs, batch) -> torch.Tensor:
    return -(outputs.log_probs() * batch.weights).sum() / batch.weights.sum()


def length(outputs, batch) -> torch.Tensor:
    return (outputs.logits**2).sum(-1).mean()


@pytest.fixture(scope="module")
def three() -> dict[str, object]:
    """Two tasks behind, a third one a step on its way; by hand what each left and what a penalty is made of."""
    tasks, methods = Tasks(), {"lora": LoRA(rank=2), "ewc": EWC(coefficient=3.0), "mas": MAS(coefficient=0.5)}
    fishers, lengths, ends = [], [], []
    for k in range(2):
        rows = text_rows(6, seed=k)
        run = tasks.begin(methods, rows)
        run.train()
        fishers.append(sensitivities(tasks, rows, loss, torch.square))
        lengths.append(sensitivities(tasks, rows, length, torch.abs))
        ends.append(weights(tasks))
        tasks.end(run)
    run = tasks.begin(methods, text_rows(6, seed=2), steps=2)
    begun, at = weights(tasks), []
    run.stage.begin = lambda loop: at.append(weights(tasks))
    listen = run.stage.listen

    def told(loop, record):
        listen(loop, record)
        at.append(weights(tasks))

    run.stage.listen = told
    run.train()
    return {
        "run": run,
        "fishers": fishers,
        "lengths": lengths,
        "ends": ends,
        "begun": begun,
        "at": at,
        "left": tasks.left,
    }


def test_ewc_is_the_sum_over_tasks_about_each_ones_own_end(three):
    for step, now in enumerate(three["at"][:2]):
        wanted = 1.5 * sum(
            float((f[n] * (now[n] - w[n]) ** 2).sum())
            for f, w in zip(three["fishers"], three["ends"], strict=True)
            for n in now
        )
        assert three["run"].records[step]["penalty/ewc"] == pytest.approx(wanted, rel=2e-3, abs=1e-5)
        assert wanted > 1e-3
    # the second task moved away from where the first one ended: a stage that begins costs something already
    assert three["run"].records[0]["penalty/ewc"] > 0


def test_ewcs_gradient_pulls_towards_the_earlier_tasks_ends(three):
    """In the stage's own change of a weight, at its start: lambda sum F_t (W - W_t)."""
    run = three["run"]
    state = run.state("ewc")
    for name, weight in three["begun"].items():
        pull = sum(f[name] * (weight - w[name]) for f, w in zip(three["fishers"], three["ends"], strict=True))
        torch.testing.assert_close(state.get(f"slope.{name}").double(), pull, atol=1e-5, rtol=1e-2)


def test_mas_adds_up_what_answers_are_sensitive_to_and_weighs_the_stages_change(three):
    left = [one.values["importance"] for one in three["left"] if one.method == "mas"]
    for n in three["begun"]:
        torch.testing.assert_close(left[0][n], three["lengths"][0][n], atol=1e-3, rtol=1e-2)
        torch.testing.assert_close(left[1][n] - left[0][n], three["lengths"][1][n], atol=1e-3, rtol=1e-2)
    now = three["at"][1]
    wanted = 0.5 * sum(float((left[1][n] * (now[n] - three["begun"][n]) ** 2).sum()) for n in now)
    assert three["run"].records[1]["penalty/mas"] == pytest.approx(wanted, rel=2e-3)
    assert three["run"].records[0]["penalty/mas"] == 0 and wanted > 0


def test_a_first_task_is_free_and_memory_does_not_grow_with_tasks(three):
    held = [{k: v for k, v in one.values.items() if k != "constant"} for one in three["left"] if one.method == "ewc"]
    sizes = [sum(t.numel() for of in one.values() for t in of.values()) for one in held]
    assert sizes[0] == sizes[1] == 2 * sum(t.numel() for t in three["begun"].values())
    tasks = Tasks()
    run = tasks.begin({"lora": LoRA(rank=2), "ewc": EWC(samples=2), "mas": MAS(samples=2)}, steps=2)
    run.train()
    assert all(r[f"penalty/{n}"] == 0 for r in run.records for n in ("ewc", "mas"))


@pytest.mark.parametrize("name", ["ewc", "online-ewc", "mas", "si", "gpm", "inflora", "o-lora"])
def test_what_is_known_of_a_weight_of_another_shape_is_refused(name):
    method = load_method(name)(**load_method(name).conformance)
    beside = {} if name in ("inflora", "o-lora") else {"full": FullFineTuning()}
    tasks = Tasks()
    tasks.stage({**beside, name: method}, steps=1)
    tasks.adapted = Adapted(tiny.llama(hidden=48))
    with pytest.raises(MethodError, match=f"'{name}' knows '.*' as .* of an earlier stage"):
        tasks.begin({**beside, name: method}, steps=1).train()


def test_vectors_of_texts_are_refused_before_a_stage_trains():
    run = SimpleNamespace(task=get_task("sentence-similarity"))
    with pytest.raises(MethodError, match="gives vectors of texts"):
        MAS().needs()[0].check(run)
