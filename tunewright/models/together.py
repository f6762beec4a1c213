"""Several causal models that decode as one: each reads every token, and a function makes one set of logits of theirs.

The key-value caches are one cache whose layers are those of the first model, then of the second, and so on, so that
whatever widens, selects or grows a plain cache works on it unchanged. Nothing here trains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from tunewright.models.arguments import cache_argument, takes

Combine = Callable[[Mapping[str, Tensor]], Tensor]


class Together(nn.Module):
    """Models by name, the first of which lends its config and its stop tokens; `combine`: {name: [..., V]} fp32 ->
    [..., V].

    V is the smallest vocabulary among the models: ids beyond it are padding of an embedding (the tokenizers are the
    same), and the result is -inf there up to the first model's own width. Models must be causal decoders with a plain
    cache, one layer of keys and values per block.
    """

    def __init__(self, models: Mapping[str, nn.Module], combine: Combine):
        super().__init__()
        self.names = tuple(models)
        self.members = nn.ModuleList(models.values())
        self._combine = combine
        configs: list[Any] = [m.config for m in self.members]
        self._layers = [c.num_hidden_layers for c in configs]
        self.config: Any = copy.deepcopy(configs[0])
        self.config.num_hidden_layers = sum(self._layers)
        if getattr(self.config, "layer_types", None) is not None:
            self.config.layer_types = [
                t
                for c in configs
                for t in (getattr(c, "layer_types", None) or ["full_attention"] * c.num_hidden_layers)
            ]
        self.generation_config = getattr(self.members[0], "generation_config", None)

    def get_output_embeddings(self) -> None:
        """None: the logits are no plain head's."""
        return None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: DynamicCache | None = None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
        **more: Any,
    ) -> CausalLMOutputWithPast:
        """Logits [R, kept positions, V]. `logits_to_keep`: the last so many (0: all), or their indices."""
        caches = self._caches(cache)
        said: dict[str, Tensor] = {}
        for name, model, part in zip(self.names, self.members, caches, strict=True):
            keep = {"logits_to_keep": logits_to_keep} if takes(model, "logits_to_keep") else {}
            inputs: dict[str, Any] = {
                "input_ids": input_ids,
                "attention_mask": attention_mask,
                "position_ids": position_ids,
            }
            if (name_of_cache := cache_argument(model)) is not None:
                inputs[name_of_cache] = part
            logits = model(**inputs, use_cache=use_cache, **keep, **more).logits
            said[name] = (logits if keep else _kept(logits, logits_to_keep)).float()
        return CausalLMOutputWithPast(logits=self._joined(said))

    def _caches(self, whole: DynamicCache | None) -> list[DynamicCache | None]:
        """A model's part of the cache: the same layers, so that what it appends is in the whole."""
        if whole is None:
            return [None] * len(self.members)
        parts: list[DynamicCache | None] = []
        start = 0
        for n in self._layers:
            part = DynamicCache()
            part.layers = whole.layers[start : start + n]
            parts.append(part)
            start += n
        return parts

    def _joined(self, said: dict[str, Tensor]) -> Tensor:
        width, own = min(x.shape[-1] for x in said.values()), said[self.names[0]].shape[-1]
        logits = self._combine({name: x[..., :width] for name, x in said.items()})
        if width == own:
            return logits
        return torch.cat([logits, logits.new_full((*logits.shape[:-1], own - width), -torch.inf)], -1)


def _kept(logits: Tensor, keep: int | Tensor) -> Tensor:
    if isinstance(keep, Tensor):
        return logits[:, keep]
    return logits[:, -keep:] if keep else logits
