"""NEFTune: noise on the embeddings of what is trained on (Jain et al. 2023, arXiv:2310.05914; papers: neftune).

While training, the embedding e_t in R^D of every token of a row of L tokens is read as

    e_t + alpha / sqrt(L D) u_t,     u_t uniform in [-1, 1]^D, drawn anew for every row of every step

so that a row's noise has the length alpha / sqrt(3) whatever L and D are. Nothing else changes, no number is added, and
where the model is measured, generates or serves as a teacher there is no noise.

Default: alpha 5 (the paper tries 5, 10 and 15). The scale is that of transformers' `neftune_noise_alpha`, with a
row's own length for L (there: that of the padded batch). Draws are keyed by (seed, step, the row's tokens), so that
how rows are packed or split changes none of them. Raises MethodError for a model that reads no tokens.

Differs from the paper in: nothing that is known.
Source: huggingface/transformers, integrations/neftune.py; neelsjain/NEFTune.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from pydantic import Field, NonNegativeFloat
from torch import Tensor, nn

from tunewright.contract.method import Method, Setup, State
from tunewright.errors import MethodError
from tunewright.loading.guard import embedding_of
from tunewright.models import context
from tunewright.models.adapted import Adapted

HELD = "tunewright_noise"
"""Where the embeddings keep what takes the noise off again."""


def noise(length: int, width: int, alpha: float, key: str) -> Tensor:
    """[length, width] of one row: uniform in +-alpha / sqrt(length width), drawn by the row's key."""
    generator = torch.Generator().manual_seed(random.Random(key).getrandbits(63))
    bound = alpha / (length * width) ** 0.5
    return torch.empty(length, width).uniform_(-bound, bound, generator=generator)


class NEFTune(Method):
    """Uniform noise on the embeddings of training rows."""

    alpha: NonNegativeFloat = Field(
        5.0, description="size of the noise: alpha / sqrt(L D) for a row of L tokens of D numbers", examples=[20.0]
    )

    also: ClassVar[Mapping[str, str]] = {"neftune_noise_alpha": "alpha"}
    papers: ClassVar[tuple[str, ...]] = ("neftune",)
    conformance_beside: ClassVar[Mapping[str, Mapping[str, Any]]] = {"lora": {"rank": 2}}

    def setup(self, run: Setup) -> State:
        embeddings = embedding_of(run.adapted.model)
        if not isinstance(embeddings, nn.Embedding):
            raise MethodError(
                "neftune puts noise on the embeddings of tokens, and this model reads none",
                where="methods",
                remedy="leave it out, or use a model of text",
            )
        return State(on=False, step=0, seed=run.rng.getrandbits(63))

    def begin_task(self, adapted: Adapted, state: State) -> None:
        embeddings = _embeddings(adapted)

        def noisy(module: nn.Module, given: Any, out: Tensor) -> Tensor:
            on = module.training and state.data["on"]
            return out + self._noise(given[0], out, state) if on else out

        _quiet(embeddings)
        state.data["on"] = self.alpha > 0
        setattr(embeddings, HELD, embeddings.register_forward_hook(noisy))

    def end_task(self, adapted: Adapted, state: State) -> None:
        state.data["on"] = False
        _quiet(_embeddings(adapted))

    def after_step(self, step: int, state: State) -> None:
        state.data["step"] = step

    def _noise(self, ids: Tensor, out: Tensor, state: State) -> Tensor:
        """Noise for embeddings [B, L, D] of ids [B, L], zero at padding; each row by its own length and tokens."""
        row, place = context.present().at(out)
        start = f"{state.data['seed']}/{state.data['step']}"
        added = torch.zeros(out.shape)
        for i in range(int(row.max()) + 1):
            inside = ((row == i) & (place >= 0)).cpu()
            tokens = ids.cpu()[inside].tolist()
            if tokens:
                added[inside] = noise(len(tokens), out.shape[-1], self.alpha, f"{start}/{tokens}")
        return added.to(out)


def _embeddings(adapted: Adapted) -> nn.Module:
    model: Any = adapted.model
    found: nn.Module = model.get_input_embeddings()
    return found


def _quiet(embeddings: nn.Module) -> None:
    """Take a stage's noise off."""
    hook = embeddings.__dict__.pop(HELD, None)
    if hook is not None:
        hook.remove()
