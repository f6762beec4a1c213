"""Objectives whose items depend on the whole optimizer batch, exactly equal under micro-steps.

Pass 1 runs every micro-batch without a graph and keeps what the objective reads (pooled features and logits, signals).
The objective then runs once over all rows; its gradient at those tensors is kept. Pass 2 runs each micro-batch again
with a graph and sends its share of that gradient back. The dropout of pass 2 is that of pass 1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.errors import MethodError
from tunewright.training.losses import sum_weights, weighted_sum


def backward(loop: Any, batches: list[Batch], objectives: list[Any], record: dict[str, Any]) -> Tensor:
    """Fill gradients for the weighted sum of all objectives over the whole batch; return the loss.

    Adds what they log to `record`.
    """
    if len(batches) == 1:
        outputs = loop.forward(batches[0])
        total = _total(loop, objectives, outputs, batches[0], record)
        total.backward()
        return total.detach()
    states, kept, signals = [], [], []
    with torch.no_grad():
        for batch in batches:
            states.append(loop.randomness.now())
            outputs = loop.forward(batch)
            kept.append((outputs.logits, outputs.features))
            signals.append([loop.stage.signals(bound, batch, "batch") for bound in objectives])
    after = loop.randomness.now()
    logits = torch.cat([a for a, _ in kept]).requires_grad_(True)
    features = None if kept[0][1] is None else torch.cat([f for _, f in kept]).requires_grad_(True)
    whole = merged(batches)
    joined = [{k: _join([s[i][k] for s in signals]) for k in signals[0][i]} for i in range(len(objectives))]
    total = _total(
        loop, objectives, Outputs(logits, whole.labels, features=features, head=outputs.head), whole, record, joined
    )
    total.backward()
    a = b = 0
    for batch, state in zip(batches, states, strict=True):
        loop.randomness.again(state)
        outputs = loop.forward(batch)
        n, m = outputs.logits.shape[0], 0 if outputs.features is None else outputs.features.shape[0]
        pairs = [(outputs.logits, None if logits.grad is None else logits.grad[a : a + n])]
        if features is not None:
            pairs.append((outputs.features, None if features.grad is None else features.grad[b : b + m]))
        live = [(t, g) for t, g in pairs if g is not None and t.requires_grad]
        torch.autograd.backward([t for t, _ in live], [g for _, g in live])
        a, b = a + n, b + m
    loop.randomness.again(after)
    return total.detach()


def _total(
    loop: Any,
    objectives: list[Any],
    outputs: Outputs,
    batch: Batch,
    record: dict[str, Any],
    signals: list[dict[str, Any]] | None = None,
) -> Tensor:
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


def merged(batches: list[Batch]) -> Batch:
    """Targets, weights and rows of all micro-batches as one batch, without the model's inputs."""
    if any(b.fields for b in batches):
        keys = set(batches[0].fields)
        if any(set(b.fields) != keys for b in batches):
            raise MethodError("micro-batches carry different fields")
    rows, offset = [], 0
    for b in batches:
        rows.append(b.rows + offset)
        offset += len(b.row_ids)
    fields = {k: _join([b.fields[k] for b in batches]) for k in batches[0].fields}
    return Batch(
        inputs={},
        labels=torch.cat([b.labels for b in batches]),
        weights=torch.cat([b.weights for b in batches]),
        rows=torch.cat(rows),
        row_ids=[i for b in batches for i in b.row_ids],
        sources=[s for b in batches for s in b.sources],
        tokens=sum(b.tokens for b in batches),
        epochs=[e for b in batches for e in b.epochs],
        fields=fields,
    )


def _join(parts: list[Any]) -> Any:
    """Tensors end to end, tuples member by member, lists end to end; of numbers (a longest row) the largest."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], tuple):
        return tuple(_join(list(p)) for p in zip(*parts, strict=True))
    return max(parts) if isinstance(parts[0], int | float) else [x for p in parts for x in p]
