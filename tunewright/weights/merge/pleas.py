"""PLeaS: merging with permutations and least squares (Nasery et al. 2024, arXiv:2407.02447; papers: pleas).

Two models of one architecture, of one base or of different ones, become one of a chosen width:

1. match: the second model's units are put into the first's order, by weights (inner products) or by activations
   (-||a_i - b_j|| on the calibration rows), as an assignment problem;
2. partly: of each MLP's n units the round(budget n) worst matched stay apart, both models' own, so that it has
   n + round(budget n); the others become one. Makers of units: shared rows (W1 + W2) / 2, own rows as they are.
   Readers:
   shared columns (W1 + W2) / 2, own columns halved. With budget 1 every MLP is exactly the mean of both MLPs;
3. least squares: every linear W [out, in] of the blocks is refitted to min sum ||W x - y||^2 + l ||W - W_start||^2 over
   the calibration rows, x = [shared (x1 + x2) / 2, x1 own, x2 own] and y likewise from the two models themselves,
   biases
   too. So layers do not depend on each other, and no layer's error on those rows is above its start's.

bases: `same` leaves the residual stream as it is (fine-tunings of one base); `different` matches it too. Attention
heads are matched, never widened. A twin whose units were reordered comes back as the model itself. Memory: both models
(files may be mapped), the result, one layer's states of all calibration rows, one block's sums. Cost: two forwards of
each model a row and block (three with activations), one assignment O(n^3) and one solve O(n^3) a matrix.

Source: SewoongLab/PLeaS-Merging. Differs from the paper in: a closed solution with a ridge instead of 400 steps of
Adam; one budget for all MLPs (no search over layers), since a transformers config has one width; the stream and heads
are not widened. Not seen: settings for language models.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn

from tunewright.contract.method import Needs
from tunewright.errors import MethodError, ModelError
from tunewright.weights.blocks import Learning, Step, real_tokens, state_of, walk, watching
from tunewright.weights.merge._aligning import match_activations, match_weights
from tunewright.weights.merge._least_squares import Sums, solve
from tunewright.weights.merge._matching import kept_apart
from tunewright.weights.merge._units import Units, find_units, permuted
from tunewright.weights.operator import Merge


def arranged(first: Tensor, second: Tensor, dim: int, apart: Tensor, factor: float) -> Tensor:
    """[.., n + k, ..]: shared slices (a + b) / 2, then the first's own times `factor`, then the second's own; both
    models in one order, `apart` bool [n] with k true. factor: 1 for what makes units, 0.5 for what reads them."""
    shared, own = (which.nonzero().flatten().to(first.device) for which in (~apart, apart))
    mean = (first.index_select(dim, shared) + second.index_select(dim, shared)) / 2
    return torch.cat([mean, factor * first.index_select(dim, own), factor * second.index_select(dim, own)], dim)


def start(name: str, first: Tensor, second: Tensor, units: Units, apart: dict[str, Tensor]) -> Tensor:
    """One tensor of the merge before least squares; both models in one order."""
    axes = units.axes.get(name, ())
    dim = next((d for d, k in enumerate(axes) if k in apart), None)
    if dim is None:
        return (first + second) / 2
    makes = len(axes) == 1 or dim == (1 if name in units.transposed else 0)
    return arranged(first, second, dim, apart[axes[dim]], 1.0 if makes else 0.5)  # type: ignore[index]


class PLeaS(Merge):
    """Match units, merge the well matched, refit every layer."""

    match: Literal["weights", "activations"] = Field(
        "weights", description="what units are matched by", examples=["activations"]
    )
    bases: Literal["same", "different"] = Field(
        "same", description="different: the residual stream's order is matched too"
    )
    budget: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of each MLP's units that both models keep for themselves; width n (1 + budget)",
        examples=[0.5],
    )
    samples: PositiveInt = Field(128, description="calibration rows", examples=[4])
    refit: bool = Field(
        True, description="least squares after merging; off: units matched and averaged only", examples=[False]
    )
    ridge: NonNegativeFloat = Field(
        0.01,
        description="pull towards the merge before least squares, times the mean square of the inputs",
        examples=[1.0],
    )

    papers: ClassVar[tuple[str, ...]] = ("pleas",)
    base: ClassVar[Literal["needed", "none", "optional"]] = "none"
    symmetric: ClassVar[bool] = False  # of two models the first gives the order of the units
    models: ClassVar[tuple[int, int | None]] = (2, 2)
    learns: ClassVar[bool] = True

    def learn(self, learning: Learning) -> dict[str, Any]:
        """Match, align the second model in memory, check that it is still itself, and refit."""
        one, two = learning.models
        states = self.bases == "different"
        units = find_units(one, learning.structure, states)
        a, b = state_of(one), state_of(two)
        _same_shapes(a, b)
        matched = (
            match_weights(units, a, b)
            if self.match == "weights"
            else match_activations(units, learning, self.samples, a, b)
        )
        align(two, units, matched.order, learning)
        apart = {key: kept_apart(matched.score[key], self.budget) for key in units.hidden} if self.budget else {}
        solved, errors = refit(learning, units, apart, self.samples, self.ridge) if self.refit else ({}, {})
        moved = {k: float((o != torch.arange(len(o))).double().mean()) for k, o in matched.order.items()}
        learning.log(units_moved=sum(moved.values()) / len(moved), **_mean_errors(errors))
        learned: dict[str, Any] = {
            "units": units,
            "order": matched.order,
            "apart": apart,
            "solved": solved,
            "errors": errors,
        }
        if apart:
            learned["config"] = {
                _width_name(one): len(next(iter(apart.values()))) + int(next(iter(apart.values())).sum())
            }
        return learned

    def merge(self, name: str, tensors: Sequence[Tensor], needs: Needs) -> Tensor:
        if name in needs.solved:
            return needs.solved[name]
        second = permuted(tensors[1], needs.units.axes.get(name), needs.order)
        return start(name, tensors[0], second, needs.units, needs.apart)


def _same_shapes(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    for name, t in a.items():
        if name not in b or b[name].shape != t.shape:
            other = tuple(b[name].shape) if name in b else "missing"
            raise ModelError(
                f"'{name}' is {tuple(t.shape)} in the first model and {other} in the second",
                remedy="units match in models of one shape",
            )


def _width_name(model: nn.Module) -> str:
    for name in ("intermediate_size", "n_inner", "ffn_dim"):
        if hasattr(model.config, name):
            return name
    raise MethodError("the model's config has no width of its MLPs to widen", where="budget", remedy="write budget: 0")


def _mean_errors(errors: dict[str, tuple[float, float]]) -> dict[str, float]:
    if not errors:
        return {}
    before, after = zip(*errors.values(), strict=True)
    return {"layer_error_before": sum(before) / len(before), "layer_error_after": sum(after) / len(after)}


def align(model: nn.Module, units: Units, order: dict[str, Tensor], learning: Learning) -> None:
    """Put a model's units into the order given, in memory. ModelError when its outputs on a calibration batch change by
    more than rounding: then the architecture has something between its units that was not seen."""
    batch = next(iter(learning.batches(4)), None)
    if batch is None:
        raise MethodError(
            "a merge that matches units needs calibration rows, and there are none",
            remedy="give rows: --data FILE --task TASK",
        )
    with torch.no_grad():
        before = learning.forward(model, batch).logits.float()
        for name, p in model.named_parameters():
            p.data = permuted(p.data, units.axes.get(name), order)
        after = learning.forward(model, batch).logits.float()
    off = float((after - before).abs().max() / before.abs().max().clamp_min(1e-30))
    if off > (1e-3 if next(model.parameters()).dtype == torch.float32 else 5e-2):
        raise ModelError(
            f"reordering the units of {type(model).__name__} changed its outputs by {off:.1%}",
            remedy="merge these models with another method",
        )


def refit(
    learning: Learning, units: Units, apart: dict[str, Tensor], samples: int, ridge: float
) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
    """Every linear of the blocks solved: (weights and biases by name, fp32; site -> relative error before and
    after).
    """
    one, two = learning.models
    a, b = state_of(one), state_of(two)
    batches = list(learning.batches(samples))
    masks = [real_tokens(x) for x in batches]
    solved: dict[str, Tensor] = {}
    errors: dict[str, tuple[float, float]] = {}
    for left, right in zip(*(walk(m, learning.structure, learning.forward, batches) for m in (one, two)), strict=True):
        for site, sums in _block_sums(left, right, learning, units, apart, masks).items():
            w, bias = f"{site}.weight", f"{site}.bias"
            begin = units.matrix({w: start(w, a[w].float(), b[w].float(), units, apart)}, w)
            if bias in a:
                begin = torch.cat([begin, start(bias, a[bias].float(), b[bias].float(), units, apart)[:, None]], 1)
            best = solve(sums, begin, ridge)
            errors[site] = sums.error(begin), sums.error(best)
            solved[w] = units.stored(w, best[:, :-1] if bias in a else best).float()
            if bias in a:
                solved[bias] = best[:, -1].float().contiguous()
    return solved, errors


def _block_sums(
    left: Step, right: Step, learning: Learning, units: Units, apart: dict[str, Tensor], masks: list[Tensor | None]
) -> dict[str, Sums]:
    one, two = learning.models
    sites = [s for s in left.block.sites if s.kind in ("linear", "conv1d")]
    sums: dict[str, Sums] = {}
    for i, mask in enumerate(masks):
        with watching(sites, one, mask) as seen_one, watching(sites, two, mask) as seen_two:
            left.only(i)
            right.only(i)
        for s in sites:
            axes = units.axes.get(s.weight_name, (None, None))
            out_key, in_key = axes[::-1] if s.weight_name in units.transposed else axes
            (x1, y1), (x2, y2) = seen_one[s.name], seen_two[s.name]
            x, y = _side(x1, x2, in_key, apart), _side(y1, y2, out_key, apart)
            if getattr(s.module, "bias", None) is not None:
                x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            sums.setdefault(s.name, Sums.of(x.shape[1], y.shape[1], x.device)).add(x, y)
    return sums


def _side(first: Tensor, second: Tensor, key: str | None, apart: dict[str, Tensor]) -> Tensor:
    return (first + second) / 2 if key not in apart else arranged(first, second, 1, apart[key], 1.0)  # type: ignore[index]
