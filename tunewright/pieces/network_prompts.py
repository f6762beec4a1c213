"""Prompts that a network makes of each row, before a masked model: the parts of `hprompt-cpt`.

R rows, L tokens, n virtual tokens, D width of the states.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from tunewright.models.context import told
from tunewright.models.row_prompts import Inserted, PromptPlaces
from tunewright.pieces.means import token_means
from tunewright.pieces.seeded import uniform_linear

NOTE = "states-behind-prompts"
"""Under this name the last block's states of a row's own tokens are noted of a forward: [R, L, D]."""
_drawn: ContextVar[Tensor | None] = ContextVar("tunewright_drawn_prompt", default=None)


@contextmanager
def behind(prompt: Tensor) -> Iterator[None]:
    """Inside, every row is read behind this prompt [n, D]."""
    token = _drawn.set(prompt)
    try:
        yield
    finally:
        _drawn.reset(token)


class Network(nn.Module):
    """F: what a row's tokens say on average [R, D], to its virtual tokens [R, n, D]."""

    def __init__(self, start: Tensor, hidden: int, generator: torch.Generator):
        super().__init__()
        n, width = start.shape
        self.first = uniform_linear(width, hidden, generator)
        self.last = uniform_linear(hidden, n * width, generator)
        nn.init.zeros_(self.last.weight)
        self.last.bias.data.copy_(start.flatten())

    def forward(self, e: Tensor) -> Tensor:
        e = e * e.square().mean(-1, keepdim=True).clamp_min(1e-12).rsqrt()
        return self.last(torch.relu(self.first(e))).unflatten(-1, (-1, e.shape[-1]))  # type: ignore[no-any-return]


class Prompted(nn.Module):
    """A masked model that reads each row behind the prompt that the network makes of it, and notes its states."""

    def __init__(self, places: PromptPlaces, network: nn.Module):
        super().__init__()
        self.model: Any = places.model
        self.config = self.model.config
        self._held = (places, network)  # in a tuple: neither is a part of the wrapper

    def get_output_embeddings(self) -> Any:
        """The layer that gives the model's logits: drift asks for it."""
        return self.model.get_output_embeddings()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **more: Any) -> Any:
        places, network = self._held
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        drawn = _drawn.get()
        if drawn is None:
            with torch.no_grad():
                e = token_means(self.model.get_input_embeddings()(input_ids).float(), mask)
            prompts = network(e)
        else:
            prompts = drawn.expand(len(input_ids), -1, -1)
        n, seen = prompts.shape[1], list[Tensor]()

        def note(module: nn.Module, given: Any, out: Any) -> None:
            seen.append((out if isinstance(out, Tensor) else out[0])[:, n:])

        with places.inserting(Inserted(prompts)):
            hook = places.blocks[-1].register_forward_hook(note, prepend=True)
            try:
                out = self.model(input_ids=input_ids, attention_mask=attention_mask, **more)
            finally:
                hook.remove()
        if (now := told()) is not None:
            now.note(NOTE, seen[-1])
        return out


def agreement(states: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """[R] mean squared difference of states [R, L, D] over real tokens (`mask` [R, L]) and dimensions."""
    return token_means((states - before).square().mean(-1, keepdim=True), mask)[:, 0]


def disagreement(states: Tensor, before: Tensor, mask: Tensor) -> Tensor:
    """[R] squared cosine of the rows' means of states [R, L, D] over real tokens (`mask` [R, L])."""
    return cosine_similarity(token_means(states, mask), token_means(before, mask), dim=-1).square()
