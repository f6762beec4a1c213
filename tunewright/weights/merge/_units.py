"""Which axes of a model's tensors may be reordered together without changing what it computes: its units.

A *key* names one order, shared by every axis that carries it: `states` (the residual stream), `<block>.hidden` (units
of an MLP), `<block>.q`, `.k`, `.v`, `.o` (rows of the attention's projections, and the columns that read them).
Normalising over the stream (RMSNorm and LayerNorm alike) does not depend on its order, so a *permutation* of it is
always valid; more than that (rotations, other widths) is not offered.

Attention: heads that share keys and values move as groups, heads inside a group may change places, and so may the value
dimensions inside a group. Query-key dimensions inside a head may too, together, unless positions are rotated into them
(each pair turns at its own frequency) or a norm's weights tell them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from tunewright.errors import ModelError
from tunewright.models.sites import Block, Site, Structure

STATES = "states"


@dataclass(frozen=True)
class Heads:
    """One block's attention. `parts`: site names of q, k, v, o; q, k and v are one name where they are fused."""

    block: str
    parts: dict[str, str]
    heads: int
    groups: int
    size: int
    inner_free: bool  # query-key dimensions inside a head may be reordered

    @property
    def fused(self) -> bool:
        return self.parts["q"] == self.parts["k"]


@dataclass
class Units:
    """`axes`: tensor name -> the key of each of its dimensions (None: a fixed order), as stored. `hidden`: key ->
    (sites that make the units, site that reads them). `transposed`: weights stored as [in, out]."""

    axes: dict[str, tuple[str | None, ...]] = field(default_factory=dict)
    hidden: dict[str, tuple[tuple[str, ...], str]] = field(default_factory=dict)
    attention: list[Heads] = field(default_factory=list)
    transposed: set[str] = field(default_factory=set)

    def matrix(self, tensors: Mapping[str, Tensor], name: str) -> Tensor:
        """A weight as [out, in], fp32."""
        w = tensors[name].detach().float()
        return w.t() if name in self.transposed else w

    def stored(self, name: str, matrix: Tensor) -> Tensor:
        """An [out, in] matrix in the weight's own layout."""
        return matrix.t().contiguous() if name in self.transposed else matrix


def find_units(model: nn.Module, structure: Structure, states: bool) -> Units:
    """The units of a transformers model; `states`: of the residual stream too.

    ModelError where a block is of another make.
    """
    units = Units()
    width = _width(model)
    inner_free = not any("rotary" in type(m).__name__.lower() for m in model.modules())
    for block in structure.blocks:
        _hidden(units, block, width, states)
        _heads(units, block, model, width, states, inner_free)
    if states:
        _stream(units, model, structure, width)
    return units


def _width(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    width = getattr(config, "hidden_size", None) or getattr(config, "n_embd", None)
    if not width:
        raise ModelError(
            f"{type(model).__name__} names no hidden_size",
            remedy="this merge serves transformers with one stream width",
        )
    return int(width)


def _linear(units: Units, site: Site, out: str | None, into: str | None) -> None:
    if site.kind == "conv1d":
        units.transposed.add(site.weight_name)
    units.axes[site.weight_name] = (into, out) if site.kind == "conv1d" else (out, into)
    if getattr(site.module, "bias", None) is not None:
        units.axes[f"{site.name}.bias"] = (out,)


def _hidden(units: Units, block: Block, width: int, states: bool) -> None:
    sites = [s for s in block.sites if s.role == "mlp" and s.kind in ("linear", "conv1d")]
    *makers, reader = sites or [None]  # type: ignore[list-item]
    good = (
        bool(makers)
        and reader.out_features == width
        and all(s.in_features == width and s.out_features == reader.in_features for s in makers)
    )
    if not good or len(makers) > 2:
        raise ModelError(
            f"the MLP of '{block.name}' is not one or two linears into one",
            remedy="units of such blocks (experts, ...) cannot be matched yet",
        )
    key, stream = f"{block.name}.hidden", STATES if states else None
    for s in makers:
        _linear(units, s, key, stream)
    _linear(units, reader, stream, key)
    units.hidden[key] = (tuple(s.name for s in makers), reader.name)


def _heads(units: Units, block: Block, model: nn.Module, width: int, states: bool, inner_free: bool) -> None:
    sites = [s for s in block.sites if s.role == "attention" and s.kind in ("linear", "conv1d")]
    config = model.config
    heads = int(getattr(config, "num_attention_heads", 0) or 0)
    groups = int(getattr(config, "num_key_value_heads", 0) or heads)
    size = int(getattr(config, "head_dim", 0) or (width // heads if heads else 0))
    by_letter = {s.name.rsplit(".", 1)[-1][0]: s for s in sites[:-1]}
    stream = STATES if states else None
    if len(sites) == 4 and set(by_letter) == {"q", "k", "v"} and by_letter["q"].out_features == heads * size:
        parts = {**{x: by_letter[x].name for x in "qkv"}, "o": sites[-1].name}
        for x in "qkv":
            _linear(units, by_letter[x], f"{block.name}.{x}", stream)
    elif len(sites) == 2 and sites[0].kind == "conv1d" and sites[0].out_features == 3 * width:
        parts = {**dict.fromkeys("qkv", sites[0].name), "o": sites[1].name}
        _linear(units, sites[0], f"{block.name}.qkv", stream)
    else:
        raise ModelError(
            f"the attention of '{block.name}' has no plain query, key, value and output",
            remedy="units of such blocks cannot be matched yet",
        )
    _linear(units, sites[-1], stream, f"{block.name}.o")
    normed = any(s.kind == "norm" and s.role == "norm" and s.weight.numel() == size != width for s in block.sites)
    units.attention.append(Heads(block.name, parts, heads, groups, size, inner_free and not normed))


def _stream(units: Units, model: nn.Module, structure: Structure, width: int) -> None:
    """Keys of what else carries the stream: embeddings, norms, the first convolution, learned positions, the head."""
    for site in structure.sites:
        if site.kind == "norm" and site.weight.numel() == width:
            units.axes[site.weight_name] = (STATES,)
            if getattr(site.module, "bias", None) is not None:
                units.axes[f"{site.name}.bias"] = (STATES,)
        elif site.kind == "embedding" and site.weight.shape[1] == width:
            units.axes[site.weight_name] = (None, STATES)
        elif site.kind == "conv" and site.block is None:
            units.axes[site.weight_name] = (STATES, *(None,) * (site.weight.dim() - 1))
            units.axes[f"{site.name}.bias"] = (STATES,)
        elif site.kind in ("linear", "conv1d") and site.block is None:
            if site.out_features == width:
                raise ModelError(
                    f"'{site.name}' maps the stream onto its own width outside the blocks",
                    remedy="match models of one base, or a plainer model",
                )
            _linear(units, site, None, STATES)
    for name, p in model.named_parameters():
        if name not in units.axes and p.dim() == 3 and p.shape[-1] == width:
            units.axes[name] = (None, None, STATES)
    known = {n for n, p in model.named_parameters()}
    units.axes = {n: a for n, a in units.axes.items() if n in known}


def permuted(tensor: Tensor, axes: tuple[str | None, ...] | None, order: Mapping[str, Tensor]) -> Tensor:
    """A tensor with its axes put into the orders given by key; a key that is not given keeps its order."""
    for dim, key in enumerate(axes or ()):
        if key is not None and key in order:
            tensor = tensor.index_select(dim, order[key].to(tensor.device))
    return tensor


def attention_order(a: Heads, heads: Tensor, inner: Tensor, value: Tensor) -> dict[str, Tensor]:
    """Row orders by key from matchings of heads [H] and, for each group of the first model, of its query-key and value
    dimensions [groups, size]."""
    each = a.heads // a.groups
    groups = heads[::each] // each

    def rows(blocks: Tensor, inside: Tensor) -> Tensor:
        return (blocks[:, None] * a.size + inside).flatten()

    q, k = rows(heads, inner.repeat_interleave(each, 0)), rows(groups, inner)
    v, o = rows(groups, value), rows(heads, value.repeat_interleave(each, 0))
    if a.fused:
        n = a.heads * a.size
        return {f"{a.block}.qkv": torch.cat([q, n + k, 2 * n + v]), f"{a.block}.o": o}
    return {f"{a.block}.q": q, f"{a.block}.k": k, f"{a.block}.v": v, f"{a.block}.o": o}
