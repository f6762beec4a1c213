"""Methods that give each row prompts: their tasks through files as a run goes, and encoders by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.methods.class_tasks import PICTURES, TASKS, TEXT, end, left_by, logits, model, rows
from tests.methods.driving import Run, changed, snapshot
from tunewright.contract.batch import Row
from tunewright.contract.method import Method
from tunewright.models.adapted import Adapted
from tunewright.models.agreement import agrees
from tunewright.tasks import get_task
from tunewright.training import carry

HEADS = 4
STAGES = ("one", "two", "three")


def stage(method: Mapping[str, Method], adapted: Adapted, classes, earlier=None, task: str = TEXT, **more: Any) -> Run:
    """A stage of two classes, before its first step."""
    given = {"sources": {"t": rows(classes, task)}, "steps": 2, **more}
    run = Run(method, model=adapted, task=task, earlier=earlier, **given)
    run.methods.event("begin_task", stage="x", adapted=adapted)
    return run


def follow(folder: Path, start: str, method: Mapping[str, Method], classes, task: str = TEXT, **more: Any) -> Run:
    """The stage after a finished one, from its files."""
    adapted = model(task)
    carry.begin(adapted, f"stages.{start}", more.pop("how", "frozen"), folder, "recipe.yaml")
    return stage(method, adapted, classes, left_by(folder, start), task, **more)


def learnt(folder: Path, method: Mapping[str, Method], count: int, task: str = TEXT, **more: Any) -> Run:
    """So many tasks, each through files; the last one's run, which has ended."""
    run = stage(method, model(task), TASKS[0], task=task, **more)
    for i in range(count):
        if i:
            run = follow(folder, STAGES[i - 1], method, TASKS[i], task, **more)
        run.train()
        end(run, folder, STAGES[i])
    return run


def some(task: str) -> list[Row]:
    """Two rows of each class of all tasks."""
    return [r for classes in TASKS for r in rows(classes, task, 2)]


def check_going_on(folder: Path, method: Mapping[str, Method], task: str, asked: Sequence[Row]) -> None:
    """The third task, stopped and gone on with, ends in the same bits, and its files answer as it does."""
    kept: list[Any] = []
    whole = follow(folder, "two", method, TASKS[2], task, listen=lambda loop: kept.append(snapshot(loop)))
    wanted = changed(whole.train())
    got = changed(follow(folder, "two", method, TASKS[2], task).train(kept[0]))
    assert wanted.keys() == got.keys() and all(torch.equal(wanted[n], got[n]) for n in wanted)
    end(whole, folder, "three")
    batch, fresh = whole.task.collate(asked), model(task)
    carry.begin(fresh, "stages.three", "frozen", folder, "recipe.yaml")
    with torch.no_grad():
        assert agrees(whole.task.forward(fresh.outer, batch).logits, logits(whole, batch))


def embedded(net: Any, row: Row, task: str) -> Tensor:
    """[L, D]: what the first block reads of a row."""
    if task == TEXT:
        out: Tensor = net.bert.embeddings(torch.tensor([row.input_ids]))[0]
        return out
    pixels = get_task(PICTURES).collate([row]).inputs["pixel_values"]
    return net.vit.embeddings(pixels)[0]  # type: ignore[no-any-return]


def encoded(net: Any, states: Tensor, task: str, pairs: Mapping[int, tuple[Tensor, Tensor]] | None = None) -> Tensor:
    """[T, D]: what leaves the blocks (and the norm behind them) of states [T, D], attention by hand. `pairs`: by block
    keys and values [m, D] before its own.
    """
    blocks = net.bert.encoder.layer if task == TEXT else net.vit.layers
    for i, block in enumerate(blocks):
        read = states if task == TEXT else block.layernorm_before(states)
        own = block.attention.self if task == TEXT else block.attention
        names = ("query", "key", "value") if task == TEXT else ("q_proj", "k_proj", "v_proj")
        q, k, v = (getattr(own, n)(read) for n in names)
        if pairs and i in pairs:
            k, v = torch.cat([pairs[i][0], k]), torch.cat([pairs[i][1], v])
        parts = [
            (a @ b.T / a.shape[1] ** 0.5).softmax(-1) @ c
            for a, b, c in zip(*(x.chunk(HEADS, -1) for x in (q, k, v)), strict=True)
        ]
        mixed = torch.cat(parts, -1)
        if task == TEXT:
            states = block.attention.output(mixed, states)
            states = block.output(block.intermediate(states), states)
        else:
            states = states + block.attention.o_proj(mixed)
            states = states + block.mlp(block.layernorm_after(states))
    return states if task == TEXT else net.vit.layernorm(states)


def features(net: Any, first: Tensor, task: str) -> Tensor:
    """[D]: what the head reads of the state [D] that stands first."""
    return torch.tanh(net.bert.pooler.dense(first)) if task == TEXT else first


def query(row: Row, task: str) -> Tensor:
    """[D]: what the untouched base's head reads of a row."""
    net = model(task).model
    return features(net, encoded(net, embedded(net, row, task), task)[0], task)


def among(said: Tensor, classes: Sequence[int]) -> Tensor:
    """[V] log-probabilities among some classes, ln 1e-8 elsewhere."""
    out = torch.full_like(said, 1e-8).log()
    out[list(classes)] = said[list(classes)].log_softmax(-1)
    return out
