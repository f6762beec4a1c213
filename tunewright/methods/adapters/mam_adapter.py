"""MAM adapter and the space that it comes from (He et al. 2021, arXiv:2110.04366; papers: mam-adapter).

Adapters, prefixes and LoRA are one thing: a change dh is added to a hidden state h of a frozen model,

    h <- h + c g dh,     dh = U f(D x + b) + u,     D [a, d], U [d, a]

and differ in where h is (`at`), in what x is (`insertion`), in f (`non_linearity`) and in how dh is added
(`composition`: c = 1 for add, c = `scale` for scaled, and g = sigmoid(w . x + v), a number for each token, for gated):

    setting of                    at         insertion   non_linearity  composition  bias
    the MAM adapter's larger half mlp        parallel    relu           scaled       yes
    an adapter (Houlsby)          both       sequential  relu           add          yes
    a parallel adapter            mlp        parallel    relu           add          yes
    LoRA on queries and values    (layers)   parallel    identity       scaled       no
    a prefix                      attention, by `prefix_length`: h <- (1 - l) h + l attention(q, P_K, P_V), l being the
                                  prefix's share of the attention (see prefix-tuning)

The MAM adapter is a short prefix of the attention together with a wide scaled parallel adapter at the feed-forward
part, which is the default. `target_modules` names single layers whose outputs are changed in the place of a part's, x
being a layer's own input.

Defaults: prefix of 30 made by a network of hidden width 800, a = 512 of 1,024 (half of d), c = 4: the authors' XSum
set-up (GLUE: 16, 16 and c = 2). D starts uniform in +-1/sqrt(d), everything else of dh at zero. The authors' rate is
5e-5 with 1,024 wide states and c = 4 (GLUE 1e-4); 5e-4 is ours.
With a prefix the model does not start as the base. Nothing folds but, in principle, the linear form, for which lora is.

Raises MethodError for blocks without attention or with experts where `at` needs them, and with a prefix for a model
that takes no keys and values of earlier tokens (ViT: write prefix_length: 0).

Differs from the paper in: one prefix (there: three in an encoder-decoder); gates are computed from x (there: from the
attention's own share for a prefix alone); dh reads the stream of states in a pre-norm block, as the authors' code
does for mBART; no label smoothing. Source: jxhe/unify-parameter-efficient-tuning, petl/petl_factory.py,
exps/run_xsum.sh; adapter-hub/adapters, ParBnConfig.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import nn

from tunewright.contract.method import Method, Setup, State
from tunewright.models.deltas import Delta
from tunewright.models.prefix import prefixed, sizes
from tunewright.models.prompt import leave_room
from tunewright.models.sites import Site
from tunewright.pieces.encoders import PrefixEncoder, by_rows
from tunewright.pieces.insertion import across, hung, lora_start, planned
from tunewright.pieces.sublayers import check_parts, parts_of

AT: dict[str, tuple[str, ...]] = {"mlp": ("mlp",), "attention": ("attention",), "both": ("attention", "mlp")}


class MAMAdapter(Method):
    """A prefix of the attention and a scaled parallel adapter at the feed-forward part; or another mix of the space."""

    at: Literal["mlp", "attention", "both"] = Field(
        "mlp", description="whose output is changed: the feed-forward part's, the attention's, or both"
    )
    insertion: Literal["parallel", "sequential"] = Field(
        "parallel", description="whether the change is computed from the part's input or from its output"
    )
    non_linearity: Literal["relu", "gelu", "silu", "tanh", "identity"] = Field("relu", description="f")
    composition: Literal["scaled", "add", "gated"] = Field(
        "scaled", description="how the change is added: times `scale`, as it is, or gated for each token"
    )
    scale: PositiveFloat = Field(4.0, description="factor c of a scaled change", examples=[2.0])
    width: PositiveInt | None = Field(
        None, description="width a of the bottleneck; none: half of the model's", examples=[3]
    )
    bias: bool = Field(True, description="whether D and U have biases b and u")
    target_modules: str | tuple[str, ...] | None = Field(
        None,
        description="layers whose outputs are changed in the place of a part's: all-linear, or (endings of) names",
        examples=[["q_proj", "v_proj"]],
    )
    prefix_length: NonNegativeInt = Field(
        30, description="trained keys and values before each row; 0: none", examples=[0]
    )
    prefix_hidden: PositiveInt = Field(800, description="hidden width of the network that makes them", examples=[6])

    category: ClassVar[str] = "hybrid"
    folds: ClassVar[bool] = False
    identity: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    also: ClassVar[Mapping[str, str]] = {"bottleneck": "width", "scaling": "scale"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 5e-4}
    papers: ClassVar[tuple[str, ...]] = ("mam-adapter",)
    conformance: ClassVar[dict[str, object]] = {"width": 4, "prefix_length": 3, "prefix_hidden": 5}

    def setup(self, run: Setup) -> State:
        if self.target_modules is not None:
            plan = across(run.structure.match(self.target_modules), self.insertion)
        else:
            found = parts_of(run.adapted.model, run.structure)
            check_parts(found, "mam-adapter", "attention" in AT[self.at], "mlp" in AT[self.at])
            plan = planned(found, AT[self.at], self.insertion)
        state = State(**plan.as_data())
        if self.prefix_length:
            layers, heads, size = sizes(run.adapted.model)
            leave_room(run.adapted.model, self.prefix_length, "prefix_length")
            state.data["prefix"] = [layers, heads, size]
            width = heads * size
            shape = (self.prefix_length, width, 2 * layers * width)
            state.encoder = PrefixEncoder(*shape, self.prefix_hidden, False, run.rng)
        return state

    def attach(self, site: Site, state: State, rng: random.Random) -> Delta | None:
        return hung(
            state.data,
            site,
            rng,
            lambda size: self.width or max(1, size // 2),
            lora_start,
            activation=self.non_linearity,
            factor=self.scale if self.composition == "scaled" else 1.0,
            gated=self.composition == "gated",
            biased=self.bias,
        )

    def wrap(self, model: nn.Module, state: State) -> nn.Module:
        if not self.prefix_length:
            return model
        encoder: Any = state.encoder
        layers, heads, size = state.data["prefix"]
        return prefixed(model, self.prefix_length, lambda: by_rows(encoder, layers, heads, size))
