"""LQ-LoRA: a weight taken apart into a frozen matrix in few bits and a low-rank product that trains (Guo et al. 2023,
arXiv:2311.12023; papers: lq-lora).

    W [out, in] ~ Q + L1 L2    L1 = s^1/2 B [out, r]    L2 = s^1/2 A [r, in]    s = alpha / r

Q is held in normal floats of b bits, its scales in few bits too (`models/normal_float.py`). From Q = 0 on, in turns,

    L1 L2 = the best approximation of W - Q of rank r      Q = the nearest in few bits to W - L1 L2

until ||W - Q - L1 L2|| rises; the turn before is kept. Where rows are named (`data`), errors are weighted by what the
loss says of rows and columns: D_o (W - Q - L1 L2) D_i with D_o^2 and D_i^2 the means of the diagonal Fisher information
F over inputs and outputs, their product as large as F on average. Of a given Q the best L1 L2 is then known exactly.

Which format each matrix has - bits of a weight, bits of a scale, weights to a block, blocks to a group - is chosen for
all of them together by an integer program: of all choices that take `average_bits` a weight or fewer, scales and all
else that is stored counted, the one of least sum of squared errors. Errors are those of the first turn.

With `iterations: 0` nothing is taken apart: Q is W in few bits, A starts as LoRA's and B at zero, as QLoRA has it.

The model does not start as the base. Beside Q the base's own weights stay on disk while it trains (on a CPU; in the
device's memory elsewhere, and in a later stage that goes on from this one). One matrix is taken apart at a time. The
report says how many bits are held. Folding makes plain weights.

Defaults: rank 64 and alpha 16 (the paper's); 3 bits on average (between its 2.5 and 4); candidates of 2, 3, 4 and 8
bits, scales of 4 and 8, blocks of 16, 32 and 64, groups of 256 in fp32 (a part of its 432, which also have other groups
and types); at most 100 turns (the authors' code); rows for F 64 (ours; there 10,000). Peak rate 3e-4, as PiSSA's, whose
factors start as large.
Raises MethodError for a rank above a layer's narrower side, a base that is in 4 bits already, a budget that no choice
keeps, and a layer that no loss reaches.
Differs from the paper in: errors are weighted by D_o and D_i throughout (there by F^1/2, whose singular vectors these
stand for); the turn before the error rose is kept, and not the one in which it did; candidates are compared after one
turn; the last block may be shorter.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator
from torch import Tensor

from tunewright.contract.found import Found
from tunewright.contract.method import Need, Needs, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.machine.going import over
from tunewright.methods.needs.fisher_sides import FisherSides
from tunewright.models.nf4 import mapped
from tunewright.models.normal_float import Format, Top, dequantise, quantise
from tunewright.models.quantised_low_rank import QuantisedLowRank
from tunewright.models.sites import Site
from tunewright.pieces.low_rank import LowRankMethod, kaiming
from tunewright.pieces.randomised_svd import leading

LEAST = 1e-3
"""Share of their mean that D_o and D_i have at least: what no loss reaches is not divided by zero."""


class Weights(NamedTuple):
    """D_o [out, 1] and D_i [1, in] of an error."""

    rows: Tensor
    columns: Tensor

    def of(self, E: Tensor) -> Tensor:
        return self.rows * E * self.columns


class Split(NamedTuple):
    """L1 [out, r], L2 [r, in], what is held of Q, and the errors of all turns, the last of which may have risen."""

    left: Tensor
    right: Tensor
    held: Mapping[str, Tensor]
    errors: list[float]


def approximation(R: Tensor, rank: int, by: Weights | None = None) -> tuple[Tensor, Tensor]:
    """(L1 [out, r], L2 [r, in]) whose product is nearest to R, weighted by `by`; shared evenly."""
    U, S, Vt = leading(R if by is None else by.of(R), rank)
    root = S.sqrt()
    L1, L2 = U * root, root[:, None] * Vt
    return (L1, L2) if by is None else (L1 / by.rows, L2 / by.columns)


def error(E: Tensor, by: Weights | None = None) -> float:
    """||E||, weighted by `by`."""
    return float(torch.linalg.vector_norm(E if by is None else by.of(E)))


def split(W: Tensor, rank: int, form: Format, iterations: int, by: Weights | None = None) -> Split:
    """W [out, in] taken apart, in at most `iterations` turns."""
    shape, Q, errors = (W.shape[0], W.shape[1]), torch.zeros_like(W), list[float]()
    best: tuple[Tensor, Tensor, Mapping[str, Tensor]] | None = None
    for _ in range(iterations):
        L1, L2 = approximation(W - Q, rank, by)
        low = L1 @ L2
        held = quantise(W - low, form)
        Q = dequantise(held, form, shape)
        errors.append(error(W - low - Q, by))
        if len(errors) > 1 and errors[-1] > errors[-2]:
            break
        best = L1, L2, held
    assert best is not None
    return Split(*best, errors)


def allocate(errors: Sequence[Sequence[float]], bits: Sequence[Sequence[int]], budget: float) -> list[int]:
    """The candidate of each matrix (rows of `errors` and `bits`, [matrices][candidates]) by which the errors' sum is
    least and the bits' sum at most `budget`.

    MethodError where no choice keeps the budget.
    """
    import numpy as np
    from scipy.optimize import Bounds, LinearConstraint, milp
    from scipy.sparse import csr_array

    cost, size = np.array(errors, float), np.array(bits, float)
    matrices, candidates = cost.shape
    if size.min(1).sum() > budget:
        raise MethodError("no choice of candidates keeps the budget of bits")
    one = csr_array(np.kron(np.eye(matrices), np.ones(candidates)))
    solved = milp(
        (cost / max(cost.max(), 1e-300)).ravel(),
        integrality=np.ones(cost.size),
        bounds=Bounds(0, 1),
        constraints=[LinearConstraint(size.reshape(1, -1) / budget, ub=1), LinearConstraint(one, 1, 1)],
        options={"mip_rel_gap": 1e-4},
    )
    if solved.x is None:
        raise MethodError(f"the bits could not be divided: {solved.message}")
    chosen: list[int] = solved.x.reshape(cost.shape).argmax(1).tolist()
    # whatever the solver's tolerance let pass: the cheapest step down, until the budget is kept exactly
    while sum(size[i, k] for i, k in enumerate(chosen)) > budget:
        down = [
            (cost[i, k] - cost[i, c], i, k) for i, c in enumerate(chosen) for k in np.flatnonzero(size[i] < size[i, c])
        ]
        _, i, k = min(down)
        chosen[i] = int(k)
    return chosen


class LQLoRA(LowRankMethod):
    """A low-rank product beside a base in few bits, which together start as near to the base as they can."""

    rank: PositiveInt = Field(64, description="rank r of the product", examples=[8])
    alpha: PositiveFloat = Field(16, description="numerator of the scale s = alpha / r", examples=[8])
    average_bits: float = Field(
        3.0, gt=1, description="bits a weight of all these layers together, at most, scales included", examples=[4.5]
    )
    bits: tuple[Literal[2, 3, 4, 8], ...] = Field(
        (2, 3, 4, 8), min_length=1, description="bits of a weight that a matrix may have", examples=[[2, 3]]
    )
    scale_bits: tuple[Literal[2, 3, 4, 8], ...] = Field(
        (4, 8), min_length=1, description="bits of a block's scale that a matrix may have", examples=[[2]]
    )
    block_sizes: tuple[PositiveInt, ...] = Field(
        (16, 32, 64), min_length=1, description="weights to a scale that a matrix may have", examples=[[8]]
    )
    group_sizes: tuple[PositiveInt, ...] = Field(
        (256,), min_length=1, description="scales to a group that a matrix may have", examples=[[4]]
    )
    group_types: tuple[Top, ...] = Field(
        ("fp32",), min_length=1, description="types of a group's number that a matrix may have", examples=[["bf16"]]
    )
    iterations: NonNegativeInt = Field(
        100,
        description="turns of taking a matrix apart, at most; 0: Q is the weight and B starts at zero",
        examples=[0],
    )
    data: str | None = Field(
        None, description="source of the rows whose loss weights errors; none: all entries count the same",
        examples=["train"],
    )  # fmt: skip
    samples: PositiveInt = Field(64, description="rows that are read for it, a backward pass each")

    category: ClassVar[str] = "reparameterised"
    full_rank_at_most: ClassVar[bool] = True
    low_rank: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    quantises: ClassVar[bool] = True
    learning_rates: ClassVar[Mapping[str, float]] = {"": 3e-4}
    papers: ClassVar[tuple[str, ...]] = ("lq-lora",)
    conformance: ClassVar[dict[str, object]] = {
        "rank": 2,
        "alpha": 4,
        "average_bits": 4.0,
        "block_sizes": [16, 32],
        "iterations": 3,
        "data": "train",
        "samples": 4,
    }

    @model_validator(mode="after")
    def _can_be_kept(self) -> LQLoRA:
        """Refuses what no layer of any model could keep, as soon as the recipe is read."""
        fewest = min(form.share for form in self._options())
        if fewest > self.average_bits:
            least = math.ceil(1000 * fewest) / 1000
            raise ValueError(
                f"average_bits is {self.average_bits:g}, and the candidates take {least} bits a weight at least, with "
                "scales: write more, or candidates that take fewer (bits, scale_bits, block_sizes, group_sizes)"
            )
        return self

    def _options(self) -> list[Format]:
        """The formats that a layer may have."""
        options = product(self.bits, self.scale_bits, self.block_sizes, self.group_sizes, self.group_types)
        return list(dict.fromkeys(Format(*option) for option in options))

    def needs(self) -> Sequence[Need]:
        if self.data is None:
            return ()
        return (FisherSides(source=self.data, samples=self.samples, target_modules=self.target_modules),)

    def setup(self, run: Setup) -> State:
        state: Any = super().setup(run)
        state.layers = self.sites(run.structure)  # a plain list: no part of the state itself
        self._candidates(state.layers)  # a check foresees a budget that cannot be kept
        return state  # type: ignore[no-any-return]

    def attach(self, site: Site, needs: Needs, state: State, rng: random.Random) -> Any:
        if site.name not in state.data["sites"]:
            return None
        if "formats" not in state.data:
            state.data["formats"] = self._formats(getattr(state, "layers"), needs)  # noqa: B009 - no tensor of a module
        W, form = site.matrix().detach().float(), Format(**state.data["formats"][site.name])
        scale, root = self.scale_at(site, self.rank), self.scale_at(site, self.rank) ** 0.5
        if self.iterations:
            found = split(W, self.rank, form, self.iterations, self._weights(site, needs))
            A, B, held = found.right / root, found.left / root, found.held
        else:
            A, B = (t.to(W.device) for t in kaiming(site, self.rank, torch_generator(rng)))
            held = quantise(W, form)
        made = QuantisedLowRank(A.contiguous(), B.contiguous(), scale, held, form, dropout=self.dropout)
        told = {"weights": W.numel(), "bits": form.bits_of(W.numel()), "low_rank": A.numel() + B.numel()}
        left = error(W - made.matrix().detach())
        state.data.setdefault("held", {})[site.name] = {**told, "error": left**2, "size": error(W) ** 2}
        if site.weight.device.type == "cpu":
            site.weight.data = mapped(site.weight.data)
        return made

    def _weights(self, site: Site, needs: Needs) -> Weights | None:
        """D_o and D_i of a layer; None where all entries count the same."""
        if self.data is None:
            return None
        rows, columns = (needs.fisher_sides[f"{side}.{site.name}"] for side in ("rows", "columns"))
        mean = rows.mean()
        if not float(mean) > 0:
            raise MethodError(
                f"no loss reached '{site.name}' in {self.samples} rows",
                where="target_modules",
                remedy="leave it out of target_modules, take more samples, or write data: null",
            )
        D_o, D_i = (side.sqrt() / mean**0.25 for side in (rows, columns))
        D_o, D_i = (D.clamp(min=float(LEAST * D.mean())) for D in (D_o, D_i))
        return Weights(D_o[:, None], D_i[None])

    def _candidates(self, layers: Sequence[Site]) -> tuple[list[Format], list[list[int]]]:
        """The formats that a layer may have, and the bits of each layer in each. MethodError where the fewest of all
        layers are more than the budget.
        """
        candidates = self._options()
        sizes = [site.in_features * site.out_features for site in layers]
        bits = [[form.bits_of(size) for form in candidates] for size in sizes]
        fewest, whole = sum(min(of) for of in bits), sum(sizes)
        if fewest > self.average_bits * whole:
            raise MethodError(
                f"the candidates take {math.ceil(1000 * fewest / whole) / 1000} bits a weight at least, "
                f"and average_bits is {self.average_bits}",
                where="average_bits",
                remedy="write more, or candidates that take fewer (bits, scale_bits, block_sizes, group_sizes)",
            )
        return candidates, bits

    def _formats(self, layers: Sequence[Site], needs: Needs) -> dict[str, dict[str, Any]]:
        """The format of each layer, as settings, by its name."""
        candidates, bits = self._candidates(layers)
        whole = sum(site.in_features * site.out_features for site in layers)
        told = over(layers, "lq-lora: errors of each format, layer by layer")
        costs = [self._costs(site, candidates, self._weights(site, needs)) for site in told]
        chosen = allocate(costs, bits, self.average_bits * whole) if len(candidates) > 1 else [0] * len(layers)
        return {site.name: candidates[k].settings() for site, k in zip(layers, chosen, strict=True)}

    def _costs(self, site: Site, candidates: Sequence[Format], by: Weights | None) -> list[float]:
        """Squared errors of a layer's first turn, by candidate."""
        if len(candidates) == 1:
            return [0.0]
        W = site.matrix().detach().float()
        R = W if not self.iterations else W - torch.mm(*approximation(W, self.rank, by))
        shape = (R.shape[0], R.shape[1])
        return [error(R - dequantise(quantise(R, form), form, shape), by) ** 2 for form in candidates]

    def found(self, state: State) -> Found | None:
        held, formats = state.data.get("held"), state.data.get("formats")
        if not held or not formats:
            return None
        total = {k: sum(h[k] for h in held.values()) for k in next(iter(held.values()))}
        return Found(
            title="Bits of the base",
            description="Bits that are held of the quantised matrices, scales included, over their weights; the same "
            "with the low-rank parts, 32 bits a number; and how far both together are from the base at first, "
            "||W - Q - s B A|| / ||W||.",
            values={
                "bits a weight": total["bits"] / total["weights"],
                "bits a weight with the low-rank parts": (total["bits"] + 32 * total["low_rank"]) / total["weights"],
                "error at first": (total["error"] / total["size"]) ** 0.5,
            },
            columns=["layer", "bits of a weight", "of a scale", "block", "bits a weight", "error at first"],
            rows=[
                [n, f["bits"], f["scale_bits"], f["block"], h["bits"] / h["weights"], (h["error"] / h["size"]) ** 0.5]
                for n, f, h in ((n, formats[n], h) for n, h in held.items())
            ],
        )
