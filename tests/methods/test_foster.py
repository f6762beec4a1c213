"""FOSTER over tasks: both losses, what begins anew between them, and what one model answers, beside copies."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tests.methods.class_tasks import PICTURES, TASKS, TEXT, end, logits, rows
from tests.methods.driving import changed, snapshot
from tests.methods.prompt_tasks import among, follow, learnt, some
from tunewright.errors import MethodError
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.foster import FOSTER
from tunewright.pieces.rehearsal import unpacked

SMALL: dict[str, Any] = {"buffer_size": 7, "temperature": 3.0, "kd_weight": 0.7, "beta_boosting": 0.8}
MADE = {"foster": FOSTER(**SMALL, beta_compression=0.6)}


@pytest.fixture(scope="module", params=[TEXT, PICTURES])
def told(request, tmp_path_factory):
    """A task done, and a second one of four steps with copies of model and state after each."""
    folder, task = tmp_path_factory.mktemp("run"), request.param
    learnt(folder, MADE, 1, task, steps=4)
    nets: list[Any] = []
    saved: list[Any] = []

    def listen(loop):
        nets.append((copy.deepcopy(loop.adapted.model), copy.deepcopy(run.state("foster"))))
        saved.append(snapshot(loop))

    run = follow(folder, "one", MADE, TASKS[1], task, steps=4, listen=listen)
    begun = copy.deepcopy(run.adapted.model), copy.deepcopy(run.state("foster"))
    loop = run.train()
    final = changed(loop)
    end(run, folder, "two")
    return SimpleNamespace(folder=folder, task=task, run=run, nets=[begun, *nets], saved=saved, final=final)


def read(told, net, given) -> torch.Tensor:
    with torch.no_grad():
        return told.run.task.forward(net.eval(), told.run.task.collate(given)).features.double()


def given_to(told, step: int):
    """The rows of a step, old ones among them, and their labels."""
    by_id, state = {r.id: r for r in rows(TASKS[1], told.task)}, told.nets[0][1]
    buffer = MADE["foster"]._buffer(state)
    given = [by_id[i] for i in told.run.cursor.seen[4 * step : 4 * step + 4]]
    given += [unpacked(state.get(f"rows.{s}")) for s in buffer.draw(4, step)]
    return given, torch.tensor([r.label for r in given])


def answers(state, name: str, features: torch.Tensor) -> torch.Tensor:
    weight, bias = ("weight", "bias") if not name else (name, f"{name}_bias")
    return F.linear(features, getattr(state, weight).detach().double(), getattr(state, bias).detach().double())


def counting(beta: float) -> torch.Tensor:
    """Of three kept rows of each older class and four of each new one."""
    raw = np.array([(1 - beta) / (1 - beta**n) for n in (3, 3, 4, 4)])
    return torch.tensor(raw / raw.sum() * 4)


def test_boosting_learns_beside_the_model_as_the_task_began(told):
    given, labels = given_to(told, 1)
    (old, _), (new, state) = told.nets[0], told.nets[1]
    before, own = read(told, old, given), read(told, new, given)
    assert not torch.allclose(before, own, atol=1e-3) and {0, 1} & set(labels.tolist())
    z = answers(state, "", torch.cat([before, own], 1))
    held = F.linear(before, *(told.nets[0][1].get(f"answer.{n}").double() for n in ("weight", "bias")))
    kd = -((held / 3).softmax(1) * (z[:, :2] / 3).log_softmax(1)).sum(1).mean()
    wanted = F.cross_entropy(z / counting(0.8), labels) + F.cross_entropy(answers(state, "own", own), labels) + 0.7 * kd
    assert told.run.records[1]["loss"] == pytest.approx(float(wanted), rel=1e-4)


def test_compression_begins_anew_and_learns_the_two_modules_answer(told):
    (old, _), (switched, _) = told.nets[0], told.nets[2]
    for (n, p), (_, q) in zip(old.named_parameters(), switched.named_parameters(), strict=True):
        assert n.startswith("classifier.") or torch.equal(p, q)
    state = told.nets[0][1]
    assert torch.equal(state.student[:2], state.get("answer.weight")) and state.student.shape[0] == 4
    given, _ = given_to(told, 3)
    boosted = {  # the second step's module; kept while it is compressed
        n.removeprefix("extractors/boosted/").replace("/", "."): p
        for n, p in told.nets[3][1].named_buffers()
        if n.startswith("extractors/boosted/")
    }
    teaching, student = copy.deepcopy(old), told.nets[3]
    teaching.load_state_dict(boosted, strict=False)
    features = torch.cat([read(told, old, given), read(told, teaching, given)], 1)
    soft = (answers(student[1], "", features) / 3).softmax(1) * counting(0.6)
    said = answers(student[1], "student", read(told, student[0], given))
    wanted = -(soft / soft.sum(1, keepdim=True) * (said / 3).log_softmax(1)).sum(1).mean()
    assert told.run.records[3]["loss"] == pytest.approx(float(wanted), rel=1e-4)
    assert torch.equal(student[1].weight, told.nets[2][1].weight)  # the teacher's answer stays


def test_one_model_answers_and_nothing_else_of_it_is_kept(told):
    state, given = told.run.state("foster"), some(told.task)
    assert not [n for n, _ in state.named_buffers() if n.startswith("extractors")] and not list(state.parameters())
    net, last = told.nets[4]
    said = answers(last, "student", read(told, net, given))
    wanted = torch.stack([among(F.pad(s, (0, 2)), (0, 1, 2, 3)) for s in said])
    torch.testing.assert_close(logits(told.run, told.run.task.collate(given)).double(), wanted, atol=1e-4, rtol=1e-4)
    assert state.data["classes"] == [0, 1, 2, 3]


@pytest.mark.parametrize("at", [1, 3])
def test_a_task_goes_on_bit_for_bit_in_either_part(told, at):
    run = follow(told.folder, "one", MADE, TASKS[1], told.task, steps=4)
    got = changed(run.train(told.saved[at - 1]))
    assert got.keys() == told.final.keys() and all(torch.equal(got[n], told.final[n]) for n in got)


def test_a_stage_that_ends_early_keeps_the_new_module_and_its_own_answer(told, tmp_path):
    run = follow(told.folder, "two", MADE, TASKS[2], told.task, steps=1)
    run.train()
    own, net = run.state("foster").own.detach().clone(), copy.deepcopy(run.adapted.model)
    end(run, tmp_path, "three")
    assert torch.equal(run.state("foster").get("answer.weight"), own)
    assert all(torch.equal(p, dict(net.named_parameters())[n]) for n, p in run.adapted.base_parameters().items())


def test_what_would_train_beside_it_is_refused(told):
    run = follow(told.folder, "two", {**MADE, "lora": LoRA(rank=2)}, TASKS[2], told.task)
    with pytest.raises(MethodError, match="deltas beside it would change what earlier tasks read"):
        run.train()
