"""How a trained change hangs on a frozen site, and which forms of change there are.

A delta is a small module registered as `<site>.delta`; the site's class is replaced by one with the same name and
parameters whose forward adds the delta's output, so that the base's own parameter names never change. With every delta
switched off the forward is the base's own, bit for bit. The forms themselves: `delta_forms.py`, `wide_forms.py`
and a file for each of those that PEFT has beside LoRA.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.arguments import states_name
from tunewright.models.bottlenecks import Inserted, Tap
from tunewright.models.butterfly import Butterfly
from tunewright.models.delta_forms import (
    ENTRY_POINTS,
    FORMS,
    Delta,
    GatedLowRank,
    LowRank,
    LowRankFixedA,
    Sparse,
    form_class,
)
from tunewright.models.dora import WeightDecomposed
from tunewright.models.factor_products import Hadamard, Kronecker
from tunewright.models.fake_quantised import FakeQuantised
from tunewright.models.kernel_sparse import KernelSparse
from tunewright.models.low_rank_conv import LowRankConv
from tunewright.models.lowrank import low_rank
from tunewright.models.modulated import Keys, Modulated
from tunewright.models.nested_bits import NestedBits
from tunewright.models.per_task import PerTask
from tunewright.models.quantised_low_rank import QuantisedLowRank
from tunewright.models.rotation import Rotation
from tunewright.models.routed import Routed
from tunewright.models.scale_shift import ScaleShift
from tunewright.models.scales import InputScale, OutputScale
from tunewright.models.shards import is_divided, whole
from tunewright.models.shared_projections import SharedProjections
from tunewright.models.sites import Site
from tunewright.models.skills import Skills
from tunewright.models.slices import Slice
from tunewright.models.sparse_low_rank import LowRankSparse
from tunewright.models.split_bottleneck import SplitBottleneck
from tunewright.models.tucker import Tucker
from tunewright.models.wide_forms import Bias, Bottleneck, InputEdit, PositionEdit

__all__ = [
    "ENTRY_POINTS",
    "FORMS",
    "Bias",
    "Bottleneck",
    "Butterfly",
    "Delta",
    "FakeQuantised",
    "GatedLowRank",
    "Hadamard",
    "InputEdit",
    "InputScale",
    "Keys",
    "Kronecker",
    "LowRank",
    "LowRankConv",
    "LowRankFixedA",
    "OutputScale",
    "LowRankSparse",
    "Modulated",
    "NestedBits",
    "PerTask",
    "PositionEdit",
    "QuantisedLowRank",
    "Rotation",
    "Routed",
    "SharedProjections",
    "Skills",
    "Sparse",
    "Tucker",
    "WeightDecomposed",
    "attach",
    "check_form",
    "check_site",
    "deltas_of",
    "detach",
    "form_class",
    "is_frozen",
    "rename",
    "set_frozen",
]


class DeltaStack(nn.ModuleDict):
    """The deltas of one site by name, in the order they were attached; parameters are `<site>.delta.<name>.<part>`."""

    def live(self) -> list[Delta]:
        return [d for d in self.values() if d.active and d.strength != 0.0]  # type: ignore[misc]


_CLASSES: dict[type, type] = {}


def _forward(base: type[nn.Module]) -> Callable[..., Any]:
    def forward(self: Any, x: Tensor) -> Tensor:
        route = getattr(self, "tunewright_route", None)
        if route is not None:
            y: Tensor = route.linear(self, x, base)
            return y
        return with_deltas(self, base, self.delta.live(), x)

    return forward


def with_deltas(module: Any, base: type[nn.Module], live: Sequence[Delta], x: Tensor) -> Tensor:
    """A linear site's output for x [..., in] with these deltas; `base` is the class that it had before."""
    if any(d.edits_input for d in live):
        x = edited(x, live)
        live = [d for d in live if not d.edits_input]
    if not live:
        return base.forward(module, x)  # type: ignore[no-any-return]
    first = live[0]
    if isinstance(first, LowRank) and is_fusable(module, first, x):
        A, B = (t.to(x.dtype) for t in first.pair())
        scale = first.scale * first.strength
        y = low_rank(x, module.weight, module.bias, A, B, scale, transposed=module.tunewright_transposed)
        rest = live[1:]
    elif first.replaces and first.strength == 1.0:
        y, rest = first.replaced(x, module), live[1:]
    else:
        y = base.forward(module, x)
        rest = live
    for delta in rest:
        y = delta(x, y, module, delta is live[0]) if delta.reads_weight else delta(x, y)
    return y


def _block_forward(base: type[nn.Module]) -> Callable[..., Any]:
    """A block's forward: hidden states [B, L, D] first, whatever comes with them; a tensor or a tuple that begins with
    one.
    """

    called = states_name(base)

    def forward(self: Any, *given: Any, **named: Any) -> Any:
        x = given[0] if given else named[called]
        route = getattr(self, "tunewright_route", None)
        live = self.delta.live() if route is None else []
        if any(d.edits_input for d in self.delta.values()):
            x = edited(x, live) if route is None else route.entering(self, x)
            given, named = ((x, *given[1:]), named) if given else (given, {**named, called: x})
        out = base.forward(self, *given, **named)
        y = out[0] if isinstance(out, tuple) else out
        if route is not None:
            y = route.block(self, x, y)
        for delta in live:
            if not delta.edits_input:
                y = delta(x, y)
        return (y, *out[1:]) if isinstance(out, tuple) else y

    return forward


def edited(x: Tensor, live: Sequence[Delta]) -> Tensor:
    """What a block or a layer reads in the place of x, of those of its deltas that edit the input."""
    for delta in live:
        x = delta.before(x) if delta.edits_input else x
    return x


def is_fusable(module: Any, delta: Delta, x: Tensor) -> bool:
    """Whether a change can be computed in one pass with a layer's product: low-rank, of a plain and frozen layer."""
    if not (isinstance(delta, LowRank) and delta.fused and torch.is_grad_enabled()):
        return False
    if (delta.dropout and delta.training) or module.weight.requires_grad or not module.tunewright_plain:
        return False
    if (bias := getattr(module, "bias", None)) is not None and bias.requires_grad:
        return False  # the fused product gives a bias no gradient
    return bool(x.dtype == module.weight.dtype)


def is_frozen(parameter: Tensor) -> bool:
    """Whether a delta's parameter was carried from an earlier stage as `frozen`, or a new head's is held still."""
    return bool(getattr(parameter, "tunewright_frozen", False))


def set_frozen(parameter: Tensor, frozen: bool) -> None:
    """Say that a delta's parameter does not train in this stage, or that one of a new head does not."""
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


def is_open(module: nn.Module) -> bool:
    """Whether deltas can hang on a module, or do."""
    return hasattr(module, "delta")


def open_site(site: Site) -> None:
    """Exchange a site's class for one whose forward adds deltas, of which there are none yet."""
    module: Any = site.module
    base, block = type(module), site.kind == "block"
    if base not in _CLASSES:
        forward = _block_forward(base) if block else _forward(base)
        _CLASSES[base] = type(base.__name__, (base,), {"forward": forward, "__module__": base.__module__})
    module.tunewright_base = base
    module.tunewright_transposed = site.kind == "conv1d"
    plain = not block and (type(module.weight.data) is Tensor or is_divided(module.weight))
    module.tunewright_plain = plain and type(module).__name__ in ("Linear", "Conv1D")
    module.__class__ = _CLASSES[base]
    module.delta = DeltaStack()


def attach(site: Site, name: str, delta: Delta) -> None:
    """Hang `delta` on a site under `name`. Raises MethodError when the form cannot take the site."""
    check_site(site, type(delta))
    module: Any = site.module
    if not is_open(module):
        open_site(site)
    if name in module.delta:
        raise MethodError(f"site '{site.name}' already has a delta named '{name}'")
    module.delta[name] = delta.to(site.device)


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


def is_plain(delta: Delta) -> bool:
    """Whether a delta folds by adding its `change()` to the weight, and by nothing more."""
    return delta.foldable and type(delta).folded is Delta.folded and type(delta).bias is Delta.bias


def folded(
    weight: Tensor, bias: Tensor | None, deltas: Sequence[Delta], strength: float = 1.0
) -> tuple[Tensor, Tensor | None]:
    """(weight [out, in], bias [out] or None) of a linear map with deltas in it, at a strength; both fp32.

    `deltas` in the order they were attached; all must fold. Changes of the weight come first, then edits of the input,
    the last first: what it reads is what the one before it left.
    """
    own = weight
    added = [d for d in deltas if not d.edits_input]
    for delta in [*added, *reversed([d for d in deltas if d.edits_input])]:
        given = {"layer": own} if delta.reads_weight else {}
        weight, bias = delta.folded(weight, bias, strength * delta.strength, **given)
    return weight, bias


def fold_into(site: Site, deltas: Sequence[Delta], strength: float = 1.0) -> tuple[Tensor, Tensor | None]:
    """`folded` of a site's own weight and bias."""
    bias = getattr(site.module, "bias", None)
    return folded(site.matrix().float(), None if bias is None else whole(bias).float(), deltas, strength)


def deltas_of(site: Site) -> dict[str, Delta]:
    """The deltas of a site by name, in order; empty when it has none."""
    return dict(getattr(site.module, "delta", {}).items())


FORMS[Slice.form] = Slice

_OWN: tuple[type[Delta], ...] = (
    *(LowRank, LowRankConv, LowRankFixedA, GatedLowRank, LowRankSparse, NestedBits, WeightDecomposed),
    *(Sparse, Slice, Hadamard, Kronecker, SharedProjections, Rotation, Butterfly, Tucker),
    *(Bias, InputEdit, InputScale, OutputScale, ScaleShift, Bottleneck, Inserted, Tap, PositionEdit),
    *(Routed, PerTask, SplitBottleneck, Skills, KernelSparse, FakeQuantised, QuantisedLowRank, Keys, Modulated),
)
FORMS.update({c.form: c for c in _OWN})


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
