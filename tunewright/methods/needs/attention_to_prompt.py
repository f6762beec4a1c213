"""attention_to_prompt: how much each target's token attends to its row's prompt, in one block of the present model."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from tunewright.contract.batch import Batch
from tunewright.contract.method import Need
from tunewright.errors import MethodError
from tunewright.models.attention import watchable, watching
from tunewright.models.context import PADDING, of_batch
from tunewright.models.varlen import Pattern


def prompt_share(queries: Tensor, keys: Tensor, places: tuple[Tensor, Tensor], asked: int, pattern: Pattern) -> Tensor:
    """[S] of one row: softmax(q k^T scale) summed over the first `asked` places of the row, averaged over heads.

    `queries` [S, H, D], `keys` [T, K, D] (K divides H), `places` of both in the row [S], [T]. A query sees keys up to
    its own place, and of a sliding window those alone.
    """
    at, of = places
    k = keys.repeat_interleave(queries.shape[1] // keys.shape[1], dim=1).float()
    scale = queries.shape[-1] ** -0.5 if pattern.scale is None else pattern.scale
    scores = torch.einsum("shd,thd->hst", queries.float(), k) * scale
    behind = at[:, None] - of[None]
    hidden = behind < 0
    if pattern.window is not None:
        hidden = hidden | (behind >= pattern.window)
    weights = scores.masked_fill(hidden, -torch.inf).softmax(-1)
    return weights[..., of < asked].sum(-1).mean(0)


class AttentionToPrompt(Need):
    """[S]: of each target's own token, the share of one block's attention that lies on its row's prompt, in 0..1.

    Mean over heads, at the present weights, in eval mode and without gradient: the model runs once more. 0 in a row
    without a prompt. MethodError where a model's attention is its own affair (no transformers interface), or where
    something in the model lengthens or picks tokens.
    """

    name: ClassVar[str] = "attention_to_prompt"
    when: ClassVar[Literal["once", "batch", "redraw"]] = "batch"

    block: int = Field(-1, description="which block; negative: from the end")

    def check(self, run: Any) -> None:
        count = len(run.adapted.structure.blocks)
        if not run.task.is_a("text-generation"):
            raise MethodError(
                "answers that are written after a prompt are needed",
                where="attention_to_prompt",
                remedy="use it on the task text-generation",
            )
        if not watchable(run.adapted.model):
            raise MethodError(
                f"the attention of {type(run.adapted.model).__name__} cannot be read",
                where="attention_to_prompt",
                remedy="use a model whose attention goes through transformers' attention interface",
            )
        if not -count <= self.block < count:
            raise MethodError(
                f"there is no block {self.block}: the model has {count}",
                where="attention_to_prompt",
                remedy=f"name one of {-count} to {count - 1}",
            )

    def compute(self, run: Any, batch: Batch | None = None) -> Tensor:
        assert batch is not None and batch.positions is not None
        count = len(run.adapted.structure.blocks)
        found: tuple[Tensor, Tensor, Pattern] | None = None
        seen = 0

        def see(queries: Tensor, keys: Tensor, pattern: Pattern) -> None:
            nonlocal found, seen
            # a task may run the model on a few tokens first, to see how its head works: the last forward counts
            if seen % count == range(count)[self.block]:
                found = (queries.transpose(1, 2), keys.transpose(1, 2), pattern)
            seen += 1

        with watching(run.adapted.model, see), run.adapted.evaluating(), torch.no_grad():
            run.task.forward(run.adapted.outer, batch)
        if found is None or seen % count:
            raise MethodError(
                f"{seen} layers were seen to attend in a model of {count} blocks: nobody knows which is which",
                where="attention_to_prompt",
                remedy="use a model in which each block attends once",
            )
        queries, keys, pattern = found
        now = of_batch(batch)
        (row, place), asked = now.at(queries.flatten(2)), now.asked(queries.flatten(2)).flatten()
        row, place = row.flatten(), place.flatten()
        queries, keys = queries.flatten(0, 1), keys.flatten(0, 1)
        tokens = batch.positions + 1  # where the target itself stands
        share = torch.zeros(len(tokens), device=queries.device)
        for r in row[tokens].unique().tolist():
            mine, of = row[tokens] == r, ((row == r) & (place != PADDING)).nonzero()[:, 0]
            places = (place[tokens[mine]], place[of])
            share[mine] = prompt_share(queries[tokens[mine]], keys[of], places, int(asked[of[0]]), pattern)
        return share
