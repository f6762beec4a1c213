"""What a GGUF file holds of a model: its architecture, settings, tensors' names, and how each tensor is laid.

Names are those of the `gguf` package's own maps; what the layout must add to them (rotary halves interleaved, Gemma's
norms around one, transposed linears) follows llama.cpp's converter.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunewright.errors import MethodError
from tunewright.weights.source import Entry

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Layout:
    """An architecture of GGUF. `arch`: its name in `gguf.MODEL_ARCH`. `interleaved`: the rows of q and k stand in pairs
    for the rotary form. `around_one`: norms' weights are stored plus one. `transposed`: linears are [in, out] in
    transformers."""

    arch: str
    interleaved: bool = False
    around_one: bool = False
    transposed: bool = False


LAYOUTS = {
    "LlamaForCausalLM": Layout("LLAMA", interleaved=True),
    "MistralForCausalLM": Layout("LLAMA", interleaved=True),
    "Qwen2ForCausalLM": Layout("QWEN2"),
    "Qwen3ForCausalLM": Layout("QWEN3"),
    "GemmaForCausalLM": Layout("GEMMA", around_one=True),
    "Gemma2ForCausalLM": Layout("GEMMA2", around_one=True),
    "Gemma3ForCausalLM": Layout("GEMMA3", around_one=True),
    "GPT2LMHeadModel": Layout("GPT2", transposed=True),
}
ELSEWHERE = "llama.cpp's convert_hf_to_gguf.py knows more architectures; give it this model's folder"


def layout_of(config: Any, where: str) -> Layout:
    """MethodError for an architecture or a setting that is not written here."""
    kind = (config.architectures or ["none"])[0]
    layout = LAYOUTS.get(kind)
    if layout is None:
        known = ", ".join(LAYOUTS)
        raise MethodError(
            f"no GGUF file is written of a {kind} here", where=where, remedy=f"{ELSEWHERE}. Written here: {known}"
        )
    if getattr(config, "attention_bias", False) and layout.arch == "GEMMA3":
        raise MethodError("a Gemma 3 with biases has no place in GGUF", where=where, remedy=ELSEWHERE)
    if layout.arch == "GPT2" and (config.scale_attn_by_inverse_layer_idx or not config.scale_attn_weights):
        raise MethodError("this GPT-2 scales its attention as llama.cpp's does not", where=where, remedy=ELSEWHERE)
    if layout.arch in ("GEMMA2", "GEMMA3"):
        large = config.num_hidden_layers in (46, 62)  # the 27 billion ones, which llama.cpp knows by their layers
        if config.query_pre_attn_scalar != config.head_dim and not large:
            raise MethodError(
                f"attention is scaled by {config.query_pre_attn_scalar}, and llama.cpp takes the head's width "
                f"{config.head_dim}",
                where=where,
                remedy=ELSEWHERE,
            )
    return layout


class Names:
    """transformers' parameter names <-> GGUF's, of one model."""

    def __init__(self, layout: Layout, blocks: int):
        import gguf

        self._map = gguf.get_tensor_name_map(getattr(gguf.MODEL_ARCH, layout.arch), blocks)

    def gguf(self, name: str, where: str) -> str:
        """MethodError for a tensor that the format has no name for."""
        found: str | None = self._map.get_name(name, try_suffixes=(".weight", ".bias"))
        if found is None:
            raise MethodError(
                f"the tensor '{name}' has no place in a GGUF file of this architecture",
                where=where,
                remedy=f"export a plain transformers folder; {ELSEWHERE}",
            )
        return found


def placed(entries: Mapping[str, Entry], config: Any, layout: Layout, where: str) -> Iterator[tuple[str, str]]:
    """(transformers' name, GGUF's) of every tensor that a file of the model holds."""
    names = Names(layout, config.num_hidden_layers)
    for name, entry in entries.items():
        if entry.floats and not (config.tie_word_embeddings and name == "lm_head.weight"):
            yield name, names.gguf(name, where)


def to_gguf(name: str, tensor: Array, layout: Layout, config: Any) -> Array:
    """A tensor of transformers as GGUF lays it. `name`: GGUF's."""
    if layout.interleaved and (heads := _heads(name, config)):
        half = tensor.shape[0] // heads // 2
        tensor = tensor.reshape(heads, 2, half, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    if layout.around_one and name.endswith("norm.weight"):
        tensor = tensor + np.float32(1)
    if layout.transposed and is_linear(name):
        tensor = tensor.T
    return np.ascontiguousarray(tensor)


def from_gguf(name: str, tensor: Array, layout: Layout, config: Any) -> Array:
    """The way back."""
    if layout.interleaved and (heads := _heads(name, config)):
        half = tensor.shape[0] // heads // 2
        tensor = tensor.reshape(heads, half, 2, *tensor.shape[1:]).swapaxes(1, 2).reshape(tensor.shape)
    if layout.around_one and name.endswith("norm.weight"):
        tensor = tensor - np.float32(1)
    if layout.transposed and is_linear(name):
        tensor = tensor.T
    return np.ascontiguousarray(tensor)


def _heads(name: str, config: Any) -> int:
    if ".attn_q." in name:
        return int(config.num_attention_heads)
    return int(config.num_key_value_heads) if ".attn_k." in name else 0


def is_linear(name: str) -> bool:
    return name.endswith(".weight") and any(p in name for p in ("attn_qkv", "attn_output", "ffn_up", "ffn_down"))


def settings(writer: Any, config: Any, layout: Layout, where: str) -> dict[str, Array]:
    """Write the model's settings; return the tensors that hold some of them (frequencies of Llama 3's rotary form)."""
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    if layout.arch == "GPT2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return {}
    width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_rope_dimension_count(width)
    if layout.arch in ("GEMMA2", "GEMMA3"):
        writer.add_sliding_window(config.sliding_window)
        for add, name in (
            (writer.add_attn_logit_softcapping, "attn_logit_softcapping"),
            (writer.add_final_logit_softcapping, "final_logit_softcapping"),
        ):
            if value := getattr(config, name, None):
                add(value)
    return _rope(writer, dict(config.rope_parameters or {}), width, where)


def _rope(writer: Any, said: dict[str, Any], width: int, where: str) -> dict[str, Array]:
    import gguf

    if "full_attention" in said:  # Gemma 3: one form for each kind of layer
        local = said["sliding_attention"]
        if local.get("rope_type", "default") != "default":
            raise MethodError("the local layers' positions are scaled", where=where, remedy=ELSEWHERE)
        writer.add_rope_freq_base_swa(float(local["rope_theta"]))
        said = said["full_attention"]
    theta, kind = float(said["rope_theta"]), said.get("rope_type", "default")
    writer.add_rope_freq_base(theta)
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(said["factor"]))
    elif kind == "llama3":
        return {"rope_freqs.weight": llama3_factors(said, theta, width)}
    elif kind != "default":
        raise MethodError(f"positions are scaled by '{kind}', which is not written here", where=where, remedy=ELSEWHERE)
    return {}


def llama3_factors(said: Mapping[str, Any], theta: float, width: int) -> Array:
    """By what each frequency [width / 2] is divided: 1 for short waves, `factor` for long ones, smooth between."""
    factor, original = float(said["factor"]), float(said["original_max_position_embeddings"])
    low, high = float(said["low_freq_factor"]), float(said["high_freq_factor"])
    out = []
    for i in range(0, width, 2):
        waves = original * theta ** (-i / width) / (2 * math.pi)  # in the original context
        share = min(1.0, max(0.0, (waves - low) / (high - low)))
        out.append(1 / (share + (1 - share) / factor))
    return np.array(out, np.float32)
