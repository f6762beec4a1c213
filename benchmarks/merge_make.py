"""A random Llama of 271M parameters and three tunings of it (half of the entries changed by N(0, 0.002)), in
bfloat16.
"""

from __future__ import annotations

import sys
from pathlib import Path


def ensure(folder: Path) -> Path:
    """base, ft0, ft1, ft2 under `folder`, made where they are missing."""
    if all((folder / n / "model.safetensors").exists() for n in ("base", "ft0", "ft1", "ft2")):
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    print(f"making models in {folder}", file=sys.stderr)
    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=1024,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        intermediate_size=2816,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "base")
    start = {n: p.detach().clone() for n, p in model.named_parameters()}
    for k in range(3):
        g = torch.Generator().manual_seed(k + 10)
        with torch.no_grad():
            for n, p in model.named_parameters():
                change = torch.randn(p.shape, generator=g) * 0.002 * (torch.rand(p.shape, generator=g) < 0.5)
                p.copy_(start[n].float() + change)
        model.save_pretrained(folder / f"ft{k}")
    return folder
