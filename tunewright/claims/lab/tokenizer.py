"""Texts as the stream of tokens that the n-gram model beside a base counts, and that a base is judged on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

LENGTH = 256
"""Tokens that a causal base is asked for in a row, in training and where it is judged."""


def stream(tokenizer: Any, texts: list[str]) -> np.ndarray:
    """Token ids of all texts in a row, the start token after each (uint16)."""
    start = tokenizer.bos_token_id
    encoded = tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False)
    return np.array([i for e in encoded for i in (*e.ids, start)], dtype=np.uint16)


@torch.no_grad()
def held_out(model: Any, tokens: np.ndarray, limit: int | None = None) -> float:
    """Mean loss of a causal model over `tokens` cut into windows (at most `limit` of them), nats per token."""
    count = min((len(tokens) - 1) // LENGTH, limit or len(tokens))
    total = 0.0
    for i in range(0, count, 16):
        some = [tokens[k * LENGTH : (k + 1) * LENGTH + 1] for k in range(i, min(i + 16, count))]
        ids = torch.from_numpy(np.stack(some).astype(np.int64))
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        total += float(cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())) * len(some)
    return total / count
