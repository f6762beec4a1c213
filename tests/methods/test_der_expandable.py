"""Extractors of their own for each task, whole (`der-expandable`) or their last blocks (`memo`): features, answers and
losses beside copies of whole models; what trains and what is kept.
"""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.methods.class_tasks import PICTURES, TASKS, TEXT, end, logits, model, rows
from tests.methods.prompt_tasks import among, check_going_on, follow, learnt, some, stage
from tunewright.errors import MethodError
from tunewright.files import checkpoint
from tunewright.methods.adapters.lora import LoRA
from tunewright.methods.continual.der_expandable import ExpandableDER
from tunewright.methods.continual.memo import MEMO
from tunewright.pieces.rehearsal import Buffer, unpacked

SMALL: dict[str, Any] = {"buffer_size": 9, "aux_weight": 0.6}
MADE = {"der-expandable": ExpandableDER(**SMALL), "memo": MEMO(**SMALL)}


@pytest.fixture(scope="module", params=[("der-expandable", TEXT), ("memo", PICTURES), ("memo", TEXT)])
def two(request, tmp_path_factory):
    """Two tasks done: their folder, a copy of the model as each ended, the method, the second's run, and the task."""
    name, task = request.param
    folder, method = tmp_path_factory.mktemp("run"), {name: MADE[name]}
    run = learnt(folder, method, 1, task)
    nets = [copy.deepcopy(run.adapted.model)]
    run = follow(folder, "one", method, TASKS[1], task)
    run.train()
    end(run, folder, "two")
    return SimpleNamespace(
        folder=folder, nets=[*nets, copy.deepcopy(run.adapted.model)], method=method, run=run, task=task, name=name
    )


def read(run, net, given) -> torch.Tensor:
    with torch.no_grad():
        return run.task.forward(net.eval(), run.task.collate(given)).features.double()


def kept_rows(run, name: str):
    state = run.state(name)
    return [unpacked(state.get(f"rows.{i}")) for i in range(len(state.data["memory"]["slots"]))]


def test_all_extractors_features_answer_together(two):
    given, state = some(two.task), two.run.state(two.name)
    features = torch.cat([read(two.run, net, given) for net in two.nets], 1)
    weight, bias = (state.get(f"answer.{n}").double() for n in ("weight", "bias"))
    assert features.shape[1] == weight.shape[1] == 2 * two.nets[0].config.hidden_size
    wanted = F.linear(features, weight, bias)
    said = logits(two.run, two.run.task.collate(given)).double()
    wanted = torch.stack([among(F.pad(w, (0, 2)), (0, 1, 2, 3)) for w in wanted])
    torch.testing.assert_close(said, wanted, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(*features.chunk(2, 1), atol=1e-3)


def test_a_new_task_starts_where_the_last_one_ended_and_leaves_it_alone(two):
    run = follow(two.folder, "two", two.method, TASKS[2], two.task)
    state, there = run.state(two.name), run.adapted.base_parameters()
    for t, net in enumerate(two.nets):
        values = dict(net.named_parameters())
        held = {
            n.split("/", 2)[2].replace("/", "."): p
            for n, p in state.named_buffers()
            if n.startswith(f"extractors/{t}/")
        }
        assert all(torch.equal(p, values[n]) for n, p in held.items())
        own = {n for n in values if not n.startswith("classifier.")}
        if two.name == "memo":  # the last block of two, and what stands behind it
            own = {n for n in own if ".1." in n or n.startswith(("vit.layernorm", "bert.pooler"))}
        assert held.keys() == own
    before = state.get("answer.weight")
    assert torch.equal(state.weight[:4, : before.shape[1]], before)
    start = {n: p.clone() for n, p in there.items()}
    run.train()
    moved = {n for n, p in there.items() if not torch.equal(p, start[n])}
    assert moved and moved <= own and state.weight.shape == (6, 3 * two.nets[0].config.hidden_size)
    assert all(torch.equal(p, dict(two.nets[1].named_parameters())[n]) for n, p in there.items() if n not in own)


def test_the_loss_is_of_all_classes_and_of_new_ones_beside_older(two):
    run = follow(two.folder, "two", two.method, TASKS[2], two.task, steps=1)
    state, by_id = run.state(two.name), {r.id: r for r in rows(TASKS[2], two.task)}
    held, newest = kept_rows(run, two.name), copy.deepcopy(run.adapted.model)
    weight, bias, auxiliary, aux_bias = (
        p.detach().double().clone() for p in (state.weight, state.bias, state.auxiliary, state.auxiliary_bias)
    )
    buffer = two.method[two.name]._buffer(state)
    drawn = [held[s] for s in buffer.draw(4, 0)]
    run.train()
    given = [by_id[i] for i in run.cursor.seen[:4]] + drawn
    features = [read(run, net, given) for net in (*two.nets, newest)]
    labels = torch.tensor([r.label for r in given])
    assert set(labels.tolist()) & {0, 1, 2, 3} and len(given) == 8
    said = F.cross_entropy(F.linear(torch.cat(features, 1), weight, bias), labels)
    apart = F.cross_entropy(F.linear(features[-1], auxiliary, aux_bias), (labels - 3).clamp(min=0))
    assert run.records[0]["loss"] == pytest.approx(float(said + 0.6 * apart), rel=1e-4)


def test_rows_are_kept_by_all_features_and_a_bounded_number_of_each_class(two, monkeypatch):
    assert [r.label for r in kept_rows(two.run, two.name)] == [0, 0, 1, 1, 2, 2, 3, 3]
    seen: list[torch.Tensor] = []
    monkeypatch.setattr(Buffer, "herd", lambda self, rows, features, classes: seen.append(features))
    method = {two.name: type(two.method[two.name])(**SMALL, weight_align=True)}
    run = follow(two.folder, "two", method, TASKS[2], two.task)
    run.train()
    before, net = run.state(two.name).weight.detach().clone(), copy.deepcopy(run.adapted.model)
    end(run, two.folder.parent / "aligned", "three")
    wanted = torch.cat([read(run, one, rows(TASKS[2], two.task)) for one in (*two.nets, net)], 1)
    torch.testing.assert_close(seen[0].double(), wanted, atol=1e-4, rtol=1e-4)
    after = run.state(two.name).get("answer.weight")  # and new classes have the length of older ones
    lengths = after.norm(dim=1)
    assert torch.equal(after[:4], before[:4]) and not torch.equal(after[4:], before[4:])
    assert lengths[4:].mean() == pytest.approx(float(lengths[:4].mean()), rel=1e-5)


def test_a_stages_files_hold_an_extractor_once(two):
    saved = checkpoint.read(two.folder / "stages" / "two")
    once = [k for k in saved.tensors["left"] if k.startswith(f"{two.name}|extractors|0.")]
    assert once and not [k for k in saved.tensors.get("wrapper", {}) if "extractors" in k]
    told = saved.state["wrapper"]["left"]
    assert sorted(told.values()) == sorted(
        [*once, *(f"{two.name}|answer|{n}" for n in ("weight", "bias")), *(f"{two.name}|rows|{i}" for i in range(8))]
    )


def test_a_later_task_resumes_bit_for_bit_and_is_read_back(two):
    check_going_on(two.folder, two.method, two.task, some(two.task))


def test_what_it_cannot_do_is_refused(two):
    run = follow(two.folder, "two", {**two.method, "lora": LoRA(rank=2)}, TASKS[2], two.task)
    with pytest.raises(MethodError, match="deltas beside it would change what earlier tasks read"):
        run.train()
    run = follow(two.folder, "one", two.method, TASKS[1], two.task)
    run.cursor.sources["t"] = rows(TASKS[2], two.task)
    with pytest.raises(MethodError, match="classes that no stage of this method has learnt"):
        run.train()
    with pytest.raises(MethodError, match="the last 3 blocks are to be each task's own, and the model has 2"):
        stage({"memo": MEMO(blocks=3)}, model(two.task), TASKS[0], task=two.task)
