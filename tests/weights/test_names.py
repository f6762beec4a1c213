"""One model under the names of several libraries: merges compare what transformers has in memory, copies by value."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MixtralConfig,
    Qwen3MoeConfig,
)

from tests import tiny
from tunewright.errors import ModelError
from tunewright.files.hashing import hash_weights
from tunewright.models.adapted import Adapted
from tunewright.models.delta_format import save_delta
from tunewright.weights.names import agreed, copies_of
from tunewright.weights.opening import open_source
from tunewright.weights.request import Part, Request
from tunewright.weights.stream import merge

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXT = {**SIZES, "num_key_value_heads": 2, "vocab_size": 64}


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


def seeded(make):
    def build(seed=0):
        torch.manual_seed(seed)
        model = make(seed).eval()
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.randn(p.shape) * 0.2)
        model.tie_weights()
        return model

    return build


def causal(config):
    return lambda seed: AutoModelForCausalLM.from_config(config)


def llava(seed):
    vision = CLIPVisionConfig(**SIZES, image_size=28, patch_size=14)
    return LlavaForConditionalGeneration(
        LlavaConfig(vision_config=vision, text_config=LlamaConfig(**TEXT), image_token_index=3, image_seq_length=4)
    )


EXPERTS = {"num_experts_per_tok": 2, "tie_word_embeddings": False}
MAKES = {
    "gpt2": seeded(lambda seed: tiny.gpt2(seed)),
    "bert": seeded(lambda seed: tiny.bert(seed)),
    "llama": seeded(lambda seed: tiny.llama(seed, tied=False)),
    "llava": seeded(llava),
    "qwen3_moe": seeded(causal(Qwen3MoeConfig(**TEXT, **EXPERTS, num_experts=3, moe_intermediate_size=16))),
    "mixtral": seeded(causal(MixtralConfig(**TEXT, **EXPERTS, num_local_experts=3))),
}


def in_memory(model, stored):
    return {n: t.detach().clone() for n, t in model.state_dict().items() if n != "lm_head.weight" or not tied(model)}


def tied(model):
    return bool(model.config.tie_word_embeddings)


def bare_gpt2(model, stored):
    mask = torch.ones(1, 1, 8, 8, dtype=torch.bool).tril()
    names = {n.removeprefix("transformer."): t for n, t in stored.items()}
    return names | {f"h.{i}.attn.bias": mask.clone() for i in (0, 1)} | {"h.0.attn.masked_bias": torch.tensor(-1e4)}


def old_bert(model, stored):
    named = {n.replace("LayerNorm.weight", "LayerNorm.gamma"): t for n, t in stored.items()}
    named = {n.replace("LayerNorm.bias", "LayerNorm.beta"): t for n, t in named.items()}
    words = stored["bert.embeddings.word_embeddings.weight"]
    return named | {
        "bert.embeddings.position_ids": torch.arange(8)[None],
        "cls.predictions.decoder.weight": words.clone(),
        "cls.predictions.decoder.bias": stored["cls.predictions.bias"].clone(),
    }


def with_tables(model, stored):
    return stored | {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.rand(4) for i in (0, 1)}


OTHERS = {
    "gpt2 without a prefix, with masks": ("gpt2", bare_gpt2),
    "gpt2 in memory": ("gpt2", in_memory),
    "bert of 2019": ("bert", old_bert),
    "llama with rotary tables": ("llama", with_tables),
    "llava in memory": ("llava", in_memory),
    "experts in memory": ("qwen3_moe", in_memory),
    "mixtral in memory": ("mixtral", in_memory),
}


def stored_as(model, folder, change):
    """A model's folder, its tensors under other names."""
    model.save_pretrained(folder)
    file = folder / "model.safetensors"
    save_file({n: t.contiguous() for n, t in change(model, load_file(file)).items()}, file, metadata={"format": "pt"})


def loaded(folder):
    kind = getattr(transformers, json.loads((folder / "config.json").read_text())["architectures"][0])
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    return model.state_dict()


@pytest.mark.parametrize("first", ["new", "old"])
@pytest.mark.parametrize("name", OTHERS)
def test_one_model_under_two_libraries_names_is_one_model(name, first, tmp_path):
    """The mean of a new and an old folder is that of what transformers loads; its files are like the first one's."""
    make, change = MAKES[OTHERS[name][0]], OTHERS[name][1]
    make(1).save_pretrained(tmp_path / "new")
    stored_as(make(2), tmp_path / "old", change)
    second = "old" if first == "new" else "new"
    merge(Request("linear", [Part(str(tmp_path / n)) for n in (first, second)], tmp_path / "out"), forward=False)
    a, b, got = (loaded(tmp_path / n) for n in ("new", "old", "out"))
    assert got.keys() == a.keys() and any(not torch.equal(a[n], b[n]) for n in a)
    assert all(torch.allclose(t, (a[n] + b[n]) / 2, atol=1e-6) for n, t in got.items() if t.is_floating_point())
    written = load_file(tmp_path / "out" / "model.safetensors").keys()
    assert written <= load_file(tmp_path / first / "model.safetensors").keys()
    assert not [n for n in written if n.endswith(("inv_freq", ".attn.bias", "masked_bias", "position_ids"))]


@pytest.mark.parametrize("name", ["qwen3_moe", "mixtral", "llava", "gpt2"])
def test_a_saved_change_is_an_input_whatever_names_its_bases_files_have(name, tmp_path):
    """A run stores its change by the names in memory."""
    base, tuned = MAKES[name](1), MAKES[name](2)
    base.save_pretrained(tmp_path / "base")
    adapted = Adapted(base, base_hash=hash_weights(tmp_path / "base"))
    for n, p in adapted.base_parameters().items():
        adapted.remember(n)
        p.data = tuned.state_dict()[n].clone()
    save_delta(adapted, tmp_path / "change", str(tmp_path / "base"))
    request = Request("linear", [Part(str(tmp_path / "change")), Part(str(tmp_path / "base"))], tmp_path / "out")
    merge(request, forward=False)
    a, b, got = MAKES[name](1).state_dict(), tuned.state_dict(), loaded(tmp_path / "out")
    assert all(torch.allclose(t, (a[n] + b[n]) / 2, atol=1e-6) for n, t in got.items() if t.is_floating_point())


def headed(folder, factor):
    """Give a tied model's folder a head of its own: the embedding times a factor."""
    file = folder / "model.safetensors"
    state = load_file(file)
    state["lm_head.weight"] = state["model.embed_tokens.weight"] * factor
    save_file(state, file, metadata={"format": "pt"})


def tied_llamas(folder, *names):
    for i, name in enumerate(names):
        tiny.llama(seed=i).save_pretrained(folder / name)


@pytest.mark.slow
def test_a_head_that_left_its_embedding_is_kept_and_the_others_are_their_embeddings(tmp_path):
    tied_llamas(tmp_path, "a", "b", "c")
    headed(tmp_path / "b", 0.5)
    headed(tmp_path / "c", 1.0)
    a, b, c = (load_file(tmp_path / n / "model.safetensors") for n in "abc")
    assert "lm_head.weight" in agreed([open_source(str(tmp_path / n)) for n in "ab"])
    assert "lm_head.weight" not in agreed([open_source(str(tmp_path / n)) for n in "ac"])
    done = merge(Request("linear", [Part(str(tmp_path / n)) for n in "abc"], tmp_path / "out"))
    got, embed = load_file(tmp_path / "out" / "model.safetensors"), "model.embed_tokens.weight"
    assert torch.allclose(got["lm_head.weight"], (a[embed] + b["lm_head.weight"] + c[embed]) / 3, atol=1e-6)
    assert torch.allclose(got[embed], (a[embed] + b[embed] + c[embed]) / 3, atol=1e-6)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False
    assert any("1 of 3 models" in note for note in done.notes) and done.forward_seconds


def test_a_model_that_ties_nothing_and_lacks_its_head_is_incomplete(tmp_path):
    tied_llamas(tmp_path, "a", "b")
    headed(tmp_path / "a", 0.5)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": False}))
    with pytest.raises(ModelError, match=r"1 tensors of '.*' are missing: lm_head.weight"):
        merge(Request("linear", [Part(str(tmp_path / n)) for n in "ab"], tmp_path / "out"), forward=False)


@pytest.mark.parametrize("method", ["dare-linear", "della-linear", "linear"])
def test_copies_that_no_config_ties_stay_equal_under_every_merge(method, tmp_path):
    """A head stored as a copy of its embedding comes out as one, though random merges draw by the tensor's name."""
    for i, name in enumerate("abc"):
        tiny.llama(seed=i, tied=False).save_pretrained(tmp_path / name)
        headed(tmp_path / name, 1.0)
    more = {} if method == "linear" else {"base": str(tmp_path / "c"), "parameters": {"density": 0.5}}
    merge(Request(method, [Part(str(tmp_path / n)) for n in "ab"], tmp_path / "out", **more), forward=False)
    got = load_file(tmp_path / "out" / "model.safetensors")
    assert torch.equal(got["lm_head.weight"], got["model.embed_tokens.weight"])


def test_tensors_that_transformers_does_not_know_are_named(tmp_path):
    tied_llamas(tmp_path, "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    state = load_file(tmp_path / "b" / "model.safetensors")
    save_file({**state, "extra.weight": torch.zeros(2)}, tmp_path / "b" / "model.safetensors")
    with pytest.raises(ModelError, match="1 tensors are not in '.*a': extra.weight"):
        merge(Request("linear", [Part(str(tmp_path / n)) for n in "ab"], tmp_path / "out"), forward=False)
    config = json.loads((tmp_path / "b" / "config.json").read_text())
    (tmp_path / "b" / "config.json").write_text(json.dumps(config | {"architectures": ["MineForCausalLM"]}))
    with pytest.raises(ModelError, match="transformers has no class"):
        merge(Request("linear", [Part(str(tmp_path / n)) for n in "ab"], tmp_path / "out"), forward=False)


def test_which_tensor_is_a_copys_original_is_the_same_in_every_process():
    """Sets of names have another order in each."""
    names = [f"{place}.embed_tokens.weight" for place in "abcdefghijkl"]
    assert copies_of(["lm_head.weight", *names]) == {"lm_head.weight": names[0]}
    assert copies_of([*reversed(names), "lm_head.weight"]) == {"lm_head.weight": names[-1]}
