from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from tests import small, tiny
from tunewright.errors import CheckpointError, FolderError, ModelError
from tunewright.finished.export import check_inputs, export, logits_of
from tunewright.finished.finished import open_run
from tunewright.finished.servability import servability
from tunewright.loading.save import save_pretrained
from tunewright.runs.run import resume, run

QUICK = {
    "measurement": {
        "drift_sequences": 2,
        "drift_tokens": 4,
        "max_new_tokens": 2,
        "strengths": [1.0],
        "rows": 2,
        "few_shot": 0,
    }
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("export")
    small.write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder


def finished(inputs: Path, name: str, **changes: Any) -> Path:
    return run(small.write_recipe(inputs, name, **QUICK, **changes), out=inputs / name, quiet=True).folder


@pytest.fixture(scope="module")
def lora(inputs: Path) -> Path:
    return finished(inputs, "lora", new_tokens=["<tool>"])


def test_the_folder_is_plain_transformers_and_gives_the_runs_logits(
    lora: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = export(lora)
    assert made.folder == lora / "model" and made.reloaded < 1e-4 and made.folded < 1e-4
    run = open_run(lora)
    inputs = check_inputs(run)
    plain = AutoModelForCausalLM.from_pretrained(made.folder, dtype=torch.float32).eval()
    ours = logits_of(run.adapted.model, inputs)
    torch.testing.assert_close(logits_of(plain, inputs), ours, atol=1e-4, rtol=1e-4)
    with run.adapted.base() as base:
        assert (logits_of(base, inputs) - ours).abs().max() > 1e-2  # the change is there
    assert not any("delta" in n or "lora" in n for n in plain.state_dict())
    assert AutoTokenizer.from_pretrained(made.folder).convert_tokens_to_ids("<tool>") == len(tiny.tokenizer())
    assert GenerationConfig.from_pretrained(made.folder).eos_token_id == tiny.EOS
    assert "bit for bit" in capsys.readouterr().out
    assert any("tokens were added" in w for w in made.warnings)
    with pytest.raises(FolderError, match="model"):
        export(lora)


def test_the_card_has_figures_and_no_path_of_this_machine(lora: Path, inputs: Path, tmp_path: Path) -> None:
    export(lora, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for said in ("exact match", "loss on keep", "drift", "rank: 4", "## Recipe", "pipeline_tag: text-generation"):
        assert said in card, said
    assert str(inputs) not in card and "base_model" not in card


def test_weights_of_another_type_than_the_bases_files_are_said(inputs: Path, tmp_path: Path, capsys: Any) -> None:
    made = finished(inputs, "halved", train__precision="bfloat16")
    exported = export(made)
    assert exported.notes == [
        "its weights are bfloat16, as the run computed them, and the base's files hold float32: "
        "train.precision says which"
    ]
    assert "note: its weights are bfloat16" in capsys.readouterr().out
    assert export(finished(inputs, "same")).notes == []


def test_an_adapter_beside_four_bits_is_said_to_answer_otherwise_beside_whole_weights(inputs: Path) -> None:
    made = finished(inputs, "bits", stages__0__methods=[{"qlora": {"rank": 2}}])
    assert any("a base in 4 bits" in n for n in open_run(made).report.notes)
    assert any("a base in 4 bits" in w for w in export(made).warnings)


def test_layers_beside_experts_are_said_to_need_a_newer_peft(lora: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "run", ignore=shutil.ignore_patterns("model"))
    assert not any("target_parameters" in w for w in servability(tmp_path / "run"))
    file = tmp_path / "run" / "adapter" / "adapter_config.json"
    if not file.exists():  # its run added tokens
        file.parent.mkdir()
        file.write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}))
    file.write_text(json.dumps({**json.loads(file.read_text()), "target_parameters": ["gate_proj.weight"]}))
    assert any("target_parameters" in w for w in servability(tmp_path / "run"))


def test_a_run_opens_without_the_data_that_it_was_trained_on(inputs: Path, lora: Path, tmp_path: Path) -> None:
    moved = tmp_path / "run"
    shutil.copytree(lora, moved)
    held = [inputs / n for n in ("train.jsonl", "test.jsonl", "keep.txt")]
    for file in held:
        file.rename(file.with_suffix(".away"))
    try:
        assert open_run(moved).adapted.deltas().keys() == open_run(lora).adapted.deltas().keys()
    finally:
        for file in held:
            file.with_suffix(".away").rename(file)


def test_what_was_done_after_the_stages_is_exported(inputs: Path) -> None:
    plain = finished(inputs, "full", stages__0__methods=["full"])
    scaled = finished(inputs, "lines", stages__0__methods=["full"], after=[{"lines": {"alpha": 0.1}}])
    made = {f.name: export(f) for f in (plain, scaled)}
    assert all(m.folded == 0 for m in made.values())
    tensors = [AutoModelForCausalLM.from_pretrained(m.folder, dtype=torch.float32).state_dict() for m in made.values()]
    first = "model.layers.0.mlp.up_proj.weight"
    assert not torch.equal(tensors[0][first], tensors[1][first])
    run = open_run(scaled)
    assert torch.equal(run.adapted.model.state_dict()[first], tensors[1][first])
    assert any("not low-rank" in w for w in servability(plain))


def test_folders_that_are_no_finished_run(lora: Path, tmp_path: Path) -> None:
    with pytest.raises(FolderError, match="no run's folder"):
        open_run(tmp_path)
    shutil.copytree(lora, tmp_path / "run", ignore=shutil.ignore_patterns("report.json", "model"))
    with pytest.raises(FolderError, match="tunewright resume"):
        open_run(tmp_path / "run")


def test_another_base_and_a_lost_stage_are_named(inputs: Path, lora: Path, tmp_path: Path) -> None:
    shutil.copytree(lora, tmp_path / "run", ignore=shutil.ignore_patterns("stages", "model"))
    with pytest.raises(CheckpointError, match="last stage"):
        open_run(tmp_path / "run")
    held = (inputs / "base" / "model.safetensors").read_bytes()
    try:
        tiny.llama(seed=5).save_pretrained(inputs / "base")
        with pytest.raises(CheckpointError, match="began with"):
            open_run(lora)
    finally:
        (inputs / "base" / "model.safetensors").write_bytes(held)


def test_a_folder_that_differs_is_set_aside(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewright.finished import export as module

    monkeypatch.setattr("tunewright.finished.export.verify_folder", lambda *a: 1.0)
    with pytest.raises(ModelError, match="differs from the run"):
        module.export(lora, tmp_path / "out")
    assert not (tmp_path / "out").exists() and (tmp_path / "out.broken").exists()


def test_a_folder_with_another_weight_is_set_aside(lora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunewright.finished import export as module

    def off_by_a_bit(model: Any, tokenizer: Any, folder: Path, *args: Any, **more: Any) -> None:
        save_pretrained(model, tokenizer, folder, *args, **more)
        tensors = load_file(folder / "model.safetensors")
        tensors["model.norm.weight"].view(torch.int32)[3] ^= 1
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(module, "save_pretrained", off_by_a_bit)
    with pytest.raises(ModelError, match="1 tensors of the folder.*model.norm.weight") as refusal:
        module.export(lora, tmp_path / "out")
    assert refusal.value.where == str(tmp_path / "out.broken") and not (tmp_path / "out").exists()


CONFIG = {
    "peft_type": "LORA",
    "r": 8,
    "lora_alpha": 16,
    "target_modules": ["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"],
}


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, None),
        ({"r": 32, "lora_alpha": 64}, "--max-lora-rank 32"),
        ({"r": 96, "lora_alpha": 96}, "many servers stop at 64"),
        ({"rank_pattern": {"model.layers.0.mlp.up_proj": 4}}, "differ in scale"),
        ({"rank_pattern": {"model.layers.0.mlp.up_proj": 4}, "alpha_pattern": {"model.layers.0.mlp.up_proj": 8}}, None),
        ({"target_modules": ["lm_head"]}, "lm_head"),
        ({"peft_type": "LOHA"}, "LOHA"),
    ],
)
def test_why_a_server_cannot_load_an_adapter(
    inputs: Path, tmp_path: Path, changes: dict[str, Any], said: str | None
) -> None:
    (tmp_path / "recipe.yaml").write_text(small.write_recipe(inputs).read_text())
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps({**CONFIG, **changes}))
    found = servability(tmp_path)
    assert found == [] if said is None else len(found) == 1 and said in found[0]


def test_a_recipe_of_ones_own_is_no_run(inputs: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(small.write_recipe(inputs).read_text())
    with pytest.raises(FolderError, match="no run's folder"):
        resume(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["recipe.yaml"]


OTHER = {
    "text-classification": (lambda: tiny.bert_classifier(labels=2), {"text": "card {0}", "label": "{1}"}),
    "fill-mask": (tiny.bert, {"text": "lost card {0} {1} town"}),
    "image-classification": (lambda: tiny.vit(labels=2), {"image": "{2}", "label": "{1}"}),
    "image-classification, convolutional": (lambda: tiny.efficientnet(labels=2), {"image": "{2}", "label": "{1}"}),
}


@pytest.mark.parametrize("case", OTHER)
def test_other_tasks_export_too(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNEWRIGHT_CACHE", str(tmp_path / "cache"))
    make, shape = OTHER[case]
    task, _, convolutional = case.partition(", ")
    make().save_pretrained(tmp_path / "base")
    if "image" in shape:
        ViTImageProcessorPil(
            size={"height": 16, "width": 16}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]
        ).save_pretrained(tmp_path / "base")
    else:
        tiny.tokenizer(encoder=True, chat=False).save_pretrained(tmp_path / "base")
    Image.effect_noise((16, 16), 80).convert("RGB").save(tmp_path / "a.png")
    rows = [
        {k: v.format(w, ["no", "yes"][i % 2], "a.png") for k, v in shape.items()} for i, w in enumerate(small.WORDS)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(r) for r in rows))
    changes: dict[str, Any] = {"stages__0__methods": ["full"]} if convolutional else {}
    file = small.write_recipe(tmp_path, task=task, keep=[], data={"train": "rows.jsonl"}, **changes)
    made = export(run(file, out=tmp_path / "out", quiet=True).folder)
    assert made.reloaded < 1e-4 and made.folded < 1e-4
    assert made.warnings == [], "no server of adapters is asked for such a model"
