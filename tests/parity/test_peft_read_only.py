"""PEFT's AdaLoRA and norm adapters are read: the model says what PEFT's says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tunewright.errors import ModelError
from tunewright.models.adapted import Adapted
from tunewright.models.peft_format import adapter_deltas, load_adapter
from tunewright.training import carry
from tunewright.weights.opening import open_source

peft = pytest.importorskip("peft", reason="needs the extra `peers`")
pytestmark = pytest.mark.parity
IDS = torch.arange(2, 20)[None]
STEPS = 6


def trained(model, config, folder: Path, cut: bool = True) -> Path:
    """An adapter that PEFT trained for some steps and saved."""
    torch.manual_seed(0)
    wrapped = peft.get_peft_model(model, config)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.5)
    for step in range(STEPS):
        wrapped(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        if config.peft_type == "ADALORA" and cut:
            wrapped.base_model.update_and_allocate(step + 1)
        optimizer.zero_grad()
    with torch.no_grad():  # so few steps move AdaLoRA hardly
        for name, p in wrapped.named_parameters():
            p.mul_(50.0 if "lora_A" in name else 1.0)
            p.copy_(torch.randn_like(p)) if "lora_E" in name else None
    wrapped.save_pretrained(folder)
    return folder


def adalora(**other):
    given = {"init_r": 4, "target_r": 2, "total_step": STEPS, "tfinal": 1, "lora_alpha": 5, **other}
    return peft.AdaLoraConfig(**{"target_modules": ["q_proj", "v_proj"], **given})


def same_as_peft(make, folder: Path) -> Adapted:
    theirs, adapted = peft.PeftModel.from_pretrained(make(), folder).eval(), Adapted(make())
    before = adapted.model(IDS).logits
    assert load_adapter(adapted, folder) > 0
    with torch.no_grad():
        ours, said = adapted.model.eval()(IDS).logits, theirs(IDS).logits
    torch.testing.assert_close(ours, said, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, said, atol=1e-3), "the adapter changes something"
    return adapted


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2])
@pytest.mark.parametrize("cut", [True, False], ids=["cut", "whole"])
def test_adalora_says_what_pefts_says(make, cut, tmp_path: Path):
    modules = {"target_modules": ["c_attn"]} if make is tiny.gpt2 else {}
    folder = trained(make(), adalora(**modules), tmp_path, cut)
    ranks = {len(t) for n, t in load_file(folder / "adapter_model.safetensors").items() if n.endswith("lora_A")}
    assert (ranks == {4}) != cut
    same_as_peft(make, folder)


def test_a_layer_whose_triplets_were_all_cut_out_is_not_changed(tmp_path: Path):
    folder = trained(tiny.llama(), adalora(), tmp_path)
    config, tensors = settings(folder), load_file(folder / "adapter_model.safetensors")
    layer = "model.layers.0.self_attn.q_proj"
    config["rank_pattern"][f"{layer}.lora_E"] = [False] * 4
    for part, t in (("lora_A", tensors), ("lora_B", tensors), ("lora_E", tensors)):
        key = f"base_model.model.{layer}.{part}"
        t[key] = (t[key][:, :0] if part == "lora_B" else t[key][:0]).clone()
    rewrite(folder, config, tensors)
    deltas, _ = adapter_deltas(Adapted(tiny.llama()), folder)
    assert not float((deltas[layer].lora_B @ deltas[layer].lora_A).abs().max())
    same_as_peft(tiny.llama, folder)


def test_pefts_norms_stand_in_the_place_of_the_models_own(tmp_path: Path):
    names = ["input_layernorm", "post_attention_layernorm", "norm"]
    folder = trained(tiny.llama(), peft.LNTuningConfig(target_modules=names), tmp_path)
    adapted = same_as_peft(tiny.llama, folder)
    own = load_file(folder / "adapter_model.safetensors")
    assert torch.equal(
        adapted.base_parameters()["model.norm.weight"], own["base_model.model.model.norm.ln_tuning_layers.weight"]
    )
    assert not adapted.deltas()


def test_norms_with_biases_are_read_whole(tmp_path: Path):
    folder = trained(tiny.gpt2(), peft.LNTuningConfig(target_modules=["ln_1", "ln_2", "ln_f"]), tmp_path)
    adapted = same_as_peft(tiny.gpt2, folder)
    original = dict(tiny.gpt2().named_parameters())["transformer.ln_f.bias"]
    assert not torch.equal(adapted.base_parameters()["transformer.ln_f.bias"], original)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init_r": 0}, "init_r: 0 is no value"),
        ({"init_r": 6}, "rank_pattern: .* is no value"),
        ({"rank_pattern": None}, "does not fit: lora_A"),
        ({"rank_pattern": {"x": [1, 0, 0, 0]}}, "rank_pattern: .* is no value"),
        ({"lora_alpha": "five"}, 'lora_alpha: "five" is no value'),
        ({"use_dora": True}, "more than what ADALORA is read as"),
    ],
)
def test_settings_that_contradict_the_tensors_are_refused(changes, said, tmp_path: Path):
    folder = trained(tiny.llama(), adalora(), tmp_path)
    rewrite(folder, settings(folder) | changes, load_file(folder / "adapter_model.safetensors"))
    adapted = Adapted(tiny.llama())
    with pytest.raises(ModelError, match=said):
        load_adapter(adapted, folder)
    assert not adapted.deltas()


def test_a_norm_that_the_model_does_not_have_is_refused(tmp_path: Path):
    folder = trained(tiny.llama(), peft.LNTuningConfig(target_modules=["norm"]), tmp_path)
    values = load_file(folder / "adapter_model.safetensors")
    renamed = {n.replace("model.norm", "model.last_norm"): t for n, t in values.items()}
    rewrite(folder, settings(folder) | {"target_modules": ["last_norm"]}, renamed)
    with pytest.raises(ModelError, match="the model has none of this name"):
        load_adapter(Adapted(tiny.llama()), folder)


def settings(folder: Path):
    return json.loads((folder / "adapter_config.json").read_text())


def rewrite(folder: Path, config, tensors) -> None:
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("way", ["fold", "training", "frozen"])
def test_a_stage_starts_from_what_peft_wrote(way, tmp_path: Path):
    for name, config in (("ada", adalora()), ("norms", peft.LNTuningConfig(target_modules=["norm"]))):
        folder = trained(tiny.llama(), config, tmp_path / name)
        adapted, theirs = Adapted(tiny.llama()), peft.PeftModel.from_pretrained(tiny.llama(), folder).eval()
        carry.begin(adapted, str(folder), way, tmp_path, "stages.main.start")
        with torch.no_grad():
            torch.testing.assert_close(adapted.model.eval()(IDS).logits, theirs(IDS).logits, rtol=1e-4, atol=2e-5)
        assert bool(adapted.deltas()) == (name == "ada" and way != "fold")


def test_both_are_changes_that_merges_and_exports_read(tmp_path: Path):
    tiny.llama().save_pretrained(tmp_path / "base")
    for name, config in (("ada", adalora()), ("norms", peft.LNTuningConfig(target_modules=["norm"]))):
        folder = trained(tiny.llama(), config, tmp_path / name)
        adapted, source = Adapted(tiny.llama()), open_source(str(folder), str(tmp_path / "base"))
        load_adapter(adapted, folder)
        tuned, own = adapted.tuned_state(), tiny.llama().state_dict()
        assert set(source.changes) == {n for n, t in tuned.items() if not torch.equal(t, own[n])}, name
        for n in source.changes:
            torch.testing.assert_close(torch.from_numpy(source.whole(n)), tuned[n], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("left", "said"), [(0, "the file holds no tensor"), (4, "1 targeted layers have no tensors here")]
)
def test_norms_that_lack_tensors_are_refused(left, said, tmp_path: Path):
    names = ["input_layernorm", "post_attention_layernorm", "norm"]
    folder = trained(tiny.llama(), peft.LNTuningConfig(target_modules=names), tmp_path)
    tensors = load_file(folder / "adapter_model.safetensors")
    rewrite(folder, settings(folder), dict(list(tensors.items())[:left]))
    with pytest.raises(ModelError, match=said):
        load_adapter(Adapted(tiny.llama()), folder)


def test_an_output_kept_whole_beside_tied_embeddings_is_named(tmp_path: Path):
    tied = tiny.llama(tied=True)
    tied.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    peft.get_peft_model(tied, config).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="the base's output is its embeddings, tied"):
        open_source(str(tmp_path / "adapter"), str(tmp_path / "base"))
