"""A step of several loops over one base, with one forward and one backward for all whose methods allow it.

The loops' batches lie behind each other in one (`joined`), which the base's own layers take whole while each loop's
deltas act on its rows (`models/side_by_side.py`). Losses, denominators, penalties, clipping and optimizers are each
loop's own. A row never sees another's: gradients are those of the loop alone, to rounding.

What a loop must be for that is asked of what it does, never of its methods' names (`why_not`). One that is not, and
any step that does not fit (split micro-batches, memory that ran out, a value that is not finite), is done by the loop
alone, as if there were no others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.contract.batch import Batch, Loss, merged
from tunewright.models.adapted import Adapted
from tunewright.models.context import PADDING, Present, of_batch
from tunewright.models.deltas import is_open
from tunewright.models.flops import counting
from tunewright.models.lean_tail import only_at, tail
from tunewright.models.modes import set_training
from tunewright.models.side_by_side import Parts, SideBySide
from tunewright.training.losses import sum_weights, weighted_sum
from tunewright.training.splitting import with_splits
from tunewright.training.stepping import Due
from tunewright.training.train import Loop

SLOTS = frozenset(
    ("attach", "choose", "row", "batch", "penalty", "gradient", "optimizer", "rates", "update", "schedule")
    + ("mixture", "average", "begin_task", "end_task", "after_step")
)
"""Slots that neither change the forward of a step nor read what it gives."""
LAID = frozenset(("input_ids", "position_ids", "attention_mask", "token_type_ids"))
"""Inputs [rows, tokens] that are known to be padded with zeros."""


Found = tuple[dict[str, Any], Tensor, list[Batch]]
"""A step's record so far, its loss and its batches: what `Loop.told` takes."""


def why_not(loop: Loop, body: Adapted) -> str:
    """Why a loop's steps need forwards of their own; "" where they can share those of `body`, a twin of its base."""
    adapted, spec = loop.adapted, loop.spec
    if other := {s for b in loop.methods for s in type(b.method).slots()} - SLOTS:
        return f"its methods fill {', '.join(sorted(other))}"
    if loop.scale.value is not None:
        return "its losses are multiplied by a factor of its own"
    if (
        loop.wants_hidden
        or loop.stage.task.couples == "batch"
        or spec.activation_checkpointing
        or spec.activation_offloading
    ):
        return "it reads hidden states, couples rows, computes blocks again or keeps activations on the host"
    if any(leaf.group != "delta" for leaf in loop.trained.leaves.values()) or adapted.originals:
        return "it trains more than deltas"
    deltas = {s: list(some.values()) for s, some in adapted.deltas().items()}
    if any(d.made or d.meets for some in deltas.values() for d in some):
        return "its deltas are made by a network, or meet each other"
    sites = [adapted.structure.site(s) for s in deltas]
    if any(d.edits_input for s in sites if s.kind == "block" for d in deltas[s.name]):
        return "its deltas act on what a block reads"
    if outside := [s.name for s in sites if s.block is None and s.kind not in ("norm", "embedding")]:
        return f"'{outside[0]}' lies outside the blocks, where a layer may see some positions alone"
    if not _same_body(adapted, body):
        return "its model is not the plain base"
    return "it draws random numbers in its forward" if _draws(adapted.model) else ""


def _same_body(adapted: Adapted, body: Adapted) -> bool:
    """Whether two models have the same modules and hooks over the same memory, deltas apart."""
    if adapted.wrapper is not None or adapted.operated:
        return False
    theirs = {n: p.data_ptr() for n, p in body.base_parameters().items()}
    if {n: p.data_ptr() for n, p in adapted.base_parameters().items()} != theirs:
        return False
    own, other = (_plain_modules(a.model) for a in (adapted, body))
    return own.keys() == other.keys() and all(_kind(own[n]) == _kind(other[n]) for n in own)


def _plain_modules(model: nn.Module) -> dict[str, nn.Module]:
    stacks = {id(m.delta) for m in model.modules() if is_open(m)}
    inside = {id(m) for s in model.modules() if id(s) in stacks for m in s.modules()}
    return {n: m for n, m in model.named_modules() if id(m) not in inside}


def _kind(module: Any) -> tuple[Any, ...]:
    base = getattr(module, "tunewright_base", type(module))
    return base, "forward" in vars(module), len(module._forward_hooks), len(module._forward_pre_hooks)


def _draws(model: nn.Module) -> bool:
    """Whether a module of a model in training mode, a delta on it or its config has a dropout rate that is not 0."""
    config: Any = getattr(model, "config", None)
    said = [config.to_dict().items()] if config is not None and hasattr(config, "to_dict") else []
    rates = [vars(m).items() for m in model.modules()] + said
    named = (v for items in rates for k, v in items if "drop" in k)
    dropped = (m.p for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd))
    return any(isinstance(v, int | float) and v > 0 and not isinstance(v, bool) for v in (*named, *dropped))


@dataclass
class Joined:
    """Batches behind each other as one: `batch` for the model, `parts` for its layers."""

    batch: Batch
    parts: Parts


def joined(batches: Sequence[Batch]) -> Joined | None:
    """Several loops' batches as one, rows in order; None where their inputs are not of a kind that is known."""
    first = batches[0]
    keys, packed = set(first.inputs), first.cu_seqlens is not None
    if any(set(b.inputs) != keys or (b.cu_seqlens is not None) != packed or b.positions is None for b in batches):
        return None
    if not keys <= LAID:
        return None
    try:
        whole = merged(batches)
    except ValueError:
        return None
    sizes = [b.inputs["input_ids"].shape[1 if packed else 0] for b in batches]
    longest = max(b.inputs["input_ids"].shape[1] for b in batches)
    if packed:
        inputs = {k: torch.cat([b.inputs[k] for b in batches], 1) for k in keys}
        starts = _starts(sizes)
        ends = [b.cu_seqlens[1:] + s for b, s in zip(batches, starts, strict=True) if b.cu_seqlens is not None]
        cu = torch.cat([ends[0].new_zeros(1), *ends]).to(torch.int32)
        positions = [b.positions + s for b, s in zip(batches, starts, strict=True) if b.positions is not None]
    else:
        inputs = {k: torch.cat([_padded(b.inputs[k], longest) for b in batches]) for k in keys}
        cu, positions = None, []
        for b, start in zip(batches, _starts(sizes), strict=True):
            own = b.inputs["input_ids"].shape[1]
            assert b.positions is not None
            positions.append((b.positions // own + start) * longest + b.positions % own)
    present = [_present(b, None if packed else longest) for b in batches]
    picked = [len(b.positions.unique()) for b in batches if b.positions is not None]
    batch = whole.replace(inputs=inputs, cu_seqlens=cu, positions=torch.cat(positions))
    return Joined(batch, Parts(sizes, packed, picked, present))


def _starts(sizes: Sequence[int]) -> list[int]:
    return [sum(sizes[:i]) for i in range(len(sizes))]


def _padded(x: Tensor, longest: int) -> Tensor:
    return nn.functional.pad(x, (0, longest - x.shape[1]))


def _present(batch: Batch, longest: int | None) -> Present:
    """What a batch's rows are, in a forward where they are padded to `longest` (None: they are packed)."""
    now = of_batch(batch)
    if longest is None or now.row is None or now.place is None:
        return now
    more = longest - now.row.shape[1]
    row = torch.cat([now.row, now.row[:, :1].expand(-1, more)], 1)
    return Present(now.rows, row, nn.functional.pad(now.place, (0, more), value=PADDING))


class Joint:
    """Steps of several loops over one base, of which `body` is a twin that nothing hangs on. `close` it before the next
    one of that twin is made.
    """

    def __init__(self, body: Adapted, loops: Sequence[Loop]):
        self.loops = list(loops)
        self.side = SideBySide(body, [loop.adapted for loop in loops])
        lean = all(loop.tail is not None for loop in loops)
        self.tail = tail(body.structure, body.model) if lean else None
        set_training(body.outer)

    def close(self) -> None:
        self.side.close()

    def gradients(self, dues: Sequence[Due]) -> list[Found] | None:
        """Fill every loop's gradients; for each what `Loop.told` makes a record of. None where the step has to be done
        loop by loop.
        """
        began = time.monotonic()
        with counting() as counted:
            try:
                found = self._gradients(dues)
            except (torch.OutOfMemoryError, MemoryError):
                found = None
        if found is None:
            for loop in self.loops:
                loop.trained.zero_grad()
            return None
        tokens = [sum(row.size for row, _ in due.rows) for due in dues]
        spent = time.monotonic() - began
        for loop, due, n, own in zip(self.loops, dues, tokens, self.side.operations, strict=True):
            share = n / sum(tokens)
            due.seconds += spent * share
            loop.flops += counted.total * share + own
        return found

    def _gradients(self, dues: Sequence[Due]) -> list[Found] | None:
        laid = []
        for loop, due in zip(self.loops, dues, strict=True):
            loop.trained.zero_grad()
            laid.append(loop.micro_batches(due.rows))
        if any(len(batches) != 1 for batches in laid):
            return None
        batches = [b for (b,) in laid]
        whole = joined(batches)
        if whole is None:
            return None
        totals = self._losses(whole, batches)
        if totals is None or not bool(torch.stack([t.detach() for t in totals]).isfinite().all()):
            return None
        torch.stack(totals).sum().backward()
        return [({"labels": len(b.labels)}, total.detach(), [b]) for b, total in zip(batches, totals, strict=True)]

    def _losses(self, whole: Joined, batches: Sequence[Batch]) -> list[Tensor] | None:
        """Each loop's loss; None where the task's is not one for each label."""
        task, batch = self.loops[0].stage.task, whole.batch
        tokens = batch.inputs["input_ids"].numel()
        with self.side.running(whole.parts) as model, only_at(self.tail, batch.positions, tokens):
            loss = task.loss(task.forward(model, batch), batch)
        counts = [len(b.labels) for b in batches]
        if loss.value.shape != (sum(counts),) or loss.weight is not None:
            return None
        values = loss.value.split(counts)
        return [weighted_sum(Loss(v), b, None) / sum_weights([b], None) for v, b in zip(values, batches, strict=True)]


def alone(loop: Loop, due: Due) -> dict[str, Any]:
    """A step's gradients by the loop itself, whose operations the caller counts; its record."""
    began = time.monotonic()
    record = with_splits(loop, due.rows)
    due.seconds += time.monotonic() - began
    return record
