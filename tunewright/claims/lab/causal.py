"""The causal bases: Llama-type models of 3.4M (`nano`) and 7.1M parameters (`nano-large`) over one tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tunewright.claims.lab.pretrain import LENGTH, Budget, Curve, train, windows

SIZES = {"nano": (192, 512), "nano-large": (288, 768)}
"""Width and width of the gated MLP; both have 6 layers and 6 heads."""
TOKENS = {"nano": 6_000_000, "nano-large": 5_000_000}


def new(name: str, vocabulary: int, seed: int = 0) -> Any:
    """A `LlamaForCausalLM` with random weights drawn by `seed`, embeddings tied."""
    from transformers import LlamaConfig, LlamaForCausalLM

    width, inner = SIZES[name]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=6,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    embeddings: Any = model.get_input_embeddings()
    embeddings.padding_idx = None  # the start token is padding too, and has to learn
    return model


def nats(model: Any, batch: Tensor) -> Tensor:
    """Mean loss of windows [B, L + 1], nats per token."""
    hidden = model.model(batch[:, :-1], use_cache=False).last_hidden_state
    return cross_entropy((hidden @ model.lm_head.weight.T).flatten(0, 1), batch[:, 1:].flatten())


@torch.no_grad()
def held_out(model: Any, tokens: np.ndarray, limit: int | None = None) -> float:
    """Mean loss over `tokens` cut into windows (at most `limit` of them), nats per token."""
    count = min((len(tokens) - 1) // LENGTH, limit or len(tokens))
    losses = [
        nats(model, windows(tokens, list(range(i, min(i + 16, count))))) * (min(i + 16, count) - i)
        for i in range(0, count, 16)
    ]
    return float(torch.stack(losses).sum() / count)


def pretrain(name: str, tokenizer: Any, tokens: np.ndarray, held: np.ndarray, work: Path) -> tuple[Any, Curve]:
    """Train a base. Checkpoints in `work`; `work/early` is a whole transformers folder at every measurement."""
    model = new(name, len(tokenizer))

    def save(folder: Path) -> None:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    curve = train(
        model,
        Budget(TOKENS[name]),
        (len(tokens) - 1) // LENGTH,
        lambda indices, step: nats(model, windows(tokens, indices)),
        lambda: held_out(model, held, 128),
        work,
        save=save,
    )
    return model, curve
