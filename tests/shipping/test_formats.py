"""`export --to`: each format's own reader where it is installed, templates, adapters, and refusals."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tests import small, tiny
from tests.shipping.models import MAKES, saved
from tunewright.commands import cli
from tunewright.errors import MethodError
from tunewright.finished.finished import open_run
from tunewright.models import peft_format
from tunewright.runs import intact
from tunewright.runs.run import run
from tunewright.shipping import ollama, vllm_adapter
from tunewright.shipping.comparing import compare, logits_of

QUICK = {
    "drift_sequences": 2, "drift_tokens": 4, "max_new_tokens": 2, "strengths": [1.0], "rows": 2, "few_shot": 0
}  # fmt: skip
ONNX = all(importlib.util.find_spec(m) is not None for m in ("onnx", "onnxruntime", "onnxscript"))
MLX = importlib.util.find_spec("mlx_lm") is not None


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("formats")
    small.write_inputs(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNEWRIGHT_CACHE", str(folder / "cache"))
        yield folder


@pytest.fixture(scope="module")
def lora(inputs: Path) -> Path:
    recipe = small.write_recipe(inputs, "lora", measurement=QUICK, data__system="Be brief.")
    return run(recipe, out=inputs / "lora", quiet=True).folder


def export(*asked: Any) -> Any:
    return CliRunner().invoke(cli.app, ["export", *map(str, asked)])


def test_a_run_becomes_a_gguf_file_of_its_tuned_model(lora: Path, inputs: Path, tmp_path: Path) -> None:
    said = export(lora, "--to", "gguf", "--type", "f32", "--out", tmp_path / "t.gguf", "--json")
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["format"] == "gguf" and found["figures"]["logits"]["largest"] < 1e-5 and found["checks"]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="t.gguf", dtype=torch.float32).eval()
    tuned = open_run(lora).adapted
    assert compare(logits_of(tuned.model), logits_of(theirs)).largest < 1e-3
    with tuned.base() as base:
        assert compare(logits_of(base), logits_of(theirs)).largest > 1e-2
    assert [p.name for p in tmp_path.iterdir()] == ["t.gguf"]


def test_without_a_place_it_goes_beside_the_runs_files_and_the_report_still_vouches(lora: Path) -> None:
    said = export(lora, "--to", "gguf")
    assert said.exit_code == 0 and "lora-q8_0.gguf" in said.stdout and "read by transformers" in said.stdout
    assert (lora / "gguf" / "lora-q8_0.gguf").is_file()
    assert not intact.check(lora).beside
    again = export(lora, "--to", "gguf")
    assert again.exit_code == 7 and "exists" in again.stderr


def test_ollamas_folder_has_template_system_and_parameters(lora: Path, tmp_path: Path) -> None:
    said = export(lora, "--to", "ollama", "--type", "f16", "--out", tmp_path / "o", "--json")
    assert said.exit_code == 0, said.stderr
    assert sorted(p.name for p in (tmp_path / "o").iterdir()) == ["Modelfile", "model-f16.gguf"]
    text = (tmp_path / "o" / "Modelfile").read_text()
    assert text.startswith("FROM ./model-f16.gguf\n") and 'SYSTEM """Be brief."""' in text
    assert 'PARAMETER stop "<|im_end|>"' in text and "PARAMETER num_ctx 256" in text
    assert r'{{ "<|im_start|>user\n" }}{{ .Content }}' in text
    assert "four conversations" in json.loads(said.stdout)["checks"][-1]


CHATML = tiny.CHAT_TEMPLATE
DEFAULT_SYSTEM = "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}" + CHATML
LLAMA_3 = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] }}"
    "<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m['role'] == 'assistant' else 'user' }}\n{{ m['content'] }}"
    "<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{ m['content'] }} [/INST]"
    "{% elif m['role'] == 'system' %}{{ m['content'] }}\n\n{% else %} {{ m['content'] }}</s>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [CHATML, DEFAULT_SYSTEM, LLAMA_3, GEMMA, MISTRAL])
def test_pieces_of_a_template_write_what_it_writes(template: str) -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = template
    turns = ollama.turns_of(tokenizer, "m")
    talk = [{"role": r, "content": c} for r, c in (("user", "x"), ("assistant", "y"), ("user", "z z"))]
    for messages in (talk, [{"role": "system", "content": "s"}, *talk] if turns.system else talk[:1]):
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert turns.written(messages) == theirs
    assert (turns.system is None) == (template == GEMMA)
    assert rendered_by_go(ollama.template(turns), talk, "") == turns.written(talk)
    if turns.system:
        with_system = turns.written([{"role": "system", "content": "s"}, *talk])
        assert rendered_by_go(ollama.template(turns), talk, "s") == with_system


def rendered_by_go(template: str, messages: list[dict[str, str]], system: str) -> str:
    """The few actions of Go's template language that a Modelfile's template uses, as Jinja's."""
    import re

    from jinja2 import Environment

    said = {
        "if .System": "{% if system %}",
        "else": "{% else %}",
        "end": "{% END %}",
        ".System": "{{ system }}",
        ".Content": "{{ m.content }}",
        "range $i, $_ := .Messages": "{% for m in messages %}",
        "$last := eq (len (slice $.Messages $i)) 1": "{% set last = loop.last %}",
        'if eq .Role "user"': "{% if m.role == 'user' %}",
        'else if eq .Role "assistant"': "{% elif m.role == 'assistant' %}",
        "if not $last": "{% if not last %}",
        'if and (ne .Role "assistant") $last': "{% if m.role != 'assistant' and last %}",
    }
    open_blocks: list[str] = []
    out, texts = "", []
    for plain, action in re.findall(r"([^{]*)\{\{ (.*?) \}\}(?=\{\{|$)", template, re.DOTALL):
        assert plain == ""
        if action.startswith('"'):
            texts.append(json.loads(action))
            out += "{{ texts[" + str(len(texts) - 1) + "] }}"
            continue
        piece = said[action]
        if piece.startswith(("{% if", "{% for")):
            open_blocks.append("if" if "{% if" in piece else "for")
        out += "{% end" + open_blocks.pop() + " %}" if action == "end" else piece
    return Environment().from_string(out).render(messages=messages, system=system, texts=texts)


def test_a_template_that_is_no_pieces_is_refused() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}[{{ loop.index }}]<{{ m['role'] }}>{{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(MethodError, match="--to gguf"):
        ollama.turns_of(tokenizer, "m")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    with pytest.raises(MethodError, match="not made of pieces"):
        ollama.turns_of(tokenizer, "m")


def test_a_model_without_a_template_gets_prompts_as_they_are(tmp_path: Path) -> None:
    MAKES["llama"]().save_pretrained(tmp_path / "m")
    tiny.tokenizer(chat=False).save_pretrained(tmp_path / "m")
    said = export(tmp_path / "m", "--to", "ollama", "--out", tmp_path / "o")
    assert said.exit_code == 0 and "as they are" in said.stdout
    assert 'TEMPLATE """{{ .Prompt }}"""' in (tmp_path / "o" / "Modelfile").read_text()


def test_mlxs_folder_has_settings_under_both_names(lora: Path, tmp_path: Path) -> None:
    said = export(lora, "--to", "mlx", "--out", tmp_path / "x", "--json")
    assert said.exit_code == 0, said.stderr
    config = json.loads((tmp_path / "x" / "config.json").read_text())
    assert config["rope_theta"] == config["rope_parameters"]["rope_theta"]
    found = json.loads(said.stdout)
    if MLX:
        assert found["figures"]["logits"]["rms"] < 1e-3
    else:
        assert any("not installed" in n for n in found["notes"]) and not found["checks"]


@pytest.mark.slow
@pytest.mark.skipif(not ONNX, reason="onnxscript is not installed")
def test_an_onnx_graph_says_what_the_model_says_at_any_length(lora: Path, tmp_path: Path) -> None:
    import onnxruntime

    said = export(lora, "--to", "onnx", "--out", tmp_path / "x", "--json")
    assert said.exit_code == 0, said.stderr
    figures = json.loads(said.stdout)["figures"]
    assert figures["traced"]["rms"] < 1e-4 and figures["another"]["tokens"] == 2 * 21
    session = onnxruntime.InferenceSession(str(tmp_path / "x" / "model.onnx"))
    ids = torch.arange(8, 24).view(2, 8)
    mask = torch.tensor([[0] * 3 + [1] * 5, [1] * 8])
    theirs = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
    with torch.no_grad():
        ours = open_run(lora).adapted.model(input_ids=ids, attention_mask=mask).logits
    torch.testing.assert_close(torch.from_numpy(theirs)[mask.bool()], ours[mask.bool()], atol=1e-3, rtol=1e-3)


@pytest.mark.skipif(ONNX, reason="its libraries are here")
def test_onnx_without_its_libraries_is_one_sentence(lora: Path, tmp_path: Path) -> None:
    said = export(lora, "--to", "onnx", "--out", tmp_path / "x")
    assert said.exit_code == 9 and "tunewright[onnx]" in said.stderr and not (tmp_path / "x").exists()


def adapter(folder: Path, **changes: Any) -> Path:
    """A PEFT adapter whose modules differ in rank and scale."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(2)
    how: dict[str, Any] = {
        "r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "rank_pattern": {"up_proj": 6},
        "alpha_pattern": {"q_proj": 2}, "init_lora_weights": False,
    } | changes  # fmt: skip
    made = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(**how))
    made.save_pretrained(folder / "../a", save_embedding_layers=False)
    return (folder / "../a").resolve()


def test_an_adapter_of_several_ranks_and_scales_becomes_one_of_one(tmp_path: Path) -> None:
    base = saved(MAKES["llama"](), tmp_path / "base")
    source = adapter(base)
    said = export(source, "--to", "vllm-adapter", "--out", tmp_path / "v", "--json")
    assert said.exit_code == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["figures"]["rank"] == 6 and found["figures"]["max_lora_rank"] == 8
    config = json.loads((tmp_path / "v" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == 6 and not config["rank_pattern"] and not config["alpha_pattern"]
    assert {t.shape[0] for n, t in load_file(tmp_path / "v" / "adapter_model.safetensors").items() if "_A" in n} == {6}
    logits = []
    for one in (source, tmp_path / "v"):
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        logits.append(logits_of(PeftModel.from_pretrained(model, one).merge_and_unload().eval()))
    torch.testing.assert_close(*logits, atol=1e-4, rtol=1e-4)
    assert compare(logits[0], logits_of(MAKES["llama"]())).rms > 0.01


def test_a_runs_adapter_is_written_for_vllm(lora: Path, tmp_path: Path) -> None:
    said = export(lora, "--to", "vllm-adapter", "--out", tmp_path / "v")
    assert said.exit_code == 0 and "--max-lora-rank 8" in said.stdout and "on the base" in said.stdout
    assert peft_format.read_parts(tmp_path / "v").pairs


@pytest.mark.parametrize(
    ("method", "changes", "says"),
    [("full", {}, "not low-rank"), ("lora", {"new_tokens": ["<tool>"]}, "tokens were added")],
)
def test_what_vllm_takes_from_no_adapter_is_refused_by_name(
    method: str, changes: Any, says: str, inputs: Path, tmp_path: Path
) -> None:
    name = f"{method}-{len(changes)}"
    recipe = small.write_recipe(inputs, name, measurement=QUICK, stages__0__methods=[method], **changes)
    made = run(recipe, out=tmp_path / name, quiet=True).folder
    said = export(made, "--to", "vllm-adapter", "--out", tmp_path / "v")
    assert said.exit_code == 5 and says in said.stderr and "tunewright export" in said.stderr
    assert not (tmp_path / "v").exists()


def test_adapters_on_embeddings_with_whole_modules_or_of_a_huge_rank_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = saved(MAKES["llama-untied"](), tmp_path / "base")
    head = adapter(base, target_modules=["lm_head"], rank_pattern={}, alpha_pattern={})
    with pytest.raises(MethodError, match="lm_head"):
        vllm_adapter.write(head, tmp_path / "v")
    whole = adapter(base, modules_to_save=["lm_head"], target_modules=["q_proj"], rank_pattern={}, alpha_pattern={})
    with pytest.raises(MethodError, match="whole modules"):
        vllm_adapter.write(whole, tmp_path / "v")
    monkeypatch.setattr(vllm_adapter, "RANKS", (2,))
    plain = adapter(base, target_modules=["q_proj"], rank_pattern={}, alpha_pattern={})
    with pytest.raises(MethodError, match="stops at 2"):
        vllm_adapter.write(plain, tmp_path / "v")


def test_flags_that_a_format_does_not_read_and_things_that_are_no_model_are_refused(lora: Path, tmp_path: Path) -> None:
    for asked, code, says in (
        ((lora, "--to", "onx"), 2, "did you mean 'onnx'"),
        ((lora, "--to", "mlx", "--type", "q8_0"), 2, "no types"),
        ((lora, "--type", "q8_0"), 2, "--to gguf"),
        ((lora, "--to", "mlx", "--pre-tokenizer", "x"), 2, "splitter"),
        ((lora, "--to", "gguf", "--type", "q99"), 2, "no type of GGUF"),
        ((lora / "adapter", "--to", "gguf"), 5, "tunewright fuse"),
        ((tmp_path, "--to", "gguf"), 7, "neither a run"),
        ((lora, "--to", "vllm-adapter", "--task", "x"), 2, "--task"),
    ):
        said = export(*asked)
        assert said.exit_code == code and says in said.stderr and "Traceback" not in said.output, said.stderr


def test_a_classifier_is_no_model_for_text_formats(tmp_path: Path) -> None:
    folder = saved(tiny.bert_classifier(), tmp_path / "m")
    for to in ("gguf", "ollama", "mlx"):
        said = export(folder, "--to", to, "--out", tmp_path / "o")
        assert said.exit_code == 5 and "BertForSequenceClassification" in said.stderr
    assert not (tmp_path / "o").exists()


def test_the_plain_export_has_json_too(lora: Path, tmp_path: Path) -> None:
    found = json.loads(export(lora, "--out", tmp_path / "m", "--json").stdout)
    assert found["folder"] == str(tmp_path / "m") and found["reloaded"] < 1e-4
