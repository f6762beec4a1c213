"""Objectives, and losses of tasks, whose items depend on the whole optimizer batch, exactly equal under micro-steps.

Pass 1 runs every micro-batch without a graph and keeps what the objective reads (pooled features and logits, signals;
log-probabilities in the place of logits where no objective of the stage needs these).
The objective then runs once over all rows; its gradient at those tensors is kept. Pass 2 runs each micro-batch again
with a graph and sends its share of that gradient back. The dropout of pass 2 is that of pass 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs, joined, merged
from tunewright.errors import MethodError
from tunewright.training.losses import sum_weights, weighted_sum


def rows_of(loop: Any) -> bool:
    """Whether the loss of a row depends on the others of its step, which are read twice where they are split."""
    objectives = loop.methods.on("objective")
    return any(o.coupled for o in objectives) or not objectives and loop.stage.task.couples == "batch"


def backward(loop: Any, batches: list[Batch], objectives: list[Any], record: dict[str, Any]) -> Tensor:
    """Fill gradients for the weighted sum of all objectives over the whole batch; return the loss.

    Adds what they log to `record`.
    """
    if len(batches) == 1:
        outputs = loop.forward(batches[0])
        loss = _total(loop, objectives, outputs, batches[0], record)
        loop.scale.backward(loss)
        return loss.detach()
    whole_logits = not objectives or any(o.method.needs_logits for o in objectives)
    states, kept, signals = [], [], []
    with torch.no_grad():
        for batch in batches:
            states.append(loop.randomness.now())
            outputs = loop.forward(batch)
            kept.append(_read_of(outputs, whole_logits))
            signals.append([loop.stage.signals(bound, batch, "batch") for bound in objectives])
    after = loop.randomness.now()
    leaves = {k: torch.cat([k_of[k] for k_of in kept]).requires_grad_(True) for k in kept[0]}
    whole = merged(batches)
    together = [{k: joined([s[i][k] for s in signals]) for k in signals[0][i]} for i in range(len(objectives))]
    log_probs = (lambda: leaves["log_probs"]) if "log_probs" in leaves else outputs._log_probs
    reread = Outputs(
        leaves.get("logits", _unkept if "log_probs" in leaves else outputs._logits),
        whole.labels,
        log_probs=None if "logits" in leaves else log_probs,
        features=leaves.get("features"),
        embeddings=leaves.get("embeddings"),
        head=outputs.head,
    )
    total = _total(loop, objectives, reread, whole, record, together)
    loop.scale.backward(total)
    at = dict.fromkeys(leaves, 0)
    for batch, state in zip(batches, states, strict=True):
        loop.randomness.again(state)
        live = []
        for name, tensor in _read_of(loop.forward(batch), whole_logits).items():
            start, gradient = at[name], leaves[name].grad
            at[name] += len(tensor)
            if gradient is not None and tensor.requires_grad:
                live.append((tensor, gradient[start : at[name]]))
        torch.autograd.backward([t for t, _ in live], [g for _, g in live])
    loop.randomness.again(after)
    return total.detach()


def _unkept() -> Tensor:
    raise MethodError(
        "an objective reads logits, which were not kept of the step's micro-batches",
        remedy="leave `needs_logits` at True in its class",
    )


def _read_of(outputs: Outputs, logits: bool) -> dict[str, Tensor]:
    """What an objective of the whole batch reads of a micro-batch: vectors of all texts, else logits, or the targets'
    log-probabilities alone; and features.
    """
    if outputs.embeddings is not None:
        said = {"embeddings": outputs.embeddings}
    else:
        said = {"logits": outputs.logits} if logits else {"log_probs": outputs.log_probs()}
    return {**said, **({} if outputs.features is None else {"features": outputs.features})}


def _total(
    loop: Any,
    objectives: list[Any],
    outputs: Outputs,
    batch: Batch,
    record: dict[str, Any],
    signals: list[dict[str, Any]] | None = None,
) -> Tensor:
    if not objectives:
        return weighted_sum(loop.stage.task.loss(outputs, batch), batch, None) / sum_weights([batch], None)
    total: Any = 0.0
    for i, bound in enumerate(objectives):
        item = loop.objective(bound, outputs, batch, signals[i] if signals else None)
        if bound.coupled and item.weight is None and item.value.dim() == 0:
            part = item.value
            logs = {k: v.detach().mean() for k, v in item.logs.items()}
        else:
            denominator = sum_weights([batch], bound)
            part = weighted_sum(item, batch, bound) / denominator
            logs = {
                k: weighted_sum(Loss(v.detach(), item.weight), batch, bound) / denominator for k, v in item.logs.items()
            }
        record.update({f"{k}/{bound.name}": v for k, v in {"loss": part.detach(), **logs}.items()})
        total = total + bound.weight * part
    result: Tensor = total
    return result
