"""Checks of deltas: the same rows give the same, however they are laid out, written on from a cache, or mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tunewright.conformance.bench import Tiny, rows_of
from tunewright.conformance.case import Case, Check
from tunewright.conformance.declared import fills_training_slots
from tunewright.conformance.training import close, tiny
from tunewright.contract.batch import Row
from tunewright.measure import _kv
from tunewright.measure.generate import greedy
from tunewright.models import context
from tunewright.models.agreement import agrees, same_bits
from tunewright.models.deltas import Delta
from tunewright.models.generated import settle
from tunewright.models.routing import routed

WRITTEN = 3
"""Tokens that are written after each prompt."""


def _logits(t: Tiny, rows: Sequence[Row], packed: bool = False) -> Tensor:
    with t.adapted.evaluating(), torch.no_grad():
        logits: Tensor = t.task.forward(t.adapted.outer, t.task.collate(rows, packed).to(t.device)).logits
    return logits


def rows_agree_however_they_lie(case: Case) -> None:
    """Alone, padded beside others and packed behind them, a row gives the same: a delta sees its own row alone."""
    t = tiny(case).run()
    rows = [replace(r, source=s) for s in ("small", "large") for r in rows_of(t.task, s, 3)]
    alone = torch.cat([_logits(t, [r]) for r in rows])
    close(_logits(t, rows), alone, "rows padded side by side and alone")
    if t.task.packs:
        close(_logits(t, rows, packed=True), alone, "rows packed and alone")


def writes_with_a_cache_as_without(case: Case) -> None:
    """Prompts read together, and tokens after them one by one from the cache, as in one forward of the whole row."""
    t = tiny(case).run()
    rows = [r for r in rows_of(t.task, "small", 5) if r.fields["prompt_ids"]]
    prompts = [list(r.fields["prompt_ids"]) for r in rows]
    with t.adapted.evaluating(), torch.no_grad():
        model = t.adapted.outer
        answers = greedy(model, None, prompts, WRITTEN, (), rows=rows)  # type: ignore[arg-type]
        for part in _kv.read(model, prompts, room=WRITTEN, asked=rows):  # type: ignore[arg-type]
            for n in range(WRITTEN):
                whole = [_whole(t, rows[i], prompts[i], answers[i][:n]) for i in part.indices]
                close(part.logits, torch.stack(whole), f"the {n + 1}. written token with a cache and without")
                chosen = torch.tensor([[answers[i][n]] for i in part.indices], device=t.device)
                if part.mask is not None:
                    part.mask = torch.cat([part.mask, part.mask.new_ones(len(chosen), 1)], 1)
                places = part.lengths[:, None]
                part.logits = _kv.forward(model, chosen, places, part.cache, part.mask, 1, part.rows)[:, 0]  # type: ignore[arg-type]
                part.lengths = part.lengths + 1


def _whole(t: Tiny, row: Row, prompt: list[int], answer: list[int]) -> Tensor:
    """[V] logits after prompt and answer, by one forward without a cache."""
    ids = torch.tensor([[*prompt, *answer]], device=t.device)
    rows = context.rows_of_prompts([len(prompt)], *context.ids_and_sources([row]))
    with context.reading(context.whole(ids, rows)):
        logits: Tensor = t.adapted.outer(input_ids=ids).logits[0, -1].float()
    return logits


def a_penalty_sees_all_that_trains(case: Case) -> None:
    """Whatever trains in deltas is among the weights that a penalty is given, whether it folds or not."""
    t = tiny(case)
    seen = {id(p) for w in t.loop.trained_weights().values() for p in w.parameters.values()}
    trained = {n: leaf.parameter for n, leaf in t.loop.trained.leaves.items() if leaf.group == "delta"}
    missing = [n for n, p in trained.items() if id(p) not in seen]
    assert not missing, f"a penalty is not shown {missing[:3]}"
    for w in t.loop.trained_weights().values():
        if w.foldable:
            assert w.change().shape == w.site.matrix().shape


def rows_choose_their_delta(case: Case) -> None:
    """In one batch, rows with the change and rows without it are as each alone."""
    t = tiny(case).run()
    deltas: dict[str, list[Delta]] = {}
    for by_name in t.adapted.deltas().values():
        for name, delta in by_name.items():
            deltas.setdefault(name, []).append(delta)
    outside = any(s.block is None for s in t.adapted.structure.every_site if s.name in t.adapted.deltas())
    if len(deltas) != 1 or outside or t.adapted.wrapper is not None:
        return  # several changes that add up are no choice between them
    (name,) = deltas
    rows = rows_of(t.task, "small", 4)
    names = [name, None, name, None]
    parts = []
    for row, chosen in zip(rows, names, strict=True):
        for d in deltas[name]:
            d.active = chosen is not None
        parts.append(_logits(t, [row]))
    for d in deltas[name]:
        d.active = True
    for packed in (False, True) if t.task.packs else (False,):
        batch = t.task.collate(rows, packed)
        with t.adapted.evaluating(), torch.no_grad(), routed(t.adapted, names, batch.cu_seqlens):
            together = t.task.forward(t.adapted.model, batch.to(t.device)).logits
        close(together, torch.cat(parts), f"rows with and without the change, {'packed' if packed else 'padded'}")


def what_a_network_makes_is_what_is_kept(case: Case) -> None:
    """Where a method's network makes a delta's tensors: kept plain at the stage's end, it says the same in every bit,
    trains no more, and one task's part of it alone is that task's.
    """
    t = tiny(case)
    if not any(d.made for by_name in t.adapted.deltas().values() for d in by_name.values()):
        return
    t.loop.run()
    rows = [replace(r, source=source) for source in ("small", "large") for r in rows_of(t.task, source, 2)]
    live = _logits(t, rows)
    t.loop.methods.event("end_task", stage="main", adapted=t.adapted)
    deltas = [d for by_name in t.adapted.deltas().values() for d in by_name.values()]
    assert not any(d.made for d in deltas), "after the stage a network still makes tensors: keep them in `end_task`"
    assert same_bits(_logits(t, rows), live), "kept, the change says something else than while it was made"
    with t.adapted.base() as model, torch.no_grad():
        batch = t.task.collate(rows).to(t.device)
        assert agrees(t.task.forward(model, batch).logits, base_logits(t, rows)), "the base does not come back"
    own = [r for r in rows if r.source == "large"]
    expected = _logits(t, own)
    settle(t.adapted, "large")
    close(_logits(t, [replace(r, source="nowhere") for r in own]), expected, "one task's change alone and among all")
    if t.adapted.foldable:
        with t.adapted.at_strength(1.0) as model, torch.no_grad():
            close(t.task.forward(model, t.task.collate(own).to(t.device)).logits, expected, "one task's change folded")


def base_logits(t: Tiny, rows: Sequence[Row]) -> Tensor:
    """What an untouched model says on these rows."""
    with torch.no_grad():
        logits: Tensor = t.task.forward(t.fresh(), t.task.collate(rows).to(t.device)).logits
    return logits


def _attaches(case: Case) -> bool:
    return fills_training_slots(case) and "attach" in case.slots


def _writes(case: Case) -> bool:
    tasks = case.method.tasks
    return _attaches(case) and (tasks is None or tasks[0] == "text-generation")


CHECKS = [
    Check("rows agree however they lie", _attaches, rows_agree_however_they_lie),
    Check("writes with a cache as without", _writes, writes_with_a_cache_as_without),
    Check("a penalty sees all that trains", _attaches, a_penalty_sees_all_that_trains),
    Check("rows choose their delta", _attaches, rows_choose_their_delta),
    Check("what a network makes is what is kept", _attaches, what_a_network_makes_is_what_is_kept),
]
