"""Adapters by another's settings, and what PEFT makes of ours: heads, layouts, the base's name."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests import architecture_matrix as matrix
from tests import architectures, small, tiny
from tunewright.errors import MethodError, ModelError
from tunewright.finished.export import check_inputs, logits_of
from tunewright.finished.finished import open_run
from tunewright.models.adapted import Adapted
from tunewright.models.deltas import LowRank, attach
from tunewright.models.peft_format import load_adapter, obstacle, save_adapter
from tunewright.runs.run import run
from tunewright.training import carry
from tunewright.weights import changes
from tunewright.weights.lora_combination import combine_adapters
from tunewright.weights.opening import open_source

peft = pytest.importorskip("peft", reason="needs the extra `peers`")
pytestmark = pytest.mark.parity
IDS = torch.arange(8, 40)[None]


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))


def said(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


def adapted(make, names, seed=1) -> Adapted:
    made = Adapted(make(), base_hash="")
    g = torch.Generator().manual_seed(seed)
    for site in made.structure.match(names):
        A, B = torch.randn(2, site.in_features, generator=g), torch.randn(site.out_features, 2, generator=g) * 0.2
        attach(site, "lora", LowRank(A, B, 0.5))
    return made


def theirs(make, folder):
    return peft.PeftModel.from_pretrained(make(), folder)


def settings(folder: Path, **changes):
    file = folder / "adapter_config.json"
    read = json.loads(file.read_text())
    file.write_text(json.dumps({**read, **changes}))
    return read


@pytest.mark.parametrize("layers", [["attn.c_proj"], ["c_attn"], ["c_attn", "mlp.c_proj", "c_fc", "attn.c_proj"]])
@pytest.mark.parametrize("flag", [True, False, None])
def test_a_layers_kind_decides_its_layout_whatever_the_file_says(layers, flag, tmp_path):
    base = tiny.gpt2()
    base.save_pretrained(tmp_path / "base")
    made = peft.get_peft_model(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"),
        peft.LoraConfig(r=4, target_modules=layers, task_type="CAUSAL_LM", init_lora_weights=False),
    )
    made.save_pretrained(tmp_path / "a")
    settings(tmp_path / "a", fan_in_fan_out=flag)
    wanted = made.merge_and_unload().state_dict()
    source = open_source(str(tmp_path / "a"), str(tmp_path / "base"))
    for name in source.changes:
        assert torch.allclose(torch.from_numpy(source.whole(name)), wanted[name], atol=1e-5), name
    ours = Adapted(tiny.gpt2())
    load_adapter(ours, tmp_path / "a")
    ours.fold()
    assert all(torch.allclose(t, wanted[n], atol=1e-5) for n, t in ours.model.state_dict().items())


def test_every_transposed_linear_of_transformers_is_known_by_type_and_name():
    root = Path(transformers.__file__).parent / "models"
    found: dict[str, set[str]] = {}
    for file in root.glob("*/modeling_*.py"):
        text = file.read_text()
        if re.search(r"^from .*pytorch_utils import .*\bConv1D\b", text, re.M):
            found[file.parent.name] = set(re.findall(r"self\.(\w+) = Conv1D\(", text))
    types = {t.replace("openai-gpt", "openai") for t in changes.TRANSPOSED}
    assert found and {n for n, layers in found.items() if layers} <= types
    assert set().union(*found.values()) == changes.TRANSPOSED_LAYERS
    assert not changes.stored_transposed({"model_type": "gpt2"}, "lm_head")
    assert not changes.stored_transposed({"model_type": "gpt_bigcode"}, "transformer.h.0.attn.c_proj")
    assert changes.stored_transposed({"decoder": {"model_type": "gpt2"}}, "decoder.transformer.h.0.attn.c_proj")


@pytest.mark.parametrize("name", ["bert", "distilbert", "llama", "gpt2", "roberta", "electra"])
def test_a_classifiers_adapter_carries_its_head(name, tmp_path):
    def make():
        return architectures.make(name, "text-classification")

    ours = adapted(make, "all-linear")
    save_adapter(ours, tmp_path, str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
    assert torch.allclose(said(theirs(make, tmp_path)), said(ours.model), atol=1e-4)
    again = Adapted(make())
    load_adapter(again, tmp_path)
    assert not again.originals and torch.equal(said(again.model), said(ours.model))


@pytest.mark.parametrize("name", ["bert", "llama"])
def test_a_low_rank_change_inside_the_head_is_not_lost(name, tmp_path):
    def make():
        return architectures.make(name, "text-classification")

    ours = adapted(make, ["classifier" if name == "bert" else "score"])
    save_adapter(ours, tmp_path, str(tmp_path))
    assert (said(make()) - said(ours.model)).abs().max() > 0.1
    assert torch.allclose(said(theirs(make, tmp_path)), said(ours.model), atol=1e-4)


def test_a_head_that_peft_trained_is_read(tmp_path):
    def make():
        return architectures.make("bert", "text-classification")

    made = peft.get_peft_model(make(), peft.LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS"))
    with torch.no_grad():
        for n, p in made.named_parameters():
            if p.requires_grad:
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(n))) * 0.1)
    made.save_pretrained(tmp_path / "a")
    ours = Adapted(make())
    load_adapter(ours, tmp_path / "a")
    assert set(ours.originals) == {"classifier.weight", "classifier.bias"} and obstacle(ours) is None
    assert torch.allclose(said(ours.model), said(made), atol=1e-5)
    make().save_pretrained(tmp_path / "base")
    source = open_source(str(tmp_path / "a"), str(tmp_path / "base"))
    assert torch.equal(torch.from_numpy(source.whole("classifier.bias")), ours.model.classifier.bias)
    with ours.base() as base:
        assert torch.equal(said(base), said(make()))
    other = Adapted(architectures.make("bert", "text-classification", num_labels=5))
    with pytest.raises(ModelError, match=r"'classifier.bias' \(2,\) does not fit: the model's is \(5,\)"):
        load_adapter(other, tmp_path / "a")
    assert not other.deltas() and not other.originals


def test_a_new_head_goes_along_with_a_runs_adapter_and_its_base_is_named_by_its_path(tmp_path):
    matrix.write_base(tmp_path, "text-classification", "bert")
    architectures.make("bert", "fill-mask").save_pretrained(tmp_path / "base")
    made = matrix.train(tmp_path, "text-classification", {"lora": {"rank": 2}}, "out")
    opened = open_run(made)
    config = json.loads((made / "adapter" / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == tmp_path / "base" and "classifier" in config["modules_to_save"]
    auto = transformers.AutoModelForSequenceClassification
    base = auto.from_pretrained(config["base_model_name_or_path"], num_labels=2)
    beside = peft.PeftModel.from_pretrained(base, made / "adapter").eval()
    inputs = check_inputs(opened)
    assert torch.allclose(logits_of(beside, inputs), logits_of(opened.adapted.model, inputs), atol=1e-4)


def test_a_built_in_base_is_named_by_a_folder_that_transformers_opens(tmp_path):
    small.write_inputs(tmp_path)
    recipe = small.write_recipe(tmp_path, model="nano", keep=[], stages__0__budget={"steps": 1}, data__eval=None)
    made = run(recipe, out=tmp_path / "out", quiet=True).folder
    named = json.loads((made / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    auto = peft.AutoPeftModelForCausalLM.from_pretrained(made / "adapter")
    assert Path(named).is_dir() and said(auto).isfinite().all()


def test_a_stage_starts_from_an_adapter_that_peft_wrote(tmp_path):
    ours = adapted(tiny.llama, ["q_proj", "down_proj"])
    save_adapter(ours, tmp_path / "a", "tiny")
    for way in ("fold", "training"):
        other = Adapted(tiny.llama())
        carry.begin(other, str(tmp_path / "a"), way, tmp_path, "stages.main.start")
        assert torch.allclose(said(other.model), said(ours.model), atol=1e-5)
        assert bool(other.deltas()) == (way == "training")


def test_adapters_whose_heads_differ_are_not_added(tmp_path):
    def make():
        return architectures.make("bert", "text-classification")

    for n, seed in (("a", 1), ("b", 2)):
        save_adapter(adapted(make, ["query"], seed), tmp_path / n, "tiny")
    combine_adapters([tmp_path / "a", tmp_path / "b"], tmp_path / "sum")
    both = said(adapted(make, ["query"], 1).model)
    assert not torch.allclose(said(theirs(make, tmp_path / "sum")), both, atol=1e-3)
    file = tmp_path / "b" / "adapter_model.safetensors"
    tensors = load_file(file)
    tensors["base_model.model.classifier.bias"] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(MethodError, match=r"'classifier.bias', which both adapters carry whole"):
        combine_adapters([tmp_path / "a", tmp_path / "b"], tmp_path / "no")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named(value, tmp_path):
    save_adapter(adapted(tiny.llama, ["q_proj"]), tmp_path, "tiny")
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(n for n in tensors if "layers.1" in n and "lora_A" in n)
    tensors[name][0, 0] = value
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{re.escape(name)}' holds values that are not finite"):
        load_adapter(Adapted(tiny.llama()), tmp_path)


def test_experts_that_peft_stacked_are_refused_in_true_words(tmp_path):
    made = peft.get_peft_model(
        architectures.make("qwen3_moe", "text-generation"),
        peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"]),
    )
    made.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="experts that are stacked in one tensor"):
        load_adapter(Adapted(architectures.make("qwen3_moe", "text-generation")), tmp_path)


def test_a_head_that_left_its_embedding_is_refused_and_one_that_did_not_is_read(tmp_path):
    def make():
        return tiny.llama(tied=True)

    ours = adapted(make, ["q_proj"])
    save_adapter(ours, tmp_path, "tiny")
    settings(tmp_path, modules_to_save=["lm_head"])
    file = tmp_path / "adapter_model.safetensors"
    head = make().lm_head.weight.detach().clone()
    for value, says in ((head, None), (head * 0.5, "'lm_head.weight' is not the model's, where it is tied to")):
        save_file({**load_file(file), "base_model.model.lm_head.weight": value}, file, metadata={"format": "pt"})
        other = Adapted(make())
        if says is None:
            load_adapter(other, tmp_path)
            assert not other.originals and torch.allclose(said(other.model), said(ours.model), atol=1e-6)
        else:
            with pytest.raises(ModelError, match=says):
                load_adapter(other, tmp_path)
            assert not other.deltas()
