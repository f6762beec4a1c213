"""Where a block's attention and feed-forward part begin and end, found by running the model once.

A part begins at the layer that reads its input and ends at the linear layer whose output goes back to the block's
states. In a block that normalises before its parts (pre-norm: Llama, GPT-2, ViT) the norm before a part is known too:
what enters it is the stream of states. In one that normalises behind them (post-norm: BERT) it is the norm behind a
part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.errors import MethodError
from tunewright.models.probing import small_inputs
from tunewright.models.sites import Block, Site, Structure

WIDEST = 3
"""Linear layers of a feed-forward part at most: gate, up and down. With more the block holds experts."""


@dataclass(frozen=True)
class Part:
    """An attention or a feed-forward part of a block, by names of sites.

    `first` reads its input, `last` gives its output; `before` is the norm whose output `first` reads ("": none does),
    `behind` the norm that reads the sum behind it ("": there is none, as in a pre-norm block).
    """

    first: str
    last: str
    before: str = ""
    behind: str = ""


@dataclass(frozen=True)
class Parts:
    """A block's parts; None for one that was not found."""

    block: str
    attention: Part | None
    mlp: Part | None


def parts_of(model: nn.Module, structure: Structure) -> dict[int, Parts]:
    """The parts of every block by its index.

    Where the model cannot be run (it has shapes and no values) no norm is known: names of layers are then the same, and
    a change hangs elsewhere than it will.
    """
    seen = _run(model, structure)
    return {b.index: _parts(b, seen) for b in structure.blocks}


def mlp_pair(block: Block) -> tuple[Site, Site] | None:
    """(up, down) of a block's MLP: down leads back to the states' width from as many channels as up gives."""
    inside = [s for s in block.sites if s.role == "mlp" and s.kind in ("linear", "conv1d") and not s.unfit]
    for down in reversed(inside):
        into = [s for s in inside if (s.out_features, s.in_features) == (down.in_features, down.out_features)]
        ups = [s for s in into if s is not down and inside.index(s) < inside.index(down)]
        if ups:
            return ups[-1], down
    return None


def check_parts(found: dict[int, Parts], method: str, attention: bool, mlp: bool) -> None:
    """MethodError where a block lacks a part that is asked for."""
    wanted = {"an attention": attention, "a feed-forward part": mlp}
    if not found:
        raise MethodError(f"'{method}' found no block", remedy="use a transformer")
    for parts in found.values():
        there = {"an attention": parts.attention, "a feed-forward part": parts.mlp}
        if missing := [what for what, asked in wanted.items() if asked and there[what] is None]:
            raise MethodError(
                f"'{method}' stands at {missing[0]}, and none of a kind that it knows is found in '{parts.block}'",
                where="model",
                remedy="use a transformer whose blocks have attention and a dense feed-forward part, or ssf here",
            )


@dataclass
class _Seen:
    """What ran, in order: (name, input, output) of each linear and norm, and what each block gave."""

    calls: list[tuple[str, Tensor, Tensor]]
    blocks: dict[str, Tensor]


def _parts(block: Block, seen: _Seen | None) -> Parts:
    linear = [s for s in block.sites if s.kind in ("linear", "conv1d") and not s.unfit]
    norms = [s.name for s in block.sites if s.kind == "norm"]
    outputs = [s for s in linear if s.heads]
    attention = [s for s in linear if s.role == "attention"]
    mlp = [s for s in linear if s.role == "mlp"]
    width = outputs[0].out_features if outputs else 0
    if seen is not None:
        order = {name: i for i, (name, _, _) in reversed(list(enumerate(seen.calls)))}
        attention, mlp = (
            sorted((s for s in group if s.name in order), key=lambda s: order[s.name]) for group in (attention, mlp)
        )
    mlp = _forwards(mlp, width)
    found_attention = found_mlp = None
    if len(outputs) == 1 and attention:
        found_attention = _part(attention[0].name, outputs[0].name, norms, block, seen)
    if 2 <= len(mlp) <= WIDEST and width and mlp[0].in_features == width == mlp[-1].out_features:
        found_mlp = _part(mlp[0].name, mlp[-1].name, norms, block, seen)
    return Parts(block.name, found_attention, found_mlp)


def _forwards(mlp: list[Site], width: int) -> list[Site]:
    """Of a block's linear layers outside its attention those that lead from the states to wider channels and back,
    without what only scales states by something else (a next-scale model's `modulation`). All of them where none lead
    back, or several do (experts).
    """
    downs = [s for s in mlp if s.out_features == width != s.in_features]
    if len(downs) != 1:
        return mlp
    ups = [s for s in mlp if (s.in_features, s.out_features) == (width, downs[0].in_features)]
    return [s for s in mlp if s in (*ups, downs[0])] if ups else mlp


def _part(first: str, last: str, norms: Sequence[str], block: Block, seen: _Seen | None) -> Part:
    if seen is None:
        return Part(first, last)
    names = [name for name, _, _ in seen.calls]
    if first not in names or last not in names:
        return Part(first, last)
    inside = [(n, out) for n, _, out in seen.calls if n.startswith(block.name + ".")]
    if inside[-1][0] in norms and inside[-1][1] is seen.blocks.get(block.name):  # what the block gives is a norm's
        return Part(first, last, behind=next(n for n in names[names.index(last) + 1 :] if n in norms))
    read = seen.calls[names.index(first)][1]
    return Part(first, last, before=next((n for n, _, out in seen.calls if n in norms and out is read), ""))


def _run(model: nn.Module, structure: Structure) -> _Seen | None:
    inputs = small_inputs(model)
    if inputs is None:
        return None
    seen = _Seen([], {})
    kinds = ("linear", "conv1d", "norm")
    sites: list[Site] = [s for b in structure.blocks for s in b.sites if s.kind in kinds]

    def note(name: str) -> Any:
        return lambda _, given, out: seen.calls.append((name, given[0], out)) if given else None

    def end(name: str) -> Any:
        return lambda _, given, out: seen.blocks.update({name: out[0] if isinstance(out, tuple) else out})

    hooks = [s.module.register_forward_hook(note(s.name)) for s in sites]
    hooks += [model.get_submodule(b.name).register_forward_hook(end(b.name)) for b in structure.blocks]
    modes = {m: m.training for m in model.modules()}
    try:
        model.eval()
        with torch.no_grad():
            model(**inputs)
    except Exception:  # made-up inputs may not be the model's own: then norms are not known
        return None
    finally:
        for hook in hooks:
            hook.remove()
        for m, training in modes.items():
            m.training = training
    return seen
