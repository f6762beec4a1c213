"""L2M by hand: which entry a row gets, what of the pool moves, the pull of keys, new tasks, and what files keep."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.methods.class_tasks import PICTURES, TASKS, TEXT, logits, model, rows
from tests.methods.driving import Run, changed
from tests.methods.prompt_tasks import check_going_on, embedded, follow, learnt, some, stage
from tests.tasks import playing
from tunewright.contract.batch import Batch
from tunewright.errors import MethodError
from tunewright.methods.continual.l2m import L2M, NAME
from tunewright.models import context
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import Keys, Modulated, deltas_of
from tunewright.training import carry

SMALL: dict[str, Any] = {"size": 4, "rank": 2, "alpha": 6.0}


def method(**fields: Any) -> dict[str, L2M]:
    return {NAME: L2M(**{**SMALL, **fields})}


def keys_of(adapted: Adapted) -> Keys:
    return next(d for s in adapted.structure.whole for d in deltas_of(s).values() if isinstance(d, Keys))


def pool_of(adapted: Adapted) -> list[Modulated]:
    return [d for s in adapted.structure.sites for d in deltas_of(s).values() if isinstance(d, Modulated)]


def chosen(run: Run, batch: Batch) -> Tensor:
    now = context.of_batch(batch)
    with torch.no_grad(), context.reading(now):
        run.adapted.model.eval()(**batch.inputs)
    return now.notes["pool_entry"][-1]


def cosines(run: Run, asked, task: str) -> np.ndarray:
    """[R, M] in float64, of a fresh model's embeddings."""
    net = model(task).model.eval()
    with torch.no_grad():
        q = np.stack([embedded(net, r, task).double().mean(0).numpy() for r in asked])
    k = keys_of(run.adapted).keys.detach().double().numpy()
    return (q @ k.T) / np.linalg.norm(q, axis=1)[:, None] / np.linalg.norm(k, axis=1)[None]


@pytest.mark.parametrize("task", [TEXT, PICTURES])
def test_a_row_gets_the_entry_whose_key_is_nearest_to_its_embeddings(task):
    run, asked = stage(method(), model(task), TASKS[0], task=task), some(task)
    pull_apart(run, asked, task)
    got = chosen(run, run.task.collate(asked))
    assert got.tolist() == cosines(run, asked, task).argmax(1).tolist()
    assert len(set(got.tolist())) > 1


def pull_apart(run: Run, asked, task: str) -> None:
    """Keys at some rows' own queries, so that rows do not all get one entry."""
    net = model(task).model.eval()
    with torch.no_grad():
        queries = torch.stack([embedded(net, r, task).mean(0) for r in asked])
        keys_of(run.adapted).keys.copy_((queries - queries.mean(0))[: SMALL["size"]])


@pytest.mark.parametrize("task", [TEXT, PICTURES])
def test_it_starts_as_the_base_in_every_bit_and_then_each_row_is_changed_by_its_own_entry(task):
    run, asked = stage(method(), model(task), TASKS[0], task=task), some(task)
    batch = run.task.collate(asked)
    pull_apart(run, asked, task)
    assert torch.equal(logits(run, batch), logits(stage_of_base(task), batch))
    got = chosen(run, batch)
    plain = logits(run, batch)
    with torch.no_grad():
        for d in pool_of(run.adapted):
            d.B[int(got[0])].normal_(generator=torch.Generator().manual_seed(1))
    moved = (logits(run, batch) - plain).abs().amax(-1) > 0
    assert moved.tolist() == (got == got[0]).tolist()


class stage_of_base:
    """The untouched model, where a run is asked for."""

    def __init__(self, task: str):
        from tunewright.tasks import get_task

        self.adapted, self.task = model(task), get_task(task)


def test_a_layer_adds_the_scaled_product_of_the_entry_of_each_row_wherever_its_tokens_lie():
    g = torch.Generator().manual_seed(0)
    A, B = torch.randn(3, 2, 5, generator=g), torch.randn(3, 4, 2, generator=g)
    delta, x, y = Modulated(A, B, 1.5), torch.randn(1, 6, 5, generator=g), torch.randn(1, 6, 4, generator=g)
    row, place = torch.tensor([[0, 0, 1, 1, 1, 2]]), torch.tensor([[0, 1, 0, 1, 2, 0]])
    now = context.Present(context.Rows(), row, place)
    now.note("pool_entry", torch.tensor([2, 0, 2]))
    delta.strength = 0.5
    with context.reading(now):
        out = delta(x, y)
    for t, c in enumerate([2, 2, 0, 0, 0, 2]):
        wanted = y[0, t] + 0.75 * B[c] @ (A[c] @ x[0, t])
        assert torch.allclose(out[0, t], wanted, atol=1e-5)
    assert delta.entries == 2 * 5 + 4 * 2


def test_only_chosen_entries_and_keys_move_and_the_pull_turns_a_key_without_stretching_it():
    run = stage(method(coefficient=2.0), model(), TASKS[0], steps=1)
    keys = keys_of(run.adapted)
    before = keys.keys.detach().clone()
    asked = run.task.collate(rows(TASKS[0], TEXT)[:4])
    run.adapted.outer.train()
    run.task.forward(run.adapted.outer, asked)
    picked = [c for _, c in keys.seen.values()]
    pull = run.methods.call(
        run.methods.one("penalty") or next(iter(run.methods)), "penalty", weights=weights_of(run), step=0, plan=run.plan
    )
    by_hand = -2.0 * np.mean([cosines(run, rows(TASKS[0], TEXT)[:4], TEXT)[i, c] for i, c in enumerate(picked)])
    assert float(pull.detach()) == pytest.approx(by_hand, abs=1e-5)
    (slope,) = torch.autograd.grad(pull, keys.keys)
    for m in range(SMALL["size"]):
        assert bool(slope[m].any()) == (m in picked)
        assert float(slope[m] @ before[m]) == pytest.approx(0, abs=1e-6)
    assert keys.counts.tolist() == [picked.count(m) for m in range(SMALL["size"])] and not keys.seen


def weights_of(run: Run) -> dict[str, Any]:
    from tunewright.training.inner import TrainedWeight

    return {s: TrainedWeight(run.adapted.structure.site(s), d, None) for s, d in run.adapted.deltas().items()}


def test_entries_that_no_row_gets_keep_their_bits():
    run = stage(method(), model(), TASKS[0], steps=3)
    first = {i: d.A.detach().clone() for i, d in enumerate(pool_of(run.adapted))}
    run.train()
    used = keys_of(run.adapted).counts > 0
    assert 0 < int(used.sum()) < SMALL["size"]
    for i, d in enumerate(pool_of(run.adapted)):
        same = torch.tensor([torch.equal(a, b) for a, b in zip(d.A, first[i], strict=True)])
        assert torch.equal(same, ~used) and torch.equal(d.B.flatten(1).any(1), used)


def test_the_coefficient_decides_whether_keys_move():
    still = stage(method(coefficient=0.0), model(), TASKS[0], steps=2)
    keys = keys_of(still.adapted).keys.detach().clone()
    still.train()
    assert torch.equal(keys_of(still.adapted).keys, keys)
    pulled = stage(method(), model(), TASKS[0], steps=2)
    pulled.train()
    assert not torch.equal(keys_of(pulled.adapted).keys, keys)


def test_a_second_task_goes_on_with_the_pool_and_opens_entries_that_are_unused(tmp_path):
    first = learnt(tmp_path, method(), 1, how="training")
    counts = keys_of(first.adapted).counts.clone()
    kept = changed_of(first)
    run = follow(tmp_path, "one", method(), TASKS[1], how="training")
    keys = keys_of(run.adapted)
    assert torch.equal(keys.counts, counts) and changed_of(run) == kept
    often = [1 / (n + 1e-6) for n in counts.tolist()]
    assert keys.weights.tolist() == pytest.approx([n / math.fsum(often) for n in often])
    asked = rows(TASKS[1], TEXT)
    alike = cosines(run, asked, TEXT)
    run.adapted.outer.train()
    run.task.forward(run.adapted.outer, run.task.collate(asked))
    wanted = ((alike + 1) / 2 * keys.weights.numpy()).argmax(1)
    assert [c for _, c in keys.seen.values()] == wanted.tolist()
    assert all(counts[c] == 0 for c in wanted)
    assert chosen(run, run.task.collate(asked)).tolist() == alike.argmax(1).tolist()


def changed_of(run: Run) -> list[list[float]]:
    return [t.detach().flatten().tolist() for d in pool_of(run.adapted) for t in (d.A, d.B)]


@pytest.mark.parametrize("task", [TEXT, PICTURES])
def test_a_task_that_is_stopped_goes_on_in_the_same_bits_and_files_answer_alike(tmp_path, task):
    learnt(tmp_path, method(), 2, task)
    check_going_on(tmp_path, method(), task, some(task))


def test_another_pool_in_a_later_stage_is_refused(tmp_path):
    learnt(tmp_path, method(), 1)
    with pytest.raises(MethodError, match="the stage before left"):
        follow(tmp_path, "one", method(size=5), TASKS[1])


def test_at_strength_0_it_is_the_base_and_halfway_lies_between(tmp_path):
    run = stage(method(), model(), TASKS[0], steps=4)
    run.train()
    batch = run.task.collate(some(TEXT))
    tuned = logits(run, batch)
    with run.adapted.base():
        base = logits(run, batch)
    assert torch.equal(base, logits(stage_of_base(TEXT), batch)) and not torch.equal(base, tuned)
    with run.adapted.at_strength(0.5):
        half = logits(run, batch)
    assert not torch.equal(half, base) and not torch.equal(half, tuned)


def test_layers_that_see_parts_of_rows_are_refused():
    delta = Modulated(torch.zeros(2, 1, 3), torch.zeros(2, 3, 1), 1.0)
    now = context.Present(context.Rows())
    now.note("pool_entry", torch.tensor([0, 1]))
    with context.reading(now), pytest.raises(MethodError, match="8 parts of 2 rows"):
        delta(torch.zeros(8, 4, 3), torch.zeros(8, 4, 3))


def test_blocks_that_read_no_tokens_are_refused():
    keys = Keys(torch.zeros(2, 3), torch.zeros(2), torch.ones(2))
    with context.reading(context.Present(context.Rows())), pytest.raises(MethodError, match="width 3"):
        keys.before(torch.zeros(2, 3, 4, 4))


def test_what_was_found_tells_which_entries_are_used(tmp_path):
    run = stage(method(), model(), TASKS[0], steps=3)
    run.train()
    told = L2M(**SMALL).found(run.state(NAME))
    assert told.values["of"] == SMALL["size"] and sum(n for _, n in told.rows) == 12
    assert told.values["used"] == len(told.rows)


def test_files_hold_counts_so_that_a_resumed_task_weighs_as_the_first(tmp_path):
    learnt(tmp_path, method(), 1)
    adapted = model()
    carry.begin(adapted, "stages.one", "training", Path(tmp_path), "recipe.yaml")
    assert float(keys_of(adapted).counts.sum()) == 8
    assert len(changed(follow(tmp_path, "one", method(), TASKS[1]).train()))


def test_a_policy_s_windows_find_their_entry_by_the_steps_that_are_there():
    net = playing.policy()
    seen: list[Tensor] = []
    net.encoder.h[0].register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    adapted = Adapted(net)
    run = Run(
        method(),
        model=adapted,
        task=playing.TASK.name,
        sources={"s": playing.rows_of(net, [playing.episode(k) for k in range(2)])},
        steps=1,
    )
    asked = run.cursor.sources["s"]
    batch = run.task.collate(asked)
    lengths = [3 * len(r.weights) for r in asked]
    assert len(set(lengths)) > 1
    keys = keys_of(adapted)
    with torch.no_grad():
        keys.keys.normal_(generator=torch.Generator().manual_seed(0))
        run.task.forward(net.eval(), batch)
    queries = torch.stack([x[:n].mean(0) for x, n in zip(seen[0], lengths, strict=True)])
    wanted = torch.nn.functional.cosine_similarity(queries[:, None], keys.keys[None], dim=-1).argmax(-1)
    run.task.forward(adapted.outer.train(), batch)
    assert [keys.seen[i][1] for i in batch.row_ids] == wanted.tolist()
    assert len(changed(run.train()))
