"""The forms of a trained change, and how one hangs on a frozen site.

A delta is a small module registered as `<site>.delta`; the site's class is replaced by one with the same name and
parameters whose forward adds the delta's output, so that the base's own parameter names never change. With every delta
switched off the forward is the base's own, bit for bit.
"""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError, did_you_mean
from tunewright.models.lowrank import low_rank
from tunewright.models.sites import Site


class Delta(nn.Module):
    """Base of all forms. `strength` dials the whole change (1: as trained, 0: the base), `active` switches it.

    Subclasses give `change()` [out, in] (the change of the weight at strength 1), or set `foldable` to False, and
    `forward(x, y)`: the site's output y [..., out] with the change added, given its input x.
    """

    form: ClassVar[str]
    foldable: ClassVar[bool] = True
    site_kinds: ClassVar[tuple[str, ...]] = ("linear", "conv1d")

    def __init__(self) -> None:
        super().__init__()
        self.strength = 1.0
        self.active = True

    def change(self) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def entries(self) -> int:
        """Numbers that a position is multiplied with in its forward: what it costs (`models/flops.py`)."""
        return sum(p.numel() for p in self.parameters() if p.dim() >= 2)

    def settings(self) -> dict[str, Any]:
        """JSON values that rebuild the delta's shape (its tensors come from its state dict)."""
        raise NotImplementedError

    @classmethod
    def rebuild(cls, settings: dict[str, Any], site: Site) -> Delta:
        """A delta of the shape that `settings()` described, its tensors zero."""
        raise NotImplementedError


class LowRank(Delta):
    """s (B A - B0 A0): A [r, in], B [out, r], scale s; the frozen offset B0, A0 is optional.

    With an offset equal to the start of B and A the base's output is unchanged at step 0, whatever A and B are
    (CorDA, PiSSA, LoRA-GA). `dropout` acts on the delta's input, as in PEFT.
    """

    form = "low-rank"

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


class DeltaStack(nn.ModuleDict):
    """The deltas of one site by name, in the order they were attached; parameters are `<site>.delta.<name>.<part>`."""

    def live(self) -> list[Delta]:
        return [d for d in self.values() if d.active and d.strength != 0.0]  # type: ignore[misc]


_CLASSES: dict[type, type] = {}


def _forward(base: type[nn.Module]) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        route = getattr(self, "tunewright_route", None)
        if route is not None:
            return base.forward(self, x) + route.change(self, x)
        live = self.delta.live()
        if not live:
            return base.forward(self, x)
        first = live[0]
        if _fusable(self, first, x):
            A, B = (t.to(x.dtype) for t in first.pair())
            y = low_rank(
                x, self.weight, self.bias, A, B, first.scale * first.strength, transposed=self.tunewright_transposed
            )
            live = live[1:]
        else:
            y = base.forward(self, x)
        for delta in live:
            y = delta(x, y)
        return y

    return forward


def _fusable(module: Any, delta: Delta, x: Tensor) -> bool:
    if not (isinstance(delta, LowRank) and delta.fused and torch.is_grad_enabled()):
        return False
    if (delta.dropout and delta.training) or module.weight.requires_grad or not module.tunewright_plain:
        return False
    return bool(x.dtype == module.weight.dtype)


def is_frozen(parameter: Tensor) -> bool:
    """Whether a delta's parameter was carried from an earlier stage as `frozen`."""
    return bool(getattr(parameter, "tunewright_frozen", False))


def set_frozen(parameter: Tensor, frozen: bool) -> None:
    """Say whether a delta's parameter, carried from an earlier stage, goes on training."""
    parameter.tunewright_frozen = frozen  # type: ignore[attr-defined]


def check_site(site: Site, form: type[Delta]) -> None:
    """Raise MethodError when a delta of this form cannot hang on the site: its kind, or a weight held in 4 bits."""
    if site.kind not in form.site_kinds:
        raise MethodError(
            f"a {form.form} delta cannot hang on '{site.name}', which is a {site.kind}",
            where="target_modules",
            remedy=f"target sites of kind {', '.join(form.site_kinds)}",
        )
    if site.unfit:
        raise MethodError(
            f"a {form.form} delta cannot hang on '{site.name}': {site.unfit}",
            where="target_modules",
            remedy="leave it out of target_modules; all-linear does so by itself",
        )
    if not form.foldable and hasattr(site.module, "tunewright_quantised"):
        raise MethodError(
            f"a {form.form} delta cannot hang on '{site.name}', whose weight is held in 4 bits: it does not fold",
            where="target_modules",
            remedy="use a form that folds into the weight (low-rank, sparse), or leave the base unquantised",
        )


def attach(site: Site, name: str, delta: Delta) -> None:
    """Hang `delta` on a site under `name`. Raises MethodError when the form cannot take the site."""
    check_site(site, type(delta))
    module: Any = site.module
    if not hasattr(module, "delta"):
        base = type(module)
        if base not in _CLASSES:
            _CLASSES[base] = type(base.__name__, (base,), {"forward": _forward(base), "__module__": base.__module__})
        module.tunewright_base = base
        module.tunewright_transposed = site.kind == "conv1d"
        module.tunewright_plain = type(module.weight.data) is Tensor and type(module).__name__ in ("Linear", "Conv1D")
        module.__class__ = _CLASSES[base]
        module.delta = DeltaStack()
    if name in module.delta:
        raise MethodError(f"site '{site.name}' already has a delta named '{name}'")
    module.delta[name] = delta.to(module.weight.device)


def detach(site: Site, name: str | None = None) -> None:
    """Take a site's delta `name` (none: all) away; with none left the module is the base's own again."""
    module: Any = site.module
    if not hasattr(module, "delta"):
        return
    for n in [name] if name else list(module.delta):
        del module.delta[n]
    if not len(module.delta):
        module.__class__ = module.tunewright_base
        del module.delta, module.tunewright_base, module.tunewright_transposed, module.tunewright_plain


def rename(site: Site, old: str, new: str) -> None:
    """Give a site's delta another name."""
    stack: Any = site.module.delta
    stack[new] = stack.pop(old)


def deltas_of(site: Site) -> dict[str, Delta]:
    """The deltas of a site by name, in order; empty when it has none."""
    return dict(getattr(site.module, "delta", {}).items())


FORMS: dict[str, type[Delta]] = {c.form: c for c in (LowRank, GatedLowRank, Sparse)}
"""The forms that ship with the package, by name. Third parties add theirs through entry points."""

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


def check_form(delta: Delta) -> None:
    """MethodError where a delta could not be read back from a file, since its form's name gives another class."""
    try:
        known: type[Delta] | None = form_class(delta.form)
    except MethodError:
        known = None
    if known is not type(delta):
        said = "no class" if known is None else f"the class {known.__name__}"
        raise MethodError(
            f"the delta form '{delta.form}' of {type(delta).__name__} could not be read back: its name gives {said}",
            remedy=f"give it a `form` of its own, and name it in the entry-point group {ENTRY_POINTS}",
        )
