"""A frozen model with a network beside it that reads the states of its layers: the backbone is run without gradient.

Shapes: R rows, T tokens, D size of the model's states, V classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tunewright.pieces.means import token_means


class Beside(nn.Module):
    """The model as its task calls it: frozen body, side network, the model's own `head` on the mean over real tokens.

    `side(hidden, mask)` takes the states [R, T, D] of the layers numbered in `taps` (0: embeddings) and gives features
    [R, T, D]. The body stays in evaluation mode while the side network trains. Gives `logits` [R, V].
    """

    def __init__(self, model: Any, side: nn.Module, taps: Sequence[int], head: nn.Module):
        super().__init__()
        # the head is found by its place: the last fitting one, as in the model itself
        self.side, self.model, self.taps, self.config = side, model, tuple(taps), model.config
        self._head = [head]

    def train(self, mode: bool = True) -> Beside:
        super().train(mode)
        self.model.eval()
        return self

    def read(self, inputs: Mapping[str, Any]) -> tuple[list[Tensor], Tensor, Any]:
        """The states [R, T, D] of the layers in `taps`, the mask [R, T] of real tokens, and what the body gave."""
        with torch.no_grad():
            out = self.model.base_model(**inputs, output_hidden_states=True)
        hidden = [*out.hidden_states[:-1], out.last_hidden_state]
        return [hidden[i] for i in self.taps], real_tokens(hidden[-1], inputs), out

    def forward(self, output_hidden_states: bool = False, **inputs: Any) -> Any:
        hidden, mask, out = self.read(inputs)
        features = token_means(self.side(hidden, mask), mask)
        return SimpleNamespace(logits=self._head[0](features), hidden_states=out.hidden_states)


def real_tokens(states: Tensor, inputs: Mapping[str, Any]) -> Tensor:
    """[R, T], of the type of states [R, T, D]: 1 at real tokens, all where the inputs have no mask."""
    mask = inputs.get("attention_mask")
    return torch.ones(states.shape[:2], device=states.device) if mask is None else mask.to(states.dtype)
