"""Drift: how far a tuned model's predictions are from its base's, where nobody asked for a change.

Causal models: mean KL(base || tuned) a token on sequences that the base itself sampled; their prompt is not scored.
Masked models: at masked places of a fixed text. Models with a class a pixel: at pixels here and there. The base's
states before the head are taken once and serve every strength: only its head runs again, never its body.

Shapes: S scored places, D size of the states before the head, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from tunewright.contract.batch import Batch, Row
from tunewright.contract.task import Task
from tunewright.errors import ModelError
from tunewright.measure._kv import batches_by_length
from tunewright.measure._mode import device_of, measuring
from tunewright.measure.intervals import SHARE, Interval, bootstrap_mean, bootstrap_statistic
from tunewright.models.shards import whole
from tunewright.tasks._dense import spread
from tunewright.tasks._parts import DETECTION, PLAYING
from tunewright.tasks._policies import gives_values, moved, whole_window

MOVED, ACTED = "change of forecasts", "change of actions"
DENOISED = "squared change of what is predicted of noise"
_MEASURES: dict[str, Literal["forecast", "action", "denoising"]] = {
    MOVED: "forecast",
    ACTED: "action",
    DENOISED: "denoising",
}
_CHUNK = 256  # places whose [., V] distributions are held at once


@dataclass(frozen=True)
class Drift:
    """Drift over sequences (or rows). `name` is what it is: KL values are never plotted beside another kind."""

    name: str
    interval: Interval
    values: list[float] = field(default_factory=list)

    @property
    def measure(self) -> Literal["kl", "1-cka", "forecast", "action", "denoising"]:
        """What a report calls it."""
        return _MEASURES.get(self.name, "1-cka" if "CKA" in self.name else "kl")


def sequence_rows(sequences: Sequence[Sequence[int]], prefix: int | Sequence[int]) -> list[Row]:
    """Sampled sequences as rows: the first `prefix` tokens (one number, or one a sequence) are given and not scored."""
    starts = [prefix] * len(sequences) if isinstance(prefix, int) else list(prefix)
    return [
        Row(f"drift:{i}", "drift", list(s), [0.0] * p + [1.0] * (len(s) - p))
        for i, (s, p) in enumerate(zip(sequences, starts, strict=True))
        if len(s) > max(p, 1)
    ]


@dataclass
class Reference:
    """What a base predicts at the scored places of some rows.

    `states` [S, D] before the head and the head's own `weight` [V, D] and `bias`; or, where the logits are more than
    head(states), `log_probs` [S, V]. `owner` [S] is the row of each place, in the order of `batches`.
    """

    task: Task
    rows: list[Row]
    batches: list[list[int]]
    packed: bool
    owner: Tensor
    batch_tokens: int = 2048
    states: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    log_probs: Tensor | None = None
    sample: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """What to cache: all but the head, which belongs to the base."""
        kept = {"owner": self.owner, "states": self.states, "log_probs": self.log_probs}
        return {k: v for k, v in kept.items() if v is not None}

    def together(self) -> Reference:
        """The same with a whole head, where this process holds some rows of it: all ask at once."""
        weight, bias = (None if t is None else whole(t) for t in (self.weight, self.bias))
        return replace(self, weight=weight, bias=bias)

    def of_rows(self, rows: Sequence[int]) -> Reference:
        """The reference of some of its rows, by their places and in that order; nothing is read again."""
        chosen = [self.rows[i] for i in rows]
        batches = _layout(chosen, self.batch_tokens)
        there: dict[int, list[int]] = {}
        for place, row in enumerate(self.owner.tolist()):
            there.setdefault(row, []).append(place)
        pairs = [(k, place) for some in batches for k in some for place in there.get(rows[k], ())]
        at = torch.tensor([place for _, place in pairs])
        states, log_probs = (None if x is None else x[at.to(x.device)] for x in (self.states, self.log_probs))
        owner = torch.tensor([k for k, _ in pairs])
        return replace(self, rows=chosen, batches=batches, owner=owner, states=states, log_probs=log_probs)

    def base_log_probs(self, at: slice) -> Tensor:
        """[n, V] log-probabilities of the base at some places, fp32."""
        if self.log_probs is not None:
            return self.log_probs[at]
        assert self.states is not None and self.weight is not None
        if self.sample is not None and not torch.equal(self.sample, _sampled(self.weight)):
            raise ModelError(
                "the head changed after the base's states were taken", remedy="take the reference with copy_head=True"
            )
        return torch.log_softmax(F.linear(self.states[at], self.weight, self.bias).float(), -1)


def _sampled(weight: Tensor) -> Tensor:
    flat = weight.detach().reshape(-1)
    return flat[:: max(1, len(flat) // 4096)].clone()


def _layout(rows: Sequence[Row], batch_tokens: int) -> list[list[int]]:
    return list(batches_by_length([r.size for r in rows], batch_tokens, 1 << 30))


def _collated(
    task: Task, rows: Sequence[Row], batches: list[list[int]], packed: bool
) -> Iterator[tuple[list[int], Batch]]:
    for some in batches:
        batch = task.collate([rows[i] for i in some], packed)
        if len(batch.labels):
            yield some, batch


def _at_places(model: PreTrainedModel, task: Task, batch: Batch) -> tuple[Tensor | None, Tensor]:
    """States before the head [S, D] where logits = head(states), else None; and the logits, whole only in that case."""
    head, seen = model.get_output_embeddings(), list[Tensor]()
    if not isinstance(head, nn.Module):
        return None, task.forward(model, batch).logits

    def catch(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        seen.append(args[0])
        return (args[0][:1],) if args[0].dim() == 2 else None  # [S, D]: the caller would only run the head on it

    hook = head.register_forward_pre_hook(catch)
    try:
        logits = task.forward(model, batch).logits
    finally:
        hook.remove()
    assert batch.positions is not None
    states = seen[-1] if seen[-1].dim() == 2 else seen[-1].flatten(0, 1)
    if len(states) != len(batch.positions):
        states = states[batch.positions] if len(states) > len(batch.positions) else states[:0]
    plain = len(states) == len(batch.positions) and torch.allclose(
        head(states[:1]).float(), logits[:1].float(), rtol=1e-5, atol=1e-5
    )
    if not plain and len(logits) < len(batch.positions):
        logits = task.forward(model, batch).logits
    return (states if plain else None), logits


def take_reference(
    model: PreTrainedModel,
    task: Task,
    rows: Sequence[Row],
    *,
    batch_tokens: int = 2048,
    packed: bool = False,
    copy_head: bool = True,
) -> Reference:
    """Read the rows with the base, untouched or switched back. `copy_head=False` saves a copy of the head's weight
    where it will not change; that it did not is checked on a sample of its entries (ModelError)."""
    rows = [spread(row) for row in rows]
    batches = _layout(rows, batch_tokens)
    outputs: list[tuple[Tensor | None, Tensor]] = []
    owners: list[Tensor] = []
    with measuring(model):
        for some, batch in _collated(task, rows, batches, packed):
            states, logits = _at_places(model, task, batch.to(device_of(model)))
            outputs.append((states, torch.empty(0) if states is not None else torch.log_softmax(logits.float(), -1)))
            owners.append(torch.tensor(some)[batch.rows])
    reference = Reference(task, list(rows), batches, packed, torch.cat(owners), batch_tokens)
    if all(s is not None for s, _ in outputs) and _is_linear(model):
        reference.states = torch.cat([s for s, _ in outputs if s is not None])
        _hold_head(reference, model, copy_head)
    else:
        reference.log_probs = torch.cat([x if len(x) else _head_log_probs(model, s) for s, x in outputs])
    return reference


def restore_reference(
    tensors: dict[str, Tensor],
    model: PreTrainedModel,
    task: Task,
    rows: Sequence[Row],
    *,
    batch_tokens: int = 2048,
    packed: bool = False,
    copy_head: bool = True,
) -> Reference:
    """A reference from `Reference.tensors()` and the same base, rows and layout, without running the base's body."""
    rows = [spread(row) for row in rows]
    device = device_of(model)
    reference = Reference(task, list(rows), _layout(rows, batch_tokens), packed, tensors["owner"], batch_tokens)
    reference.states, reference.log_probs = (
        tensors[k].to(device) if k in tensors else None for k in ("states", "log_probs")
    )
    if reference.states is not None:
        _hold_head(reference, model, copy_head)
    return reference


def _is_linear(model: PreTrainedModel) -> bool:
    return isinstance(model.get_output_embeddings(), nn.Linear)


def _head_log_probs(model: PreTrainedModel, states: Tensor | None) -> Tensor:
    assert states is not None
    with torch.inference_mode():
        return torch.log_softmax(model.get_output_embeddings()(states).float(), -1)


def _hold_head(reference: Reference, model: PreTrainedModel, copy: bool) -> None:
    head = model.get_output_embeddings()
    weight, bias = head.weight.detach(), None if head.bias is None else head.bias.detach()
    reference.weight, reference.bias = (
        (weight.clone(), None if bias is None else bias.clone()) if copy else (weight, bias)
    )
    reference.sample = None if copy else _sampled(weight)


def kl_by_row(reference: Reference, model: PreTrainedModel) -> list[float]:
    """Mean KL(base || tuned) in nats a scored place, for each row, of the model as it is now."""
    reference = reference.together()
    total = torch.zeros(len(reference.rows), dtype=torch.float64)
    count = torch.bincount(reference.owner, minlength=len(reference.rows))
    offset = 0
    with measuring(model):
        head = model.get_output_embeddings()
        for _, batch in _collated(reference.task, reference.rows, reference.batches, reference.packed):
            states, logits = _at_places(model, reference.task, batch.to(device_of(model)))
            for k in range(0, len(batch.labels), _CHUNK):
                at = slice(offset + k, min(offset + k + _CHUNK, offset + len(batch.labels)))
                base = reference.base_log_probs(at)
                here = slice(k, k + len(base))
                said = logits[here] if states is None else head(states[here])
                tuned = torch.log_softmax(
                    said[:, : base.shape[-1]].float(), -1
                )  # tokens that training added are no words of the base
                kl = F.kl_div(tuned, base, reduction="none", log_target=True).sum(-1)
                total.index_add_(0, reference.owner[at], kl.double().cpu())
            offset += len(batch.labels)
    # no divergence is below 0; of two models that are all but alike the sum of its terms may round there
    return [max(0.0, t / n) for t, n in zip(total.tolist(), count.tolist(), strict=True) if n]


def kl_drift(reference: Reference, model: PreTrainedModel, *, seed: int = 0) -> Drift:
    """Drift of the model as it is now: the mean over rows, each row one vote, rows resampled."""
    return kl_of(kl_by_row(reference, model), seed=seed)


def kl_of(values: list[float], *, seed: int = 0) -> Drift:
    """The drift of rows whose mean KL is known."""
    return Drift("kl", bootstrap_mean(values, unit="sequence", seed=seed), values)


def linear_cka(a: Tensor, b: Tensor) -> float:
    """Linear centred kernel alignment of two feature sets [n, .] of the same n >= 2 rows (Kornblith et al. 2019):
    0..1.
    """
    a, b = (x.double() - x.double().mean(0) for x in (a, b))
    across, own = (a.T @ b).square().sum(), (a.T @ a).norm() * (b.T @ b).norm()
    if own == 0:
        raise ValueError("features that are the same for every row have no alignment")
    return float(across / own)


@dataclass
class Features:
    """What a classifier's or encoder's head reads: `values` [R, D] pooled, one per row; `weight` [C, D] and `bias` of
    the base's own head, None for a model that has none (or only one made afresh for this task). Of a model that gives
    values (`foretold`: what their change is called, "" of features) the `values` are these themselves: forecasts and
    actions in standard deviations of their channels, or what is predicted of noised pictures."""

    values: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None
    foretold: str = ""

    def of_rows(self, rows: Sequence[int]) -> Features:
        """Those of some rows, in that order."""
        return replace(self, values=self.values[list(rows)])


def take_features(
    model: nn.Module, task: Task, rows: Sequence[Row], *, head: nn.Linear | None = None, batch_tokens: int = 2048
) -> Features:
    """Pooled features of rows in their order, of a model that gives values these themselves. `head`: the base's own
    trained head, copied, if it has one.
    """
    foretold = foretold_by(task, model.config)
    by_row: dict[int, Tensor] = {}
    with measuring(model):
        for some in batches_by_length([r.size for r in rows], batch_tokens, 64):
            batch = task.collate([rows[i] for i in some]).to(device_of(model))
            out = task.forward(model, batch)
            read = out.logits if foretold else out.features
            if foretold == ACTED:
                read = moved(out.raw.actions, batch.fields["mask"], batch.fields["std"])
            if read is None:
                raise ModelError(f"{task.name} gives no features", remedy="measure drift by KL for this task")
            by_row.update(zip(some, read.float().flatten(1).clone(), strict=True))
    if foretold == ACTED:  # windows of all lengths as one that is whole: what is not there did not move
        by_row = {i: _as_wide(x, whole_window(model.config)) for i, x in by_row.items()}
    values = torch.stack([by_row[i] for i in range(len(rows))])
    if head is None:
        return Features(values, foretold=foretold)
    return Features(values, head.weight.detach().clone(), None if head.bias is None else head.bias.detach().clone())


def foretold_by(task: Task, config: Any) -> str:
    """What the change of a model's values is called, where it gives values and no distributions; "" elsewhere."""
    if task.draws:
        return DENOISED if task.compared(config) is task else ""
    if not gives_values(task, config):
        return ""
    return ACTED if task.is_a(PLAYING) else MOVED


def told_by_features(task: Task, config: Any, *, fresh: bool) -> bool:
    """Whether drift is told from what the head reads, and not where the model predicts: a `fresh` head, which was just
    drawn, says nothing of its base.
    """
    told = task.pools or task.embeds or bool(foretold_by(task, config))
    moves = task.is_a(DETECTION) and task.compared(config) is task
    return told or moves or (task.per_token or bool(task.outputs)) and fresh


def _as_wide(values: Tensor, wide: int) -> Tensor:
    """A row's values with zeros behind them, so that the mean of their squares stays what it is."""
    return F.pad(values, (0, wide - len(values))) * math.sqrt(wide / len(values))


_MOST_PRODUCTS = 4096
"""Rows whose products with each other are kept: 128 MiB of either model."""


class Unaligned:
    """1 - linear CKA of rows, by their indices: 1 where `tuned` tells no two of them apart that `base` does, NaN where
    `base` does not either.

    Rows drawn again have the same products with each other: where that is the less work, these are made once, and a
    draw of n rows costs n^2 and not n times the square of the features' width.
    """

    def __init__(self, base: Tensor, tuned: Tensor):
        self.both = [x.double() - x.double().mean(0) for x in (base, tuned)]
        self.told = [torch.unique(x, dim=0, return_inverse=True)[1] for x in (base, tuned)]
        few = len(base) <= min(_MOST_PRODUCTS, base.shape[1] * tuned.shape[1] // 30)
        self.products = [x @ x.T for x in self.both] if few else None

    def __call__(self, rows: np.ndarray) -> float:
        i = torch.from_numpy(rows)
        base, tuned = (bool((of[i] == of[i[0]]).all()) for of in self.told)
        if base or tuned:
            return float("nan") if base else 1.0
        if self.products is None:
            return 1 - linear_cka(*(x[i] for x in self.both))
        a, b = (_centred(of[i][:, i]) for of in self.products)
        return 1 - float((a * b).sum() / (a.norm() * b.norm()))


def _centred(products: Tensor) -> Tensor:
    """Rows' products with each other, from the rows' mean on."""
    mean = products.mean(0)
    return products - mean - mean[:, None] + mean.mean()


def feature_drift(base: Features, tuned: Features, *, seed: int = 0) -> Drift | None:
    """KL a row through the base's own head applied to both; without a head, or where the tuned model's features are of
    another width, 1 - linear CKA, under that name. None where
    the base's features tell no two rows apart: they have no alignment. Of values (forecasts, actions that are numbers)
    the root mean square of their changes, a row, in standard deviations of their channels; of what is predicted of
    noise the mean square.

    CKA's interval resamples rows, and takes off what the repeats shift (repeated rows align better).
    """
    if base.foretold:
        squares = (tuned.values.double() - base.values.double()).square().mean(1)
        changes = (squares if base.foretold == DENOISED else squares.sqrt()).tolist()
        return Drift(base.foretold, bootstrap_mean(changes, unit="row", seed=seed), changes)
    if base.weight is not None and base.values.shape[1] == tuned.values.shape[1]:
        a, b = (
            torch.log_softmax(
                F.linear(x.values, base.weight.float(), None if base.bias is None else base.bias.float()), -1
            )
            for x in (base, tuned)
        )
        values = F.kl_div(b, a, reduction="none", log_target=True).sum(-1).tolist()
        return Drift("kl through the base's head", bootstrap_mean(values, unit="row", seed=seed), values)
    unaligned = Unaligned(base.values, tuned.values)
    if math.isnan(unaligned(np.arange(len(base.values)))):
        return None
    return Drift(
        "1 - linear CKA",
        bootstrap_statistic(
            unaligned,
            len(base.values),
            seed=seed,
            resamples=200,
            bounds=SHARE,
            exact=bool(torch.equal(base.values, tuned.values)),
        ),
    )
