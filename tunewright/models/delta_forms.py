"""The forms of a change that folds into a weight: low-rank, gated, sparse. What reads more: `wide_forms.py`."""

from __future__ import annotations

import importlib.metadata
import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError, did_you_mean
from tunewright.models.sites import Site


class Delta(nn.Module):
    """Base of all forms. `strength` dials the whole change (1: as trained, 0: the base), `active` switches it.

    Subclasses give `change()` [out, in] (the change of the weight at strength 1), or set `foldable` to False, and
    `forward(x, y)`: the site's output y [..., out] with the change added, given its input x. One that hangs on a block
    has the block's input and output as x and y.

    - `bias()` [out]: what it adds to the module's bias at strength 1, beside `change()`.
    - `edits_input`: `before(x)` is what the module and all other deltas of the site read in the place of x, and
      `folded` says what becomes of weight and bias. `forward` is not called then.
    - `reads_rows`: it asks `models.context.present()` what its rows are.
    - `compiles`: a block that it hangs in may be compiled (`compiled.py`).
    - `every_token`: it must be shown every token of a training forward, also those that no target reads.
    - `reads_weight`: its change depends on the layer's own weight. Its `forward(x, y, layer, first)` is given the layer
      too, and whether y is the layer's own output; its `folded(.., layer=)` the layer's own weight [out, in].
    - `replaces`: at strength 1 it stands in the weight's place: `replaced(x, layer)` is the layer's output with it, for
      which the layer's own product is not made.
    - `meets`: it hands something to another delta of its name in the same forward.
    """

    form: ClassVar[str]
    foldable: ClassVar[bool] = True
    edits_input: ClassVar[bool] = False
    reads_rows: ClassVar[bool] = False
    every_token: ClassVar[bool] = False
    compiles: ClassVar[bool] = False
    reads_weight: ClassVar[bool] = False
    replaces: ClassVar[bool] = False
    meets: ClassVar[bool] = False
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d")

    def __init__(self) -> None:
        super().__init__()
        self.strength = 1.0
        self.active = True

    @property
    def made(self) -> bool:
        """Whether a method's network makes its tensors, so that it trains without parameters of its own."""
        return False

    def change(self) -> Tensor:
        raise NotImplementedError

    def bias(self) -> Tensor | None:
        return None

    def before(self, x: Tensor) -> Tensor:
        return x

    def folded(self, weight: Tensor, bias: Tensor | None, strength: float = 1.0) -> tuple[Tensor, Tensor | None]:
        """Weight [out, in] and bias [out] (None: there is none) of the site's map with the change in them, at a
        strength: for a form that edits the site's input, where all its other changes are in them already.
        """
        extra = self.bias()
        total = weight + self.change().to(weight.dtype) * strength
        if extra is None:
            return total, bias
        extra = extra.to(weight.dtype) * strength
        return total, extra if bias is None else bias + extra

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    def replaced(self, x: Tensor, layer: Any) -> Tensor:
        """The output [..., out] of a linear `layer` with this change in its weight's place, of one that `replaces`."""
        raise NotImplementedError

    @property
    def entries(self) -> int:
        """Numbers that a position is multiplied with in its forward: what it costs (`models/flops.py`)."""
        return sum(p.numel() for p in self.parameters() if p.dim() >= 2)

    def products(self) -> list[tuple[float, bool]]:
        """(entries, whether they train) of what a position is multiplied with."""
        return [(self.entries, any(p.requires_grad for p in self.parameters()))]

    def settings(self) -> dict[str, Any]:
        """JSON values that rebuild the delta's shape (its tensors come from its state dict)."""
        raise NotImplementedError

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Delta:
        """A delta of the shape that `settings()` described, its tensors zero."""
        raise NotImplementedError


FORMS: dict[str, type[Delta]] = {}
"""The forms that ship with the package, by name (`deltas.py` fills it). Third parties add theirs by entry points."""

ENTRY_POINTS = "tunewright.deltas"
"""The entry-point group by which a saved change of a third party's form finds its class: form's name = module:class."""


def form_class(form: str) -> type[Delta]:
    """The class that rebuilds deltas of a form. MethodError when none is registered under its name."""
    if form in FORMS:
        return FORMS[form]
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        if point.name == form:
            cls: type[Delta] = point.load()
            return cls
    raise MethodError(
        f"no delta form is named '{form}'",
        remedy=f"{did_you_mean(form, FORMS)} A form of your own is named in the entry-point group {ENTRY_POINTS}",
    )


class LowRank(Delta):
    """s (B A - B0 A0): A [r, in], B [out, r], scale s; the frozen offset B0, A0 is optional.

    With an offset equal to the start of B and A the base's output is unchanged at step 0, whatever A and B are
    (CorDA, PiSSA, LoRA-GA). `dropout` acts on the delta's input, as in PEFT.
    """

    form = "low-rank"
    compiles = True

    def __init__(self, A: Tensor, B: Tensor, scale: float, *, dropout: float = 0.0, offset: bool = False):
        super().__init__()
        if A.shape[0] != B.shape[1]:
            raise MethodError(f"A has rank {A.shape[0]}, B has rank {B.shape[1]}")
        self.lora_A = nn.Parameter(A)
        self.lora_B = nn.Parameter(B)
        self.scale, self.dropout = float(scale), dropout
        # second order: the fused backward cannot be differentiated again, the plain one can
        self.fused = True
        self.offset_A: Tensor | None
        self.offset_B: Tensor | None
        self.register_buffer("offset_A", A.detach().clone() if offset else None)
        self.register_buffer("offset_B", B.detach().clone() if offset else None)

    @property
    def rank(self) -> int:
        return int(self.lora_A.shape[0])

    @property
    def entries(self) -> int:
        A, B = self.lora_A, self.lora_B
        return (A.numel() + B.numel()) * (1 if self.offset_A is None else 2)

    def change(self) -> Tensor:
        A, B = self.pair()
        return (B @ A) * self.scale

    def pair(self) -> tuple[Tensor, Tensor]:
        """(A, B) of a plain low-rank change s B A; with an offset their rank is 2r."""
        if self.offset_A is None or self.offset_B is None:
            return self.lora_A, self.lora_B
        return torch.cat([self.lora_A, self.offset_A]), torch.cat([self.lora_B, -self.offset_B], dim=1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        A, B = self.pair()
        if self.dropout and self.training:
            x = nn.functional.dropout(x, self.dropout)
        return y + nn.functional.linear(nn.functional.linear(x.to(A.dtype), A), B).to(y.dtype) * (
            self.scale * self.strength
        )

    def settings(self) -> dict[str, Any]:
        return {"rank": self.rank, "scale": self.scale, "dropout": self.dropout, "offset": self.offset_A is not None}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> LowRank:
        A, B = torch.zeros(settings["rank"], site.in_features), torch.zeros(site.out_features, settings["rank"])
        return cls(A, B, settings["scale"], dropout=settings["dropout"], offset=settings["offset"])


class GatedLowRank(LowRank):
    """s B diag(g) A: a gate g [r] for each rank-one piece. A piece whose gate is 0 adds nothing."""

    form = "gated-low-rank"
    compiles = True

    def __init__(self, A: Tensor, B: Tensor, gate: Tensor, scale: float, *, dropout: float = 0.0):
        super().__init__(A, B, scale, dropout=dropout)
        self.gate = nn.Parameter(gate)

    def pair(self) -> tuple[Tensor, Tensor]:
        return self.lora_A, self.lora_B * self.gate

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> GatedLowRank:
        r = settings["rank"]
        return cls(
            torch.zeros(r, site.in_features),
            torch.zeros(site.out_features, r),
            torch.zeros(r),
            settings["scale"],
            dropout=settings["dropout"],
        )


class LowRankFixedA(LowRank):
    """s B A with a frozen A, a buffer: B alone trains, and the backward pass keeps x A^T [.., r] in the place of x."""

    form = "low-rank-fixed-a"
    compiles = True

    def __init__(self, A: Tensor, B: Tensor, scale: float, *, dropout: float = 0.0, offset: bool = False):
        super().__init__(A, B, scale, dropout=dropout, offset=offset)
        del self.lora_A
        self.register_buffer("lora_A", A)

    def products(self) -> list[tuple[float, bool]]:
        return [(self.lora_A.numel(), False), (self.lora_B.numel(), self.lora_B.requires_grad)]


class Sparse(Delta):
    """Values at fixed places of the weight: `indices` [k] (flat into [out, in], sorted, unique), `values` [k]."""

    form = "sparse"

    def __init__(self, indices: Tensor, values: Tensor, shape: tuple[int, int]):
        super().__init__()
        self.register_buffer("indices", indices.to(torch.int64))
        self.values = nn.Parameter(values)
        self.shape = tuple(shape)

    indices: Tensor

    @property
    def entries(self) -> int:
        return math.prod(self.shape)  # it is multiplied as a whole matrix

    def change(self) -> Tensor:
        flat = torch.zeros(math.prod(self.shape), dtype=self.values.dtype, device=self.values.device)
        return flat.scatter(0, self.indices, self.values).view(self.shape)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return y + nn.functional.linear(x.to(self.values.dtype), self.change()).to(y.dtype) * self.strength

    def settings(self) -> dict[str, Any]:
        return {"entries": int(self.indices.numel()), "shape": list(self.shape)}

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Sparse:
        k = settings["entries"]
        return cls(torch.zeros(k, dtype=torch.int64), torch.zeros(k), tuple(settings["shape"]))
