"""Whisper's weights as CTranslate2 stores them, as transformers' `WhisperForConditionalGeneration`.

Source: `ctranslate2.specs.model_spec` writes a version, the model's name, and each tensor as name, shape, type and
bytes, in little endian; nothing in it is code. Self-attention holds queries, keys and values in one matrix,
cross-attention queries apart from keys and values, and the bias of keys that Whisper does not have as zeros. Weights
are half precision, which float32 holds exactly.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tunewright.errors import ModelError
from tunewright.loading.quiet import quiet

TYPES = (np.float32, np.int8, np.int16, np.int32, np.float16)
END, START, BEFORE, UNTIMED = 50256, 50257, 50360, 50362
"""Of the English models: `<|endoftext|>`, `<|startoftranscript|>`, `<|startofprev|>`, `<|notimestamps|>`."""
LONGEST = 448
_UNTIED_VOCABULARY = 51864


def convert(file: Path, folder: Path) -> None:
    """Write `folder` (config, safetensors in float32, tokenizer, feature extractor, how it is generated with) from a
    folder of Whisper tiny.en: `model.bin`, `tokenizer.json` and `config.json`.

    Raises ModelError where the file's tensors are not this network's.
    """
    from transformers import GenerationConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

    try:
        stored = read(file)
        with torch.device("meta"):
            model = WhisperForConditionalGeneration(config())
        new = renamed(stored)
        state = model.state_dict()
        wrong = [n for n, t in state.items() if n not in new or new[n].shape != t.shape] + [*(new.keys() - state)]
        if wrong:
            raise KeyError(wrong[0])
        model.load_state_dict(new, assign=True)
        told = json.loads((file.parent / "config.json").read_text(encoding="utf-8"))
        said: dict[str, Any] = {
            "alignment_heads": told["alignment_heads"],
            "suppress_tokens": told["suppress_ids"],
            "begin_suppress_tokens": told["suppress_ids_begin"],
        }
    except (KeyError, ValueError, IndexError, struct.error, OSError) as e:
        raise ModelError(f"not the weights of Whisper tiny.en: {e}", where=file.name) from e
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
        decoder_start_token_id=START,
        prev_sot_token_id=BEFORE,
        no_timestamps_token_id=UNTIMED,
        max_length=LONGEST,
        max_initial_timestamp_index=50,
        is_multilingual=False,
        return_timestamps=False,
        **said,
    )
    with quiet():
        model.save_pretrained(folder)
        _tokenizer(file.parent / "tokenizer.json").save_pretrained(folder)
        WhisperFeatureExtractor(feature_size=80).save_pretrained(folder)


def config() -> Any:
    """transformers' config of Whisper tiny.en (Radford et al. 2022): four blocks of width 384 on each side."""
    from transformers import WhisperConfig

    sides: dict[str, Any] = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in _SIDE.items()}
    ids: dict[str, Any] = {
        "bos_token_id": END,
        "eos_token_id": END,
        "pad_token_id": END,
        "decoder_start_token_id": START,
    }
    return WhisperConfig(vocab_size=_UNTIED_VOCABULARY, d_model=384, num_mel_bins=80, **sides, **ids)


_SIDE = {"layers": 4, "attention_heads": 6, "ffn_dim": 1536}


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a CTranslate2 file by name, in float32. ValueError or struct.error for another kind of file."""
    with file.open("rb") as f:

        def number(form: str) -> int:
            size = struct.calcsize(form)
            return int(struct.unpack(f"<{form}", f.read(size))[0])

        def text() -> str:
            return f.read(number("H"))[:-1].decode("utf-8")

        version = number("I")
        if not 4 <= version <= 6:
            raise ValueError(f"a file of version {version}, and 4 to 6 are read")
        name, _, count = text(), number("I"), number("I")
        if name != "WhisperSpec":
            raise ValueError(f"it holds a {name}")
        tensors: dict[str, Tensor] = {}
        for _ in range(count):
            key = text()
            shape = [number("I") for _ in range(number("B"))]
            kind, size = number("B"), number("I")
            raw = np.frombuffer(f.read(size), TYPES[kind]).reshape(shape)
            tensors[key] = torch.from_numpy(raw.astype(np.float32))
        return tensors


def renamed(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """CTranslate2's names -> transformers'. KeyError where one is missing."""
    new: dict[str, Tensor] = {}

    def norm(ours: str, theirs: str) -> None:
        new[f"{ours}.weight"], new[f"{ours}.bias"] = stored[f"{theirs}/gamma"], stored[f"{theirs}/beta"]

    def linears(names: list[str], theirs: str) -> None:
        """One stored matrix as several, one above the other; keys have no bias."""
        for what in ("weight", "bias"):
            for ours, part in zip(names, stored[f"{theirs}/{what}"].chunk(len(names)), strict=True):
                if not (what == "bias" and ours.endswith("k_proj")):
                    new[f"{ours}.{what}"] = part.clone()

    for side in ("encoder", "decoder"):
        for i in range(_SIDE["layers"]):
            ours, theirs = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            linears([f"{ours}.self_attn.{p}_proj" for p in "qkv"], f"{theirs}/self_attention/linear_0")
            linears([f"{ours}.self_attn.out_proj"], f"{theirs}/self_attention/linear_1")
            norm(f"{ours}.self_attn_layer_norm", f"{theirs}/self_attention/layer_norm")
            if side == "decoder":
                linears([f"{ours}.encoder_attn.q_proj"], f"{theirs}/attention/linear_0")
                linears([f"{ours}.encoder_attn.{p}_proj" for p in "kv"], f"{theirs}/attention/linear_1")
                linears([f"{ours}.encoder_attn.out_proj"], f"{theirs}/attention/linear_2")
                norm(f"{ours}.encoder_attn_layer_norm", f"{theirs}/attention/layer_norm")
            linears([f"{ours}.fc1"], f"{theirs}/ffn/linear_0")
            linears([f"{ours}.fc2"], f"{theirs}/ffn/linear_1")
            norm(f"{ours}.final_layer_norm", f"{theirs}/ffn/layer_norm")
        new[f"model.{side}.embed_positions.weight"] = stored[f"{side}/position_encodings/encodings"]
        norm(f"model.{side}.layer_norm", f"{side}/layer_norm")
    for conv in ("conv1", "conv2"):
        for what in ("weight", "bias"):
            new[f"model.encoder.{conv}.{what}"] = stored[f"encoder/{conv}/{what}"]
    new["model.decoder.embed_tokens.weight"] = new["proj_out.weight"] = stored["decoder/embeddings/weight"]
    return new


def _tokenizer(file: Path) -> Any:
    """transformers' tokenizer of Whisper with the pieces and the marked tokens of a tokenizer.json."""
    from transformers import WhisperTokenizer

    told = json.loads(file.read_text(encoding="utf-8"))
    pieces = told["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in pieces["merges"]]
    made = WhisperTokenizer(vocab=pieces["vocab"], merges=merges, model_max_length=LONGEST)
    from tokenizers import AddedToken

    for t in sorted(told["added_tokens"], key=lambda t: t["id"]):
        given = {k: t[k] for k in ("single_word", "lstrip", "rstrip", "normalized", "special")}
        made.add_tokens(AddedToken(t["content"], **given), special_tokens=t["special"])
        if made.convert_tokens_to_ids(t["content"]) != t["id"]:
            raise ModelError(f"the tokenizer gives {t['content']} another id than {t['id']}", where=file.name)
    made.pad_token = "<|endoftext|>"
    made.set_prefix_tokens(predict_timestamps=False)
    return made
