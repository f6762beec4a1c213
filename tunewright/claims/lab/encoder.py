"""The text encoder `nano-encoder`: a BERT-type model with norms before its blocks, 2.7M parameters, trained to fill
in masked tokens of the same corpus.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tunewright.claims.lab import tokenizer as bpe
from tunewright.claims.lab.pretrain import Budget, Curve, train, windows

PAD, MASK = "<|pad|>", "<|mask|>"
LENGTH, MASKED, TOKENS = 128, 0.25, 3_000_000


def tokenizer(texts: list[str]) -> Any:
    """The causal bases' tokenizer with tokens for padding and masking; a text stands between start and end token."""
    from tokenizers.processors import TemplateProcessing

    bpe_tokenizer = bpe.train(texts, extra=(PAD, MASK))
    ids = [(t, bpe_tokenizer.convert_tokens_to_ids(t)) for t in (bpe.START, bpe.END)]
    bpe_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{bpe.START} $A {bpe.END}", special_tokens=ids
    )
    bpe_tokenizer.add_special_tokens(
        {"pad_token": PAD, "mask_token": MASK, "cls_token": bpe.START, "sep_token": bpe.END}
    )
    bpe_tokenizer.chat_template = None
    bpe_tokenizer.model_max_length = LENGTH
    return bpe_tokenizer


def new(tokenizer: Any, seed: int = 0) -> Any:
    """A `RobertaPreLayerNormForMaskedLM` of 4 layers of width 192 with random weights drawn by `seed`."""
    from transformers import RobertaPreLayerNormConfig, RobertaPreLayerNormForMaskedLM

    config = RobertaPreLayerNormConfig(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=768,
        num_hidden_layers=4,
        num_attention_heads=6,
        max_position_embeddings=LENGTH + tokenizer.pad_token_id + 1,  # positions are counted from the padding id on
        type_vocab_size=1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RobertaPreLayerNormForMaskedLM(config)


def masked(batch: Tensor, mask: int, vocabulary: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch with a share of its tokens hidden (8 in 10 by the mask token, 1 by a random one, 1 left): inputs and
    where they were hidden.
    """
    draw = torch.rand(batch.shape, generator=generator)
    chosen = (draw < MASKED) & (batch > 2)
    inputs = torch.where(chosen & (draw < 0.8 * MASKED), torch.full_like(batch, mask), batch)
    random = torch.randint(0, vocabulary, batch.shape, generator=generator)
    return torch.where(chosen & (draw >= 0.9 * MASKED), random, inputs), chosen


def nats(model: Any, inputs: Tensor, chosen: Tensor, labels: Tensor) -> Tensor:
    """Mean loss at the hidden tokens, in nats."""
    hidden = model.roberta_prelayernorm(inputs).last_hidden_state[chosen]
    return cross_entropy(model.lm_head(hidden), labels[chosen])


def pretrain(
    tokenizer: Any, tokens: np.ndarray, held: np.ndarray, work: Path, budget: int = TOKENS
) -> tuple[Any, Curve]:
    """Train the encoder; the held-out loss hides the same tokens at every measurement."""
    model = new(tokenizer)
    mask, size = tokenizer.mask_token_id, len(tokenizer)

    def loss(indices: list[int], step: int, source: np.ndarray = tokens) -> Tensor:
        batch = windows(source, indices, LENGTH)[:, :LENGTH].clone()
        batch[:, 0], batch[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        inputs, chosen = masked(batch, mask, size, torch.Generator().manual_seed(step))
        return nats(model, inputs, chosen, batch)

    @torch.no_grad()
    def held_out() -> float:
        count = min((len(held) - 1) // LENGTH, 512)
        parts = [loss(list(range(i, min(i + 32, count))), 10**6 + i, held) for i in range(0, count, 32)]
        return float(torch.stack(parts).mean())

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    return model, train(
        model, Budget(budget, batch=16), (len(tokens) - 1) // LENGTH, loss, held_out, work, LENGTH, save
    )
