"""What flows through a run: a row before packing, a batch after it, what the model gave, and a loss.

Shapes: T tokens of a packed batch, R rows, S labels, V vocabulary or classes, D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Row:
    """One encoded example before packing.

    `id` is stable ("train.jsonl:12"): draws about rows are keyed by it. For token tasks `input_ids` and `weights` have
    one entry a token; `weights[i]` is the loss weight of predicting token i (0: not trained). A row with a class a
    pixel has one weight for all (`fields["targets"]` [H, W]). For tasks with one output a row, `weights` has one entry,
    and the target is `label` (a class) or `fields["target"]` (a number, several classes). `fields` carries what else a
    task or method needs (prompt, reference, pixel_values, chosen, rejected ...).
    """

    id: str
    source: str
    input_ids: Sequence[int] = ()
    weights: Sequence[float] = ()
    label: int | None = None
    fields: dict[str, Any] = field(default_factory=dict)

    def replace(self, **changes: Any) -> Row:
        """Return a copy with some fields changed; the original is untouched."""
        return replace(self, **changes)

    @property
    def one_target(self) -> bool:
        """Whether the row has one target, and none a token."""
        alone = len(self.weights) == 1 != len(self.input_ids) and "targets" not in self.fields
        return self.label is not None or "target" in self.fields or alone

    @property
    def size(self) -> int:
        """Tokens (at least 1), the unit of every budget. With what a model reads beside them, a recording, they are
        `fields["size"]` more.
        """
        return max(1, len(self.input_ids) + int(self.fields.get("size", 0)))


@dataclass
class Batch:
    """Rows side by side, as one micro-batch.

    `inputs` is passed to the model's forward as keywords. A packed batch holds `input_ids` and `position_ids` [1, T]
    and `cu_seqlens` [R+1] (int32, row boundaries); a padded one holds `input_ids` and `attention_mask` [R, L]; images
    hold `pixel_values` [R, C, H, W].

    `labels` [S] (token or class ids), `weights` [S] (fp32, > 0), `rows` [S] (the row of each).
    `positions` [S] index the flattened hidden states whose output predicts each target (for a causal model the
    position *before* the target's token); None where the model gives one output a row.
    """

    inputs: dict[str, Tensor]
    labels: Tensor
    weights: Tensor
    rows: Tensor
    row_ids: list[str]
    sources: list[str]
    tokens: int
    positions: Tensor | None = None
    cu_seqlens: Tensor | None = None
    epochs: list[int] = field(default_factory=list)
    fields: dict[str, Any] = field(default_factory=dict)

    def replace(self, **changes: Any) -> Batch:
        """Return a copy with some fields changed; the original is untouched."""
        return replace(self, **changes)

    def to(self, device: torch.device | str) -> Batch:
        """Return the batch with its tensors on `device`."""

        def move(x: Any) -> Any:
            return x.to(device) if isinstance(x, Tensor) else x

        return replace(
            self,
            inputs={k: move(v) for k, v in self.inputs.items()},
            labels=move(self.labels),
            weights=move(self.weights),
            rows=move(self.rows),
            positions=move(self.positions),
            cu_seqlens=move(self.cu_seqlens),
            fields={k: move(v) for k, v in self.fields.items()},
        )


@dataclass
class Loss:
    """A loss per item: `value` [N] and `weight` [N] (none: the batch's own weights).

    The loop forms sum(value x weight) / (sum of the batch's own weights, or rows, over all micro-steps and ranks): a
    weight of its own makes an item count more or less than in plain training, and leaves the scale as it is. `logs` are
    more numbers per item [N], averaged in the same way and logged as "<key>/<method>"; no gradient flows through them.
    """

    value: Tensor
    weight: Tensor | None = None
    logs: dict[str, Tensor] = field(default_factory=dict)


class Outputs:
    """What one forward gave at the supervised positions.

    `log_probs` [S] (of the labels) is the cheap way: the head and the softmax run in one pass that never keeps the
    logits. `logits` [S, V] are made when a method asks for them. `hidden` is a tuple of [1, T, D] or [R, L, D] tensors
    (embeddings first), present only when a need asked for them; `features` [R, D] are pooled rows where the task has
    them, and `head` then maps features [N, D] to logits [N, V]. `embeddings` [N, D] are those of all texts of the rows,
    in the order of the batch's sequences, of a task that embeds. `scores` [S] are what a reward model gives in the
    place of log-probabilities. `present` is what the forward's rows were (`models.context.Present`), with what deltas
    noted of them.
    """

    def __init__(
        self,
        logits: Tensor | Callable[[], Tensor],
        labels: Tensor,
        *,
        log_probs: Callable[[], Tensor] | None = None,
        hidden: tuple[Tensor, ...] | None = None,
        features: Tensor | None = None,
        head: Callable[[Tensor], Tensor] | None = None,
        scores: Tensor | None = None,
        embeddings: Tensor | None = None,
        raw: Any = None,
        present: Any = None,
    ):
        self._logits, self._log_probs = logits, log_probs
        self.labels, self.hidden, self.features, self.head, self.raw = labels, hidden, features, head, raw
        self.scores, self.embeddings, self.present = scores, embeddings, present

    @property
    def logits(self) -> Tensor:
        """[S, V]; made once and kept."""
        if not isinstance(self._logits, Tensor):
            self._logits = self._logits()
        return self._logits

    def log_probs(self) -> Tensor:
        """[S] log-probability of each target, fp32, differentiable."""
        if self._log_probs is not None and (self.scores is not None or not isinstance(self._logits, Tensor)):
            return self._log_probs()
        return torch.log_softmax(self.logits.float(), -1).gather(-1, self.labels[:, None])[:, 0]


def merged(batches: Sequence[Batch]) -> Batch:
    """Targets, weights and rows of several batches as one, without the model's inputs. ValueError where their fields
    are not the same.
    """
    keys = set(batches[0].fields)
    if any(set(b.fields) != keys for b in batches):
        raise ValueError("micro-batches carry different fields")
    rows, offset = [], 0
    for b in batches:
        rows.append(b.rows + offset)
        offset += len(b.row_ids)
    return Batch(
        inputs={},
        labels=torch.cat([b.labels for b in batches]),
        weights=torch.cat([b.weights for b in batches]),
        rows=torch.cat(rows),
        row_ids=[i for b in batches for i in b.row_ids],
        sources=[s for b in batches for s in b.sources],
        tokens=sum(b.tokens for b in batches),
        epochs=[e for b in batches for e in b.epochs],
        fields={k: joined([b.fields[k] for b in batches]) for k in batches[0].fields},
    )


def joined(parts: list[Any]) -> Any:
    """Tensors end to end, tuples member by member, lists end to end; of numbers (a longest row) the largest."""
    if isinstance(parts[0], Tensor):
        return torch.cat(parts)
    if isinstance(parts[0], tuple):
        return tuple(joined(list(p)) for p in zip(*parts, strict=True))
    return max(parts) if isinstance(parts[0], int | float) else [x for p in parts for x in p]
