"""PEFT's prompts and prefixes are read: the model says behind them what PEFT's says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import small, tiny
from tests.options import inputs
from tunewright.errors import ModelError
from tunewright.models.adapted import Adapted
from tunewright.models.peft_types import BEFORE_ROWS
from tunewright.runs.run import run
from tunewright.training import carry

peft = pytest.importorskip("peft", reason="needs the extra `peers`")
pytestmark = pytest.mark.parity
__all__ = ["inputs"]
IDS = torch.arange(2, 14)[None]
MADE = {
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "P_TUNING": lambda: peft.PromptEncoderConfig(task_type="CAUSAL_LM", num_virtual_tokens=3, encoder_hidden_size=8),
    "PREFIX_TUNING": lambda: peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
    "projected": lambda: peft.PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=8
    ),
}


def written(name: str, folder: Path, make=tiny.llama):
    """PEFT's model with what it trained before rows, and the folder that it saved it in."""
    torch.manual_seed(0)
    model = peft.get_peft_model(make(), MADE[name]())
    with torch.no_grad():
        for n, p in model.named_parameters():
            if p.requires_grad and "embedding" in n:
                p.copy_(torch.randn_like(p))
    model.save_pretrained(folder)
    return model.eval()


def begun(folder: Path, make=tiny.llama, how: str = "frozen") -> Adapted:
    adapted = Adapted(make())
    carry.begin(adapted, str(folder), how, folder.parent, "stages.main.start")
    return adapted


@pytest.mark.parametrize("make", [tiny.llama, tiny.gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("name", MADE)
def test_the_model_says_what_pefts_says(name: str, make, tmp_path: Path):
    theirs, adapted = written(name, tmp_path, make), begun(tmp_path, make)
    with torch.no_grad():
        said, ours = theirs(input_ids=IDS).logits[:, -IDS.shape[1] :], adapted.outer.eval()(IDS).logits
        plain = make().eval()(IDS).logits
    torch.testing.assert_close(ours, said, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(plain, said, atol=1e-3), "what stands before the row changes something"
    assert set(BEFORE_ROWS) <= set(MADE)


@pytest.mark.parametrize("name", ["PROMPT_TUNING", "PREFIX_TUNING"])
def test_a_run_that_starts_from_one_writes_it_again_and_measures_behind_it(name: str, inputs: Path, tmp_path: Path):
    from transformers import AutoModelForCausalLM

    folder = tmp_path / "theirs"
    written(name, folder, lambda: AutoModelForCausalLM.from_pretrained(inputs / "base"))
    method = [{"lora": {"rank": 2}}]
    stages = [{"name": "main", "methods": method, "budget": {"steps": 2}, "start": str(folder), "carry": "frozen"}]
    done = run(small.write_recipe(inputs, name, stages=stages), out=tmp_path / name, quiet=True)
    assert done.report.target is not None and done.report.drift is not None and done.report.drift.value.value > 0.01
    own, again = (load_file(f / "adapter_model.safetensors") for f in (folder, tmp_path / name / "adapter"))
    assert own.keys() == again.keys() and all(torch.equal(own[k].float(), again[k]) for k in own)


@pytest.mark.parametrize("how", ["fold", "training"])
def test_what_stands_before_rows_is_neither_folded_nor_trained_on(how: str, tmp_path: Path):
    written("PROMPT_TUNING", tmp_path)
    with pytest.raises(Exception, match="wraps the model: it cannot be") as refusal:
        begun(tmp_path, how=how)
    assert "carry: frozen" in refusal.value.remedy
    assert begun(tmp_path, how="drop").wrapper is None


@pytest.mark.parametrize(
    "changes, said, remedy",
    [
        ({"num_virtual_tokens": 4}, r"prompt_embeddings is \[3, 32\], and \[4, 32\]", "save or download"),
        ({"num_virtual_tokens": "3"}, 'num_virtual_tokens: "3" is no value', "save or download"),
        ({"num_virtual_tokens": 0}, "num_virtual_tokens: 0 is no value", "save or download"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules: 2 is no value", "save or download"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "task_type", "save or download"),
        ({"task_type": "SEQ_CLS"}, "not before a classifier's", "PEFT beside its base"),
        ({"modules_to_save": ["score"]}, "more than what stands before rows", "PEFT beside its base"),
        ({"a_later_setting": 2}, "more than what stands before rows .a_later_setting: 2", "PEFT beside its base"),
    ],
)
def test_settings_that_cannot_be_followed_are_refused(changes, said: str, remedy: str, tmp_path: Path):
    written("PROMPT_TUNING", tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(ModelError, match=said) as refusal:
        begun(tmp_path)
    assert remedy in refusal.value.remedy


def test_other_tensors_and_other_models_are_refused(tmp_path: Path):
    theirs = written("PROMPT_TUNING", tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "base_model.score.weight": torch.zeros(2)}, file)
    with pytest.raises(ModelError, match="'base_model.score.weight' is there as well"):
        begun(tmp_path)
    save_file({"other": torch.zeros(2)}, file)
    with pytest.raises(ModelError, match="'other' is there as well|'prompt_embeddings' is not there"):
        begun(tmp_path)
    save_file({"prompt_embeddings": torch.zeros(3, 7)}, file)
    with pytest.raises(ModelError, match=r"is \[3, 7\], and \[3, 32\]") as refusal:
        begun(tmp_path)
    assert "the base that the adapter was made for" in refusal.value.remedy
    assert theirs is not None


def test_a_prefix_of_a_classifier_is_told_from_a_causal_models(tmp_path: Path):
    written("PREFIX_TUNING", tmp_path)
    with pytest.raises(ModelError, match="was trained for CAUSAL_LM, and BertForSequenceClassification") as refusal:
        begun(tmp_path, lambda: tiny.bert_classifier(labels=2))
    assert refusal.value.remedy == "write task: text-generation"
