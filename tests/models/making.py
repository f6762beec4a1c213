"""Files that the model tests read: GGUF files and wheels made from the tiny models."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf.quants import quantize

from tests import tiny

NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """GGUF's name of a Llama tensor."""
    outside = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in outside:
        return outside[name]
    _, _, block, *rest = name.split(".")
    return f"blk.{block}.{NAMES['.'.join(rest[:-1])]}.weight"


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """The row order that GGUF's rotary form wants for q and k."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    path: Path,
    model: Any,
    *,
    pre: str = "smollm",
    architecture: str = "llama",
    leave_out: tuple[str, ...] = (),
    q8: bool = False,
) -> None:
    """Write a tiny Llama and the tiny tokenizer as a GGUF file; `q8`: the embedding in 8 bits."""
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_vocab_size(config.vocab_size)
    writer.add_file_type(0)
    writer.add_license("apache-2.0")
    inner = json.loads(tiny.tokenizer().backend_tokenizer.to_str())["model"]
    vocabulary = sorted(inner["vocab"], key=inner["vocab"].get)
    tokens = [
        "<|endoftext|>" if t == "<|unk|>" else t for t in vocabulary
    ]  # the name that real files use, and converters add
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t in tiny.SPECIAL else 1 for t in vocabulary])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in inner["merges"]])
    writer.add_bos_token_id(tiny.START)
    writer.add_eos_token_id(tiny.EOS)
    writer.add_pad_token_id(tiny.EOS)
    writer.add_unk_token_id(tiny.UNK)
    writer.add_chat_template(tiny.CHAT_TEMPLATE)
    for name, parameter in model.named_parameters():
        stored = gguf_name(name)
        if stored in leave_out:
            continue
        weight = parameter.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = interleave(weight, config.num_attention_heads if "q_proj" in name else config.num_key_value_heads)
        if q8 and stored == "token_embd.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(stored, quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(stored, np.ascontiguousarray(weight, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_wheel(folder: Path, package: str, version: str, files: Mapping[str, Path | str]) -> Path:
    """A wheel that pip takes, holding `files` (path inside -> file or text)."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{package.replace('-', '_')}-{version}"
    wheel = folder / f"{stem}-py3-none-any.whl"
    info = f"{stem}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in files.items():
            if isinstance(content, Path):
                archive.write(content, name)
            else:
                archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


def save_folder(folder: Path, model: Any, tokenizer: Any = None) -> Path:
    """A transformers folder of a tiny model."""
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer.save_pretrained(folder)
    return folder
