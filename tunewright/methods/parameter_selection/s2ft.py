"""S2FT: whole attention heads and feed-forward channels train, as dense slices (Yang et al. 2024, arXiv:2412.06289;
papers: s2ft).

Channels of an MLP and heads of an attention are drawn over all layers together; a layer may get none.

    down  W [d, n]:  W[:, C] + S,  S [d, |C|]     C of its n inputs, the channels                     d_ratio
    up    W [n, d]:  W[C, :] + S,  S [|C|, d]     likewise of its outputs (of a gated MLP: of `up`)   u_ratio
    output of an attention W [d, h e]:   the columns of whole heads, e each                           o_ratio
    values of an attention W [g e, d]:   the rows of whole heads, g where keys and values are shared  v_ratio

S starts at 0 and is all that trains: gradient and optimizer state are S's, and of what enters a column slice only the
drawn channels are kept for the backward pass, in which S's gradient is one thin dense product. Each ratio draws
int(ratio x units) units of its own, one at least. The authors permute coupled matrices so that what is drawn lies
together; a slice is taken by its places here, which gives the same numbers, keeps the model's order and needs no
permutation in what is saved.

Defaults: d_ratio 0.03 alone (the authors' script for Llama-3; for Llama-2 0.02 with o_ratio 0.052); drawn at random;
rate 5.7e-4 (2e-4 at Llama's width of 4,096: their commonsense script). `largest` and `smallest` go by the norm of a
unit's weights in the layer that trains.
Raises MethodError where all ratios are 0, and where the model has no such layer (values in one matrix with queries and
keys, as GPT-2's, are none).
Differs from the paper in: no permutation; selection by weights, not by activations or gradients; biases never train.
Source: Infini-AI-Lab/S2FT, README and experiments/utils/s2_utils.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError
from tunewright.models.sites import Site, Structure
from tunewright.models.slices import Slice
from tunewright.pieces.sublayers import mlp_pair

VALUES = ("v_proj", "value", "v_lin", "v")
"""What layers that give an attention's values are called."""
PARTS = {
    "d_ratio": ("in", "layers that lead out of an MLP"),
    "u_ratio": ("out", "layers that lead into an MLP"),
    "o_ratio": ("in", "layers that read heads' outputs"),
    "v_ratio": ("out", "layers of an attention's values alone"),
}
"""What each ratio draws from: the side that is sliced, and the layers in words."""


def units_of(structure: Structure, part: str) -> dict[str, int]:
    """{site name: units it has} of the layers that a ratio draws from."""
    if part == "o_ratio":
        return {s.name: s.heads for s in structure.head_outputs()}
    if part == "v_ratio":
        widths = {s.block: s.in_features // s.heads for s in structure.head_outputs()}
        linear = [s for s in structure.linear_sites() if s.role == "attention" and s.block in widths]
        named = [s for s in linear if s.name.rpartition(".")[2] in VALUES]
        return {s.name: s.out_features // widths[s.block] for s in named}
    pairs = [p for b in structure.blocks if (p := mlp_pair(b)) is not None]
    chosen = [down if part == "d_ratio" else up for up, down in pairs]
    return {s.name: s.in_features if part == "d_ratio" else s.out_features for s in chosen}


def norms(site: Site, side: str, units: int) -> Tensor:
    """[units] norm of each unit's weights: of its columns (side "in") or rows ("out"). Zeros where there are none."""
    matrix = site.matrix().detach()
    if matrix.is_meta:  # a check has shapes alone
        return torch.zeros(units)
    across = matrix.t() if side == "in" else matrix
    return across.float().reshape(units, -1).norm(dim=1).cpu()


class S2FT(Method):
    """Train whole heads and channels."""

    d_ratio: float = Field(0.03, ge=0, le=1, description="share of MLP channels whose way out trains", examples=[0.1])
    o_ratio: float = Field(0.0, ge=0, le=1, description="share of heads whose way out trains", examples=[0.3])
    u_ratio: float = Field(0.0, ge=0, le=1, description="share of MLP channels whose way in trains", examples=[0.1])
    v_ratio: float = Field(0.0, ge=0, le=1, description="share of heads whose values train", examples=[0.3])
    selection: Literal["random", "largest", "smallest"] = Field(
        "random", description="how units are chosen: drawn, or by the norm of their weights"
    )

    category: ClassVar[str] = "selective"
    quantised: ClassVar[bool] = False
    learning_rates: ClassVar[Mapping[str, float]] = {"": 5.7e-4}
    papers: ClassVar[tuple[str, ...]] = ("s2ft",)

    def setup(self, run: Setup) -> State:
        places: dict[str, list[int]] = {}
        sides: dict[str, str] = {}
        for part, (side, layers) in PARTS.items():
            ratio = getattr(self, part)
            if not ratio:
                continue
            units = units_of(run.structure, part)
            if not units:
                raise MethodError(
                    f"this model has no {layers}", where=f"s2ft.{part}", remedy=f"write {part}: 0, or another ratio"
                )
            for name, chosen in self._chosen(run, units, side, ratio).items():
                site = run.structure.site(name)
                width = (site.in_features if side == "in" else site.out_features) // units[name]
                places[name], sides[name] = [u * width + i for u in chosen for i in range(width)], side
        if not places:
            raise MethodError("no ratio is above 0: nothing would train", where="s2ft", remedy="write d_ratio: 0.03")
        return State(places=places, sides=sides)

    def attach(self, site: Site, state: State) -> Slice | None:
        places = state.data["places"].get(site.name)
        if places is None:
            return None
        side: str = state.data["sides"][site.name]
        if side == "in":
            values, size = torch.zeros(site.out_features, len(places)), site.in_features
        else:
            values, size = torch.zeros(len(places), site.in_features), site.out_features
        return Slice(torch.tensor(places), values, side, size)

    def _chosen(self, run: Setup, units: Mapping[str, int], side: str, ratio: float) -> dict[str, list[int]]:
        """{site name: rising units}, of all layers' units together."""
        every = [(name, u) for name, count in units.items() for u in range(count)]
        count = max(1, int(ratio * len(every)))
        if self.selection == "random":
            picked = run.rng.sample(range(len(every)), count)
        else:
            scores = torch.cat([norms(run.structure.site(n), side, k) for n, k in units.items()])
            picked = scores.topk(count, largest=self.selection == "largest").indices.tolist()
        found: dict[str, list[int]] = {}
        for name, unit in (every[i] for i in sorted(picked)):
            found.setdefault(name, []).append(unit)
        return found
