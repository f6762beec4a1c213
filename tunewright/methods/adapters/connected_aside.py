"""Connected aside modules: small networks beside every block join those inside it (Ma et al. 2022, arXiv:2208.09847;
papers: connected-aside).

Modules that are inserted into the blocks of a frozen model are apart from one another: what trains in block l is
reached from the loss through frozen layers alone. A module beside each block joins them,

    x_{l+1} = F_l(x_l; inside) + s A_l(x_l),     A(x) = U f(D x + b) + u,     D [a, d], U [d, a]

F_l being the frozen block with what is inserted in it: then a path from the loss to the first block runs through
trained modules and the block's own sums only. Inside stands an adapter of the same width behind the feed-forward part
(`inside: adapter`), a low-rank change of its last layer (`low-rank`), or nothing of this method (`none`: name another
beside it).

Start: D uniform in +-1/sqrt(d), U and biases zero, so that the model starts as the base; the extra path has a
gradient from the second step on. Parameters of the aside modules: 2 a d + a + d a block, and the inside ones as many.
Defaults: width 8 on both sides (below one percent of a base-sized encoder with all its embeddings), f relu, s 1, all
ours. The blocks' first and last states (embeddings, a pooler's input) are where the path ends.

Raises MethodError for blocks that give no states of tokens (convolutions), and with `inside` for blocks whose
feed-forward part is not found. Does not fold.

Differs from the paper in: what is known of it is its abstract, so that what the modules beside read, their form and the
widths are ours; it trains for retrieval and re-ranking there, here for any task.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from tunewright.contract.method import Method, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.models.bottlenecks import Inserted
from tunewright.models.deltas import Delta
from tunewright.models.sites import Site
from tunewright.pieces.insertion import lora_start, planned
from tunewright.pieces.sublayers import check_parts, parts_of


class ConnectedAside(Method):
    """A module beside each block that joins the modules inside the blocks to one trained path."""

    width: PositiveInt = Field(8, description="width a of a module beside a block", examples=[3])
    inside: Literal["adapter", "low-rank", "none"] = Field(
        "adapter", description="what this method puts into each block: an adapter, a low-rank change, or nothing"
    )
    inside_width: PositiveInt | None = Field(
        None, description="width or rank of the modules inside; none: that of those beside", examples=[2]
    )
    scale: PositiveFloat = Field(1.0, description="factor s on what is beside", examples=[2.0])
    non_linearity: Literal["relu", "gelu", "silu", "tanh", "identity"] = Field("relu", description="f")

    category: ClassVar[str] = "additive"
    folds: ClassVar[bool] = False
    quantised: ClassVar[bool] = False
    also: ClassVar[Mapping[str, str]] = {"aside_width": "width"}
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1e-3}
    papers: ClassVar[tuple[str, ...]] = ("connected-aside",)
    conformance: ClassVar[dict[str, object]] = {"width": 4}

    def setup(self, run: Setup) -> State:
        if not run.structure.whole:
            raise MethodError(
                "connected-aside stands beside blocks that give states of tokens, and this model's are convolutions",
                where="methods",
                remedy="use ssf, or a transformer",
            )
        plan: dict[str, object] = {"bottlenecks": {}}
        if self.inside != "none":
            found = parts_of(run.adapted.model, run.structure)
            check_parts(found, "connected-aside", False, True)
            plan = planned(found, ("mlp",), "sequential").as_data()
        return State(inside=list(plan["bottlenecks"]))  # type: ignore[call-overload]

    def attach(self, site: Site, state: State, rng: random.Random) -> Delta | None:
        beside, inside = site.kind == "block", site.name in state.data["inside"]
        if not (beside or inside):
            return None
        linear = inside and self.inside == "low-rank"
        width = self.width if beside else self.inside_width or self.width
        inputs = site.in_features if linear else site.out_features
        down, up = lora_start(width, inputs, site.out_features, torch_generator(rng))
        return Inserted(
            site.module,
            down,
            up,
            activation="identity" if linear else self.non_linearity,
            factor=self.scale if beside else 1.0,
            place="across" if beside or linear else "behind",
            biased=not linear,
        )
