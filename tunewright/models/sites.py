"""Where a model can be changed: its blocks and sites, found by structure and not by a model's name.

A *block* is one child of the longest list(s) of equal modules (decoder or encoder layers). A *site* is a module with a
weight that a delta can hang on, or a whole block (kind "block"), whose output a delta can change. Roles ("attention",
"mlp", "norm", "embedding", "head", "other", "block") come from the enclosing module's class and, inside a block, from
whether it holds the attention.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError, ModelError, nearest
from tunewright.models.delta_names import is_delta, module_of
from tunewright.models.picture_parts import LANGUAGE, PARTS, PROJECTOR, TOWER, parts_of
from tunewright.models.probing import unfit
from tunewright.models.shards import whole
from tunewright.models.streamed import bring_in

SHARED = "its weight is another layer's too, so that a change beside one would be folded into both"
"""Why a linear layer that shares its weight takes no change (the attention that Zamba2 repeats)."""


@dataclass(frozen=True)
class Site:
    """One module with a weight, or a block. `block` is the index of its block over the model, None outside blocks.

    `kind`: linear | conv1d (GPT-2's transposed linear) | conv | embedding | norm | block (which has no weight of its
    own: `in_features` and `out_features` are the width of its states, `size`). `unfit` says why no change can hang on
    a linear one ("": it can). `heads`: how many attention heads' outputs enter it, side by side; 0 elsewhere. `part`:
    which part of a model of pictures in texts it belongs to ("" in others, and of its head).
    """

    name: str
    kind: str
    role: str
    block: int | None
    module: nn.Module = field(repr=False, compare=False)
    unfit: str = ""
    size: int = 0
    heads: int = 0
    part: str = ""

    @property
    def device(self) -> torch.device:
        """Where its parameters are (a layer in 4 bits has none: there its codes are)."""
        return next(iter([*self.module.parameters(), *self.module.buffers()])).device

    def head_places(self, head: int) -> Tensor:
        """[d] places of one head's output among the layer's inputs. MethodError where no heads enter."""
        if not 0 <= head < self.heads:
            raise MethodError(
                f"head {head} does not enter '{self.name}', which reads the outputs of {self.heads} heads",
                remedy="use an attention's output projection (`Structure.head_outputs()`)",
            )
        width = self.in_features // self.heads
        return torch.arange(head * width, (head + 1) * width)

    @property
    def weight_name(self) -> str:
        return f"{self.name}.weight"

    @property
    def weight(self) -> Tensor:
        """The stored weight, in the module's own layout, whole where processes hold parts of it. MethodError for a
        block, which has none of its own.
        """
        return whole(self._held())

    def _held(self) -> Tensor:
        if self.kind == "block":
            raise MethodError(
                f"'{self.name}' is a whole block: it has no weight of its own", remedy="look at site.kind first"
            )
        bring_in(self.module)
        return self.module.weight  # type: ignore[return-value]

    def matrix(self) -> Tensor:
        """The weight as [out, in] (a view; conv kernels are flattened to [out, in*k*k])."""
        return self._laid(self.weight)

    def _laid(self, w: Tensor) -> Tensor:
        w = w.dequantize() if hasattr(w, "dequantize") and w.is_quantized else w
        if self.kind == "conv1d":
            return w.t()
        return w.flatten(1) if self.kind == "conv" else w

    def to_stored(self, matrix: Tensor) -> Tensor:
        """Turn an [out, in] matrix into the module's own layout."""
        if self.kind == "conv1d":
            return matrix.t()
        return matrix.reshape(self.weight.shape) if self.kind == "conv" else matrix

    @property
    def numel(self) -> int:
        """How many numbers its weight has. MethodError for a block."""
        return self._held().numel()

    @property
    def out_features(self) -> int:
        return self.size or self._laid(self._held()).shape[0]

    @property
    def in_features(self) -> int:
        return self.size or self._laid(self._held()).shape[1]


@dataclass(frozen=True)
class Block:
    """One layer of the model. `depth` runs 0 ... L-1 within its stack (an encoder and a decoder are two stacks)."""

    index: int
    name: str
    stack: str
    depth: int
    stack_length: int
    sites: tuple[Site, ...]
    parameter_names: tuple[str, ...]

    def weights(self, role: str) -> list[str]:
        """Names of the weights of one role, in module order."""
        return [s.weight_name for s in self.sites if s.role == role]


@dataclass(frozen=True)
class Structure:
    """Blocks and sites of a model. `tied` maps a tied parameter's other names to the one that is kept.

    `stacked` names the parameters inside blocks that hold several matrices each, as experts do, and belong to no site.
    """

    blocks: tuple[Block, ...]
    sites: tuple[Site, ...]
    tied: dict[str, str] = field(default_factory=dict)
    stacked: tuple[str, ...] = ()
    whole: tuple[Site, ...] = ()

    @property
    def every_site(self) -> tuple[Site, ...]:
        """All that a delta can hang on: the modules with weights, then the blocks as `whole` ones."""
        return (*self.sites, *self.whole)

    def site(self, name: str) -> Site:
        """A site or a whole block by its name."""
        for s in self.every_site:
            if s.name == name:
                return s
        near = nearest(name, [s.name for s in self.every_site])
        raise ModelError(f"no site '{name}'", remedy="near: " + ", ".join(near))

    def head_outputs(self) -> list[Site]:
        """The layers that read the outputs of attention heads, one for each attention found."""
        return [s for s in self.sites if s.heads and not s.unfit]

    def block_of(self, parameter: str) -> Block | None:
        """The block that a parameter belongs to, None outside blocks."""
        for b in self.blocks:
            if parameter.startswith(b.name + "."):
                return b
        return None

    def depth_fraction(self, parameter: str) -> float | None:
        """Depth of a parameter's block in 0..1 within its stack; None outside blocks; 0 in a stack of one block."""
        b = self.block_of(parameter)
        return None if b is None else b.depth / max(1, b.stack_length - 1)

    def linear_sites(self) -> list[Site]:
        """Every linear site inside blocks, of a model of pictures in texts its language model's: what `target_modules:
        all-linear` means. The head stays out, as in PEFT; `left_out` says what else does.
        """
        linear = (s for s in self.sites if s.block is not None and s.kind in ("linear", "conv1d") and not s.unfit)
        return [s for s in linear if s.part in ("", LANGUAGE)]

    def part_sites(self, part: str) -> list[Site]:
        """The linear sites of a part of a model of pictures in texts, none elsewhere; what is `unfit` is left out."""
        return [s for s in self.sites if s.part == part and s.kind in ("linear", "conv1d") and not s.unfit]

    def left_out(self) -> list[str]:
        """What inside the blocks holds matrices and is no target of all-linear, a sentence for each reason."""
        by_reason: dict[str, list[str]] = {}
        for s in self.sites:
            if s.unfit:
                by_reason.setdefault(s.unfit, []).append(s.name)
        if self.stacked:
            by_reason["matrices stacked in one tensor, as experts are: no linear layers"] = list(self.stacked)
        if parts := [p for p in (TOWER, PROJECTOR) if self.part_sites(p)]:
            by_reason[f"target_modules: [{', '.join([LANGUAGE, *parts])}] takes them in"] = parts
        return [f"left out of all-linear: {_patterns(names)} ({why})" for why, names in by_reason.items()]

    def match(self, target_modules: str | Sequence[str]) -> list[Site]:
        """Sites named by PEFT-like `target_modules`: "all-linear", or names that equal a site's or end it after a dot.
        Of a model of pictures in texts, `language_model`, `vision_tower` and `projector` name its parts' linear layers.

        Raises MethodError with the nearest names when a target matches nothing.
        """
        if target_modules == "all-linear":
            return self.linear_sites()
        target_names = [target_modules] if isinstance(target_modules, str) else list(target_modules)
        if not target_names:
            raise MethodError(
                "the list is empty: no module is named",
                where="target_modules",
                remedy="write names or endings of names, or all-linear",
            )
        matches: dict[str, Site] = {}
        for t in target_names:
            hits = [s for s in self.sites if s.name == t or s.name.endswith("." + t)]
            hits = hits or (self.part_sites(t) if t in PARTS else [])
            if not hits:
                ends = sorted({s.name.rsplit(".", 1)[-1] for s in self.sites})
                linear = sorted({s.name.rsplit(".", 1)[-1] for s in self.linear_sites()})
                near = nearest(t, ends) or linear or ends
                remedy = f"write target_modules: [{', '.join(near[:4])}] or target_modules: all-linear"
                raise MethodError(f"target '{t}' is no module of this model", where="target_modules", remedy=remedy)
            matches.update({s.name: s for s in hits})
        return [s for s in self.sites if s.name in matches]


def _patterns(names: Sequence[str]) -> str:
    """Names with a star for each number, every one once."""
    return ", ".join(dict.fromkeys(re.sub(r"\.\d+(?=\.)", ".*", n) for n in names))


def _kind(module: nn.Module) -> str | None:
    name = type(module).__name__
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    if isinstance(module, nn.Linear) or getattr(module, "tunewright_kind", None) == "linear":
        return "linear"
    if name.endswith("Conv1D") and weight.dim() == 2:
        return "conv1d"
    if isinstance(module, nn.Conv1d | nn.Conv2d):
        return "conv"
    if isinstance(module, nn.Embedding):
        return "embedding"
    return "norm" if weight.dim() == 1 else None


def _stacks(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """Every outermost ModuleList whose modules are layers: the stacks of blocks."""
    stacks: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(n + ".") for n, _ in stacks):
            if _layers(module):
                stacks.append((name, module))
    return stacks


def _layers(modules: nn.ModuleList) -> bool:
    """Whether modules are layers of one model: made of several parts, linears among them; of one class, or each with a
    norm of its own, as the attention and Mamba layers of a hybrid have.
    """
    kinds = [{_kind(m) for m in layer.modules()} for layer in modules]
    several = all(next(layer.children(), None) is not None for layer in modules)
    if not kinds or not several or not all(k & {"linear", "conv1d", "conv"} for k in kinds[:1]):
        return False
    same = len({type(m) for m in modules}) == 1
    return same or all("norm" in k and k & {"linear", "conv1d"} for k in kinds)


def _role(model: nn.Module, site_name: str, module: nn.Module, kind: str, block: str | None) -> str:
    if kind in ("norm", "embedding"):
        return kind
    if block is None:
        return "head" if kind in ("linear", "conv1d") else "other"
    return "mlp" if _attention_of(model, site_name, block) is None else "attention"


def _attention_of(model: nn.Module, site_name: str, block: str) -> str | None:
    """The outermost attention inside a block that a site lies in, by name; the block itself where it is one."""
    path = site_name[len(block) + 1 :].split(".")
    owner = model.get_submodule(block)
    if type(owner).__name__.endswith("Attention"):
        return block
    for i, part in enumerate(path[:-1]):
        owner = owner.get_submodule(part)
        if "attention" in (type(owner).__name__ + part).lower() or "attn" in part.lower():
            return ".".join([block, *path[: i + 1]])
    return None


def discover(model: nn.Module) -> Structure:
    """Find the blocks and sites of a model. Raises ModelError when it has no stack of blocks."""
    stacks = _stacks(model)
    if not stacks:
        raise ModelError(
            f"no stack of layers is found in {type(model).__name__}: no list of modules that hold linear layers",
            remedy="use a model whose layers lie in one nn.ModuleList, as those of transformers do",
        )
    parameters = {n: p for n, p in model.named_parameters(remove_duplicate=False) if not is_delta(n)}
    first: dict[int, str] = {}
    tied: dict[str, str] = {}
    for n, p in parameters.items():
        if id(p) in first:
            tied[n] = first[id(p)]
        else:
            first[id(p)] = n
    block_names = [(f"{stack}.{i}", stack, i, len(modules)) for stack, modules in stacks for i in range(len(modules))]
    index_of = {name: k for k, (name, *_rest) in enumerate(block_names)}
    sites = []
    for name, module in model.named_modules():
        kind = _kind(module)
        if kind is None or f"{name}.weight" in tied or is_delta(name + "."):
            continue
        block = next((b for b in index_of if name.startswith(b + ".")), None)
        sites.append(
            Site(
                name, kind, _role(model, name, module, kind, block), None if block is None else index_of[block], module
            )
        )
    sites = _in_parts(model, sites)
    sites = _judged(model, sites, [name for name, *_ in block_names], tied)
    sites = _with_heads(model, sites, list(index_of))
    blocks = []
    for name, stack, depth, length in block_names:
        k = index_of[name]
        inside = tuple(n for n in parameters if n.startswith(name + ".") and n not in tied)
        blocks.append(Block(k, name, stack, depth, length, tuple(s for s in sites if s.block == k), inside))
    known = {s.weight_name for s in sites}
    stacked = tuple(
        n
        for b in blocks
        for n in b.parameter_names
        if parameters[n].dim() == 3 and min(parameters[n].shape) > 1 and n not in known
    )
    whole = [
        Site(
            b.name,
            "block",
            "block",
            b.index,
            model.get_submodule(b.name),
            size=_width(b, _number(model, "hidden_size", b.name)),
        )
        for b in blocks
        if any(s.kind in ("linear", "conv1d") for s in b.sites)  # others have no states [B, L, D]: convolutions alone
    ]
    return Structure(tuple(blocks), tuple(sites), tied, stacked, tuple(whole))


def _in_parts(model: nn.Module, sites: list[Site]) -> list[Site]:
    """The sites of a model of pictures in texts, each with its part; a projector is no head."""
    parts, out = parts_of(model), []
    for site in sites:
        part = next((p for n, p in parts.items() if site.name.startswith(n)), "")
        role = "other" if part == PROJECTOR and site.role == "head" else site.role
        out.append(replace(site, part=part, role=role))
    return out


def _number(model: nn.Module, name: str, inside: str) -> int:
    """A whole number of the config that is nearest to a module, its own or that of a part around it (a model of texts
    and pictures has one for each); 0 where none says it, or one for each stage.
    """
    path = inside.split(".")
    for k in range(len(path), -1, -1):
        value = getattr(getattr(model.get_submodule(".".join(path[:k])), "config", None), name, None)
        if isinstance(value, int):
            return value
    return 0


def _width(block: Block, width: int) -> int:
    """The width of a block's states: the config's where a norm of the block has it, else that of its widest norm."""
    norms = {s.weight.numel() for s in block.sites if s.kind == "norm"}
    return width if width in norms or not norms else max(norms)


def _with_heads(model: nn.Module, sites: list[Site], blocks: Sequence[str]) -> list[Site]:
    """The sites, those marked that heads' outputs enter: the last linear of an attention, which leads back to states.

    The number of heads is the config's; a layer whose sides do not fit it is left alone.
    """
    heads = [_number(model, "num_attention_heads", b) for b in blocks]
    widths = [_number(model, "hidden_size", b) for b in blocks]
    last: dict[str, Site] = {}
    for s in sites:
        if s.role == "attention" and s.kind in ("linear", "conv1d") and s.block is not None:
            last[_attention_of(model, s.name, blocks[s.block]) or s.name] = s
    fit = {
        s.name: heads[s.block]
        for s in last.values()
        if s.block is not None
        and heads[s.block]
        and s.in_features % heads[s.block] == 0
        and s.out_features == widths[s.block]
    }
    return [replace(s, heads=fit[s.name]) if s.name in fit else s for s in sites]


def _judged(model: nn.Module, sites: list[Site], blocks: Sequence[str], tied: Mapping[str, str]) -> list[Site]:
    """The sites, those linear ones inside blocks marked on which no change can hang."""
    linears = {s.name: s for s in sites if s.block is not None and s.kind in ("linear", "conv1d")}
    modules = {n: s.module for n, s in linears.items()}
    why = unfit(model, modules, {n: blocks[s.block] for n, s in linears.items() if s.block is not None})
    for kept in tied.values():
        if (name := kept.removesuffix(".weight")) in linears:
            why.setdefault(name, SHARED)
    return [replace(s, unfit=why.get(s.name, "")) for s in sites]


def parameters_by_role(structure: Structure, names: dict[str, Any]) -> dict[str, int]:
    """Count entries by role of the site a parameter belongs to ("attention", "mlp", "norm", "embedding", ...)."""
    roles = {s.name: s.role for s in structure.every_site}
    counts: dict[str, int] = {}
    for n, tensor in names.items():
        role = roles.get(module_of(n), "other") + (" (delta)" if is_delta(n) else "")
        counts[role] = counts.get(role, 0) + tensor.numel()
    return counts
