"""A saved folder is plain: peers load it, its logits are the model's, and it is whole or not there."""

from __future__ import annotations

import json
import os

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests import tiny
from tests.misalign import pad_header
from tunewright.errors import FolderError, ModelError
from tunewright.files import cache
from tunewright.loading.load import load
from tunewright.loading.quiet import quiet
from tunewright.loading.save import save_pretrained, verify_folder
from tunewright.models.agreement import ROUNDING

IDS = list(range(20, 50))
NEAR = 10 * ROUNDING[torch.float32]  # no logit of a tiny model reaches 10
CARD = {
    "name": "Support router",
    "base_model": "owner/base",
    "licence": "apache-2.0",
    "pipeline_tag": "text-generation",
    "tags": ["lora", "tunewright"],
    "recipe": "model: owner/base\n",
    "text": "Gained 0.8.",
}


@pytest.mark.parametrize("family", tiny.MAKERS)
def test_verified_by_loading_again(tmp_path, family):
    model = tiny.MAKERS[family]()
    save_pretrained(model, None, tmp_path / "m", {})
    inputs = torch.randn(2, 3, 16, 16) if family in ("vit", "efficientnet") else IDS
    assert verify_folder(tmp_path / "m", model, inputs) <= NEAR
    with torch.no_grad():
        next(p for n, p in model.named_parameters() if "mlp" in n or "intermediate" in n or "expand_conv" in n).mul_(
            1.5
        )
    with pytest.raises(ModelError, match="1 tensors of the folder"):
        verify_folder(tmp_path / "m", model, inputs)


def test_one_bit_of_one_weight_is_seen_and_what_moves_logits_alone_is_measured(tmp_path):
    model = tiny.llama()
    save_pretrained(model, None, tmp_path / "m", {})
    model.model.norm.weight.detach().view(torch.int32)[5] ^= 1
    with pytest.raises(ModelError, match="such as 'model.norm.weight'") as refusal:
        verify_folder(tmp_path / "m", model, IDS)
    assert refusal.value.where == str(tmp_path / "m")
    model.model.norm.weight.detach().view(torch.int32)[5] ^= 1
    assert verify_folder(tmp_path / "m", model, IDS) <= NEAR
    config = json.loads((tmp_path / "m/config.json").read_text())
    (tmp_path / "m/config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert verify_folder(tmp_path / "m", model, IDS) > 1e-2


@pytest.mark.parametrize("words", range(8))
def test_where_the_files_tensors_lie_does_not_matter(tmp_path, words):
    model = tiny.bert_classifier()
    save_pretrained(model, None, tmp_path / "m", {})
    pad_header(tmp_path / "m/model.safetensors", words)
    assert verify_folder(tmp_path / "m", model, IDS) <= NEAR


def test_verifying_leaves_the_mode(tmp_path):
    model = tiny.gpt2(dropout=0.5).train()
    save_pretrained(model, None, tmp_path / "m", {})
    assert verify_folder(tmp_path / "m", model, IDS) <= NEAR and model.training


def test_a_peer_loads_it_with_tokenizer_template_and_generation_config(tmp_path):
    model = tiny.llama()
    model.generation_config.eos_token_id = tiny.EOS
    folder = save_pretrained(model, tiny.tokenizer(), tmp_path / "m", CARD)
    with quiet():
        again = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert again.generation_config.eos_token_id == tiny.EOS
    assert tokenizer.chat_template == tiny.CHAT_TEMPLATE and tokenizer.pad_token_id == tiny.PAD
    assert tokenizer("In 1999")["input_ids"] == tiny.tokenizer()("In 1999")["input_ids"]
    assert (folder / "model.safetensors").exists() and not list(folder.glob("*.bin"))
    assert (folder.stat().st_mode & 0o777) == 0o755


def test_the_card(tmp_path):
    folder = save_pretrained(tiny.llama(), tiny.tokenizer(), tmp_path / "m", CARD)
    text = (folder / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    facts = {
        "base_model": "owner/base",
        "license": "apache-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    assert header == facts | {"tags": ["tunewright", "lora"]}
    assert (
        "# Support router" in text
        and "```yaml\nmodel: owner/base\n```" in text
        and "Gained 0.8." in text
        and "28,832 parameters" in text
    )
    assert load(str(folder), "text-generation").licence == "apache-2.0"


def test_shards_by_size(tmp_path):
    model = tiny.llama(tied=False)
    folder = save_pretrained(model, None, tmp_path / "m", {}, shard_size="0.02MB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2 and (folder / "model.safetensors.index.json").exists()
    assert verify_folder(folder, model, IDS) <= NEAR


def test_a_quantised_load_saves_plain(tmp_path, monkeypatch):
    from tests.models.making import write_gguf

    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "m.gguf", tiny.llama(), q8=True)
    loaded = load(str(tmp_path / "m.gguf"), "text-generation")
    folder = save_pretrained(loaded.model, loaded.tokenizer, tmp_path / "out", {})
    assert verify_folder(folder, loaded.model, IDS) <= NEAR


def everything_in(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_an_existing_folder_is_refused_and_kept(tmp_path):
    save_pretrained(tiny.llama(), None, tmp_path / "m", {})
    before = (tmp_path / "m/model.safetensors").read_bytes()
    with pytest.raises(FolderError, match="exists already"):
        save_pretrained(tiny.llama(1), None, tmp_path / "m", {})
    assert (tmp_path / "m/model.safetensors").read_bytes() == before
    save_pretrained(tiny.llama(1), None, tmp_path / "m", {}, replace=True)
    assert (tmp_path / "m/model.safetensors").read_bytes() != before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "m").mkdir()
    save_pretrained(tiny.llama(), None, tmp_path / "m", {})
    assert (tmp_path / "m/config.json").exists()


@pytest.mark.parametrize("replace", [False, True])
def test_a_full_disk_leaves_what_was_there(tmp_path, monkeypatch, replace):
    model = tiny.llama()
    if replace:
        save_pretrained(tiny.llama(1), None, tmp_path / "m", {})
    before = everything_in(tmp_path)

    def full(folder, **options):
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_pretrained", full)
    with pytest.raises(FolderError, match="No space left on device"):
        save_pretrained(model, None, tmp_path / "m", {}, replace=replace)
    assert everything_in(tmp_path) == before


def test_a_failing_swap_brings_the_old_folder_back(tmp_path, monkeypatch):
    save_pretrained(tiny.llama(1), None, tmp_path / "m", {})
    before, rename = everything_in(tmp_path), os.rename

    def failing(source, target):
        if str(source).endswith(".partial"):
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(cache.os, "rename", failing)
    with pytest.raises(FolderError, match="Input/output error"):
        save_pretrained(tiny.llama(), None, tmp_path / "m", {}, replace=True)
    assert everything_in(tmp_path) == before


def test_a_folder_under_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FolderError, match="may be written"):
        save_pretrained(tiny.llama(), None, tmp_path / "file/m", {})


def test_weights_that_are_not_finite(tmp_path):
    model = tiny.llama()
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(ModelError, match="model.layers.1.mlp.up_proj.weight"):
        save_pretrained(model, None, tmp_path / "m", {})
    assert everything_in(tmp_path) == []


def test_a_size_that_is_none(tmp_path):
    with pytest.raises(ModelError, match="5GB"):
        save_pretrained(tiny.llama(), None, tmp_path / "m", {}, shard_size="big")
