"""What the slots of a stage cost that no method fills: the loop with no method beside the bare operations of a step."""

from __future__ import annotations

import time
from statistics import median
from typing import Any
from unittest.mock import patch

from benchmarks.worker import RATE, Work, make_stage


def cost(steps: int) -> dict[str, Any]:
    """Microseconds a step, in turn on two equal tiny models, and how many slot functions a step called.

    The loop does more than the bare step beside slots: it clips, counts, times itself and makes a record.
    """
    import torch

    from tunewright.contract.combining import Methods
    from tunewright.training.train import Loop

    calls = []
    original = Methods.call
    stage = make_stage(Work("tiny", "float32", 2 * steps, 2, 0), "full", lambda loop, record: None)
    bare = _bare(make_stage(Work("tiny", "float32", 2 * steps, 2, 0), "full", lambda loop, record: None))
    loop = Loop(stage)
    seconds: dict[str, list[float]] = {"loop": [], "bare": []}
    with patch.object(
        Methods, "call", lambda self, bound, slot, *a, **k: calls.append(slot) or original(self, bound, slot, *a, **k)
    ):
        for i in range(steps):
            for name, step in (("loop", loop.one_step), ("bare", lambda: next(bare))):
                t = time.perf_counter()
                step()
                if i >= steps // 10:
                    seconds[name].append(time.perf_counter() - t)
    middle = {n: median(s) * 1e6 for n, s in seconds.items()}
    looked = time.perf_counter()
    for _ in range(1000):
        stage.methods.on("penalty")
    each = (time.perf_counter() - looked) * 1e3
    return {
        "loop_us": round(middle["loop"]),
        "bare_us": round(middle["bare"]),
        "more_us": round(middle["loop"] - middle["bare"]),
        "slot_calls_a_step": len(calls) / steps,
        "one_look_us": round(each, 3),
        "torch": torch.__version__,
    }


def _bare(stage: Any) -> Any:
    """Rows, collate, forward, loss, backward, clip, AdamW: what any loop does, with the same functions."""
    import torch

    model = stage.adapted.model.train()
    parameters = list(model.parameters())
    for p in parameters:
        p.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=RATE, fused=True)
    while True:
        batch = stage.task.collate([r for r, _ in stage.rows.next_batch()], stage.packed)
        found = stage.task.loss(stage.task.forward(model, batch), batch)
        loss = (found.value * batch.weights).sum() / batch.weights.sum()
        loss.backward()
        float(torch.nn.utils.clip_grad_norm_(parameters, 1.0))
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss.detach())
