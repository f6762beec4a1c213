"""Prompts that differ from row to row, in an encoder that is not touched: virtual tokens before the first block, and
keys and values before those of single blocks.

    tokens  [R, n, D]   enter the first block before the row's own states, see all of them and are seen by all; behind
                        the last block (and the norm that follows it) they are taken away again
    pairs   [R, m, W]   keys and values that a block's attention finds before its own; W = key/value heads x their size

What comes after an embedding has no position of its own in BERT and ViT, so that neither needs one here. Texts of all
tasks and pictures are served alike: attention goes through the library's interface (`models.attention.rewriting`).
R rows, L their tokens, D width of the states.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.errors import MethodError
from tunewright.models.arguments import reads_two_texts
from tunewright.models.attention import rewriting, watchable
from tunewright.models.sites import Structure


@dataclass(frozen=True)
class Inserted:
    """What stands before each row: `tokens` [R, n, D], and by a block's index (keys, values), each [R, m, W]."""

    tokens: Tensor | None = None
    pairs: Mapping[int, tuple[Tensor, Tensor]] = field(default_factory=dict)


class PromptPlaces:
    """Where prompts enter a model: its blocks, whose attention each attention module is, and the norm behind them.

    MethodError for a model that has no such places; `method` is named in it.
    """

    def __init__(self, model: nn.Module, structure: Structure, method: str):
        config: Any = getattr(model, "config", None)
        config = config.get_text_config() if config is not None else None
        heads = getattr(config, "num_attention_heads", 0)
        inside = [model.get_submodule(b.name) for b in structure.blocks]
        causal = any(getattr(m, "is_causal", None) is True for b in inside for m in b.modules())
        plain = isinstance(heads, int) and heads > 0 and len({b.stack for b in structure.blocks}) == 1
        if not plain or causal or reads_two_texts(model) or not watchable(model):
            raise MethodError(
                f"'{method}' has each row read prompts beside all of its tokens, and {type(model).__name__} is "
                + ("a decoder, which sees earlier tokens alone" if causal else "no encoder of equal blocks"),
                where="model",
                remedy="use an encoder of BERT's or ViT's kind, or lora here",
            )
        self.model, self.blocks = model, inside
        self.block_of = {id(m): i for i, b in enumerate(inside) for m in b.modules()}
        self.width = int(config.hidden_size)
        size = int(getattr(config, "head_dim", None) or config.hidden_size // heads)
        self.pair_width = int(getattr(config, "num_key_value_heads", None) or heads) * size
        self.last = self._last(structure)

    def _last(self, structure: Structure) -> nn.Module:
        """The norm that reads what the last block gives, where there is one behind it; else the last block."""
        names, block = [n for n, _ in self.model.named_modules()], structure.blocks[-1].name
        behind = names[names.index(block) :]
        norms = {s.name: s.module for s in structure.sites if s.kind == "norm" and s.block is None}
        return next((norms[n] for n in behind if n in norms), self.blocks[-1])

    @contextmanager
    def inserting(self, what: Inserted, reads: str = "token") -> Iterator[None]:
        """Inside, the model reads each row behind its prompts.

        `reads`: what stands in the place of a row's first token behind the last block, which is what a classifier's
        head reads: that "token" itself, or the mean over the virtual tokens ("prompts").
        """
        if (
            self.model.training
            and torch.is_grad_enabled()
            and getattr(self.model, "is_activation_checkpointing", False)
        ):
            raise MethodError(
                "a row's prompts are not there when blocks are computed again",
                where="train.activation_checkpointing",
                remedy="set it to false",
            )
        used: set[int] = set()
        n = 0 if what.tokens is None else what.tokens.shape[1]

        def rewrite(module: nn.Module, key: Tensor, value: Tensor, mask: Tensor | None) -> tuple[Any, Any, Any]:
            mask = _opened(mask, n, queries=n) if mask is not None and mask.shape[-1] < key.shape[2] else mask
            block = self.block_of.get(id(module))
            if block is None or block not in what.pairs:
                return key, value, mask
            used.add(block)
            keys, values = (_by_heads(t, key) for t in what.pairs[block])
            mask = None if mask is None else _opened(mask, keys.shape[2])
            return torch.cat([keys, key], 2), torch.cat([values, value], 2), mask

        with ExitStack() as hooks:
            hooks.enter_context(rewriting(self.model, rewrite))
            if what.tokens is not None:
                first, last = _lengthen(what.tokens), _shorten(n, reads)
                hooks.callback(self.blocks[0].register_forward_pre_hook(first, with_kwargs=True).remove)
                hooks.callback(self.last.register_forward_hook(last).remove)
            yield
        if missed := set(what.pairs) - used:
            raise MethodError(
                f"keys and values before block {min(missed)} were never read: its attention does not go through the "
                "library's interface",
                where="model",
                remedy="use an encoder of BERT's or ViT's kind, or lora here",
            )


def _by_heads(pairs: Tensor, like: Tensor) -> Tensor:
    """[R, m, W] as the model's own keys [R, heads, T, size] are laid."""
    rows, heads, _, size = like.shape
    return pairs.to(like.dtype).reshape(rows, -1, heads, size).transpose(1, 2)


def _opened(mask: Tensor, keys: int, queries: int = 0) -> Tensor:
    """A mask [.., Q, K] with so many keys before it that all may see, and queries that see what the first one does."""
    seen = F.pad(mask, (keys, 0), value=True if mask.dtype == torch.bool else 0.0)
    if not queries or seen.shape[-2] == 1:
        return seen
    return torch.cat([seen[..., :1, :].expand(*seen.shape[:-2], queries, -1), seen], -2)


def _lengthen(tokens: Tensor) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], given: dict[str, Any]) -> tuple[Any, Any]:
        states = args[0] if args else given["hidden_states"]
        longer = torch.cat([tokens.to(states.dtype), states], 1)
        return ((longer, *args[1:]), given) if args else (args, {**given, "hidden_states": longer})

    return hook


def _shorten(n: int, reads: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        states = output if isinstance(output, Tensor) else output[0]
        own = states[:, n:]
        if reads == "prompts":
            own = torch.cat([states[:, :n].mean(1, keepdim=True), own[:, 1:]], 1)
        return own if isinstance(output, Tensor) else (own, *output[1:])

    return hook
