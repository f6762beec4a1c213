"""A GGUF file of the Llama architecture with a byte-level BPE -> a plain transformers folder.

Straight from `gguf` and numpy: several times faster than building the model on the way, and the same numbers bit for
bit. GGUF stores the rows of q and k interleaved for its own rotary form; here they go back to transformers' order.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunewright.errors import ModelError
from tunewright.files.tensors import save_tensors
from tunewright.loading import gguf_splitters
from tunewright.loading.portable import portable_tokenizer

if TYPE_CHECKING:
    import numpy
    import torch
    from gguf import GGUFReader
    from transformers import PreTrainedTokenizerFast

TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

SPLITTERS = ("smollm", "gpt-2", "default")
ELSEWHERE = "load the model from its safetensors folder or hub id"
CONTROL, USER_DEFINED = 3, 4  # GGUF's token types that text never reaches by merging


def read_field(reader: GGUFReader, key: str) -> Any:
    """A metadata value. ModelError when the file lacks it."""
    if key not in reader.fields:
        raise ModelError(f"the GGUF file has no '{key}'", remedy="use a complete GGUF file of a Llama-like model")
    return reader.fields[key].contents()


def fits(reader: GGUFReader) -> bool:
    """Whether this module can convert the file: a Llama with a byte-level BPE of a known splitter, nothing beside."""
    allowed = {"general.architecture": ("llama",), "tokenizer.ggml.model": ("gpt2",), "tokenizer.ggml.pre": SPLITTERS}
    if not all(k in reader.fields and reader.fields[k].contents() in values for k, values in allowed.items()):
        return False
    return all(place(t.name) for t in reader.tensors)


def place(stored: str) -> str | None:
    """transformers' name of a GGUF tensor, None when it has none."""
    if stored in TOP:
        return TOP[stored]
    part = stored.split(".")
    if len(part) == 4 and part[0] == "blk" and part[2] in IN_BLOCK and part[3] == "weight":
        return f"model.layers.{part[1]}.{IN_BLOCK[part[2]]}.weight"
    return None


def pre_tokenizer(kind: str) -> Any:
    """The splitter that GGUF only names. It is not in the file, and losing it changes how numbers are read."""
    kind = "gpt-2" if kind == "default" else kind
    if kind in gguf_splitters.SPLITTERS:
        return gguf_splitters.built(kind)
    raise ModelError(f"the GGUF file's pre-tokenizer '{kind}' is not known here", remedy=ELSEWHERE)


def read_tokenizer(reader: GGUFReader, *, max_length: int) -> PreTrainedTokenizerFast:
    """Build the tokenizer: vocabulary, merges, splitter, special tokens and chat template."""
    from tokenizers import AddedToken, Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    if (kind := read_field(reader, "tokenizer.ggml.model")) != "gpt2":
        raise ModelError(f"the GGUF file's tokenizer is of kind '{kind}', not a byte-level BPE", remedy=ELSEWHERE)
    tokens: list[str] = read_field(reader, "tokenizer.ggml.tokens")
    types: list[int] = read_field(reader, "tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ")) for m in read_field(reader, "tokenizer.ggml.merges")]
    inner = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, fuse_unk=False))
    inner.pre_tokenizer = pre_tokenizer(read_field(reader, "tokenizer.ggml.pre"))
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types, strict=True) if k == CONTROL]
    )
    inner.add_tokens([AddedToken(t, normalized=False) for t, k in zip(tokens, types, strict=True) if k == USER_DEFINED])
    named = {"bos_token": "bos", "eos_token": "eos", "pad_token": "padding", "unk_token": "unknown"}
    special = {
        ours: tokens[read_field(reader, key)]
        for ours, theirs in named.items()
        if (key := f"tokenizer.ggml.{theirs}_token_id") in reader.fields
    }
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, model_max_length=max_length, clean_up_tokenization_spaces=False, **special
    )
    if "tokenizer.chat_template" in reader.fields:
        tokenizer.chat_template = read_field(reader, "tokenizer.chat_template")
    return tokenizer


def read_config(reader: GGUFReader) -> dict[str, Any]:
    """The arguments of transformers' LlamaConfig."""
    import numpy as np

    def get(key: str) -> Any:
        return read_field(reader, f"llama.{key}")

    def exact(x: float) -> float:
        return float(str(np.float32(x)))  # stored as float32: 9.9999997e-06 is 1e-05

    heads = get("attention.head_count")
    named = {"bos": "bos", "eos": "eos", "pad": "padding"}
    ids = {
        f"{ours}_token_id": read_field(reader, key)
        for ours, theirs in named.items()
        if (key := f"tokenizer.ggml.{theirs}_token_id") in reader.fields
    }
    return {
        "vocab_size": get("vocab_size"),
        "hidden_size": get("embedding_length"),
        "intermediate_size": get("feed_forward_length"),
        "num_hidden_layers": get("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv"),
        "head_dim": get("rope.dimension_count"),
        "max_position_embeddings": get("context_length"),
        "rms_norm_eps": exact(get("attention.layer_norm_rms_epsilon")),
        "rope_parameters": {"rope_type": "default", "rope_theta": exact(get("rope.freq_base"))},
        "tie_word_embeddings": not any(t.name == "output.weight" for t in reader.tensors),
        **ids,
    }


def _unpermute(weight: numpy.ndarray, heads: int) -> numpy.ndarray:
    """GGUF's interleaved halves of each head back to transformers' [first half, second half]. weight [heads*d, in]."""
    rows, columns = weight.shape
    return weight.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def read_state(reader: GGUFReader, config: dict[str, Any], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Every tensor, dequantised, under transformers' name. ModelError for one that has no place."""
    import numpy as np
    import torch
    from gguf.quants import dequantize

    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    state: dict[str, torch.Tensor] = {}
    for stored in reader.tensors:
        part = stored.name.split(".")
        name = place(stored.name)
        if name is None:
            raise ModelError(f"the GGUF file's tensor '{stored.name}' has no place in a Llama model", remedy=ELSEWHERE)
        weight = dequantize(stored.data, stored.tensor_type)
        if len(part) > 2 and part[2] in heads:
            weight = _unpermute(weight, heads[part[2]])
        state[name] = torch.from_numpy(np.array(weight, dtype=np.float32, order="C")).to(dtype)
    return state


def convert(file: Path, folder: Path, *, dtype: str = "bfloat16", generation: dict[str, Any] | None = None) -> None:
    """Write `file` as config, generation config, tokenizer and one safetensors file into an existing empty folder.

    `dtype` is that of storage. Raises ModelError for another architecture or an incomplete file.
    """
    import torch
    from gguf import GGUFReader
    from transformers import GenerationConfig, LlamaConfig

    try:
        reader = GGUFReader(file)
    except (ValueError, OSError, IndexError, KeyError) as e:
        raise ModelError(f"not a readable GGUF file: {e}", where=str(file), remedy="download it again") from e
    if (architecture := read_field(reader, "general.architecture")) != "llama":
        raise ModelError(f"the GGUF file's architecture is '{architecture}', not 'llama'", where=str(file))
    arguments = read_config(reader)
    state = read_state(reader, arguments, getattr(torch, dtype))
    needed = 2 + len(IN_BLOCK) * arguments["num_hidden_layers"] + (not arguments["tie_word_embeddings"])
    if len(state) != needed:
        raise ModelError(
            f"the GGUF file holds {len(state)} tensors, {needed} are needed",
            where=str(file),
            remedy="download it again",
        )
    config = LlamaConfig(architectures=["LlamaForCausalLM"], dtype=dtype, **arguments)
    config.save_pretrained(folder)
    ids = {k: v for k, v in arguments.items() if k.endswith("_token_id")}
    GenerationConfig(**ids, **(generation or {})).save_pretrained(folder)
    read_tokenizer(reader, max_length=arguments["max_position_embeddings"]).save_pretrained(folder)
    portable_tokenizer(folder)
    save_tensors(state, folder / "model.safetensors", metadata={"format": "pt"})
