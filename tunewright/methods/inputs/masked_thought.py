"""Masked Thought: hide random tokens of the answer from the input, and still ask for all of them (Chen et al. 2024,
arXiv:2403.02178; papers: masked-thought).

Where token j of a row is to be predicted (its loss weight is above 0; the end token too, the prompt never)

    m_j ~ Bernoulli(rho_t);   x'_j = mask if m_j else x_j;   loss = the usual cross-entropy of the original x given x'

anew in every batch, with rho_t = rho min(1, t / t_w) after t optimizer steps. The model must reach the next step of a
reasoning chain without leaning on the tokens just before it. Targets, weights, positions and attention stay as they
are; rho = 0 is plain fine-tuning, bit for bit. `mask` is a token's id or text, or (none) a uniformly random id of the
vocabulary for each masked place, which is what the authors' GSM8K script does.

A text that the tokenizer lacks is added as a special token before training; its row starts as the mean of the embedding
(and of an untied head), and generation is told never to write it. Draws are keyed by (seed, epoch, row id): packing and
splitting do not change them. Raises MethodError for an id outside the vocabulary, or a text without a tokenizer.

Source: ChangyuChen347/MaskedThought, models/mask_policy_utils.py and MetaMath/train_math.py.
Differs from the paper in: rho rises by optimizer steps, where MetaMath's script counts calls of a worker's collator.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, ClassVar

from pydantic import Field

from tunewright.contract.batch import Batch
from tunewright.contract.method import Method, Plan, Setup, State
from tunewright.errors import MethodError
from tunewright.pieces.new_tokens import add_tokens

RowRandom = Callable[[int], random.Random]


def masked(batch: Batch, rate: float, mask: int | None, vocabulary: int, row_rng: RowRandom) -> Batch:
    """The batch with each supervised token of its input replaced with probability `rate` by `mask`, or by a random id.

    `row_rng(i)` is the generator of row i; it is drawn from in the order of the row's labels.
    """
    assert batch.positions is not None
    ids = batch.inputs["input_ids"].clone()
    flat = ids.view(-1)
    generators: dict[int, random.Random] = {}
    for position, row in zip(batch.positions.tolist(), batch.rows.tolist(), strict=True):
        rng = generators.get(row) or generators.setdefault(row, row_rng(row))
        hidden, other = rng.random() < rate, rng.randrange(vocabulary)
        if hidden:
            flat[position + 1] = other if mask is None else mask
    return batch.replace(inputs={**batch.inputs, "input_ids": ids})


class MaskedThought(Method):
    """Replace random answer tokens of the input; predict the originals."""

    rate: float = Field(0.4, ge=0, le=1, description="rho: share of the answer's tokens that is hidden", examples=[0.2])
    warmup: float = Field(
        2 / 3, ge=0, le=1, description="share of the stage's steps in which the rate rises to rho", examples=[0.0]
    )
    mask: int | str | None = Field(
        None,
        description="what hides a token: an id, or a token's text; none: a random id each time",
        examples=[4, "<mask>"],
    )

    tasks: ClassVar[tuple[str, ...]] = ("text-generation",)
    papers: ClassVar[tuple[str, ...]] = ("masked-thought",)
    conformance: ClassVar[dict[str, object]] = {"warmup": 0.5}

    def prepare(self, model: Any, tokenizer: Any) -> None:
        if not isinstance(self.mask, str):
            return
        if tokenizer is None:
            raise MethodError(
                f"'{self.mask}' names a token, and there is no tokenizer",
                where="masked-thought.mask",
                remedy="give the token's id",
            )
        add_tokens(model, tokenizer, [self.mask])

    def setup(self, run: Setup) -> State:
        model: Any = run.adapted.model
        size = model.get_input_embeddings().num_embeddings
        tokenizer = run.adapted.tokenizer
        mask = tokenizer.convert_tokens_to_ids(self.mask) if isinstance(self.mask, str) else self.mask
        if mask is not None and not 0 <= mask < size:
            raise MethodError(
                f"there is no token {mask} in a vocabulary of {size}",
                where="masked-thought.mask",
                remedy="give an id below, or a token's text",
            )
        return State(mask=mask, vocabulary=min(size, len(tokenizer)) if tokenizer is not None else size)

    def batch(self, batch: Batch, step: int, plan: Plan, state: State, row_rng: RowRandom) -> Batch | None:
        rise = self.warmup * plan.steps
        rate = self.rate * min(1.0, (step + 1) / rise if rise else 1.0)
        return masked(batch, rate, state.data["mask"], state.data["vocabulary"], row_rng) if rate else None
