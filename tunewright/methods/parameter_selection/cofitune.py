"""CoFiTune: one kind of module in one range of layers trains, and units that what the model could do hangs on move less
(Zhang et al. 2024, arXiv:2404.10306; papers: cofitune).

Coarse: of the blocks between two shares of the depth, weights and biases of the named modules train, and no others.
Fine: rows of a weight [out, in] (and entries of its bias) that belong to a unit j are damped,

    change of row j  <-  (1 - I_j) change,     I = |tanh z|,  z = (g - mean g) / std g over a layer's units

g_j is the gradient, at 1, of a factor on unit j, of the divergence of two passes of the model at the stage's start that
differ by a little dropout (need `unit_importance`): no rows of other tasks are asked for. Units are

    up       an MLP's channels: rows of the layer that leads into it            g of `up`'s outputs
    down     channels of an MLP's output: rows of the layer that leads out      g of `down`'s outputs
    qkv      attention heads: the rows of queries, keys and values of a head    g of heads; a shared key: the largest
    gate, o  the MLP's gate, the attention's output: train undamped             none, as in the authors' code

`damp: update` scales what the optimizer proposes. `damp: gradient` scales gradients, as the authors' code does; Adam
undoes a factor that stays the same, all but what clipping and eps see of it, so that it hardly acts beside Adam.

Defaults: the second quarter of the blocks, up and down (the authors' last script); 128 rows of the training data (they
read all of it); rate 1.1e-4 (4e-5 at Llama's width of 4,096). Deltas and new heads train too.
Raises MethodError where the range or the modules name nothing in this model.

The ranges that the authors try are the quarters and halves: [0, 0.25], [0.25, 0.5], [0.5, 0.75], [0.75, 1], [0, 0.5],
[0.25, 0.75], [0.5, 1]. Differs from the paper in: the search over them is left to whoever writes the recipe, an arm
each (the authors' search was not seen, only its ranges). From the authors' code in: a mask scales its own rows (there
it is tiled along the flat gradient, so that it hits others), gradients of earlier batches are counted once, the
importance is the start's for any optimizer's step, and heads' outputs are dropped in the place of attention weights.
Source: rattlesnakey/CoFiTune, src/softmask_utils.py, src/softmask_llama.py, setup/stage3.py, pipeline_sft.sh.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt, field_validator
from torch import Tensor

from tunewright.contract.method import Candidates, Choice, Method, Need, Needs, Setup, State
from tunewright.errors import MethodError
from tunewright.methods.needs.unit_importance import UnitImportance
from tunewright.models.sites import Block, Site
from tunewright.pieces.sublayers import mlp_pair

Module = Literal["up", "down", "gate", "qkv", "o"]


def importance(gradients: Tensor) -> Tensor:
    """I [units] in 0..1: |tanh z| of a layer's signed gradients; zeros where all are equal."""
    g = gradients.float()
    spread = g.std() if g.numel() > 1 else g.new_zeros(())
    return ((g - g.mean()) / spread).tanh().abs() if float(spread) > 0 else g.new_zeros(g.shape)


def of_rows(units: Tensor, rows: int, width: int = 1) -> Tensor:
    """[rows]: each row's share of `units`, `width` rows each; one key of several heads takes their largest, and a fused
    layer (queries, keys, values) repeats them.
    """
    groups = rows // width
    if groups < len(units):
        units = units.view(groups, -1).amax(1)
    return units.repeat(groups // len(units)).repeat_interleave(width)


def in_range(block: Block, layers: tuple[float, float]) -> bool:
    """Whether a block lies between two shares of its stack's depth, a block that they cut included."""
    first, last = layers
    return math.floor(first * block.stack_length) <= block.depth < math.ceil(last * block.stack_length)


def modules_of(block: Block) -> dict[Module, list[Site]]:
    """The linear layers of a block by what they do."""
    linear = [s for s in block.sites if s.kind in ("linear", "conv1d") and not s.unfit]
    found: dict[Module, list[Site]] = {"up": [], "down": [], "gate": [], "qkv": [], "o": []}
    if (pair := mlp_pair(block)) is not None:
        up, down = pair
        found["up"], found["down"] = [up], [down]
        found["gate"] = [s for s in linear if s.role == "mlp" and s not in pair]
    found["o"] = [s for s in linear if s.heads]
    found["qkv"] = [s for s in linear if s.role == "attention" and not s.heads]
    return found


class CoFiTune(Method):
    """Train some modules of a range of blocks, and damp units that matter."""

    layers: tuple[float, float] = Field(
        (0.25, 0.5), description="the range of blocks, from and to, as shares of the depth", examples=[[0.0, 1.0]]
    )
    modules: tuple[Module, ...] = Field(
        ("up", "down"), min_length=1, description="what trains in it: up, down, gate, qkv, o", examples=[["qkv"]]
    )
    damp: Literal["update", "gradient", "nothing"] = Field("update", description="what is scaled by 1 - I")
    source: str = Field("train", description="rows whose answers tell what matters", examples=["keep"])
    samples: PositiveInt = Field(128, description="rows to read for it", examples=[1])

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    tasks: ClassVar[tuple[str, ...] | None] = (
        "image-classification",
        "text-classification",
        "token-classification",
        "audio-classification",
        "text-generation",
        "fill-mask",
    )
    learning_rates: ClassVar[Mapping[str, float]] = {"": 1.1e-4}
    papers: ClassVar[tuple[str, ...]] = ("cofitune",)

    @field_validator("layers")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1] <= 1:
            raise ValueError(f"{list(value)} is no range: write two shares of the depth, such as [0.25, 0.5]")
        return value

    def needs(self) -> Sequence[Need]:
        if self.damp == "nothing":
            return ()
        return (UnitImportance(source=self.source, samples=self.samples),)

    def setup(self, run: Setup) -> State:
        inside = [b for b in run.structure.blocks if in_range(b, self.layers)]
        sites: dict[str, str] = {}  # what trains -> the site whose units its rows belong to, "" for none
        widths: dict[str, int] = {}
        for block in inside:
            found = modules_of(block)
            for kind in self.modules:
                for site in found[kind]:
                    sites[site.name] = site.name if kind in ("up", "down") else ""
                    if kind == "qkv" and found["o"]:
                        heads = found["o"][0]
                        width = heads.in_features // heads.heads
                        groups = site.out_features // width
                        if groups % heads.heads == 0 or groups and heads.heads % groups == 0:
                            sites[site.name], widths[site.name] = heads.name, width
        if not sites:
            raise MethodError(
                f"no {', '.join(self.modules)} is found in the {len(inside)} blocks of this range",
                where="cofitune.modules",
                remedy="name other modules or a wider range, on a transformer",
            )
        transposed = {n: run.structure.site(n).kind == "conv1d" for n in sites}
        return State(sites=sites, widths=widths, transposed=transposed)

    def choose(self, candidates: Candidates, state: State) -> Choice:
        own = [f"{n}.{part}" for n in state.data["sites"] for part in ("weight", "bias")]
        names = [n for n in own if n in candidates.base]
        return Choice((*names, *candidates.adapted.trainable_new(), *candidates.deltas))

    def gradient(self, gradients: Mapping[str, Tensor], needs: Needs, state: State) -> dict[str, Tensor] | None:
        return self._damped(gradients, needs, state) if self.damp == "gradient" else None

    def update(self, changes: Mapping[str, Tensor], needs: Needs, state: State) -> dict[str, Tensor] | None:
        return self._damped(changes, needs, state) if self.damp == "update" else None

    def _damped(self, values: Mapping[str, Tensor], needs: Needs, state: State) -> dict[str, Tensor]:
        """`values` by parameter name, with the rows of units scaled by 1 - I."""
        out = dict(values)
        for site, units in state.data["sites"].items():
            if not units or (weight := values.get(f"{site}.weight")) is None:
                continue
            found = importance(needs.unit_importance[units])
            width = state.data["widths"].get(site, 1)
            stored = state.data["transposed"][site]
            kept = 1 - of_rows(found, weight.shape[1 if stored else 0], width).to(weight)
            out[f"{site}.weight"] = weight * (kept if stored else kept[:, None])
            if (bias := values.get(f"{site}.bias")) is not None:
                out[f"{site}.bias"] = bias * kept
        return out
