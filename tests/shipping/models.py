"""Tiny models of the architectures that GGUF is written of, with norms and biases that no fresh model has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as T

from tests import tiny

SHAPE: dict[str, Any] = {
    "vocab_size": tiny.VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": tiny.STD,
    "pad_token_id": tiny.PAD,
    "bos_token_id": tiny.BOS,
    "eos_token_id": tiny.EOS,
}
GEMMA = {**SHAPE, "head_dim": 8}
SCALED = {**GEMMA, "query_pre_attn_scalar": 8, "sliding_window": 64}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def _moved(model: Any) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 1:
                    p.add_(0.2 * torch.randn_like(p))
    return model


def _made(kind: Any, config: Any) -> Any:
    return _moved(tiny._make(kind, config, 0))


MAKES: dict[str, Callable[[], Any]] = {
    "llama": lambda: _moved(tiny.llama()),
    "llama-untied": lambda: _moved(tiny.llama(tied=False)),
    "llama-biases": lambda: _made(T.LlamaForCausalLM, T.LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)),
    "llama-3": lambda: _made(T.LlamaForCausalLM, T.LlamaConfig(**SHAPE, rope_parameters=LLAMA3)),
    "mistral": lambda: _made(T.MistralForCausalLM, T.MistralConfig(**SHAPE, sliding_window=None, head_dim=16)),
    "qwen2": lambda: _made(T.Qwen2ForCausalLM, T.Qwen2Config(**SHAPE, tie_word_embeddings=False)),
    "qwen3": lambda: _moved(tiny.qwen3()),
    "gpt2": lambda: _moved(tiny.gpt2()),
    "gemma": lambda: _made(T.GemmaForCausalLM, T.GemmaConfig(**GEMMA)),
    "gemma2": lambda: _made(T.Gemma2ForCausalLM, T.Gemma2Config(**SCALED)),
    "gemma3": lambda: _made(T.Gemma3ForCausalLM, T.Gemma3TextConfig(**SCALED)),
}


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder
