"""Bottleneck adapters: small networks put into the blocks of a frozen model, as the library `adapters` has them.

    A(h) = c (U f(D h + b) + u),   D [a, d], U [d, a], a = d // reduction_factor

`config` names where they stand, with the defaults that the library has for that name; every field may be set over it:

    name                           stands                                                       f     reduction, c
    double_seq_bn (houlsby)        h <- h + A(h), h: the output of the attention and of the      silu  16, 1
                                   feed-forward part, before it is added to the stream
    seq_bn (pfeiffer)              r <- r + A(r), r: the stream behind the feed-forward part;    relu  16, 1
                                   in a post-norm block (BERT) LN(h + x + A(LN(h + x)))
    par_bn                         h <- h + A(x), h: the feed-forward part's output, x: the      relu  2, 4
                                   stream that it reads, before the norm in a pre-norm block

Houlsby et al. 2019 (arXiv:1902.00751), Pfeiffer et al. 2020 (arXiv:2005.00247), He et al. 2021 (arXiv:2110.04366).
`residual` leaves the h behind the arrow's sum away, h <- A(h), or gives it to a parallel one, h <- h + A(x) + x
(Cappellazzo et al. 2023, arXiv:2312.03694; papers: petl-ast). Neither starts near the base.

Parameters: 2 a d + a + d for each. Nothing folds, for the nonlinearity. Start: D and U normal with deviation 0.02 and
biases zero as in the library, which is near the base and not at it; par_bn with D uniform in
+-1/sqrt(d) and U zero (`init_weights: mam_adapter`; there bert), which starts as the base.

A rate of 1e-3 for the sequential ones suits narrow models (the library's guide trains at 1e-4).
Raises MethodError for blocks without attention or with experts (EfficientNet, Mamba, Mixtral), for layers held in 4
bits, and for an encoder-decoder's two attentions a block.

Differs from the papers in: no norms train beside (Houlsby et al.); no invertible adapters and no fusion of several
(Pfeiffer et al.). From the library in: a sequential adapter stands before the part's dropout, where there is any.
Source: adapter-hub/adapters, configuration/adapter_config.py, methods/bottleneck.py and methods/modeling.py.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat

from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError
from tunewright.models.deltas import Delta
from tunewright.models.sites import Site
from tunewright.pieces.insertion import STARTS, hung, planned
from tunewright.pieces.sublayers import check_parts, parts_of

CONFIGS: dict[str, dict[str, Any]] = {
    "double_seq_bn": {"at": ("attention", "mlp"), "insertion": "sequential", "factor": 16.0, "f": "silu"},
    "seq_bn": {"at": ("mlp",), "insertion": "after", "factor": 16.0, "f": "relu"},
    "par_bn": {"at": ("mlp",), "insertion": "parallel", "factor": 2.0, "f": "relu", "scaling": 4.0},
}
CONFIGS |= {"houlsby": CONFIGS["double_seq_bn"], "pfeiffer": CONFIGS["seq_bn"]}
NONLINEARITIES = {"swish": "silu"}


def width_of(size: int, reduction: float) -> int:
    """a = d // reduction_factor, 1 at least."""
    return max(1, int(size // reduction))


class BottleneckAdapters(Method):
    """Small networks behind or beside the parts of each block."""

    config: Literal["seq_bn", "double_seq_bn", "par_bn", "pfeiffer", "houlsby"] = Field(
        "seq_bn", description="where adapters stand, by the names of the library `adapters`"
    )
    reduction_factor: PositiveFloat | None = Field(
        None, description="width of the model's states over an adapter's; none: what `config` says", examples=[4.0]
    )
    non_linearity: Literal["relu", "gelu", "silu", "swish", "tanh", "identity"] | None = Field(
        None, description="f; none: what `config` says", examples=["tanh"]
    )
    scaling: PositiveFloat | None = Field(
        None, description="factor c on an adapter's output; none: what `config` says", examples=[2.5]
    )
    init_weights: Literal["bert", "mam_adapter"] | None = Field(
        None,
        description="bert: D and U normal with deviation 0.02; mam_adapter: U zero, so that the model starts as the "
        "base; none: what `config` says",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="share of an adapter's output set to zero while training", examples=[0.3]
    )
    residual: bool | None = Field(
        None,
        description="whether what an adapter reads is added to what it gives; none: as the table has it, yes but for "
        "parallel ones",
        examples=[False],
    )
    leave_out: tuple[int, ...] = Field((), description="blocks without adapters, from 0", examples=[[0]])

    category: ClassVar[str] = "additive"
    divides: ClassVar[bool] = True
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    papers: ClassVar[tuple[str, ...]] = ("bottleneck-adapters", "petl-ast")

    def setup(self, run: Setup) -> State:
        known = CONFIGS[self.config]
        found = parts_of(run.adapted.model, run.structure)
        if odd := [b for b in self.leave_out if b not in found]:
            raise MethodError(
                f"there is no block {odd[0]} to leave out: the model has {len(found)}",
                where="leave_out",
                remedy=f"write numbers from 0 to {len(found) - 1}",
            )
        found = {i: parts for i, parts in found.items() if i not in self.leave_out}
        check_parts(found, "bottleneck-adapters", "attention" in known["at"], "mlp" in known["at"])
        return State(**planned(found, known["at"], known["insertion"]).as_data())

    def attach(self, site: Site, state: State, rng: random.Random) -> Delta | None:
        known = CONFIGS[self.config]
        reduction = self.reduction_factor or known["factor"]
        f = self.non_linearity or known["f"]
        return hung(
            state.data,
            site,
            rng,
            lambda size: width_of(size, reduction),
            STARTS[self.init_weights or ("mam_adapter" if self.config == "par_bn" else "bert")],
            activation=NONLINEARITIES.get(f, f),
            factor=self.scaling or known.get("scaling", 1.0),
            dropout=self.dropout,
            adds=self._adds(known["insertion"]),
        )

    def _adds(self, insertion: str) -> float:
        """How often what is read is added beside what the table adds."""
        usual = insertion != "parallel"
        return 0.0 if self.residual is None else float(self.residual) - float(usual)
