"""An exported config says what transformers 4 and 5 read, in both their words, and means the same in version 5."""

from __future__ import annotations

import json

import pytest
import torch

from tests import architectures, tiny
from tunewright.loading.portable import old_names, portable_config, portable_tokenizer
from tunewright.loading.save import save_pretrained

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LINEAR = {"rope_type": "linear", "rope_theta": 700.0, "factor": 2.0}
PART = {"rope_type": "default", "rope_theta": 5e3, "partial_rotary_factor": 0.5}
LAYERS = {"full_attention": LINEAR, "sliding_attention": {"rope_type": "default", "rope_theta": 300.0}}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 5e3,
    "short_factor": [1.0, 1.5, 2.0, 3.0],
    "long_factor": [2.0, 3.0, 4.0, 5.0],
    "original_max_position_embeddings": 64,
}
SHORT = {k: v for k, v in LLAMA3.items() if k != "rope_theta"}

# model type, rope_parameters, what version 4 reads
TABLE = [
    ("llama", LLAMA3, {"rope_theta": 5e5, "rope_scaling": {**SHORT, "type": "llama3"}}),
    ("llama", {"rope_type": "default", "rope_theta": 123.0}, {"rope_theta": 123.0, "rope_scaling": None}),
    ("qwen2", LINEAR, {"rope_theta": 700.0, "rope_scaling": {"rope_type": "linear", "factor": 2.0, "type": "linear"}}),
    ("stablelm", PART, {"rope_theta": 5e3, "partial_rotary_factor": 0.5}),
    ("gpt_neox", PART, {"rotary_emb_base": 5e3, "rotary_pct": 0.5}),
    ("gemma3_text", LAYERS, {"rope_theta": 700.0, "rope_local_base_freq": 300.0}),
    ("modernbert", LAYERS, {"global_rope_theta": 700.0, "local_rope_theta": 300.0, "global_attn_every_n_layers": 2}),
    (
        "phi3",
        LONG,
        {
            "rope_theta": 5e3,
            "original_max_position_embeddings": 64,
            "rope_scaling": {
                "type": "longrope",
                "short_factor": LONG["short_factor"],
                "long_factor": LONG["long_factor"],
            },
        },
    ),
    ("qwen3_moe", LINEAR, {"rope_theta": 700.0, "num_experts": 4}),
]


@pytest.mark.parametrize("name, rope, expected", TABLE, ids=[f"{n}-{i}" for i, (n, *_) in enumerate(TABLE)])
def test_both_spellings_are_written_and_mean_the_same(name, rope, expected, tmp_path):
    import transformers

    task = "fill-mask" if name == "modernbert" else "text-generation"
    more = {"layer_types": ["full_attention", "sliding_attention"]} if rope is LAYERS else {}
    if rope is LONG:
        more = {"original_max_position_embeddings": 64}
    model = architectures.make(name, task, rope_parameters=rope, **more)
    save_pretrained(model, None, tmp_path / "out", {})
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {n: written.get(n) for n in expected} == expected
    assert written["torch_dtype"] == written["dtype"] == "float32"
    again = getattr(transformers, architectures.AUTO[task]).from_pretrained(tmp_path / "out")
    read, before = again.config.rope_parameters, model.config.rope_parameters
    for k, v in before.items():
        assert read[k] == v if not isinstance(v, dict) else {n: read[k][n] for n in v} == v
    ids = torch.arange(8, 108)[None]
    with torch.no_grad():
        assert torch.allclose(again.eval()(input_ids=ids).logits, model(input_ids=ids).logits, atol=1e-5)


def test_the_bases_own_words_are_kept_also_inside_a_part(tmp_path):
    rope = {"rope_type": "yarn", "rope_theta": 5e3, "factor": 4.0}
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir(), out.mkdir()
    own = {"rope_theta": 5000, "rope_scaling": {"type": "yarn", "factor": 4.0}, "auto_map": {"AutoModel": "x.Y"}}
    (base / "config.json").write_text(json.dumps({"text_config": own, "rope_theta": None}))
    (out / "config.json").write_text(json.dumps({"text_config": {"model_type": "qwen2", "rope_parameters": rope}}))
    portable_config(out, base)
    part = json.loads((out / "config.json").read_text())["text_config"]
    assert part["rope_scaling"] == own["rope_scaling"] and part["rope_theta"] == 5000 and "auto_map" not in part


def test_what_has_no_older_name_is_left():
    assert old_names("step", {"a": {"rope_theta": 1.0}, "b": {"rope_theta": 2.0}}) == {}


def test_a_list_of_special_tokens_has_the_name_that_takes_one(tmp_path):
    file = tmp_path / "tokenizer_config.json"
    tiny.tokenizer().save_pretrained(tmp_path)
    written = json.loads(file.read_text())
    file.write_text(json.dumps({**written, "extra_special_tokens": ["<|a|>"]}))
    portable_tokenizer(tmp_path)
    written = json.loads(file.read_text())
    assert written["additional_special_tokens"] == ["<|a|>"] and "extra_special_tokens" not in written
