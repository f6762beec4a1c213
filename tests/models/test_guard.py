"""A model's folder gives a model or one message, never a traceback, and never says which code runs."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import architectures, tiny
from tunewright.errors import ModelError
from tunewright.loading import load as loading
from tunewright.loading.load import load
from tunewright.loading.save import save_pretrained
from tunewright.weights.opening import open_source
from tunewright.weights.vocabulary import _tokenizer as read_tokenizer

TEXT = "text-generation"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    tiny.llama().save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    return tmp_path / "m"


def edit(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def edit_weights(folder, change):
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "settings, says",
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "by bitsandbytes"),
        ({"load_in_8bit": True}, "by bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, "by GPTQ"),
        ({"quant_method": "awq", "bits": 4}, "by AWQ"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "by compressed-tensors"),
        ({"quant_method": "hqq"}, "by hqq"),
        ({"quant_method": "eetq"}, "by eetq"),
        ({"quant_method": "aqlm"}, "by aqlm"),
        ({"quant_method": "quanto"}, "by quanto"),
        ({"quant_method": "torchao"}, "by torchao"),
        ({"quant_method": "bitnet"}, "by bitnet"),
        ({"quant_method": "made later"}, "by made later"),
        ({"bits": 4}, "that config.json does not name"),
        ("4bit", "that config.json does not name"),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["quantization_config", "compression_config", "text_config"])
def test_quantised_weights_are_refused_with_what_to_use_instead(settings, says, place, folder):
    edit(folder, **{place: {"quantization_config": settings} if place == "text_config" else settings})
    with pytest.raises(ModelError, match=says) as caught:
        load(str(folder), TEXT)
    assert "unquantised" in str(caught.value) and "config.json" in str(caught.value)


def test_weights_in_eight_bit_floats_are_made_whole_and_saved_so(folder, tmp_path):
    edit(folder, quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16]})
    whole = load_file(folder / "model.safetensors")

    def shrink(tensors):
        for n in [n for n in tensors if n.endswith("_proj.weight")]:
            blocks = tensors[n].unfold(0, 16, 16).unfold(1, 16, 16)
            scale = blocks.abs().amax((2, 3)) / 448
            spread = scale.repeat_interleave(16, 0).repeat_interleave(16, 1)
            tensors[n] = (tensors[n] / spread).to(torch.float8_e4m3fn)
            tensors[f"{n}_scale_inv"] = scale

    edit_weights(folder, shrink)
    loaded = load(str(folder), TEXT)
    state = loaded.model.state_dict()
    for n, t in whole.items():
        assert state[n].dtype == torch.float32 and torch.allclose(state[n], t, atol=0.07 * float(t.abs().max())), n
    assert any("stored as fp8" in n for n in loaded.notes)
    save_pretrained(loaded.model, loaded.tokenizer, tmp_path / "out", {})
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("value", ["flash_attention_2", "flash_attention_3", "owner/kernel", "owner/kernel:f", "other"])
def test_a_config_does_not_choose_the_code_of_attention(name, value, folder):
    edit(folder, **{name: value})
    loaded = load(str(folder), TEXT)
    assert loaded.model.config._attn_implementation == "sdpa"
    assert any("does not choose code" in n and value in n for n in loaded.notes)


def test_nor_that_of_experts_nor_that_of_a_part(tmp_path):
    architectures.make("qwen3_moe", TEXT).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    edit(tmp_path, experts_implementation="sonicmoe", use_kernels=True, kernel_config={"RMSNorm": "owner/kernel:Norm"})
    loaded = load(str(tmp_path), TEXT)
    assert loaded.model.config._experts_implementation != "sonicmoe" and not loaded.model.use_kernels


def test_no_code_beside_a_model_is_imported(folder, tmp_path, monkeypatch):
    edit(folder, auto_map={"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"})
    (folder / "evil.py").write_text("raise SystemExit('ran')")
    written = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(
        json.dumps({**written, "auto_map": {"AutoTokenizer": ["evil.Slow", "evil.Fast"]}})
    )
    load(str(folder), TEXT)
    assert not any("evil" in name for name in sys.modules)
    picture = tmp_path / "vit"
    tiny.vit().save_pretrained(picture)
    (picture / "preprocessor_config.json").write_text(
        json.dumps({"auto_map": {"AutoImageProcessor": "evil.Processor"}, "image_processor_type": "Evil"})
    )
    with pytest.raises(ModelError, match="image processor cannot be read"):
        load(str(picture), "image-classification", labels=["a", "b", "c"])


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 30},
        {"num_attention_heads": 0},
        {"vocab_size": "x"},
        {"hidden_act": "nonsense"},
        {"rope_scaling": {"type": "nonsense"}},
        {"head_dim": 10**12},
        {"intermediate_size": 10**13},
        {"pad_token_id": 99999},
        {"eos_token_id": "x"},
        {"model_type": 3},
        {"model_type": ["llama"]},
        {"layer_types": ["a"]},
        {"base_model_tp_plan": 3},
        {"id2label": {"a": "b"}},
        {"rope_parameters": []},
        {"vocab_size": -5},
    ],
    ids=str,
)
def test_a_config_of_nonsense_is_one_message(changes, folder):
    edit(folder, **changes)
    with pytest.raises(ModelError) as caught:
        load(str(folder), TEXT)
    assert caught.value.remedy and caught.value.where and "\n" not in caught.value.what


def test_a_tensor_of_another_shape_is_named(folder):
    edit(folder, intermediate_size=128)
    with pytest.raises(ModelError, match=r"do not fit config.json: 'model.layers.0.mlp.*' is \(.*makes it \("):
        load(str(folder), TEXT)


def test_layers_that_config_does_not_have_are_said(folder):
    edit(folder, num_hidden_layers=1)
    assert any("in no layer that config.json has: model.layers.1" in n for n in load(str(folder), TEXT).notes)


@pytest.mark.parametrize(
    "value, words", [(float("nan"), "1 NaN and 0 infinite"), (float("inf"), "0 NaN and 1 infinite")]
)
def test_a_value_that_is_not_finite_is_named_by_its_tensor(value, words, folder):
    def spoil(tensors):
        tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = value
        tensors["model.norm.weight"][0] = -value

    edit_weights(folder, spoil)
    with pytest.raises(ModelError, match=f"'model.layers.1.mlp.up_proj.weight' holds {words}.*and 1 more"):
        load(str(folder), TEXT)


def test_large_values_are_finite(folder):
    edit_weights(folder, lambda tensors: tensors["model.norm.weight"].fill_(3e38))
    assert float(load(str(folder), TEXT).model.model.norm.weight.max()) == pytest.approx(3e38)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.parametrize("at", ["check_finite", "align", "hash_weights", "readers"])
def test_a_lack_of_memory_is_one_message(error, at, folder, monkeypatch):
    def fail(*given, **named):
        raise error

    monkeypatch.setattr(loading, at, fail)
    with pytest.raises(ModelError, match="not enough memory to load the model") as caught:
        load(str(folder), TEXT)
    assert "GB" in caught.value.what


def test_a_lack_of_memory_while_the_weights_are_read(folder, monkeypatch):
    import transformers

    def fail(*given, **named):
        raise MemoryError

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)
    with pytest.raises(ModelError, match="not enough memory"):
        load(str(folder), TEXT)


def test_a_model_that_scales_its_weights_when_evaluated_is_held_still(tmp_path):
    model = architectures.make("rwkv", TEXT, rescale_every=1)
    model.save_pretrained(tmp_path / "m")
    tiny.tokenizer().save_pretrained(tmp_path / "m")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    loaded = load(str(tmp_path / "m"), TEXT)
    ids = torch.arange(8, 40)[None]
    with torch.no_grad():
        said = loaded.model(input_ids=ids).logits
        assert torch.allclose(said, model.eval()(input_ids=ids).logits, atol=1e-3)
    assert all(torch.equal(t, before[n]) for n, t in loaded.model.state_dict().items())
    save_pretrained(loaded.model, loaded.tokenizer, tmp_path / "out", {}, base=tmp_path / "m")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["rescale_every"] == 1


def test_a_model_that_sees_what_it_should_predict_is_refused(tmp_path):
    architectures.make("xlnet", TEXT).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="a xlnet model sees the tokens that come after"):
        load(str(tmp_path), TEXT)


@pytest.mark.parametrize("name", ["llama", "gpt2", "mamba", "rwkv", "mixtral", "recurrent_gemma", "bart", "jamba"])
def test_a_causal_model_is_not(name, tmp_path):
    architectures.make(name, TEXT).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    load(str(tmp_path), TEXT)


def test_a_merge_takes_no_quantised_weights_either(folder):
    for method in ("bitsandbytes", "gptq", "fp8", "mxfp4"):
        edit(folder, quantization_config={"quant_method": method})
        with pytest.raises(ModelError, match="stored quantised"):
            open_source(str(folder))


@pytest.mark.parametrize("open_", [lambda f: load(str(f), TEXT), lambda f: read_tokenizer(f, str(f))])
def test_an_id_far_beyond_the_vocabulary_is_refused_at_once(open_, folder):
    # the tokenizers library counts through all the ids between whenever it writes such a tokenizer
    file = folder / "tokenizer.json"
    written = json.loads(file.read_text())
    written["model"]["vocab"][next(reversed(written["model"]["vocab"]))] = 2_390_000_000
    file.write_text(json.dumps(written))
    with pytest.raises(ModelError, match=r"the id of .* is 2390000000") as refused:
        open_(folder)
    assert refused.value.remedy
