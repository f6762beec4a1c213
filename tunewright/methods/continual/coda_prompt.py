"""CODA-Prompt: each row's prompt is a sum of components, weighted by an attention over its features; each task adds
components (Smith et al. 2022, arXiv:2211.13218; papers: coda-prompt).

    q(x)     what the head reads of x by the untouched base                                                    [D]
    w_m      cos(q(x) * a_m, k_m), * entry by entry: an attention a_m in R^D picks the features that count for the key
    p(x)     sum over m of w_m P_m,  P_m [2, L, W]: keys and values that a block's attention finds before its own
    loss     cross-entropy over the task's own classes + lambda sum over blocks of o(k) + o(a) + o(P)
    o(B)     mean of (B B^T - I)^2, of all components so far laid in rows                                      [M, M]

Each of the blocks has components of its own. A task adds `components` to each; those of earlier tasks stay as they are
and go on being weighted. New keys, attentions and prompts start as unit vectors, at right angles to one another and
to the earlier ones. The base stays as it is; the task's own rows of the head train. Each task is a stage that starts
from the one before with `carry: frozen`.

Left to later stages by name: `keys`, `attentions` [B, m, D], `prompts` [B, m, 2, L, W] of the last task, `old_keys`,
`old_attentions`, `old_prompts` of those before, `classes`, `task`. The change does not fold. MethodError for decoders,
for networks without attention, and where there would be more components than features.

Defaults: ten components a task and L 4 (the authors' 100 for ten tasks, and 8 for keys and values together), the first
five of twelve blocks (of other depths their share), lambda 0.1 (the paper's; their later code starts as this does and
sets it to 0); the rate is ours. Source: the paper's equations 3 to 7, GT-RIPL/CODA-Prompt (models/zoo.py).
Differs from the paper in: new components are at right angles to the span of the earlier ones exactly (the code: to each
in turn, which training has bent).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from tunewright.contract.batch import Batch, Loss, Outputs
from tunewright.contract.method import Need, Setup, State, torch_generator
from tunewright.errors import MethodError
from tunewright.methods.needs.row_labels import RowLabels
from tunewright.models.row_prompts import Inserted, PromptPlaces
from tunewright.models.sites import Structure
from tunewright.pieces.prompt_pool import Prompted, PromptPoolMethod, blocks_of, pairs_at

NAME = "coda-prompt"
PARTS = ("keys", "attentions", "prompts")
BLOCKS = (0, 5)
"""Of twelve blocks: those that read prompts."""


def right_angled(earlier: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count, D] unit vectors at right angles to one another and to the rows of `earlier` [M, D]; M + count <= D."""
    drawn = torch.randn(earlier.shape[1], count, generator=generator, dtype=torch.float64)
    basis = torch.linalg.qr(earlier.double().cpu().T).Q
    drawn = drawn - basis @ (basis.T @ drawn)
    return torch.linalg.qr(drawn - basis @ (basis.T @ drawn)).Q.T.float()


def weights(query: Tensor, attentions: Tensor, keys: Tensor) -> Tensor:
    """[R, M] cos(q * a_m, k_m) of queries [R, D], attentions and keys [M, D]."""
    return F.cosine_similarity(query[:, None] * attentions, keys, dim=-1)


def bent(rows: Tensor) -> Tensor:
    """[] mean of (B B^T - I)^2 of rows [M, ...], each laid flat."""
    flat = rows.flatten(1)
    return (flat @ flat.T - torch.eye(len(flat), device=flat.device)).square().mean()


class CODAPrompt(PromptPoolMethod):
    """A sum of prompt components, weighted by an attention over the frozen model's features; each task adds its own."""

    components: PositiveInt = Field(10, description="components that a task adds to each block", examples=[2])
    length: PositiveInt = Field(4, description="keys and values of a component, L", examples=[2])
    blocks: tuple[int, ...] | None = Field(
        None, description="blocks that read prompts, from 0; none: the first five twelfths", examples=[[1]]
    )
    orthogonality: NonNegativeFloat = Field(
        0.1, description="lambda, how strongly components are held at right angles", examples=[10.0]
    )

    _name: ClassVar[str] = NAME

    learning_rates: ClassVar[Mapping[str, float]] = {"": 6e-3}
    leaves: ClassVar[tuple[str, ...]] = (*PARTS, *(f"old_{n}" for n in PARTS), "classes", "task")
    category: ClassVar[str] = "prompt"
    papers: ClassVar[tuple[str, ...]] = (NAME,)
    conformance: ClassVar[Mapping[str, object]] = {"components": 3, "length": 3}

    def needs(self) -> tuple[Need, ...]:
        return (RowLabels(),)

    def setup(self, run: Setup) -> State:
        state, before = self._begun(run)
        asked, _, width = self._widths(run)
        blocks = blocks_of(self.blocks, run.structure, BLOCKS, "blocks")
        apart = {"keys": (asked,), "attentions": (asked,), "prompts": (2, self.length, width)}
        generator = torch_generator(run.rng)
        for name, shape in apart.items():
            whole = (len(blocks), self.components, *shape)
            held = [before[f"old_{name}"], self._went_on(before, name, whole, "components, length")] if before else []
            old = torch.cat(held, 1) if held else torch.zeros(len(blocks), 0, *shape)
            if old.shape[1] + self.components > old[0, :0].flatten(1).shape[1]:
                raise MethodError(
                    f"{old.shape[1] + self.components} components cannot be at right angles in {asked} features",
                    where=f"'{NAME}', components",
                    remedy="write fewer components a task",
                )
            new = torch.stack([right_angled(b.flatten(1), self.components, generator) for b in old])
            state.register_parameter(name, nn.Parameter(new.view(whole)))
            state.set_buffer(f"old_{name}", old)
        return state

    def wrap(self, model: nn.Module, structure: Structure, state: State) -> nn.Module:
        blocks = blocks_of(self.blocks, structure, BLOCKS, "blocks")

        def choose(query: Tensor, training: bool) -> Inserted:
            keys, attentions, prompts = (_all(state, n) for n in PARTS)
            given = [
                torch.einsum("rm,mklw->rklw", weights(query, attentions[i], keys[i]), prompts[i])
                for i in range(len(blocks))
            ]
            return Inserted(pairs=pairs_at(blocks, torch.stack(given, 1)))

        return Prompted(PromptPlaces(model, structure, NAME), structure, state, choose)

    def objective(self, outputs: Outputs, batch: Batch, state: State) -> Loss:
        return Loss(self._own_loss(outputs, batch, state))

    def penalty(self, state: State) -> Tensor:
        every = [block for n in PARTS for block in _all(state, n)]
        return self.orthogonality * torch.stack([bent(block) for block in every]).sum()


def _all(state: State, name: str) -> Tensor:
    """[B, M, ...]: components of all tasks so far."""
    return torch.cat([state.get_buffer(f"old_{name}"), state.get_parameter(name)], 1)
